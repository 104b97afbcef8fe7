package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const serverProgram = "networkobservability-apiserver"

const (
	readers = 4
	// readPause keeps the load steady and leaves the machine time for the cluster.
	readPause = 25 * time.Millisecond
	// killedDeadline is when errors end after a replica was killed.
	killedDeadline = 5 * time.Second
)

// A failure is a read that failed.
type failure struct {
	at  time.Time
	err error
}

// A load is a steady stream of reads through kube-apiserver. No failed one is tried again.
type load struct {
	mu       sync.Mutex
	reads    int
	slowest  time.Duration
	failures []failure
}

// load starts reading, until the returned function is called.
func (c *cluster) load(t *testing.T) (l *load, stop func()) {
	t.Helper()
	l = &load{}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for range readers {
		group.Go(func() {
			for ticker := time.Tick(readPause); ctx.Err() == nil; {
				l.read(c)
				select {
				case <-ctx.Done():
				case <-ticker:
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(stop)
	return l, stop
}

// read lists the pods of kube-system once. It ends by itself, not with the load: an interrupted read would
// look like a failed one.
func (l *load) read(c *cluster) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*answerDeadline)
	defer cancel()
	start := time.Now()
	err := c.stats.NetworkobservabilityV1alpha1().RESTClient().Get().Namespace(metav1.NamespaceSystem).
		Resource("podnetworkstats").MaxRetries(0).Do(ctx).Error()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	l.slowest = max(l.slowest, time.Since(start))
	if err != nil {
		l.failures = append(l.failures, failure{time.Now(), err})
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reads
}

// waitReads waits until there were so many reads more.
func (l *load) waitReads(t *testing.T, more int) {
	t.Helper()
	want := l.count() + more
	eventually(t, podDeadline, "more reads", func(context.Context) error {
		if now := l.count(); now < want {
			return fmt.Errorf("%d of %d", now, want)
		}
		return nil
	})
}

// TestReplicaDeleted deletes one replica of our API server under load: no read may fail.
func TestReplicaDeleted(t *testing.T) {
	c := newCluster(t)
	c.waitHealthy(t)
	l, stop := c.load(t)
	l.waitReads(t, 100)
	c.delete(t, &c.servers(t)[0])
	c.waitHealthy(t)
	l.waitReads(t, 100)
	stop()
	t.Logf("%d reads, the slowest took %v", l.reads, l.slowest.Round(time.Millisecond))
	for _, f := range l.failures {
		t.Errorf("a read failed: %v", f.err)
	}
}

// TestReplicaKilled kills one replica without warning under load: reads that fail are over in 5 s.
func TestReplicaKilled(t *testing.T) {
	c := newCluster(t)
	server := c.freshServers(t)[0]
	l, stop := c.load(t)
	l.waitReads(t, 100)
	killed := time.Now()
	c.kill(t, &server, serverProgram)
	eventually(t, podDeadline, "the kubelet to start the replica again", func(ctx context.Context) error {
		now, err := c.kube.CoreV1().Pods(agentv1.Namespace).Get(ctx, server.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if now.Status.ContainerStatuses[0].RestartCount == server.Status.ContainerStatuses[0].RestartCount {
			return fmt.Errorf("it has not")
		}
		return nil
	})
	c.waitHealthy(t)
	l.waitReads(t, 200)
	stop()
	t.Logf("%d reads, %d failed, the slowest took %v", l.reads, len(l.failures), l.slowest.Round(time.Millisecond))
	l.logKinds(t)
	for _, f := range l.failures {
		if after := f.at.Sub(killed); after > killedDeadline {
			t.Errorf("a read failed %v after the kill: %v", after.Round(time.Millisecond), f.err)
		}
	}
}

// explain adds what the aggregator in kube-apiserver said, which client-go leaves out.
func explain(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return err.Error()
	}
	text := err.Error()
	for _, cause := range status.Status().Details.Causes {
		text += "; " + cause.Message
	}
	return text
}

// TestAllReplicasKilled kills every replica at once: the API is back within 30 s, and an informer that lived
// through it was told of no deletion.
func TestAllReplicasKilled(t *testing.T) {
	c := newCluster(t)
	namespace := c.namespace(t)
	pod := c.start(t, namespace, sink("any", c.nodes(t)[0]))[0]
	c.waitMeasured(t, answerDeadline, pod)
	f := c.follow(t, namespace)
	servers := c.freshServers(t)
	killed := time.Now()
	for _, server := range servers {
		c.kill(t, &server, serverProgram)
	}
	c.waitMeasured(t, 30*time.Second, pod)
	t.Logf("the API was back %v after the kill", time.Since(killed).Round(time.Millisecond))
	f.waitFor(t, pod.Name, "a reading from the new processes", func(s *v1alpha1.PodNetworkStats) bool {
		return s.Timestamp != nil && s.Timestamp.After(killed)
	})
	if gone := f.deletions(); len(gone) != 0 {
		t.Errorf("the informer was told that %v are gone, and every pod is there", gone)
	}
	f.checkFaults(t)
	c.waitHealthy(t)
}

// freshServers are the replicas, those replaced that were killed before: the kubelet would make them wait.
func (c *cluster) freshServers(t *testing.T) []corev1.Pod {
	t.Helper()
	c.waitHealthy(t)
	for _, server := range c.servers(t) {
		if server.Status.ContainerStatuses[0].RestartCount > 0 {
			c.delete(t, &server)
		}
	}
	c.waitHealthy(t)
	return c.servers(t)
}

// kill kills a program of a pod, and returns when nothing is left of the process.
func (c *cluster) kill(t *testing.T, pod *corev1.Pod, program string) {
	t.Helper()
	pid := process(t, pod, program)
	if program == serverProgram {
		killings.Lock()
		killings.times = append(killings.times, time.Now())
		killings.Unlock()
	}
	signal(t, pid, unix.SIGKILL)
	eventually(t, podDeadline, program+" to end", func(context.Context) error {
		if slices.Contains(processes(t, pod), pid) {
			return errors.New("it runs")
		}
		return nil
	})
}

// logKinds says what the failures were, for the documentation.
func (l *load) logKinds(t *testing.T) {
	t.Helper()
	var kinds []string
	counts := map[string]int{}
	for _, f := range l.failures {
		text := explain(f.err)
		if counts[text]++; !slices.Contains(kinds, text) {
			kinds = append(kinds, text)
		}
	}
	for _, kind := range kinds {
		t.Logf("%d times: %s", counts[kind], kind)
	}
	if len(l.failures) > 0 {
		first, last := l.failures[0].at, l.failures[len(l.failures)-1].at
		t.Logf("from the first to the last: %v", last.Sub(first).Round(time.Millisecond))
	}
}
