package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// captureDeadline is for a capture to begin or end.
const captureDeadline = podDeadline

// newCapture describes a capture of all pods of a namespace.
func newCapture(name, filter string) *v1alpha1.Capture {
	return &v1alpha1.Capture{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.CaptureSpec{
			Pods:            v1alpha1.CapturePods{Selector: metav1.SetAsLabelSelector(labels.Set{})},
			CaptureSettings: v1alpha1.CaptureSettings{Filter: filter},
		},
	}
}

// capture creates a capture and returns when so many pods are recorded.
func (c *cluster) capture(t *testing.T, namespace string, capture *v1alpha1.Capture, pods int) *v1alpha1.Capture {
	t.Helper()
	captures := c.stats.NetworkobservabilityV1alpha1().Captures(namespace)
	if _, err := captures.Create(t.Context(), capture, metav1.CreateOptions{}); err != nil {
		t.Fatalf("creating capture %s: %v", capture.Name, err)
	}
	return c.captureUntil(t, namespace, capture.Name, fmt.Sprintf("%d pods to be recorded", pods), func(s *v1alpha1.CaptureStatus) bool {
		running := 0
		for _, row := range s.Targets {
			if row.Phase == v1alpha1.CaptureRunning {
				running++
			}
		}
		return running == pods
	})
}

// captureUntil waits until a capture's status is as is wants it.
func (c *cluster) captureUntil(t *testing.T, namespace, name, what string, is func(*v1alpha1.CaptureStatus) bool) (last *v1alpha1.Capture) {
	t.Helper()
	eventually(t, captureDeadline, what, func(ctx context.Context) (err error) {
		last, err = c.stats.NetworkobservabilityV1alpha1().Captures(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && !is(&last.Status) {
			err = fmt.Errorf("the status is %+v", last.Status)
		}
		return err
	})
	return last
}

func conditionIs(s *v1alpha1.CaptureStatus, name string) bool {
	for _, condition := range s.Conditions {
		if condition.Type == name {
			return condition.Status == metav1.ConditionTrue
		}
	}
	return false
}

// finish stops a capture and returns it when it has ended well.
func (c *cluster) finish(t *testing.T, namespace, name string) *v1alpha1.Capture {
	t.Helper()
	if r := c.plugin(t, "network", "capture", "stop", name, "-n", namespace); r.err != nil {
		t.Fatalf("stopping %s: %v: %s", name, r.err, r.stderr)
	}
	return c.captureUntil(t, namespace, name, "the capture to be complete", func(s *v1alpha1.CaptureStatus) bool {
		return conditionIs(s, v1alpha1.CaptureComplete) && s.File != nil
	})
}

// download gets the file of a capture.
func (c *cluster) download(t *testing.T, namespace, name string, more ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".pcapng")
	if r := c.plugin(t, append([]string{"network", "capture", "download", name, "-n", namespace, "-o", file}, more...)...); r.err != nil {
		t.Fatalf("downloading %s: %v: %s", name, r.err, r.stderr)
	}
	return file
}

func digestOf(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(content))
}

// judge runs a program of others over a file and returns what it says.
func judge(t *testing.T, program string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

// checkCounts demands that nothing that matched is unaccounted for.
func checkCounts(t *testing.T, counts v1alpha1.CaptureCounts) {
	t.Helper()
	if sum := counts.Packets + counts.DroppedByRing + counts.DroppedByDisk + counts.DroppedByLimit + counts.AtOtherVantagePoint; sum != counts.Matched {
		t.Errorf("%d packets matched, and %d are accounted for: %+v", counts.Matched, sum, counts)
	}
}

// TestCapture records known amounts on two nodes, and has tshark, tcpdump and capinfos judge the one file.
func TestCapture(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	namespace := b.sink.Namespace
	const datagrams = 500
	send := func(t *testing.T, count int64) {
		for _, sender := range []counted{b.near, b.far} {
			c.exec(t, sender.Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, "ipv4"), strconv.FormatInt(count, 10), "300")
		}
	}
	// settle sends until flows are recorded at one end, and returns how much each sender sent and what was counted: nodes hear
	// a moment after they have begun which pods others record.
	settle := func(t *testing.T, name string) (each int64, counts v1alpha1.CaptureCounts) {
		eventually(t, captureDeadline, "flows to be recorded at one end", func(context.Context) error {
			before := counts
			send(t, 1)
			each++
			counts = c.captureUntil(t, namespace, name, "all packets to be counted", func(s *v1alpha1.CaptureStatus) bool {
				return s.Totals.Matched == 4*each
			}).Status.Totals
			if other := counts.AtOtherVantagePoint - before.AtOtherVantagePoint; other != 2 {
				return fmt.Errorf("%d of 4 packets were left to the other end", other)
			}
			return nil
		})
		return each, counts
	}
	for _, test := range []struct {
		name    string
		vantage v1alpha1.CaptureVantagePoint
		packets int64
		other   int64
	}{
		{"once", v1alpha1.OncePerFlow, 2 * datagrams, 2 * datagrams},
		{"both", v1alpha1.BothEnds, 4 * datagrams, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			capture := newCapture(test.name, "udp dst port "+sinkPort)
			capture.Spec.VantagePoint = test.vantage
			c.capture(t, namespace, capture, 3)
			each, want := int64(0), v1alpha1.CaptureCounts{}
			if test.vantage == v1alpha1.OncePerFlow {
				each, want = settle(t, test.name)
			}
			send(t, datagrams)
			done := c.finish(t, namespace, test.name)
			each += datagrams
			want.Packets += test.packets
			want.Bytes += test.packets * 342
			want.Matched += 4 * datagrams
			want.AtOtherVantagePoint += test.other
			if done.Status.Totals != want {
				t.Errorf("counted %+v, want %+v", done.Status.Totals, want)
			}
			checkCounts(t, done.Status.Totals)
			file := c.download(t, namespace, test.name)
			if info, err := os.Stat(file); err != nil || info.Size() != done.Status.File.Bytes {
				t.Errorf("the file is %v (%v), the status says %d bytes", info.Size(), err, done.Status.File.Bytes)
			}
			if again := c.download(t, namespace, test.name); digestOf(t, again) != digestOf(t, file) {
				t.Error("two downloads differ")
			}
			if count := strings.Count(judge(t, "tcpdump", "-nr", file), "\n"); int64(count) != want.Packets {
				t.Errorf("tcpdump reads %d packets, want %d", count, want.Packets)
			}
			fields := judge(t, "tshark", "-r", file, "-Nn", "-T", "fields", "-e", "frame.interface_name", "-e", "ip.src_host", "-e", "ip.dst_host")
			for _, sender := range []counted{b.near, b.far} {
				line := fmt.Sprintf("%s/%s/%s/eth0\t.*%s.*\t.*%s.*", sender.Spec.NodeName, namespace, sender.Name, sender.Name, b.sink.Name)
				if n := len(regexp.MustCompile(line).FindAllString(fields, -1)); int64(n) != each {
					t.Errorf("tshark names %d packets as of %s, want %d: %.500s", n, line, each, fields)
				}
			}
			judge(t, "capinfos", file)
		})
	}
	t.Run("headers", func(t *testing.T) {
		file := c.download(t, namespace, "both", "--headers-only")
		lengths := judge(t, "tshark", "-r", file, "-T", "fields", "-e", "frame.cap_len", "-e", "frame.len")
		if n := strings.Count(lengths, "42\t342\n"); n != 4*datagrams {
			t.Errorf("%d packets are cut behind the UDP header: %.200s", n, lengths)
		}
	})
	t.Run("one pod", func(t *testing.T) {
		file := c.download(t, namespace, "both", "--pod", "far")
		if count := strings.Count(judge(t, "tcpdump", "-nr", file), "\n"); count != datagrams {
			t.Errorf("tcpdump reads %d packets of one pod, want %d", count, datagrams)
		}
	})
}

// TestCaptureFollow reads packets as they come, through kubectl and tcpdump, until tcpdump has seen enough.
func TestCaptureFollow(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), kubectlDeadline)
	defer cancel()
	follow := c.pluginCommand(ctx, "create", "capture", "follow", "-n", b.sink.Namespace, "-l", "app in (near, far)", "--filter", "udp dst port "+sinkPort, "--follow")
	read := exec.CommandContext(ctx, "tcpdump", "-nr", "-", "-c", "40")
	var said, printed bytes.Buffer
	follow.Stderr, read.Stdout = &said, &printed
	pipe, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Stdin = pipe
	if err := read.Start(); err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	pipe.Close()
	c.captureUntil(t, b.sink.Namespace, "follow", "two pods to be recorded", func(s *v1alpha1.CaptureStatus) bool { return s.Pods == 2 && conditionIs(s, v1alpha1.CaptureStarted) })
	for _, sender := range []counted{b.near, b.far} {
		c.exec(t, sender.Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, "ipv4"), "20", "300")
	}
	if err := read.Wait(); err != nil {
		t.Errorf("tcpdump: %v: %s", err, printed.String())
	}
	if err := follow.Wait(); err != nil {
		t.Errorf("following: %v: %s", err, said.String())
	}
	for _, sender := range []counted{b.near, b.far} {
		if n := strings.Count(printed.String(), "IP "+address(t, sender.Pod, "ipv4")+"."); n != 20 {
			t.Errorf("tcpdump printed %d packets of %s: %s", n, sender.Name, printed.String())
		}
	}
	c.captureUntil(t, b.sink.Namespace, "follow", "the capture to have been stopped", func(s *v1alpha1.CaptureStatus) bool { return conditionIs(s, v1alpha1.CaptureComplete) })
}

// TestCaptureExample runs the example program as its reader would.
func TestCaptureExample(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 3*kubectlDeadline)
	defer cancel()
	program := exec.CommandContext(ctx, "go", "run", "../examples/capture", "-kubeconfig", c.kubeconfig, "-namespace", b.sink.Namespace,
		"-selector", "app=far", "-filter", "udp dst port "+sinkPort, "-packets", "5")
	var printed, said bytes.Buffer
	program.Stdout, program.Stderr = &printed, &said
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	for running := true; running; {
		select {
		case err := <-ended:
			if running = false; err != nil {
				t.Fatalf("the example: %v: %s", err, said.String())
			}
		default:
			c.exec(t, b.far.Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, "ipv4"), "1", "300")
		}
	}
	line := regexp.MustCompile(b.sink.Namespace + "/far/eth0 " + regexp.QuoteMeta(address(t, b.far.Pod, "ipv4")+"->"+address(t, b.sink.Pod, "ipv4")) + ` UDP \d+->9000`)
	if n := len(line.FindAllString(printed.String(), -1)); n != 5 {
		t.Errorf("the example printed %d packets: %s", n, printed.String())
	}
}
