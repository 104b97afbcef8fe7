package tcp

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	bpf "github.com/networkobservability/networkobservability/bpf/tcp"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// TestNoWorkForPackets: the programs run at changes of state and not for packets. Others on this machine open and close
// connections, too, and tests of other packages many at a time: one of some tries must be quiet.
func TestNoWorkForPackets(t *testing.T) {
	const bytes = 100 << 20
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip("the kernel does not count runs of programs")
	}
	must(t, err)
	defer stats.Close()
	client, serverPod := pair(t, 14)
	m := newMachine(t)
	agent := m.start(t, nil, client, serverPod)
	ipv4, _ := addresses(14)
	server := listen(t, serverPod.Namespace, net.JoinHostPort(ipv4, "80"))
	for range 5 {
		near := mustDial(t, client.Namespace, server.address())
		far := server.next()
		earlier, before := agent.row(serverPod).Connections.SegmentsReceived, runs(t, m)
		go func() {
			_, _ = io.CopyN(near, zeros{}, bytes)
			_ = near.(*net.TCPConn).CloseWrite()
		}()
		if n, err := io.Copy(io.Discard, far); err != nil || n != bytes {
			t.Fatalf("received %d bytes: %v", n, err)
		}
		packets, more := agent.row(serverPod).Connections.SegmentsReceived-earlier, runs(t, m)-before
		t.Logf("%d runs for %d packets", more, packets)
		if packets >= 10000 && int64(more) <= packets/20 {
			return
		}
	}
	t.Error("the programs ran too often each time")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// runs is how often the programs that are attached have run.
func runs(t testing.TB, m machine) (sum uint64) {
	t.Helper()
	for _, name := range []string{bpf.ProgramStateChanges, bpf.ProgramResetSent, bpf.ProgramResetReceived} {
		l, err := link.LoadPinnedLink(filepath.Join(m.root, bpf.Layout, name), nil)
		must(t, err)
		defer l.Close()
		info, err := l.Info()
		must(t, err)
		program, err := ebpf.NewProgramFromID(info.Program)
		must(t, err)
		defer program.Close()
		stats, err := program.Stats()
		must(t, err)
		sum += stats.RunCount
	}
	return sum
}

// TestRetransmitted: under random loss, the segments retransmitted are those that the namespace counted, and nearly
// those that iperf3 reports, which leaves out its own control connection.
func TestRetransmitted(t *testing.T) {
	if _, err := exec.LookPath("iperf3"); err != nil {
		t.Skip("needs iperf3 to compare with")
	}
	client, serverPod := pair(t, 15)
	agent := newMachine(t).start(t, nil, client, serverPod)
	ipv4, _ := addresses(15)
	serverPod.RunInput(`table inet t { chain c { type filter hook input priority 0;
		tcp dport 5201 meta length > 1000 numgen random mod 1000 < 30 drop
	}
	}`, "nft", "-f", "-")
	listening := serverPod.Command("iperf3", "-s", "-1")
	must(t, listening.Start())
	defer func() {
		_ = listening.Process.Kill()
		_ = listening.Wait()
	}()
	fakepod.Eventually(t, "listening", func() bool { return agent.row(serverPod).Connections.Listen == 1 })
	output := client.Run("iperf3", "-c", ipv4, "-t", "5", "-J")
	var report struct {
		End struct {
			Sent struct{ Retransmits int64 } `json:"sum_sent"`
		}
	}
	must(t, json.Unmarshal([]byte(output), &report))
	var got, kernel int64
	fakepod.Eventually(t, "a quiet moment", func() bool {
		kernel = snmp(t, client.Namespace, "RetransSegs")
		got = agent.row(client).Connections.SegmentsRetransmitted
		return kernel == snmp(t, client.Namespace, "RetransSegs")
	})
	reported := report.End.Sent.Retransmits
	t.Logf("counted %d, the namespace %d, iperf3 %d", got, kernel, reported)
	if got != kernel {
		t.Errorf("counted %d segments, and the namespace %d", got, kernel)
	}
	if reported < 100 {
		t.Fatalf("iperf3 retransmitted %d segments only: too few to compare", reported)
	}
	if difference := math.Abs(float64(got - reported)); difference > 0.02*float64(reported) {
		t.Errorf("counted %d segments, and iperf3 %d", got, reported)
	}
}

// BenchmarkRead reads 10,000 sockets of two pods, in both ways.
func BenchmarkRead(b *testing.B) {
	const sockets = 10000
	client, serverPod := pair(b, 16)
	agent := newMachine(b).start(b, nil, client, serverPod)
	ipv4, _ := addresses(16)
	server := listen(b, serverPod.Namespace, net.JoinHostPort(ipv4, "80"))
	for range sockets / 2 {
		mustDial(b, client.Namespace, server.address())
		server.next()
	}
	agent.halt()
	for name, read := range map[string]func(){
		"snapshot": func() { agent.collector.Snapshot() }, "counters": func() { agent.collector.Counters() },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				read()
			}
			// Processor time, so that other programs' turns do not count.
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N)/sockets, "ns/socket")
		})
	}
}

// processorTime is what this process has used, in the kernel too, in nanoseconds.
func processorTime(t testing.TB) int64 {
	t.Helper()
	var usage unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return usage.Utime.Nano() + usage.Stime.Nano()
}
