// Package tcp follows the TCP sockets of all pods of a node in the kernel. tcp.bpf.c says how; this file says what its
// maps hold, and loads it.
//
// A newcomer changes the C source, runs bpf/generate.sh, and commits what it wrote. If a map's layout changed, Layout
// changes too.
package tcp

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/bpf/headers"
)

// Layout names the meaning of the maps' bytes. Maps are pinned under it.
const Layout = "tcp-v1"

// The maps, as the programs name them.
const (
	// MapTotals has Totals by the pod's number. User space makes and deletes entries; programs change them.
	MapTotals = objectMapTotals
	// MapSockets is what is remembered of each socket.
	MapSockets = objectMapSockets
	// MapAPIServers has an entry for each Endpoint of the Kubernetes API. The values mean nothing. Kept by user space.
	MapAPIServers = objectMapApiServers
	// MapLive has Live by the pod's number, from a run of ProgramCount on until it is taken out. It is for one process.
	MapLive = objectMapLive
)

// The programs.
const (
	ProgramStateChanges  = objectProgStateChanges
	ProgramResetSent     = objectProgResetSent
	ProgramResetReceived = objectProgResetReceived
	// ProgramRead is an iterator over MapSockets, which brings Totals up to date and answers with one Socket for each that
	// is not closed.
	ProgramRead = objectProgReadSockets
	// ProgramCount is an iterator over MapSockets, too, which brings Totals up to date and adds up what there is in MapLive. It
	// answers with Breath from time to time and with NoRoom for what it could not add, a byte each.
	ProgramCount = objectProgCountSockets
	// ProgramSeed is an iterator over the sockets of the opener's network namespace, which begins to follow those that
	// were there before. It answers with nothing.
	ProgramSeed = objectProgSeed
)

// Cause is why a connection could not be opened.
type Cause int

// The causes, in the order of Totals.Failed.
const (
	Refused Cause = iota
	Timeout
	Unreachable
	// Abandoned is closed by the pod itself while there was no answer yet.
	Abandoned
	Other
	causes
)

// Latency is one of the histograms in Totals.
type Latency int

// The latencies, in the order of Totals.Latencies.
const (
	// ClosedSmoothedRTT and ClosedMinimumRTT are what the sockets had measured when they closed.
	ClosedSmoothedRTT Latency = iota
	ClosedMinimumRTT
	// APIHandshake is from the first SYN to the established connection, of those to the Kubernetes API.
	APIHandshake
	// APIClosedRTT is the part of ClosedSmoothedRTT that led to the Kubernetes API.
	APIClosedRTT
	latencies
)

// Sums are over all sockets, those that are closed included: the sockets' own counters.
type Sums struct {
	BytesAcked, BytesReceived                             uint64
	SegmentsSent, SegmentsReceived, SegmentsRetransmitted uint64
}

// Totals is the value of MapTotals. All but the first only rise.
type Totals struct {
	// StartUnixNano is when counting began, by the wall clock. User space's.
	StartUnixNano                   int64
	OpenedActively, OpenedPassively uint64
	Failed                          [causes]uint64
	ResetsSent, ResetsReceived      uint64
	// NotFollowed counts sockets that were closed and for which the kernel had no memory. What they carried is in no sum.
	NotFollowed uint64
	// Sums are as of the last run of ProgramRead, or later.
	Sums                    Sums
	APIConnected, APIFailed uint64
	Latencies               [latencies]headers.Histogram
}

// Endpoint is the key of MapAPIServers.
type Endpoint struct {
	Address headers.Address
	Port    [2]byte // big endian
	_       [2]byte
}

// State is a socket's, as in the kernel's enum.
type State uint8

// The states that a Socket can be in. Those in TIME_WAIT are no full sockets any more, and are not followed.
const (
	Established State = 1 + iota
	SynSent
	SynReceived
	FinWait1
	FinWait2
	_ // TIME_WAIT
	_ // CLOSE
	CloseWait
	LastAck
	Listen
	Closing
)

// Socket is what ProgramRead tells of one.
type Socket struct {
	// ByNamespace and ByCgroup are numbers of pods, or 0. The second is a pod that uses the node's network, and then the
	// first is headers.Node.
	ByNamespace, ByCgroup uint64
	// Microseconds; 0 where none has been measured.
	SmoothedRTT, MinimumRTT uint32
	// Requests are, of one that listens, connections that wait for the last packet of their handshake.
	Requests uint32
	State    State
	API      bool
}

// Live is the value of MapLive: what there is of a pod's sockets.
type Live struct {
	// ByState are numbers of sockets by State.
	ByState [16]uint32
	// Requests is the sum of Socket.Requests, and APIOpen how many have API and are Open.
	Requests, APIOpen uint32
	// TimeWait is how many there are in TIME_WAIT in a network namespace, of which Namespace is the cookie; negative when this
	// kernel does not tell. A pod whose sandbox was made anew may have sockets in two.
	TimeWait  int32
	_         [4]byte
	Namespace uint64
}

// What ProgramCount answers with.
const (
	Breath byte = iota
	NoRoom
)

// SocketSize is the length of a Socket in what ProgramRead answers.
const SocketSize = 32

// Decode reads the first SocketSize bytes.
func (s *Socket) Decode(record *[SocketSize]byte) {
	s.ByNamespace = binary.NativeEndian.Uint64(record[0:])
	s.ByCgroup = binary.NativeEndian.Uint64(record[8:])
	s.SmoothedRTT = binary.NativeEndian.Uint32(record[16:])
	s.MinimumRTT = binary.NativeEndian.Uint32(record[20:])
	s.Requests = binary.NativeEndian.Uint32(record[24:])
	s.State, s.API = State(record[28]), record[29] != 0
}

// Open says whether a connection has been opened and is not closed.
func (s *Socket) Open() bool {
	return s.State != SynSent && s.State != SynReceived && s.State != Listen
}

// Load returns maps and programs, for nodeagent/pins. The maps of bpf/headers are among them. The caller may change it.
func Load() (*ebpf.CollectionSpec, error) {
	spec, err := specification()
	if err != nil {
		return nil, fmt.Errorf("parsing the object: %w", err)
	}
	return spec.Copy(), nil
}

// specification parses the embedded object once; it is only read afterwards.
var specification = sync.OnceValues(loadObject)
