package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podindex"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An agent is the part of the agent that these tests need: a collector that follows the test's own pods only.
type agent struct {
	t         testing.TB
	collector *Collector
	pods      *podmap.Map
	shared    map[string]*ebpf.Map
	without   []string
	// halt ends the following of pods, stop lets go of the collector too.
	halt, stop func()
}

// A machine is what agents find, and leave behind for those after them.
type machine struct {
	root string
	// cgroups is where cgroup version 2 is mounted, or empty.
	cgroups string
}

func newMachine(t testing.TB) machine { return machine{root: pins.Root(fakepod.BPFFS(t), "node.test")} }

func (m machine) start(t testing.TB, without []string, fakes ...*fakepod.Pod) *agent {
	t.Helper()
	shared, err := pins.Shared(m.root)
	if err != nil {
		t.Fatal(err)
	}
	index := podindex.New(shared, m.cgroups)
	collector := New(Config{Root: m.root, Shared: shared, Without: without})
	mine := map[string]bool{}
	for _, fake := range fakes {
		mine[fake.UID] = true
	}
	var followed atomic.Int32
	follow := func(pods []*podmap.Pod) {
		var own []*podmap.Pod
		for _, pod := range pods {
			if mine[pod.Key] {
				own = append(own, pod)
			}
		}
		if err := index.Follow(own); err != nil {
			t.Errorf("keeping the index: %v", err)
		}
		collector.Follow(own)
		followed.Store(int32(len(own)))
	}
	pods, err := podmap.New(podmap.Config{Changed: follow})
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, collector: collector, pods: pods, shared: shared, without: without}
	a.run()
	fakepod.Eventually(t, "following all pods", func() bool { return int(followed.Load()) == len(fakes) })
	fakepod.Eventually(t, "seeding", func() bool {
		collector.seeds.mu.Lock()
		defer collector.seeds.mu.Unlock()
		return len(collector.seeds.waiting) == 0 || collector.seed == nil
	})
	collector.Snapshot() // which waits for the last of them
	return a
}

func (a *agent) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		if err := a.pods.Run(ctx, func() { close(ready) }); err != nil {
			a.t.Errorf("following pods: %v", err)
		}
	})
	running.Go(func() { a.collector.Run(ctx) })
	a.halt = func() {
		cancel()
		running.Wait()
	}
	a.stop = sync.OnceFunc(func() {
		a.halt()
		a.collector.Close()
		pins.CloseAll(a.shared)
	})
	a.t.Cleanup(a.stop)
	<-ready
}

func (a *agent) tryRow(fake *fakepod.Pod) (*v1alpha1.PodStats, error) {
	pod, ok := a.pods.Lookup(fake.UID)
	if !ok {
		return nil, errors.New("the pod is not known")
	}
	row := &v1alpha1.PodStats{}
	err := a.collector.Snapshot().ReadPod(pod, row)
	if len(a.without) > 0 && row.Connections != nil {
		err = nil // it says what is missing
	}
	return row, err
}

func (a *agent) row(fake *fakepod.Pod) *v1alpha1.PodStats {
	a.t.Helper()
	row, err := a.tryRow(fake)
	if err != nil {
		a.t.Fatalf("reading pod %s: %v", fake.UID, err)
	}
	return row
}

// counts are the counters of a row that are compared, and nothing that depends on the moment.
type counts struct {
	active, passive                                 int64
	refused, timeout, unreachable, abandoned, other int64
	resetsSent, resetsReceived                      int64
}

// briefRow is a row of Counters.
func (a *agent) briefRow(fake *fakepod.Pod) *v1alpha1.PodStats {
	a.t.Helper()
	pod, ok := a.pods.Lookup(fake.UID)
	if !ok {
		a.t.Fatalf("pod %s is not known", fake.UID)
	}
	row := &v1alpha1.PodStats{}
	if err := a.collector.Counters().ReadPod(pod, row); err != nil && len(a.without) == 0 {
		a.t.Fatalf("reading pod %s: %v", fake.UID, err)
	}
	return row
}

// same waits until both ways of reading say the same, but for round-trip times.
func (a *agent) same(fakes ...*fakepod.Pod) {
	a.t.Helper()
	for _, fake := range fakes {
		fakepod.Eventually(a.t, "both ways of reading to agree", func() bool {
			whole, brief := a.row(fake), a.briefRow(fake)
			whole.Connections.OpenSmoothedRtt, whole.Connections.OpenMinimumRtt = nil, nil
			if whole.ApiServer != nil {
				whole.ApiServer.Rtt = nil
			}
			return proto.Equal(whole, brief)
		}, func() string { return fmt.Sprintf("%v and %v", a.row(fake), a.briefRow(fake)) })
	}
}

func (a *agent) counts(fake *fakepod.Pod) counts {
	a.t.Helper()
	c := a.briefRow(fake).Connections
	return counts{
		active: c.OpenedActively, passive: c.OpenedPassively,
		refused: c.FailedRefused, timeout: c.FailedTimeout, unreachable: c.FailedUnreachable,
		abandoned: c.FailedAbandoned, other: c.FailedOther,
		resetsSent: c.ResetsSent, resetsReceived: c.ResetsReceived,
	}
}

// expect waits until a pod has exactly these counters. Where the kernel says that it did not run a program as often as the
// counters lack, that is what events_missed is for: the test cannot go on, and is skipped.
func (a *agent) expect(fake *fakepod.Pod, what string, want counts) {
	a.t.Helper()
	if a.reaches(fake, want) {
		return
	}
	got, missed := a.counts(fake), int64(a.collector.missed())
	if lacking := want.less(got); lacking > 0 && lacking <= missed {
		a.t.Skipf("%s: the counters lack %d, and the kernel did not run a program %d times: an interrupt came while it ran", what, lacking, missed)
	}
	a.t.Fatalf("%s: got %+v, want %+v; %d events were missed", what, got, want, missed)
}

// reaches says whether a pod gets exactly these counters. What has happened is counted within moments, so it waits no
// longer than a busy machine may need.
func (a *agent) reaches(fake *fakepod.Pod, want counts) (reached bool) {
	a.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	fakepod.Eventually(a.t, "counters", func() bool {
		reached = a.counts(fake) == want
		return reached || time.Now().After(deadline)
	})
	return reached
}

// less is how much counters lack in all; 0 when one of them is more than it should be.
func (c counts) less(got counts) (lacking int64) {
	want, have := reflect.ValueOf(c), reflect.ValueOf(got)
	for i := range want.NumField() {
		difference := want.Field(i).Int() - have.Field(i).Int()
		if difference < 0 {
			return 0
		}
		lacking += difference
	}
	return lacking
}

// pair makes two pods that are joined: the first has 10.99.SUBNET.1, the second .2.
func pair(t testing.TB, subnet int) (client, server *fakepod.Pod) {
	t.Helper()
	fakepod.NeedRoot(t)
	prefix := fakepod.Prefix()
	client, server = fakepod.New(t, prefix), fakepod.New(t, prefix)
	fakepod.Connect(client.Namespace, server.Namespace, "eth0", "eth0", subnet)
	return client, server
}

func addresses(subnet int) (ipv4, ipv6 string) {
	return fmt.Sprintf("10.99.%d.2", subnet), fmt.Sprintf("fd99:%d::2", subnet)
}

// A server accepts connections in a namespace, and gives them back on request.
type server struct {
	t        testing.TB
	listener net.Listener
	accepted chan net.Conn
}

func listen(t testing.TB, n *fakepod.Namespace, address string, prepare ...func(fd int)) *server {
	t.Helper()
	s := &server{t: t, accepted: make(chan net.Conn, 20000)}
	n.Do(func() {
		var err error
		config := net.ListenConfig{Control: control(prepare)}
		config.SetMultipathTCP(false)
		if s.listener, err = config.Listen(context.Background(), "tcp", address); err != nil {
			t.Errorf("listening: %v", err)
		}
	})
	var running sync.WaitGroup
	running.Go(func() {
		defer close(s.accepted)
		for {
			connection, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.accepted <- connection
		}
	})
	t.Cleanup(func() {
		s.listener.Close()
		running.Wait()
		for connection := range s.accepted {
			connection.Close()
		}
	})
	return s
}

func (s *server) address() string { return s.listener.Addr().String() }

func (s *server) next() net.Conn {
	s.t.Helper()
	select {
	case connection := <-s.accepted:
		s.t.Cleanup(func() { connection.Close() }) // no sooner: what is not held is closed by the garbage collector
		return connection
	case <-time.After(20 * time.Second):
		s.t.Fatal("no connection came")
		return nil
	}
}

// dial connects from a namespace. prepare is called with the socket before.
func dial(n *fakepod.Namespace, address string, timeout time.Duration, prepare ...func(fd int)) (connection net.Conn, err error) {
	n.Do(func() {
		dialer := net.Dialer{Timeout: timeout, Control: control(prepare)}
		dialer.SetMultipathTCP(false)
		connection, err = dialer.Dial("tcp", address)
	})
	return connection, err
}

func control(prepare []func(fd int)) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			for _, p := range prepare {
				p(int(fd))
			}
		})
	}
}

func mustDial(t testing.TB, n *fakepod.Namespace, address string) net.Conn {
	t.Helper()
	connection, err := dial(n, address, 20*time.Second)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

// connect connects a blank socket, or only begins to if it shall not block. Unlike the runtime, it does not ask the
// socket for its error. The caller closes it.
func connect(t testing.TB, n *fakepod.Namespace, address string, flags int, prepare ...func(fd int)) (fd int, err error) {
	t.Helper()
	n.Do(func() {
		fd = blank(t, address, flags)
		for _, p := range prepare {
			p(fd)
		}
		err = unix.Connect(fd, sockaddr(address))
	})
	return fd, err
}

func blank(t testing.TB, address string, flags int) int {
	t.Helper()
	family := unix.AF_INET6
	if netip.MustParseAddrPort(address).Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		t.Errorf("opening a socket: %v", err)
	}
	return fd
}

func sockaddr(address string) unix.Sockaddr {
	endpoint := netip.MustParseAddrPort(address)
	if endpoint.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: endpoint.Addr().As4(), Port: int(endpoint.Port())}
	}
	return &unix.SockaddrInet6{Addr: endpoint.Addr().As16(), Port: int(endpoint.Port())}
}

// snmp reads a counter of TCP from a namespace's /proc/net/snmp.
func snmp(t testing.TB, n *fakepod.Namespace, name string) int64 {
	t.Helper()
	return kernelCounter(t, n, "/proc/net/snmp", "Tcp:", name)
}

// netstat reads one of those that Linux has beyond the standard's.
func netstat(t testing.TB, n *fakepod.Namespace, name string) int64 {
	t.Helper()
	return kernelCounter(t, n, "/proc/net/netstat", "TcpExt:", name)
}

func kernelCounter(t testing.TB, n *fakepod.Namespace, file, group, name string) int64 {
	t.Helper()
	var names, values []string
	for line := range strings.Lines(n.Run("cat", file)) {
		if fields := strings.Fields(line); fields[0] == group {
			names, values = values, fields
		}
	}
	for i := range names {
		if names[i] == name {
			value, err := strconv.ParseInt(values[i], 10, 64)
			must(t, err)
			return value
		}
	}
	t.Fatalf("there is no %s in %s", name, file)
	return 0
}

// rising are all counters of a row that must never fall.
func rising(row *v1alpha1.PodStats) []int64 {
	c := row.Connections
	return []int64{
		c.OpenedActively, c.OpenedPassively, c.FailedRefused, c.FailedTimeout, c.FailedUnreachable, c.FailedAbandoned,
		c.FailedOther, c.ResetsSent, c.ResetsReceived, c.BytesAcked, c.BytesReceived, c.SegmentsSent, c.SegmentsReceived,
		c.SegmentsRetransmitted, count(c.ClosedSmoothedRtt), count(c.ClosedMinimumRtt),
	}
}

func count(h *v1alpha1.Histogram) (sum int64) {
	for _, n := range h.Counts {
		sum += n
	}
	return sum
}
