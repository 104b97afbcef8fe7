package live

import (
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkStore measures what 100,000 pods on 1,000 nodes in 500 namespaces cost.
func BenchmarkStore(b *testing.B) {
	for _, pods := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) {
			before := heap()
			s := newStore(recordOfPod)
			records := make([]any, pods)
			for i := range records {
				record, err := s.toRecord(busyPod(i))
				if err != nil {
					b.Fatal(err)
				}
				records[i] = record
			}
			if err := s.Replace(records, "1000000"); err != nil {
				b.Fatal(err)
			}
			clear(records)
			bytesPerPod := float64(heap()-before) / float64(pods)
			everything := &selection{namespaced: true, labels: labels.Everything()}
			b.Run("page of 500", func(b *testing.B) {
				middle := s.records[pods/2].key()
				for b.Loop() {
					s.list(everything, middle, 500)
				}
				b.ReportMetric(bytesPerPod, "heap-B/pod")
			})
			b.Run("list all by label", func(b *testing.B) {
				selector := &selection{namespaced: true, labels: labels.SelectorFromSet(labels.Set{"app": "app-7"})}
				for b.Loop() {
					s.list(selector, key{}, 0)
				}
			})
			b.Run("pod put", func(b *testing.B) {
				pod := busyPod(pods / 2)
				for i := 0; b.Loop(); i++ {
					pod.ResourceVersion = strconv.Itoa(1_000_001 + i)
					pod.Spec.NodeName = fmt.Sprintf("node-%d", i%1000)
					if err := s.Update(pod); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func busyPod(i int) *corev1.Pod {
	pod := &corev1.Pod{}
	pod.Namespace = fmt.Sprintf("team-%d", i%500)
	pod.Name = fmt.Sprintf("web-frontend-%08x-%05d", i/10, i)
	pod.UID = types.UID(fmt.Sprintf("d9b2d63d-a233-4123-847a-%012d", i))
	pod.CreationTimestamp = metav1.NewTime(time.Unix(int64(1_800_000_000+i), 0))
	pod.Labels = map[string]string{
		"app": fmt.Sprintf("app-%d", i%300), "app.kubernetes.io/part-of": "shop", "pod-template-hash": fmt.Sprintf("%08x", i/10), "tier": "frontend",
	}
	pod.Spec.NodeName = fmt.Sprintf("node-%d", i%1000)
	pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}}
	return pod
}
