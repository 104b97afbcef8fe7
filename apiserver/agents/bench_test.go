package agents

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// BenchmarkRead reads 110 pods of each agent over warm connections; the agents are another process on the same
// cores. first-ms is the first read, with all its handshakes; idle-B/agent is what an agent and its connection
// add to heap and stacks when nothing is read; peak-MiB is the most memory that this process ever held.
func BenchmarkRead(b *testing.B) {
	for _, agents := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("agents=%d", agents), func(b *testing.B) { benchmarkRead(b, agents) })
	}
}

func benchmarkRead(b *testing.B, agents int) {
	w := newWorld(b)
	queries := map[string]Query{}
	for node, address := range startCrowd(b, w, agents) {
		w.publish(node, address, "pod-of-"+node)
		queries[node] = Query{PodKeys: keysOf(node, 110), Node: true}
	}
	// A clock that moves by hand keeps reads from sharing answers.
	clock := testclock.NewFakeClock(time.Now())
	f := w.fleet(func(c *Config) { c.Clock = clock })
	mustRead(b, f, nil)
	before := resident(b)
	began := time.Now()
	readAll(b, f, queries)
	first := time.Since(began)
	clock.Step(2 * time.Second)
	f.sweep()
	idle := resident(b) - before
	b.ReportAllocs()
	for b.Loop() {
		readAll(b, f, queries)
		clock.Step(2 * time.Second)
		f.sweep()
	}
	b.ReportMetric(float64(first.Milliseconds()), "first-ms")
	b.ReportMetric(float64(idle)/float64(agents), "idle-B/agent")
	b.ReportMetric(float64(peak(b))/(1<<20), "peak-MiB")
}

func readAll(b *testing.B, f *Fleet, queries map[string]Query) {
	for node, reply := range mustRead(b, f, queries) {
		if reply.Err != nil || len(reply.Pods) != 110 {
			b.Fatalf("%s: %d rows, %v", node, len(reply.Pods), reply.Err)
		}
	}
}

// resident is what heap and stacks hold after a collection, in bytes.
func resident(b *testing.B) uint64 {
	b.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// peak is the most memory that the process had resident, in bytes (VmHWM of proc_pid_status(5)).
func peak(b *testing.B) uint64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib << 10
		}
	}
	return 0
}

// crowdVariable makes the test binary serve a crowd of agents instead of testing.
const crowdVariable = "AGENTS_TEST_CROWD"

// member is one agent of a crowd, as it goes over the pipe to the process that serves it.
type member struct {
	Node             string
	Certificate, Key []byte
	ClientCA         []byte
}

// startCrowd serves n agents from another process until the benchmark ends, and says where each is.
func startCrowd(b *testing.B, w *world, n int) map[string]netip.AddrPort {
	b.Helper()
	crowd := exec.Command(os.Args[0])
	crowd.Env = append(os.Environ(), crowdVariable+"=1")
	crowd.Stderr = os.Stderr
	stdin, err := crowd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := crowd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := crowd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		crowd.Wait()
	})
	out, in := json.NewEncoder(stdin), bufio.NewScanner(stdout)
	addresses := map[string]netip.AddrPort{}
	for i := range n {
		node := fmt.Sprintf("node-%04d", i)
		certificate := w.serving.issue(b, node, x509.ExtKeyUsageServerAuth, agentv1.DNSName(node))
		key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
		if err != nil {
			b.Fatal(err)
		}
		if err := out.Encode(member{node, certificate.Certificate[0], key, w.client.certificate.Raw}); err != nil {
			b.Fatal(err)
		}
		if !in.Scan() {
			b.Fatalf("the crowd ended: %v", in.Err())
		}
		addresses[node] = netip.MustParseAddrPort(in.Text())
	}
	return addresses
}

// serveCrowd is the other end of startCrowd: for each member it serves an agent and prints its address, until
// standard input ends.
func serveCrowd() {
	in := json.NewDecoder(os.Stdin)
	for {
		var m member
		if err := in.Decode(&m); err != nil {
			return
		}
		key, err := x509.ParsePKCS8PrivateKey(m.Key)
		if err != nil {
			panic(err)
		}
		clientCA, err := x509.ParseCertificate(m.ClientCA)
		if err != nil {
			panic(err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		a := newFakeAgent(m.Node, listener.Addr(), tls.Certificate{Certificate: [][]byte{m.Certificate}, PrivateKey: key}, ca{certificate: clientCA}.pool())
		go a.server.Serve(listener)
		fmt.Println(listener.Addr())
	}
}
