// Package throughput measures what all collectors together take of the throughput between two pods of a node: pairs of
// short runs, with everything attached and with nothing.
//
//	go test -run '^$' -bench . -benchtime 40x ./test/bench/throughput
//
// measures 40 pairs. Everything is in namespaces of its own, but processor time depends on what else the machine does.
package throughput

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/test/bench/paired"
	"github.com/networkobservability/networkobservability/test/node"
)

// BenchmarkBulk is one TCP connection at full speed, measured by iperf3.
func BenchmarkBulk(b *testing.B) {
	w := newWorld(b)
	w.report(b, "Gbit/s", "seconds of processor time per GB", w.bulk("--time", "1"))
}

// BenchmarkConnections is connections that carry a kilobyte each way, one after the other: what is counted by
// connection and by flow costs most here.
func BenchmarkConnections(b *testing.B) {
	w := newWorld(b)
	w.report(b, "connections/s", "microseconds of processor time per connection", w.connections(2000))
}

// The benchmarks work, and what they measure with is attached.
func TestOnePair(t *testing.T) {
	w := newWorld(t)
	for _, run := range []func() (result, error){w.bulk("--bytes", "32M"), w.connections(10)} {
		c, err := w.measure(1, run)
		if err != nil {
			t.Fatal(err)
		}
		if speed := c.speed; speed.Base[0] <= 0 || speed.Changed[0] <= 0 {
			t.Errorf("speeds without and with: %v", speed)
		}
	}
}

// A result is how fast a run was, and the processor time that it took for each unit of what it carried.
type result struct{ speed, cost float64 }

// A world is two pods that a bridge joins, as on many nodes.
type world struct {
	t              testing.TB
	bpffs          string
	client, server *fakepod.Pod
	iperf          *exec.Cmd
	// burdens are processes beside our own and iperf3's client whose processor time belongs to a run.
	burdens []int
	// settle is how long an agent is left alone before it is measured: one that has just started looks for pods ten times
	// a second.
	settle time.Duration
}

const (
	serverAddress = "10.98.0.2"
	iperfPort     = "5201"
)

func newWorld(t testing.TB) *world {
	t.Helper()
	fakepod.NeedRoot(t)
	if _, err := exec.LookPath("iperf3"); err != nil {
		t.Skip("needs iperf3: make prerequisites")
	}
	prefix := fakepod.Prefix()
	w := &world{t: t, bpffs: fakepod.BPFFS(t), client: fakepod.New(t, prefix), server: fakepod.New(t, prefix)}
	bridge := fakepod.NewNamespace(t)
	bridge.Run("ip", "link", "add", "name", "bridge", "up", "type", "bridge")
	for i, pod := range []*fakepod.Pod{w.client, w.server} {
		outside := fmt.Sprintf("pod%d", i)
		pod.Run("ip", "link", "add", "name", "eth0", "type", "veth", "peer", "name", outside, "netns", strconv.Itoa(bridge.PID))
		bridge.Run("ip", "link", "set", "dev", outside, "up", "master", "bridge")
		pod.Run("ip", "addr", "add", fmt.Sprintf("10.98.0.%d/24", i+1), "dev", "eth0")
		pod.Run("ip", "link", "set", "dev", "eth0", "up")
	}
	// Ports of closed connections are used again after a second, not after a minute.
	w.client.Run("sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1", "net.ipv4.ip_local_port_range=1024 65535")
	w.echo()
	w.startIperf()
	w.burdens = append(softirqThreads(), w.iperf.Process.Pid)
	return w
}

func (w *world) startIperf() {
	w.iperf = w.server.Command("iperf3", "--server", "--port", iperfPort)
	if err := w.iperf.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = w.iperf.Process.Kill()
		_ = w.iperf.Wait()
	})
	fakepod.Eventually(w.t, "iperf3 to listen", func() bool {
		return strings.Contains(w.server.Run("ss", "-Hltn"), ":"+iperfPort)
	})
}

// report measures as many pairs as the benchmark asks for.
func (w *world) report(b *testing.B, speed, cost string, run func() (result, error)) {
	w.settle = 2500 * time.Millisecond
	c, err := w.measure(b.N, run)
	if err != nil {
		b.Fatal(err)
	}
	if b.N > 1 { // else it only warms up
		b.Logf("%s: %s", speed, describe(c.speed))
		b.Logf("%s: %s", cost, describe(c.cost))
	}
	median, low, high := c.speed.RatioInterval()
	b.ReportMetric(0, "ns/op") // says nothing here
	b.ReportMetric(median, "ratio")
	b.ReportMetric(low, "ratio-low")
	b.ReportMetric(high, "ratio-high")
	median, _, _ = c.cost.RatioInterval()
	b.ReportMetric(median, "cost-ratio")
}

func describe(c *paired.Comparison) string {
	median, low, high := c.RatioInterval()
	return fmt.Sprintf("%.4g without, %.4g with; ratio %.3f, with 95%% from %.3f to %.3f; %d pairs",
		paired.Percentile(c.Base, 50), paired.Percentile(c.Changed, 50), median, low, high, len(c.Base))
}

// A comparison is of runs with nothing attached and with everything.
type comparison struct{ speed, cost *paired.Comparison }

func (w *world) measure(pairs int, run func() (result, error)) (c comparison, err error) {
	c.cost = &paired.Comparison{}
	measure := func(costs *[]float64) (float64, error) {
		one, err := run()
		*costs = append(*costs, one.cost)
		return one.speed, err
	}
	c.speed, err = paired.Measure(pairs,
		func() (float64, error) {
			time.Sleep(w.settle) // processors that have rested are not as fast at first, so both rest
			return measure(&c.cost.Base)
		},
		func() (float64, error) {
			n := node.Start(w.t, w.bpffs, w.client, w.server)
			defer n.Remove()
			if problems := n.States(); problems != "" {
				return 0, fmt.Errorf("not all collectors run:\n%s", problems)
			}
			time.Sleep(w.settle)
			before := n.Row(w.client)
			speed, err := measure(&c.cost.Changed)
			after := n.Row(w.client)
			if sent(after) == sent(before) || after.GetFlows().GetCreated() == before.GetFlows().GetCreated() {
				err = errors.Join(err, errors.New("nothing was counted, or no flows"))
			}
			return speed, err
		})
	return c, err
}

func sent(row *v1alpha1.PodStats) int64 {
	return row.GetTraffic().GetTransmit().GetIpv4Unicast().GetPackets()
}

// bulk runs iperf3 for as long as its flag says.
func (w *world) bulk(flag, limit string) func() (result, error) {
	return func() (result, error) {
		client := w.client.Command("iperf3", "--client", serverAddress, "--port", iperfPort, "--json", flag, limit)
		var output []byte
		spent, err := w.spend(func() (err error) {
			output, err = client.Output()
			return err
		})
		if err != nil {
			return result{}, fmt.Errorf("running iperf3: %w\n%s", err, output)
		}
		var said struct {
			End struct {
				Received struct {
					Bytes         float64 `json:"bytes"`
					BitsPerSecond float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		if err := json.Unmarshal(output, &said); err != nil {
			return result{}, fmt.Errorf("reading what iperf3 says: %w", err)
		}
		spent += client.ProcessState.UserTime() + client.ProcessState.SystemTime()
		return result{said.End.Received.BitsPerSecond / 1e9, spent.Seconds() / (said.End.Received.Bytes / 1e9)}, nil
	}
}

const messageSize = 1024

// echo sends back what comes in at port 7000.
func (w *world) echo() {
	var listener net.Listener
	var err error
	w.server.Do(func() { listener, err = net.Listen("tcp", ":7000") })
	if err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		message := make([]byte, messageSize)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if _, err := io.ReadFull(conn, message); err == nil {
				_, _ = conn.Write(message)
			}
			conn.Close()
		}
	}()
	w.t.Cleanup(func() {
		listener.Close()
		<-ended
	})
}

// connections makes so many.
func (w *world) connections(count int) func() (result, error) {
	return func() (result, error) {
		begun := time.Now()
		spent, err := w.spend(func() (err error) {
			w.client.Do(func() {
				for i := 0; i < count && err == nil; i++ {
					err = converse()
				}
			})
			return err
		})
		return result{float64(count) / time.Since(begun).Seconds(), float64(spent.Microseconds()) / float64(count)}, err
	}
}

func converse() error {
	conn, err := net.Dial("tcp", serverAddress+":7000")
	if err != nil {
		return err
	}
	defer conn.Close()
	message := make([]byte, messageSize)
	if _, err := conn.Write(message); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, message)
	return err
}

// spend is the processor time that a run takes: that of this process, in which the agent is, and of the burdens.
func (w *world) spend(run func() error) (time.Duration, error) {
	before, err := w.spent()
	if err != nil {
		return 0, err
	}
	if err := run(); err != nil {
		return 0, err
	}
	after, err := w.spent()
	return after - before, err
}

func (w *world) spent() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range append([]int{os.Getpid()}, w.burdens...) {
		var now unix.Timespec
		const scheduled = 2 // CPUCLOCK_SCHED
		if err := unix.ClockGettime(int32(^pid<<3|scheduled), &now); err != nil {
			return 0, fmt.Errorf("reading the processor time of process %d: %w", pid, err)
		}
		sum += time.Duration(now.Nano())
	}
	return sum, nil
}

// softirqThreads carry packets when there are more than their senders' threads take along.
func softirqThreads() (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(text), "ksoftirqd/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
