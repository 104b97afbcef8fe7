package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// get reads the statistics of one pod.
func (c *cluster) get(ctx context.Context, pod *corev1.Pod) (*v1alpha1.PodNetworkStats, error) {
	return c.stats.NetworkobservabilityV1alpha1().PodNetworkStats(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
}

// readsOfAll is how many reads in a row ask every replica of our API server, but for one time in five hundred:
// kube-apiserver chooses one for each.
const readsOfAll = 10

// waitMeasured waits until every replica shows all counters of pods, and returns how long that took.
func (c *cluster) waitMeasured(t *testing.T, deadline time.Duration, pods ...*corev1.Pod) time.Duration {
	t.Helper()
	return eventually(t, deadline, "pods to be measured", func(ctx context.Context) error {
		for range readsOfAll {
			for _, pod := range pods {
				if err := c.checkMeasured(ctx, pod); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// outwaitShared returns when no replica shares an answer of before its call any more: each does for a second, so that
// reads which alternate between replicas go back and forth in time.
func (c *cluster) outwaitShared(t *testing.T, pods ...*corev1.Pod) {
	t.Helper()
	var all []counted
	for _, pod := range pods {
		all = append(all, counted{Pod: pod})
	}
	moment := time.Now().Add(time.Second)
	eventually(t, podDeadline, "a reading of a second from now", func(ctx context.Context) error {
		_, err := c.statsSince(ctx, moment, all)
		return err
	})
}

func (c *cluster) checkMeasured(ctx context.Context, pod *corev1.Pod) error {
	stats, err := c.get(ctx, pod)
	if err != nil {
		return fmt.Errorf("reading statistics of %s: %w", pod.Name, err)
	}
	if stats.State != v1alpha1.Measured {
		return fmt.Errorf("pod %s is %s: %s", pod.Name, stats.State, stats.Message)
	}
	return nil
}

// warnings collects the Warning lines of answers.
type warnings struct {
	mu    sync.Mutex
	lines []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, text)
}

// An answer is a list and how it came.
type answer struct {
	items    []v1alpha1.PodNetworkStats
	warnings []string
	took     time.Duration
}

// list reads the statistics of a namespace, or of all when it is empty.
func (c *cluster) list(t *testing.T, namespace string) answer {
	t.Helper()
	heard := &warnings{}
	config := rest.CopyConfig(c.config)
	config.WarningHandler = heard
	start := time.Now()
	list, err := versioned.NewForConfigOrDie(config).NetworkobservabilityV1alpha1().PodNetworkStats(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatalf("listing statistics: %v", err)
	}
	return answer{list.Items, heard.lines, time.Since(start)}
}

// of finds the statistics of a pod in an answer.
func (a answer) of(t *testing.T, pod *corev1.Pod) v1alpha1.PodNetworkStats {
	t.Helper()
	i := slices.IndexFunc(a.items, func(s v1alpha1.PodNetworkStats) bool { return s.Namespace == pod.Namespace && s.Name == pod.Name })
	if i < 0 {
		t.Fatalf("pod %s is not in the list", pod.Name)
	}
	return a.items[i]
}

// raw asks kube-apiserver for a path and returns the answer as it is, without client-go's retries.
func (c *cluster) raw(t *testing.T, path string) *http.Response {
	t.Helper()
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.config.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatalf("asking for %s: %v", path, err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}
