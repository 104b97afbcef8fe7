package snapshot

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

type socket struct {
	Protocol     string `json:"protocol"`
	Family       string `json:"family"`
	State        string `json:"state"`
	Local        string `json:"local"`
	Remote       string `json:"remote"`
	Link         uint32 `json:"link,omitempty"`
	ReceiveQueue uint32 `json:"receiveQueue"`
	SendQueue    uint32 `json:"sendQueue"`
	Retransmits  uint8  `json:"retransmits,omitempty"`
}

type socketCount struct {
	Protocol string `json:"protocol"`
	Family   string `json:"family"`
	State    string `json:"state"`
	Count    int    `json:"count"`
}

// Numbers are those of the kernel's tcp_states.h; UDP's sockets are in two of these states.
var socketStates = map[uint8]string{
	1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT", 7: "CLOSE", 8: "CLOSE_WAIT",
	9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING", 12: "NEW_SYN_RECV",
}

var protocols = map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}

// diagRequest is struct inet_diag_req_v2, for all sockets of a family and protocol.
type diagRequest struct{ family, protocol uint8 }

const (
	diagRequestBytes = 56
	diagMessageBytes = 72
	allStates        = 0xffffffff
)

// Len implements nl.NetlinkRequestData.
func (diagRequest) Len() int { return diagRequestBytes }

// Serialize implements nl.NetlinkRequestData.
func (r diagRequest) Serialize() []byte {
	b := make([]byte, diagRequestBytes)
	b[0], b[1] = r.family, r.protocol
	binary.NativeEndian.PutUint32(b[4:], allStates)
	return b
}

// eachSocket calls do for every socket of TCP and UDP.
func eachSocket(ctx context.Context, do func(socket)) error {
	var errs []error
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			request := nl.NewNetlinkRequest(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
			request.AddData(diagRequest{family, protocol})
			err := request.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(message []byte) bool {
				if one, err := parseSocket(message, protocol); err == nil {
					do(one)
				}
				return ctx.Err() == nil
			})
			if err != nil {
				errs = append(errs, fmt.Errorf("%s over %s: %w", protocols[protocol], families[int(family)], err))
			}
		}
	}
	return errors.Join(errs...)
}

var errShort = errors.New("the message is too short")

// parseSocket parses struct inet_diag_msg.
func parseSocket(message []byte, protocol uint8) (socket, error) {
	if len(message) < diagMessageBytes {
		return socket{}, errShort
	}
	one := socket{
		Protocol: named(protocols, protocol), Family: named(families, int(message[0])), State: named(socketStates, message[1]), Retransmits: message[3],
		Link:         binary.NativeEndian.Uint32(message[40:]),
		ReceiveQueue: binary.NativeEndian.Uint32(message[56:]), SendQueue: binary.NativeEndian.Uint32(message[60:]),
	}
	size := 4
	if message[0] == unix.AF_INET6 {
		size = 16
	}
	local, _ := netip.AddrFromSlice(message[8 : 8+size])
	remote, _ := netip.AddrFromSlice(message[24 : 24+size])
	one.Local = netip.AddrPortFrom(local, binary.BigEndian.Uint16(message[4:])).String()
	one.Remote = netip.AddrPortFrom(remote, binary.BigEndian.Uint16(message[6:])).String()
	return one, nil
}

func readSockets(ctx context.Context, s *items) error {
	return eachSocket(ctx, func(one socket) { s.add(one) })
}

func readSocketCounts(ctx context.Context, s *items) error {
	counts := map[socketCount]int{}
	err := eachSocket(ctx, func(one socket) { counts[socketCount{Protocol: one.Protocol, Family: one.Family, State: one.State}]++ })
	var rows []socketCount
	for row, n := range counts {
		row.Count = n
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b socketCount) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Family, b.Family), cmp.Compare(a.State, b.State))
	})
	for _, row := range rows {
		s.add(row)
	}
	return err
}
