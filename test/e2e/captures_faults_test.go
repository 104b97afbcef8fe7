package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestCaptureAgentKilled kills an agent in the middle of a capture: what it had recorded is kept, it goes on, and the capture says that
// something was missed.
func TestCaptureAgentKilled(t *testing.T) {
	c := newCluster(t)
	b := newBed(t, c)
	namespace := b.sink.Namespace
	capture := newCapture("killed", "udp dst port "+sinkPort)
	capture.Spec.Pods = v1alpha1.CapturePods{Names: []string{b.sink.Name}}
	c.capture(t, namespace, capture, 1)
	const datagrams = 200
	send := func() {
		c.exec(t, b.far.Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, "ipv4"), fmt.Sprint(datagrams), "300")
	}
	recorded := func(want int64) {
		t.Helper()
		c.captureUntil(t, namespace, "killed", fmt.Sprintf("%d packets", want), func(s *v1alpha1.CaptureStatus) bool { return s.Totals.Packets == want })
	}
	send()
	recorded(datagrams)
	c.killAgent(t)
	c.waitHealthy(t)
	c.captureUntil(t, namespace, "killed", "the pod to be recorded again", func(s *v1alpha1.CaptureStatus) bool {
		return len(s.Targets) == 1 && s.Targets[0].Phase == v1alpha1.CaptureRunning
	})
	eventually(t, captureDeadline, "packets to be recorded again", func(context.Context) error {
		send()
		now, err := c.stats.NetworkobservabilityV1alpha1().Captures(namespace).Get(t.Context(), "killed", metav1.GetOptions{})
		if err == nil && now.Status.Totals.Packets <= datagrams {
			err = fmt.Errorf("counted %+v", now.Status.Totals)
		}
		return err
	})
	if r := c.plugin(t, "network", "capture", "stop", "killed", "-n", namespace); r.err != nil {
		t.Fatalf("stopping: %s", r.stderr)
	}
	done := c.captureUntil(t, namespace, "killed", "the capture to end", func(s *v1alpha1.CaptureStatus) bool {
		return s.File != nil && (conditionIs(s, v1alpha1.CaptureComplete) || conditionIs(s, v1alpha1.CaptureFailed))
	})
	checkCounts(t, done.Status.Totals)
	if said := fmt.Sprint(done.Status.Conditions); !strings.Contains(said, "nterrupt") {
		t.Errorf("the interruption is not said: %s", said)
	}
	// The plugin's exit code is that of the capture; the file is there whatever it is.
	file := c.fileOf(t, namespace, "killed")
	if count := strings.Count(judge(t, "tcpdump", "-nr", file), "\n"); int64(count) != done.Status.Totals.Packets {
		t.Errorf("tcpdump reads %d packets, the status says %d", count, done.Status.Totals.Packets)
	}
}

// fileOf downloads the file of a capture, however it ended.
func (c *cluster) fileOf(t *testing.T, namespace, name string) string {
	t.Helper()
	file := t.TempDir() + "/" + name + ".pcapng"
	if r := c.plugin(t, "network", "capture", "download", name, "-n", namespace, "-o", file); r.err != nil && !strings.Contains(r.stderr, "failed:") {
		t.Fatalf("downloading %s: %s", name, r.stderr)
	}
	return file
}

// TestCaptureServersKilled kills both replicas in turn while a file is downloaded: it is the same file. Who follows is told that
// the stream was cut.
func TestCaptureServersKilled(t *testing.T) {
	c := newCluster(t)
	b := newBed(t, c)
	namespace := b.sink.Namespace
	c.capture(t, namespace, newCapture("large", "tcp port "+sinkPort), 3)
	c.exec(t, b.far.Pod, "/bin/traffic", "tcp", target(t, b.sink.Pod, "ipv4"), "100000000")
	done := c.finish(t, namespace, "large")
	want := digestOf(t, c.download(t, namespace, "large"))

	follow, stop := c.followed(t, namespace)
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), 3*kubectlDeadline)
	defer cancel()
	download := c.pluginCommand(ctx, "network", "capture", "download", "large", "-n", namespace, "-o", "-")
	var said bytes.Buffer
	download.Stderr = &said
	content, err := download.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := download.Start(); err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	var read int64
	for i, server := range c.servers(t) {
		n, err := io.CopyN(hash, content, 20_000_000)
		if read += n; err != nil {
			t.Fatalf("reading: %v: %s", err, said.String())
		}
		c.kill(t, &server, serverProgram)
		t.Logf("replica %d was killed when %d of %d bytes were read", i+1, read, done.Status.File.Bytes)
		c.waitHealthy(t)
	}
	rest, err := io.Copy(hash, content)
	if err != nil {
		t.Fatal(err)
	}
	if err := download.Wait(); err != nil {
		t.Errorf("downloading: %v: %s", err, said.String())
	}
	if got := fmt.Sprintf("%x", hash.Sum(nil)); got != want || read+rest != done.Status.File.Bytes {
		t.Errorf("%d bytes with digest %s, want %d with %s", read+rest, got, done.Status.File.Bytes, want)
	}
	select {
	case r := <-follow:
		if r.err == nil || !strings.Contains(r.stderr, "what was written can be read") {
			t.Errorf("who followed was told: %v: %s", r.err, r.stderr)
		}
	case <-time.After(captureDeadline):
		t.Error("who follows was told nothing")
	}
}

// followed begins to follow a capture that goes on.
func (c *cluster) followed(t *testing.T, namespace string) (ended <-chan run, stop func()) {
	t.Helper()
	c.capture(t, namespace, newCapture("live", ""), 3)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := c.pluginCommand(ctx, "network", "capture", "attach", "live", "-n", namespace, "-o", t.TempDir()+"/live.pcapng")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	runs := make(chan run, 1)
	go func() { err := cmd.Wait(); runs <- run{stderr: stderr.String(), err: err} }()
	return runs, cancel
}

// TestCapturePodDeleted deletes a pod in the middle of a capture: its packets are kept, and its part ends.
func TestCapturePodDeleted(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	namespace := b.sink.Namespace
	capture := newCapture("deleted", "udp dst port "+sinkPort)
	capture.Spec.VantagePoint = v1alpha1.BothEnds
	c.capture(t, namespace, capture, 3)
	c.exec(t, b.far.Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, "ipv4"), "50", "300")
	c.captureUntil(t, namespace, "deleted", "100 packets", func(s *v1alpha1.CaptureStatus) bool { return s.Totals.Packets == 100 })
	ns := podNetns(t, b.far.Pod)
	c.delete(t, b.far.Pod)
	eventually(t, podDeadline, "the pod's network namespace to go: no socket may hold it", func(context.Context) error {
		if ns.exists() {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	c.captureUntil(t, namespace, "deleted", "its part to end", func(s *v1alpha1.CaptureStatus) bool {
		for _, row := range s.Targets {
			if row.Pod == "far" {
				return row.Phase == v1alpha1.CaptureEnded && row.Packets == 50
			}
		}
		return false
	})
	if done := c.finish(t, namespace, "deleted"); done.Status.Totals.Packets != 100 {
		t.Errorf("counted %+v", done.Status.Totals)
	}
	if count := strings.Count(judge(t, "tcpdump", "-nr", c.download(t, namespace, "deleted", "--pod", "far")), "\n"); count != 50 {
		t.Errorf("%d packets of the pod that is gone", count)
	}
}

// TestCaptureNamespaceDeleted deletes a namespace with captures that run.
func TestCaptureNamespaceDeleted(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	c.start(t, namespace, sink("target", c.nodes(t)[0]))
	for i := range 3 {
		c.capture(t, namespace, newCapture(fmt.Sprintf("live-%d", i), ""), 1)
	}
	if err := c.kube.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, captureDeadline, "the captures to go", func(ctx context.Context) error {
		list, err := c.stats.NetworkobservabilityV1alpha1().Captures(namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are there", len(list.Items))
		}
		return err
	})
	t.Logf("they were gone after %v", took.Round(time.Millisecond))
	eventually(t, podDeadline, "the namespace to go", func(ctx context.Context) error {
		_, err := c.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
}

// TestCaptureQuota creates a thousand captures at once against a quota: exactly as many are there as it allows, all others were
// refused by it, and the controller gets through. When all are deleted none is left, with its envelope, nor counted.
func TestCaptureQuota(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	const allowed, asked = 25, 1000
	counted := corev1.ResourceName("count/captures." + v1alpha1.GroupName)
	quotas := c.kube.CoreV1().ResourceQuotas(namespace)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "captures"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{counted: resource.MustParse(fmt.Sprint(allowed))},
	}}
	if _, err := quotas.Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func(want int64) {
		t.Helper()
		eventually(t, podDeadline, fmt.Sprintf("the quota to count %d", want), func(ctx context.Context) error {
			now, err := quotas.Get(ctx, "captures", metav1.GetOptions{})
			if err == nil && (now.Status.Hard == nil || now.Status.Used.Name(counted, resource.DecimalSI).Value() != want) {
				err = fmt.Errorf("its status is %v", now.Status)
			}
			return err
		})
	}
	used(0)
	pod := c.start(t, namespace, sink("target", c.nodes(t)[0]))[0]
	captures := c.stats.NetworkobservabilityV1alpha1().Captures(namespace)
	var created, refused, lost atomic.Int64
	var creating sync.WaitGroup
	began := time.Now()
	for i := range asked {
		creating.Go(func() {
			capture := newCapture(fmt.Sprintf("many-%d", i), "")
			capture.Spec.Pods = v1alpha1.CapturePods{Names: []string{pod.Name}}
			switch _, err := captures.Create(t.Context(), capture, metav1.CreateOptions{}); {
			case err == nil:
				created.Add(1)
			case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
				refused.Add(1)
			case apierrors.IsConflict(err) || apierrors.IsServerTimeout(err):
				lost.Add(1) // Two replicas count in one quota; the other was first once too often.
			default:
				t.Errorf("refused otherwise than by the quota: %v", err)
			}
		})
	}
	creating.Wait()
	t.Logf("%d were created, %d refused and %d lost the race within %v", created.Load(), refused.Load(), lost.Load(), time.Since(began).Round(time.Millisecond))
	c.countCaptures(t, namespace, allowed)
	if created.Load() != allowed || refused.Load()+lost.Load() != asked-allowed {
		t.Errorf("%d were created and %d refused, want %d and %d", created.Load(), refused.Load(), allowed, asked-allowed)
	}
	used(allowed)
	took := eventually(t, captureDeadline, "all that are there to record", func(ctx context.Context) error {
		list, err := captures.List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
		if err == nil && len(list.Items) != allowed {
			err = fmt.Errorf("%d do", len(list.Items))
		}
		return err
	})
	t.Logf("the last of them recorded %v after that", took.Round(time.Millisecond))
	if err := captures.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	c.countCaptures(t, namespace, 0)
	used(0)
}

// countCaptures demands so many captures in a namespace, and as many envelopes of them.
func (c *cluster) countCaptures(t *testing.T, namespace string, want int) {
	t.Helper()
	list, err := c.stats.NetworkobservabilityV1alpha1().Captures(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != want {
		t.Errorf("%d captures are there, want %d: %v", len(list.Items), want, err)
	}
	envelopes := c.kubectl(t, "get", "storedcaptures.storage.network-observability.io", "--namespace", agentv1.Namespace, "-o", "yaml")
	if n := strings.Count(envelopes, "\n    namespace: "+namespace+"\n"); n != want {
		t.Errorf("%d envelopes are there, want %d", n, want)
	}
}
