package peers

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

// BenchmarkLabels is counting 10,000 flows that have changed, of 110 pods with 50 peers each, by each label and by all.
// What looking at the flows costs comes on top (nodeagent/flows, BenchmarkWatch).
func BenchmarkLabels(b *testing.B) {
	const n, pods, peersOfPod = 10_000, 110, 50
	state := newTelemetry()
	var changes []*flows.Change
	for i := range n {
		key := fmt.Sprintf("%08d-0000-0000-0000-000000000000", i%pods)
		state.setPod(key, v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC)
		peer := i / pods % peersOfPod
		service, backend := netip.AddrFrom4([4]byte{10, 96, 0, byte(peer)}), netip.AddrFrom4([4]byte{10, 1, 0, byte(peer)})
		state.names[service] = serviceName("data", fmt.Sprint("service-", peer))
		state.names[backend] = podName("data", fmt.Sprint("db-", peer), fmt.Sprint("workload-", peer))
		changes = append(changes, &flows.Change{
			PodKey: key, Local: netip.MustParseAddrPort("10.1.9.9:40000"), Peer: netip.AddrPortFrom(service, 80), Translated: netip.AddrPortFrom(backend, uint16(8000+peer)),
			Protocol: unix.IPPROTO_TCP, Flags: [2]uint8{18, 2}, Direction: v1alpha1.Direction_DIRECTION_TRANSMIT, PeerName: fmt.Sprintf("service-%d.example", peer),
			Packets: [2]int64{1, 1}, Bytes: [2]int64{100, 100}, Last: time.Now(),
		})
	}
	broken := flows.New(flows.Config{})
	defer broken.Close()
	for _, test := range []struct {
		name string
		asked
	}{
		{"PeerWorkload", asked{peer: true}}, {"Service", asked{service: true}}, {"Port", asked{port: true}}, {"DNSName", asked{dnsName: true}},
		{"all", asked{true, true, true, true}},
	} {
		b.Run(test.name, func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			c := New(Config{Flows: broken, Telemetry: state})
			c.replace(newTables(test.asked, peersOfPod, 1<<20))
			for i := range pods { // as if they were live
				c.tables.pods[changes[i].PodKey] = &table{places: map[Labels]int{}, other: -1}
			}
			s := session{Counters: c, asked: test.asked, now: time.Now()}
			b.ReportAllocs()
			begun := cpu(b)
			for b.Loop() {
				for _, change := range changes {
					if !s.visit(change).IsZero() {
						b.Fatal("it waits")
					}
				}
			}
			b.ReportMetric(float64(cpu(b)-begun)/float64(b.N), "cpu-ns/op")
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(c.tables.counters), "counters")
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/float64(max(1, c.tables.counters)), "bytes/counter")
			runtime.KeepAlive(c)
		})
	}
}

// cpu is the time that this process has spent on CPUs.
func cpu(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkRead is reading the counters of 110 pods with 50 each.
func BenchmarkRead(b *testing.B) {
	c := New(Config{Telemetry: newTelemetry()})
	c.replace(newTables(asked{peer: true}, 50, 1<<20))
	for i := range 110 * 50 {
		c.tables.add(fmt.Sprint(i%110), Labels{PeerWorkload: fmt.Sprint(i / 110)}, [2]int64{1, 1}, [2]int64{1, 1})
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for range c.Read {
			n++
		}
		if n != 110*50 {
			b.Fatal(n)
		}
	}
}
