// Package floods tests that one pod's flood of packets leaves the numbers of another pod exact and the agent small, and
// that what is lost is counted. There is no code but the tests:
//
//	floods_test.go     what is flooded, and what must hold then
//	bystander_test.go  a pod that has nothing to do with it
//	generator_test.go  a million packets a second and more
package floods

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/test/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// least is how many packets a flood has at least. It lasts until the bystander has done what it does.
	least = 150_000
	// mostHeap is by how much the heap may grow.
	mostHeap = 48 << 20
	// mostNames and mostDrops are how many rows there may be.
	mostNames, mostDrops = 20, 128
)

// A world is a pod that sends a flood, its victim, and a bystander.
type world struct {
	*node.Node
	t                *testing.T
	attacker, victim *fakepod.Pod
	bystander        *bystander
	// What interfaces had dropped when counting began.
	before map[*fakepod.Pod]int64
}

// dropped is what a pod's neighbour could not take.
func (w *world) dropped(pod *fakepod.Pod) int64 { return carried(w.t, pod).dropped - w.before[pod] }

func newWorld(t *testing.T) *world {
	t.Helper()
	fakepod.NeedRoot(t)
	prefix := fakepod.Prefix()
	w := &world{t: t, attacker: fakepod.New(t, prefix), victim: fakepod.New(t, prefix), bystander: newBystander(t, prefix)}
	fakepod.Connect(w.attacker.Namespace, w.victim.Namespace, "eth0", "eth0", 1)
	quiet(w.attacker.Namespace, w.victim.Namespace)
	w.victim.Run("ip", "route", "add", "10.77.0.0/16", "via", "10.99.1.1") // answers go to who sent the flood
	w.Node = node.Start(t, fakepod.BPFFS(t), w.attacker, w.victim, w.bystander.Pod)
	if problems := w.States(); problems != "" {
		t.Fatalf("not all collectors run:\n%s", problems)
	}
	w.before = map[*fakepod.Pod]int64{w.attacker: carried(t, w.attacker).dropped, w.victim: carried(t, w.victim).dropped}
	w.bystander.before = carried(t, w.bystander.Pod)
	return w
}

// flood sends a flood from the attacker to the victim, and checks what holds of every one. It returns how many packets
// there were, and what the attacker's and the victim's rows say then.
func (w *world) flood(f flood) (sent int64, attacker, victim *v1alpha1.PodStats) {
	w.t.Helper()
	g := newSender(w.t, w.attacker, f)
	w.endure(func(enough func() bool) { g.sendUntil(enough, least) }, g)
	sent = int64(g.sent.Load())
	attacker, victim = w.checkFlooded(sent, f)
	return sent, attacker, victim
}

// endure lets the bystander do what it does while there are floods, until there has been enough, and checks its numbers
// and the size of the agent.
func (w *world) endure(send func(enough func() bool), generators ...*generator) {
	w.t.Helper()
	runtime.GC()
	heapBefore, begun := heap(), time.Now()
	before, err := ownTime()
	if err != nil {
		w.t.Fatal(err)
	}
	var enough atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		send(enough.Load)
	}()
	w.bystander.act(w)
	enough.Store(true)
	<-ended

	took := time.Since(begun)
	own, err := ownTime()
	if err != nil {
		w.t.Fatal(err)
	}
	heapAfter := heap()
	own -= before
	var packets int64
	for _, g := range generators {
		packets += int64(g.sent.Load())
		own -= time.Duration(g.spent.Load())
		w.t.Logf("%d packets, %d ns of processor time each", g.sent.Load(), g.spent.Load()/int64(g.sent.Load()))
	}
	w.t.Logf("%.2f million packets a second; agent and bystander took %.0f%% of a core; the heap was %.1f MiB and became %.1f",
		float64(packets)/took.Seconds()/1e6, 100*own.Seconds()/took.Seconds(), float64(heapBefore)/(1<<20), float64(heapAfter)/(1<<20))
	if heapAfter > heapBefore+mostHeap {
		w.t.Errorf("the heap grew from %d to %d bytes", heapBefore, heapAfter)
	}
	w.bystander.check(w)
}

// checkFlooded checks that attacker and victim counted every packet, and have each in a flow.
func (w *world) checkFlooded(sent int64, f flood) (attacker, victim *v1alpha1.PodStats) {
	w.t.Helper()
	fakepod.Eventually(w.t, "all flows to be recorded", func() bool {
		rows := w.Rows(w.attacker, w.victim)
		attacker, victim = rows[0], rows[1]
		return recorded(attacker) && recorded(victim)
	}, func() string { return describe(attacker) + "\n" + describe(victim) })
	// The receiving processor's queue may be full: the sender's interface counts what was lost there.
	arrived := sent - w.dropped(w.attacker)
	for _, pod := range []struct {
		name    string
		counted *v1alpha1.Counters
		packets int64
	}{
		{"attacker", attacker.Traffic.Transmit.Ipv4Unicast, sent}, {"victim", victim.Traffic.Receive.Ipv4Unicast, arrived},
	} {
		if pod.counted.Packets != pod.packets || pod.counted.Bytes != pod.packets*int64(f.bytes()) {
			w.t.Errorf("the %s counted %d packets and %d bytes, want %d and %d", pod.name,
				pod.counted.Packets, pod.counted.Bytes, pod.packets, pod.packets*int64(f.bytes()))
		}
	}
	for what, row := range map[string]*v1alpha1.PodStats{"attacker": attacker, "victim": victim} {
		if len(row.Dns.Names) > mostNames || len(row.Drops.Drops) > mostDrops {
			w.t.Errorf("the %s has %d names and %d drops", what, len(row.Dns.Names), len(row.Drops.Drops))
		}
	}
	return attacker, victim
}

// recorded says whether each packet of a pod is in a flow.
func recorded(row *v1alpha1.PodStats) bool {
	packets, bytes := inFlows(row)
	return row.Flows.Packets == packets && row.Flows.Bytes == bytes && row.Flows.Unparsed == 0
}

// inFlows is what flows should add up to: all of IP.
func inFlows(row *v1alpha1.PodStats) (packets, bytes int64) {
	for _, d := range []*v1alpha1.DirectionTraffic{row.Traffic.Receive, row.Traffic.Transmit} {
		for _, c := range []*v1alpha1.Counters{d.Ipv4Unicast, d.Ipv4NonUnicast, d.Ipv6Unicast, d.Ipv6NonUnicast} {
			packets += c.GetPackets()
			bytes += c.GetBytes()
		}
	}
	return packets, bytes
}

func buffers(d *v1alpha1.DirectionTraffic) (sum int64) {
	for _, c := range []*v1alpha1.Counters{d.Ipv4Unicast, d.Ipv4NonUnicast, d.Ipv6Unicast, d.Ipv6NonUnicast, d.NonIp} {
		sum += c.GetBuffers()
	}
	return sum
}

func describe(row *v1alpha1.PodStats) string {
	return strings.Join([]string{
		row.Measurement.String(), row.Traffic.String(), row.Flows.String(), row.Connections.String(),
	}, "\n")
}

// The victim listens, so it answers each SYN, by cookies when its queue is full.
func TestSYNs(t *testing.T) {
	w := newWorld(t)
	var server net.Listener
	var err error
	w.victim.Do(func() { server, err = net.Listen("tcp", ":80") })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	sent, attacker, victim := w.flood(synFlood(80))
	answers := victim.Traffic.Transmit.Ipv4Unicast.Packets
	if got := attacker.Traffic.Receive.Ipv4Unicast.Packets; answers == 0 || got != answers-w.dropped(w.victim) {
		t.Errorf("the victim sent %d answers, and the attacker got %d", answers, got)
	}
	if c := victim.Connections; c.OpenedPassively != 0 || c.Established != 0 {
		t.Errorf("connections were counted that never were: %v", c)
	}
	t.Logf("to %d SYNs there were %d answers", sent, answers)
}

func TestDNSQueries(t *testing.T) {
	w := newWorld(t)
	sent, attacker, _ := w.flood(udpFlood(sourcePort, 53, dnsMessage(false)))
	var queries int64
	for _, one := range attacker.Dns.Queries {
		queries += one.Count
	}
	if queries != sent {
		t.Errorf("%d queries were counted of %d", queries, sent)
	}
	if attacker.Dns.Lost == 0 || len(attacker.Dns.Responses) != 0 {
		t.Errorf("of so many queries nothing was lost, or some had responses: %v", attacker.Dns)
	}
}

func TestSpoofedDNSResponses(t *testing.T) {
	w := newWorld(t)
	_, _, victim := w.flood(udpFlood(destinationPort, 53, dnsMessage(true)))
	var responses int64
	for _, one := range victim.Dns.Responses {
		responses += one.Count
	}
	if arrived := victim.Traffic.Receive.Ipv4Unicast.Packets; responses != arrived {
		t.Errorf("%d responses were counted of %d", responses, arrived)
	}
	if len(victim.Dns.Queries) != 0 || len(victim.Dns.Names) != 0 {
		t.Errorf("responses that nobody asked for became queries or names: %v", victim.Dns)
	}
}

// Half of the ports are closed, and packets to the others are dropped by netfilter.
func TestDrops(t *testing.T) {
	w := newWorld(t)
	dropUDP(w.victim.Namespace, "input", fmt.Sprintf("%d-%d", lowestPort, lowestPort+portsPerHost/2-1))
	sent, _, victim := w.flood(udpFlood(destinationPort, 5000, make([]byte, 20)))
	byClass := map[v1alpha1.Drop_Class]int64{}
	for _, drop := range victim.Drops.Drops {
		if drop.Direction == v1alpha1.Direction_DIRECTION_RECEIVE {
			byClass[drop.Class] += drop.Packets
		}
	}
	policy, closed := byClass[v1alpha1.Drop_CLASS_POLICY], byClass[v1alpha1.Drop_CLASS_NO_SOCKET]
	arrived := victim.Traffic.Receive.Ipv4Unicast.Packets
	if policy+closed != arrived || victim.Drops.Unsorted != 0 {
		t.Errorf("%d drops by policy, %d without a socket and %d unsorted were counted, want %d: %v",
			policy, closed, victim.Drops.Unsorted, arrived, byClass)
	}
	if lost := sent - arrived; policy > sent/2 || policy < sent/2-lost {
		t.Errorf("%d drops by policy were counted, want %d, of which up to %d were lost before", policy, sent/2, lost)
	}
}

// Packets that arrive from elsewhere cost less to make, and here come on all processors at a time.
func TestArriving(t *testing.T) {
	w := newWorld(t)
	floods := []flood{synFlood(80), udpFlood(destinationPort, 53, dnsMessage(true)), udpFlood(destinationPort, 5000, make([]byte, 20))}
	var generators []*generator
	for i := range floods {
		floods[i].flows = 20_000 // of all of them, no flow is pushed out
		generators = append(generators, newArriving(t, w.victim, floods[i]))
	}
	w.endure(func(enough func() bool) {
		var sending sync.WaitGroup
		defer sending.Wait()
		for _, g := range generators {
			sending.Go(func() { g.sendUntil(enough, least) })
		}
	}, generators...)
	var packets, bytes int64
	for i, g := range generators {
		packets += int64(g.sent.Load())
		bytes += int64(g.sent.Load() * floods[i].bytes())
	}
	var row *v1alpha1.PodStats
	fakepod.Eventually(t, "all flows to be recorded", func() bool {
		row = w.Row(w.victim)
		return recorded(row)
	}, func() string { return describe(row) })
	if got := row.Traffic.Receive.Ipv4Unicast; got.Packets != packets || got.Bytes != bytes {
		t.Errorf("%d packets and %d bytes were counted, want %d and %d", got.Packets, got.Bytes, packets, bytes)
	}
}

func TestMillionPacketsInManyFlows(t *testing.T) {
	const packets = 1_000_000
	w := newWorld(t)
	f := udpFlood(sourcePort, 7000, make([]byte, 20))
	g := newSender(t, w.attacker, f)
	g.send(packets)
	attacker, victim := w.checkFlooded(packets, f)
	for what, row := range map[string]*v1alpha1.PodStats{"attacker": attacker, "victim": victim} {
		// The kernel sends a few packets of its own.
		if created := row.Flows.Created; created < portsPerHost || created > portsPerHost+100 {
			t.Errorf("the %s had %d flows, want %d", what, created, portsPerHost)
		}
	}
	if table := w.Own().Flows; table.Evicted != 0 || table.Present > table.Capacity {
		t.Errorf("flows were lost: %v", table)
	}
}

// With more flows than the table of the kernel holds the flows have fewer packets than the pod, and it is said how many
// flows were pushed out.
func TestMoreFlowsThanFit(t *testing.T) {
	const flows = 300_000
	w := newWorld(t)
	f := udpFlood(sourcePort, 7000, make([]byte, 20))
	f.flows = flows
	g := newSender(t, w.attacker, f)
	g.send(flows)
	var row *v1alpha1.PodStats
	var table *v1alpha1.FlowTable
	fakepod.Eventually(t, "the loss to be known", func() bool {
		row, table = w.Row(w.attacker), w.Own().Flows
		return table.Evicted > 0 && table.Created == table.Present+table.Evicted
	}, func() string { return fmt.Sprintf("%v\n%v", row, table) })
	if got := row.Traffic.Transmit.Ipv4Unicast.Packets; got != flows {
		t.Errorf("%d packets were counted, want %d", got, flows)
	}
	if created := row.Flows.Created; created < flows || created > flows+100 {
		t.Errorf("%d flows were created, want %d", created, flows)
	}
	packets, _ := inFlows(row)
	coverage := float64(row.Flows.Packets) / float64(packets)
	t.Logf("coverage %.3f; %v", coverage, table)
	if coverage >= 1 || coverage == 0 || table.Present > table.Capacity || table.Recorded > table.HistoryCapacity {
		t.Errorf("coverage is %v, and the table %v", coverage, table)
	}
}
