package drops

import (
	"errors"
	"net/netip"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// What a drop costs: two senders in one pod whose every packet is dropped, as fast as they can. ns/drop is the
// program's own time.
func BenchmarkFlood(b *testing.B) {
	for _, bench := range []struct {
		name  string
		flows bool
		ports int
	}{{"one row", false, 1}, {"one flow", true, 1}, {"5000 ports", true, 5000}} {
		b.Run(bench.name, func(b *testing.B) { flood(b, options{flows: bench.flows}, bench.ports) })
	}
}

func flood(b *testing.B, o options, ports int) {
	pod, peer := fakepod.New(b, fakepod.Prefix()), fakepod.NewNamespace(b)
	fakepod.Connect(pod.Namespace, peer, "eth0", "host0", 1)
	n := startNode(b, o, peer, pod)
	pod.RunInput("table inet flood { chain c {\ntype filter hook output priority 0; meta l4proto udp drop\n}\n}", "nft", "-f", "-")
	statistics, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		b.Skipf("the kernel does not measure programs: %v", err)
	}
	defer statistics.Close()
	before, err := n.collector.program.Stats()
	if err != nil {
		b.Fatal(err)
	}
	const senders = 2
	var sockets [senders]int
	for i := range sockets {
		pod.Do(func() { sockets[i], err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) })
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(sockets[i])
	}
	b.ResetTimer()
	var running sync.WaitGroup
	for i := range sockets {
		running.Go(func() {
			to := &unix.SockaddrInet4{Addr: netip.MustParseAddr("10.99.1.2").As4()}
			for j := range b.N {
				to.Port = 1 + j%ports
				if err := unix.Sendto(sockets[i], nil, 0, to); err != nil && !errors.Is(err, unix.EPERM) {
					b.Error(err)
					return
				}
			}
		})
	}
	running.Wait()
	b.StopTimer()
	after, err := n.collector.program.Stats()
	if err != nil {
		b.Fatal(err)
	}
	drops := n.pod(pod)
	counted := sum(drops, kind{reason: "NETFILTER_DROP"}) + drops.Unsorted
	missed := after.RecursionMisses - before.RecursionMisses
	if want := int64(senders * b.N); counted > want || counted+int64(missed) < want {
		b.Errorf("%d drops counted, %d sent, %d missed", counted, want, missed)
	}
	runs := after.RunCount - before.RunCount
	b.ReportMetric(float64((after.Runtime-before.Runtime).Nanoseconds())/float64(runs), "ns/drop")
	b.ReportMetric(float64(runs)/b.Elapsed().Seconds(), "drops/s")
	b.ReportMetric(float64(missed), "missed")
}
