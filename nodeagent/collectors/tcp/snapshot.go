package tcp

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
	bpf "github.com/networkobservability/networkobservability/bpf/tcp"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// portion is how much of an iterator's answer is read at a time: as much as the kernel gives.
const portion = 32 << 10

// live is what there is now of a pod's sockets.
type live struct {
	byState  [16]int64
	requests int64
	apiOpen  int64
	// timeWait is of the namespace with this cookie, which is 0 when it is not known.
	timeWait  int64
	namespace uint64
	// open is nil without an open connection.
	open *openRTT
}

type openRTT struct{ smoothed, minimum, api headers.Histogram }

func (l *live) add(socket *bpf.Socket) {
	l.byState[socket.State&15]++
	l.requests += int64(socket.Requests)
	if !socket.Open() {
		return
	}
	if socket.API {
		l.apiOpen++
	}
	if socket.SmoothedRTT == 0 {
		return
	}
	if l.open == nil {
		l.open = &openRTT{}
	}
	smoothed := uint64(socket.SmoothedRTT) * 1000
	l.open.smoothed.Add(smoothed)
	if socket.MinimumRTT > 0 {
		l.open.minimum.Add(uint64(socket.MinimumRTT) * 1000)
	}
	if socket.API {
		l.open.api.Add(smoothed)
	}
}

// A snapshot is of all sockets, for the rows of one answer. It is not safe for concurrent use.
type snapshot struct {
	collector *Collector
	// brief says that nothing is known of open connections but their numbers.
	brief   bool
	problem error
	// pods are by number.
	pods map[uint64]*live
	// totals are those of the last pod that was read, and text is what was last read of a file.
	totals bpf.Totals
	text   []byte
}

// Snapshot brings the totals up to date, and reads the sockets that there are.
func (c *Collector) Snapshot() interface {
	ReadPod(*podmap.Pod, *v1alpha1.PodStats) error
	ReadNode(*v1alpha1.NodeStats) error
} {
	s := &snapshot{collector: c, pods: map[uint64]*live{}, problem: c.problem}
	if s.problem != nil || c.read == nil {
		return s
	}
	c.iterating.Lock()
	defer c.iterating.Unlock()
	c.settled = time.Now()
	s.problem = drain(c.read, c.buffer, s.addAll)
	return s
}

// Counters is Snapshot for less: the kernel adds up what there is, knows how many connections are in TIME_WAIT where a pod has any
// other, and of connections that are open there are no round-trip times.
func (c *Collector) Counters() interface {
	ReadPod(*podmap.Pod, *v1alpha1.PodStats) error
	ReadNode(*v1alpha1.NodeStats) error
} {
	if c.problem != nil || c.count == nil {
		return c.Snapshot()
	}
	s := &snapshot{collector: c, brief: true, pods: map[uint64]*live{}}
	c.iterating.Lock()
	defer c.iterating.Unlock()
	c.settled = time.Now()
	full := false
	problem := drain(c.count, c.buffer[:1], func(told []byte) { full = full || len(told) > 0 && told[0] == bpf.NoRoom })
	if full {
		problem = errors.Join(problem, errors.New("adding up sockets: the table of pods is full"))
	}
	// What there is is taken out in any case, so that the next run begins anew.
	s.problem = errors.Join(problem, s.takeAll(c.live))
	return s
}

// takeAll takes out what a run has added up.
func (s *snapshot) takeAll(from *ebpf.Map) error {
	const batch = 256
	numbers, values := make([]uint64, batch), make([]bpf.Live, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := from.BatchLookupAndDelete(&cursor, numbers, values, nil)
		for i := range n {
			s.pods[numbers[i]] = liveOf(&values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("taking out what there is of sockets: %w", err)
		}
	}
}

func liveOf(l *bpf.Live) *live {
	now := &live{requests: int64(l.Requests), apiOpen: int64(l.APIOpen)}
	if l.TimeWait >= 0 {
		now.timeWait, now.namespace = int64(l.TimeWait), l.Namespace
	}
	for state, count := range l.ByState {
		now.byState[state] = int64(count)
	}
	return now
}

// settleEvery is how often totals are brought up to date though nobody asks. The kernel's counters of segments have 32
// bits, and a socket at 400 Gb/s may need but a minute for half of that.
const settleEvery = 30 * time.Second

// Sample brings the totals up to date if nobody has asked for long.
func (c *Collector) Sample(now time.Time) {
	if c.problem != nil || c.read == nil {
		return
	}
	c.iterating.Lock()
	defer c.iterating.Unlock()
	if now.Sub(c.settled) < settleEvery {
		return
	}
	c.settled = now
	_ = drain(c.read, c.buffer, func([]byte) {}) // whoever asks next meets the same error
}

// addAll adds the sockets of which the kernel told. It never tells half of one.
func (s *snapshot) addAll(records []byte) {
	var socket bpf.Socket
	for ; len(records) >= bpf.SocketSize; records = records[bpf.SocketSize:] {
		socket.Decode((*[bpf.SocketSize]byte)(records))
		for _, number := range [2]uint64{socket.ByNamespace, socket.ByCgroup} {
			if number == 0 {
				continue
			}
			pod := s.pods[number]
			if pod == nil {
				pod = &live{}
				s.pods[number] = pod
			}
			pod.add(&socket)
		}
	}
}

// drain runs an iterator to its end.
func drain(iterator *link.Iter, buffer []byte, add func([]byte)) error {
	opened, err := iterator.Open()
	if err != nil {
		return fmt.Errorf("opening the list of sockets: %w", err)
	}
	defer opened.Close()
	for {
		n, err := opened.Read(buffer)
		add(buffer[:n])
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, unix.EAGAIN): // a million sockets without an answer: the kernel takes breath
		case err != nil:
			return fmt.Errorf("reading the list of sockets: %w", err)
		}
	}
}
