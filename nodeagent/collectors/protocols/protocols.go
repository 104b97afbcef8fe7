// Package protocols reads the counters that the kernel itself keeps of TCP, UDP, IP and ICMP in each network namespace,
// from /proc/PID/net/{snmp,snmp6,netstat} of one of the pod's processes. It needs no rights and no hooks.
//
// In snmp, Tcp counts both IP versions, Udp, Ip and Icmp only version 4; those of version 6 are in snmp6. ICMP is counted
// by type there, so IcmpMsg (the same by number) is not needed.
//
// What a read costs is the kernel's: opening three files, adding up their counters over all CPUs and writing them out,
// netstat twice where its text is longer than the page that the kernel tries first. Nine tenths of about 130 us a pod
// are that (Linux 6.18, two CPUs). Files cannot be kept open, because an open one keeps the namespace alive after its
// pod.
package protocols

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

const (
	// roomy is larger than any of the files usually is, so that each is read at once.
	roomy = 16 << 10
	// longest is how long a file may be. Two lines for each type of ICMP that was ever sent or received make 22 KiB of snmp6.
	longest = 1 << 20
)

// Collector reads protocol counters. It is safe for concurrent use.
type Collector struct {
	buffers sync.Pool // of *[]byte
}

// New makes a collector.
func New() *Collector {
	return &Collector{buffers: sync.Pool{New: func() any {
		buffer := make([]byte, 0, roomy)
		return &buffer
	}}}
}

// Name is how users know the collector.
func (*Collector) Name() string { return "protocols" }

// State is always Running: the kernel has these counters everywhere.
func (*Collector) State() (v1alpha1.Collector_State, string) {
	return v1alpha1.Collector_STATE_RUNNING, ""
}

// ReadPod fills in the counters of the pod's namespace, unless that is the node's.
func (c *Collector) ReadPod(pod *podmap.Pod, row *v1alpha1.PodStats) (err error) {
	if pod.HostNetwork {
		return nil
	}
	row.Protocols, err = c.read(pod.ReadFile)
	return err
}

// ReadNode fills in the counters of the agent's own namespace, which is the node's.
func (c *Collector) ReadNode(node *v1alpha1.NodeStats) (err error) {
	node.Protocols, err = c.read(ownFile)
	return err
}

// read reads all files with one buffer.
func (c *Collector) read(file func(name string, buffer []byte) ([]byte, error)) (*v1alpha1.Protocols, error) {
	buffer := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buffer)
	return read(func(name string) (_ []byte, err error) {
		*buffer, err = file(name, (*buffer)[:0])
		return *buffer, err
	})
}

// ownFile reads a file of the calling thread. The process's first one may be on a visit to a pod.
func ownFile(name string, buffer []byte) ([]byte, error) {
	file, err := os.Open("/proc/thread-self/" + name)
	if err != nil {
		return buffer, err
	}
	defer file.Close()
	text := bytes.NewBuffer(buffer)
	n, err := text.ReadFrom(io.LimitReader(file, longest))
	if n == longest {
		err = fmt.Errorf("it is longer than %d bytes", longest)
	}
	return text.Bytes(), err
}

// read reads net/snmp and the others. What file returns is not used any more when it is called again.
func read(file func(name string) ([]byte, error)) (*v1alpha1.Protocols, error) {
	p := &v1alpha1.Protocols{Tcp: &v1alpha1.TCP{}, Udp: &v1alpha1.UDP{}, Ipv4: &v1alpha1.IP{}, Icmpv4: &v1alpha1.ICMP{}}
	version4 := func(group []byte) finder { return groupOfVersion4(p, group) }
	for _, name := range []string{"net/snmp", "net/netstat"} {
		text, err := file(name)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		if err := addTable(text, version4); err != nil {
			return nil, fmt.Errorf("parsing %s: %w", name, err)
		}
	}
	text, err := file("net/snmp6")
	// Without IPv6 in the kernel there is no such file. Of a process that is gone the answer is the same, but then
	// the files before it could not be read.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, podmap.ErrGone) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading net/snmp6: %w", err)
	}
	p.Ipv6, p.Icmpv6 = &v1alpha1.IP{}, &v1alpha1.ICMP{}
	if err := addList(text, func(name []byte) *int64 { return fieldOfVersion6(p, name) }); err != nil {
		return nil, fmt.Errorf("parsing net/snmp6: %w", err)
	}
	return p, nil
}

// A finder says to which field a counter is added; nil to none.
type finder func(name []byte) *int64

// addTable goes through pairs of lines, names and values, that both begin with their group and a colon. Groups without
// a finder are passed over.
func addTable(text []byte, groups func(group []byte) finder) error {
	for len(text) > 0 {
		var names, values []byte
		names, text = cutLine(text)
		values, text = cutLine(text)
		group, names, ok1 := bytes.Cut(names, []byte(":"))
		again, values, ok2 := bytes.Cut(values, []byte(":"))
		if !ok1 || !ok2 || !bytes.Equal(group, again) {
			return fmt.Errorf("no line of values for %q", group)
		}
		find := groups(group)
		if find == nil {
			continue
		}
		if err := addPair(names, values, find); err != nil {
			return fmt.Errorf("%q: %w", group, err)
		}
	}
	return nil
}

func addPair(names, values []byte, find finder) error {
	for {
		var name, value []byte
		name, names = cutField(names)
		value, values = cutField(values)
		if len(name) == 0 && len(value) == 0 {
			return nil
		}
		if len(name) == 0 || len(value) == 0 {
			return fmt.Errorf("%q is %q", name, value)
		}
		if err := add(find(name), name, value); err != nil {
			return err
		}
	}
}

// addList goes through lines of a name and a value.
func addList(text []byte, find finder) error {
	for len(text) > 0 {
		var line []byte
		line, text = cutLine(text)
		name, rest := cutField(line)
		if len(name) == 0 {
			continue
		}
		value, _ := cutField(rest)
		if err := add(find(name), name, value); err != nil {
			return err
		}
	}
	return nil
}

// add adds to a field, if there is one for the counter. A sum over CPUs that change meanwhile can come out below zero,
// which the kernel prints as a number near 2^64 (CurrEstab does so): that is nothing.
func add(to *int64, name, value []byte) error {
	if to == nil {
		return nil
	}
	number, err := strconv.ParseUint(string(value), 10, 64)
	if err != nil {
		return fmt.Errorf("%q is %q", name, value)
	}
	*to += max(0, int64(number))
	return nil
}

func cutLine(text []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(text, []byte("\n"))
	return line, rest
}

// cutField is called some five hundred times a pod.
func cutField(text []byte) (field, rest []byte) {
	begin := 0
	for begin < len(text) && (text[begin] == ' ' || text[begin] == '\t') {
		begin++
	}
	end := begin
	for end < len(text) && text[end] != ' ' && text[end] != '\t' {
		end++
	}
	return text[begin:end], text[end:]
}

// groupOfVersion4 knows the groups of snmp and netstat.
func groupOfVersion4(p *v1alpha1.Protocols, group []byte) finder {
	switch string(group) {
	case "Tcp", "TcpExt":
		return func(name []byte) *int64 { return tcpField(p.Tcp, name) }
	case "Udp":
		return func(name []byte) *int64 { return udpField(p.Udp, name) }
	case "Ip":
		return func(name []byte) *int64 { return ipField(p.Ipv4, name) }
	case "Icmp":
		return func(name []byte) *int64 { return icmpField(p.Icmpv4, name) }
	case "IpExt":
		return func(name []byte) *int64 { return ipExtField(p.Ipv4, name) }
	}
	return nil
}

// ipExtField takes the one counter that Ip lacks.
func ipExtField(ip *v1alpha1.IP, name []byte) *int64 {
	if string(name) == "InNoRoutes" {
		return &ip.NoRoutes
	}
	return nil
}

func fieldOfVersion6(p *v1alpha1.Protocols, name []byte) *int64 {
	if field, ok := bytes.CutPrefix(name, []byte("Ip6")); ok {
		return ipField(p.Ipv6, field)
	}
	if field, ok := bytes.CutPrefix(name, []byte("Icmp6")); ok {
		return icmpField(p.Icmpv6, field)
	}
	if field, ok := bytes.CutPrefix(name, []byte("Udp6")); ok {
		return udpField(p.Udp, field)
	}
	return nil
}

func tcpField(tcp *v1alpha1.TCP, name []byte) *int64 {
	switch string(name) {
	case "ActiveOpens":
		return &tcp.ActiveOpens
	case "PassiveOpens":
		return &tcp.PassiveOpens
	case "AttemptFails":
		return &tcp.AttemptFails
	case "EstabResets":
		return &tcp.EstablishedResets
	case "CurrEstab":
		return &tcp.CurrentlyEstablished
	case "InSegs":
		return &tcp.InSegments
	case "OutSegs":
		return &tcp.OutSegments
	case "RetransSegs":
		return &tcp.RetransmittedSegments
	case "InErrs":
		return &tcp.InErrors
	case "OutRsts":
		return &tcp.OutResets
	case "ListenOverflows":
		return &tcp.ListenOverflows
	case "ListenDrops":
		return &tcp.ListenDrops
	case "TCPToZeroWindowAdv":
		return &tcp.ZeroWindowsSent
	case "TCPZeroWindowDrop":
		return &tcp.ZeroWindowDrops
	case "SyncookiesSent":
		return &tcp.SynCookiesSent
	case "TCPReqQFullDrop":
		return &tcp.RequestQueueDrops
	}
	return nil
}

func udpField(udp *v1alpha1.UDP, name []byte) *int64 {
	switch string(name) {
	case "InDatagrams":
		return &udp.InDatagrams
	case "OutDatagrams":
		return &udp.OutDatagrams
	case "NoPorts":
		return &udp.NoPorts
	case "InErrors":
		return &udp.InErrors
	case "RcvbufErrors":
		return &udp.ReceiveBufferErrors
	case "SndbufErrors":
		return &udp.SendBufferErrors
	case "InCsumErrors":
		return &udp.ChecksumErrors
	}
	return nil
}

// ipField takes the names of both versions; where they differ, that of version 6 is the longer one.
func ipField(ip *v1alpha1.IP, name []byte) *int64 {
	switch string(name) {
	case "InReceives":
		return &ip.InReceives
	case "InDelivers":
		return &ip.InDelivers
	case "OutRequests":
		return &ip.OutRequests
	case "ForwDatagrams", "OutForwDatagrams":
		return &ip.Forwarded
	case "InDiscards":
		return &ip.InDiscards
	case "OutDiscards":
		return &ip.OutDiscards
	case "InHdrErrors":
		return &ip.InHeaderErrors
	case "InAddrErrors":
		return &ip.InAddressErrors
	case "OutNoRoutes", "InNoRoutes":
		return &ip.NoRoutes
	case "ReasmFails":
		return &ip.ReassemblyFails
	}
	return nil
}

// icmpField takes the names of both versions, too.
func icmpField(icmp *v1alpha1.ICMP, name []byte) *int64 {
	switch string(name) {
	case "InMsgs":
		return &icmp.InMessages
	case "OutMsgs":
		return &icmp.OutMessages
	case "InErrors":
		return &icmp.InErrors
	case "InDestUnreachs":
		return &icmp.InDestinationUnreachable
	case "OutDestUnreachs":
		return &icmp.OutDestinationUnreachable
	case "InTimeExcds":
		return &icmp.InTimeExceeded
	case "OutTimeExcds":
		return &icmp.OutTimeExceeded
	case "InPktTooBigs":
		return &icmp.InPacketTooBig
	case "OutPktTooBigs":
		return &icmp.OutPacketTooBig
	case "InEchos":
		return &icmp.InEchos
	case "OutEchos":
		return &icmp.OutEchos
	case "InEchoReps", "InEchoReplies":
		return &icmp.InEchoReplies
	case "OutEchoReps", "OutEchoReplies":
		return &icmp.OutEchoReplies
	case "InRedirects":
		return &icmp.InRedirects
	case "OutRedirects":
		return &icmp.OutRedirects
	}
	return nil
}
