package flowlog

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// telemetry is a fake of the agent's state.
type telemetry struct {
	mu      sync.Mutex
	config  *v1alpha1.TelemetryConfig
	changed chan struct{}
	looked  int
	pods    map[string]*v1alpha1.TelemetryPod
	names   map[netip.Addr]*v1alpha1.TelemetryName
	asked   map[netip.Addr]bool
}

func newTelemetry(config *v1alpha1.TelemetryConfig, pods ...*v1alpha1.TelemetryPod) *telemetry {
	t := &telemetry{config: config, changed: make(chan struct{}), pods: map[string]*v1alpha1.TelemetryPod{}, names: map[netip.Addr]*v1alpha1.TelemetryName{}, asked: map[netip.Addr]bool{}}
	for _, pod := range pods {
		t.pods[pod.Key] = pod
	}
	return t
}

func (t *telemetry) Config() *v1alpha1.TelemetryConfig {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.config
}

func (t *telemetry) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looked++
	return t.changed
}

// replace puts another configuration in force. looks counts how often anybody has begun to wait for the next one since.
func (t *telemetry) replace(config *v1alpha1.TelemetryConfig) (looks func() int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.config, t.looked = config, 0
	close(t.changed)
	t.changed = make(chan struct{})
	return func() int {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.looked
	}
}

func (t *telemetry) Pod(key string) *v1alpha1.TelemetryPod {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pods[key]
}

func (t *telemetry) Name(address netip.Addr) *v1alpha1.TelemetryName {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked[address] = true
	return t.names[address]
}

var (
	web      = &v1alpha1.TelemetryPod{Key: "web", Namespace: "shop", Name: "web-1", WorkloadKind: "Deployment", WorkloadName: "web", FlowLogs: true}
	quiet    = &v1alpha1.TelemetryPod{Key: "quiet", Namespace: "shop", Name: "quiet-1"}
	minute   = &v1alpha1.TelemetryFlowLogs{IntervalNano: int64(time.Minute)}
	database = netip.MustParseAddr("10.1.0.9")
	service  = netip.MustParseAddr("10.96.0.1")
	begun    = time.Unix(1_800_000_000, 0)
)

func named(t *telemetry) *telemetry {
	t.names[database] = &v1alpha1.TelemetryName{Owner: &v1alpha1.TelemetryName_Pod{Pod: &v1alpha1.TelemetryPeerPod{Namespace: "data", Name: "db-0", WorkloadKind: "StatefulSet", WorkloadName: "db"}}}
	t.names[service] = &v1alpha1.TelemetryName{Owner: &v1alpha1.TelemetryName_Service{Service: &v1alpha1.TelemetryService{Namespace: "data", Name: "db"}}}
	return t
}

// change is a connection of web to the database, over a Service.
func change() *flows.Change {
	return &flows.Change{
		Flow: 7, PodKey: "web", Local: netip.MustParseAddrPort("10.1.0.2:40000"), Peer: netip.AddrPortFrom(service, 80), Translated: netip.AddrPortFrom(database, 5432),
		Protocol: unix.IPPROTO_TCP, Direction: v1alpha1.Direction_DIRECTION_TRANSMIT, Start: begun, Last: begun.Add(time.Second), Since: begun,
		Verdict: v1alpha1.Verdict_VERDICT_FORWARDED, Flags: [2]uint8{18, 2}, Handshake: time.Millisecond, PeerName: "db.data.svc",
		Packets: [2]int64{1, 2}, Bytes: [2]int64{100, 200}, Dropped: 3, DropReason: "NO_ROOM",
	}
}

// TestVisit: when a flow is logged, and when it is looked at again.
func TestVisit(t *testing.T) {
	const logged, passedOver, waits = "logged", "passed over", "waits"
	for _, test := range []struct {
		name   string
		asked  *v1alpha1.TelemetryFlowLogs
		after  time.Duration // since the first of what was not logged
		change func(*flows.Change)
		state  func(*telemetry)
		last   bool
		want   string
	}{
		{name: "ended", change: func(c *flows.Change) { c.Ended = true }, want: logged},
		{name: "goes on", after: 59 * time.Second, want: waits},
		{name: "goes on for the interval", after: time.Minute, change: func(c *flows.Change) { c.Last = begun.Add(50 * time.Second) }, want: logged},
		{name: "goes on, and has long been silent", after: time.Minute, want: waits},
		{name: "goes on, and the agent ends", after: time.Second, last: true, want: logged},
		{name: "of a pod that is not asked for", change: func(c *flows.Change) { c.PodKey, c.Ended = "quiet", true }, want: passedOver},
		{name: "of a pod that is not known yet", change: func(c *flows.Change) { c.PodKey, c.Ended = "new", true }, want: waits},
		{name: "of a pod that is not known in time", after: nameWithin, change: func(c *flows.Change) { c.PodKey, c.Ended = "new", true }, want: passedOver},
		{name: "the peer is not known yet", change: func(c *flows.Change) { c.Ended = true }, state: func(t *telemetry) { delete(t.names, service) }, want: waits},
		{name: "the translated peer is not known yet", change: func(c *flows.Change) { c.Ended = true }, state: func(t *telemetry) { delete(t.names, database) }, want: waits},
		{name: "the peer is not known in time", after: nameWithin, change: func(c *flows.Change) { c.Ended = true }, state: func(t *telemetry) { delete(t.names, service) }, want: logged},
		{name: "the peer is not known, and the agent ends", last: true, state: func(t *telemetry) { delete(t.names, service) }, want: logged},
		{name: "another verdict", asked: &v1alpha1.TelemetryFlowLogs{Verdicts: []v1alpha1.Verdict{v1alpha1.Verdict_VERDICT_DROPPED}}, change: func(c *flows.Change) { c.Ended = true }, want: passedOver},
		{name: "another verdict, which may change", asked: &v1alpha1.TelemetryFlowLogs{IntervalNano: int64(time.Minute), Verdicts: []v1alpha1.Verdict{v1alpha1.Verdict_VERDICT_DROPPED}}, want: waits},
		{name: "one of the verdicts", asked: &v1alpha1.TelemetryFlowLogs{Verdicts: []v1alpha1.Verdict{v1alpha1.Verdict_VERDICT_DROPPED, v1alpha1.Verdict_VERDICT_FORWARDED}}, change: func(c *flows.Change) { c.Ended = true }, want: logged},
		{name: "not sampled", asked: &v1alpha1.TelemetryFlowLogs{SampleOneIn: 1 << 40}, change: func(c *flows.Change) { c.Ended = true }, want: passedOver},
		{name: "multicast", change: func(c *flows.Change) {
			c.Ended, c.Peer, c.Translated = true, netip.MustParseAddrPort("[ff02::fb]:5353"), netip.AddrPort{}
		}, want: logged},
	} {
		t.Run(test.name, func(t *testing.T) {
			state := named(newTelemetry(nil, web, quiet))
			if test.state != nil {
				test.state(state)
			}
			var got []*Record
			l := New(Config{Telemetry: state, Log: func(r []*Record) { got = append(got, r...) }})
			s := newSession(l)
			s.last = test.last
			asked := minute
			if test.asked != nil {
				asked = test.asked
			}
			s.begin(asked, begun.Add(test.after))
			c := change()
			if test.change != nil {
				test.change(c)
			}
			again := s.visit(c)
			s.flush()
			what := passedOver
			switch {
			case !again.IsZero():
				what = waits
			case len(got) == 1:
				what = logged
			}
			if what != test.want || len(got) > 1 || int64(len(got)) != l.Logged() {
				t.Errorf("it %s, want %s; %d records", what, test.want, len(got))
			}
			if lost := l.Lost()[StagePod]; (lost == 1) != (test.name == "of a pod that is not known in time") {
				t.Errorf("lost %d", lost)
			}
			if state.asked[netip.MustParseAddr("ff02::fb")] {
				t.Error("asked who has a multicast address")
			}
		})
	}
}

// TestRecord: every field.
func TestRecord(t *testing.T) {
	state := named(newTelemetry(nil, web))
	var got []*Record
	s := newSession(New(Config{Telemetry: state, Log: func(r []*Record) { got = append(got, r...) }}))
	now := begun.Add(time.Hour)
	s.begin(minute, now)
	c := change()
	c.Ended = true
	s.visit(c)
	icmp := change()
	icmp.Ended, icmp.Protocol, icmp.Translated = true, unix.IPPROTO_ICMP, netip.AddrPort{}
	icmp.Peer = netip.AddrPortFrom(database, 8<<8)
	s.visit(icmp)
	reused := change()
	reused.Ended = true
	state.names[database].SinceUnixNano = begun.Add(time.Minute).UnixNano() // somebody else's by then
	state.names[service] = &v1alpha1.TelemetryName{Owner: &v1alpha1.TelemetryName_Node{Node: "n1"}}
	s.visit(reused)
	s.flush()
	want := Record{
		Time: now, Start: begun, Last: begun.Add(time.Second), Flow: 7, Ended: true, Direction: v1alpha1.Direction_DIRECTION_TRANSMIT, Protocol: 6,
		Local:      Endpoint{Address: netip.MustParseAddr("10.1.0.2"), Port: 40000, Namespace: "shop", Pod: "web-1", WorkloadKind: "Deployment", WorkloadName: "web"},
		Peer:       Endpoint{Address: service, Port: 80, ServiceNamespace: "data", Service: "db"},
		Translated: Endpoint{Address: database, Port: 5432, Namespace: "data", Pod: "db-0", WorkloadKind: "StatefulSet", WorkloadName: "db"},
		DNSName:    "db.data.svc", ReceivedPackets: 1, ReceivedBytes: 100, TransmittedPackets: 2, TransmittedBytes: 200, DroppedPackets: 3,
		Verdict: v1alpha1.Verdict_VERDICT_FORWARDED, DropReason: "NO_ROOM", ReceivedFlags: 18, TransmittedFlags: 2, Handshake: time.Millisecond, SampledOneIn: 1,
	}
	if len(got) != 3 || *got[0] != want {
		t.Fatalf("records are\n%+v, want\n%+v", got[0], want)
	}
	if got[1].Peer.Port != 0 || got[1].Local.Port != 0 || got[1].Peer.Pod != "db-0" || got[1].Translated != (Endpoint{}) {
		t.Errorf("the record of ICMP is %+v", got[1])
	}
	if got[2].Translated.Pod != "" || got[2].Translated.Address != database || got[2].Peer.Node != "n1" {
		t.Errorf("the record of an address that changed hands is %+v", got[2])
	}
}

// TestPodIsRemembered: flows that end after their pod are logged under its name; later it is forgotten.
func TestPodIsRemembered(t *testing.T) {
	state := named(newTelemetry(nil, web))
	s := newSession(New(Config{Telemetry: state, Log: func([]*Record) {}}))
	s.begin(minute, begun)
	s.visit(change())
	delete(state.pods, "web")
	s.begin(minute, begun.Add(keepPod))
	if s.pod("web") == nil {
		t.Error("the pod was forgotten at once")
	}
	s.begin(minute, begun.Add(keepPod+time.Second))
	s.forgetPods()
	if s.pod("web") != nil {
		t.Error("the pod was not forgotten")
	}
}

// TestRecordsAreGivenAwayInParts: however many there are.
func TestRecordsAreGivenAwayInParts(t *testing.T) {
	var sizes []int
	s := newSession(New(Config{Telemetry: named(newTelemetry(nil, web)), Log: func(r []*Record) { sizes = append(sizes, len(r)) }}))
	s.begin(minute, begun)
	for range 2*together + 3 {
		c := change()
		c.Ended = true
		s.visit(c)
	}
	s.flush()
	s.flush()
	if !slices.Equal(sizes, []int{together, together, 3}) {
		t.Errorf("parts of %v", sizes)
	}
}

// TestSampling: both ends of a flow are chosen or neither, about one out of n is, and those of a larger n are among
// those of a smaller one.
func TestSampling(t *testing.T) {
	const all, n = 100_000, 100
	chosen := 0
	for i := range all {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), uint16(30000+i>>3))
		clientEnd := &flows.Change{Local: client, Peer: netip.AddrPortFrom(service, 80), Translated: netip.AddrPortFrom(database, 5432), Protocol: 6}
		serverEnd := &flows.Change{Local: netip.AddrPortFrom(database, 5432), Peer: client, Protocol: 6}
		if sampled(clientEnd, n) != sampled(serverEnd, n) {
			t.Fatalf("only one end of %v is sampled", client)
		}
		if sampled(clientEnd, n) {
			chosen++
			if !sampled(clientEnd, n/7) || !sampled(clientEnd, 1) || !sampled(clientEnd, 0) {
				t.Fatalf("%v is sampled for %d and not for less", client, n)
			}
		}
	}
	if chosen < 850 || chosen > 1150 { // five standard deviations
		t.Errorf("%d of %d are sampled, want about %d", chosen, all, all/n)
	}
	// The identifier and the kind of a message belong to no end.
	ping := &flows.Change{Local: netip.MustParseAddrPort("10.1.0.2:77"), Peer: netip.MustParseAddrPort("10.1.0.9:2048"), Protocol: unix.IPPROTO_ICMP}
	answered := &flows.Change{Local: netip.MustParseAddrPort("10.1.0.9:77"), Peer: netip.MustParseAddrPort("10.1.0.2:2048"), Protocol: unix.IPPROTO_ICMP}
	for n := range int64(100) {
		if sampled(ping, n) != sampled(answered, n) {
			t.Fatalf("only one end of a ping is sampled for %d", n)
		}
	}
}

// TestSamplingStays: agents of different versions agree. The values were reckoned apart from this code.
func TestSamplingStays(t *testing.T) {
	for _, test := range []struct {
		protocol uint8
		a, b     string
		want     uint64
	}{
		{6, "10.1.0.2:40000", "10.1.0.9:5432", 0xee55e27a0d9a56bd},
		{17, "[fd00::1]:53", "[fd00::2]:40000", 0xb5f0f0703d5215d5},
		{1, "10.1.0.2:77", "10.1.0.9:2048", 0xb72346f710b6733b},
	} {
		if got := hash(test.protocol, netip.MustParseAddrPort(test.a), netip.MustParseAddrPort(test.b)); got != test.want {
			t.Errorf("hash of %d %s %s is %#x, want %#x", test.protocol, test.a, test.b, got, test.want)
		}
	}
}

// TestStages: all are named from the beginning, so that none appears out of nowhere.
func TestStages(t *testing.T) {
	l := New(Config{})
	if got := slices.Sorted(maps.Keys(l.Lost())); !slices.Equal(got, []string{StageEnd, StageHistory, StagePod}) {
		t.Errorf("stages are %v", got)
	}
}

// TestRunEnds: whatever is asked for, and whether flows are kept or not.
func TestRunEnds(t *testing.T) {
	broken := flows.New(flows.Config{})
	defer broken.Close()
	for _, history := range []*flows.Collector{nil, broken} {
		state := newTelemetry(&v1alpha1.TelemetryConfig{}, web)
		l := New(Config{Flows: history, Telemetry: state, Log: func([]*Record) { t.Error("something is logged") }})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); l.Run(ctx) }()
		looks := state.replace(&v1alpha1.TelemetryConfig{FlowLogs: minute})
		fakepod.Eventually(t, "the other configuration to be read", func() bool { return looks() > 0 })
		stop()
		<-ended
	}
}
