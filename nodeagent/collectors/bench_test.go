package collectors

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// BenchmarkFullNode is a node of 110 pods: reading all rows, taking a sample, following pods of which none changed.
func BenchmarkFullNode(b *testing.B) {
	bpffs := fakepod.BPFFS(b)
	mine := map[string]bool{}
	peer := fakepod.NewNamespace(b)
	for i := range 110 {
		pod := fakepod.New(b, fakepod.Prefix())
		fakepod.Connect(pod.Namespace, peer, "eth0", "host"+pod.UID[:8], i)
		mine[pod.UID] = true
	}
	set := New(Environment{BPFFS: bpffs, Node: "n"}, Defaults())
	defer set.Close()
	var pods []*podmap.Pod
	found := make(chan struct{})
	m, err := podmap.New(podmap.Config{Changed: func(all []*podmap.Pod) {
		pods = pods[:0]
		for _, pod := range all {
			if mine[pod.Key] {
				pods = append(pods, pod)
			}
		}
	}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- m.Run(ctx, func() {
			close(found)
			<-ctx.Done() // the loop stands still while its result is used
		})
	}()
	defer func() {
		cancel()
		<-ended
	}()
	<-found
	begun, spent := time.Now(), cpu(b)
	set.Follow(pods)
	b.Logf("attaching to %d pods took %v, and %v of CPU", len(pods), time.Since(begun), cpu(b)-spent)
	defer set.Follow(nil)

	b.Run("read", func(b *testing.B) {
		spent := cpu(b)
		defer func() { b.ReportMetric(float64(cpu(b)-spent)/float64(b.N), "cpu-ns/op") }()
		for b.Loop() {
			reading := set.Read()
			for _, pod := range pods {
				reading.Pod(pod)
			}
		}
	})
	b.Run("sample", func(b *testing.B) {
		spent := cpu(b)
		defer func() { b.ReportMetric(float64(cpu(b)-spent)/float64(b.N), "cpu-ns/op") }()
		for b.Loop() {
			set.sample(time.Now())
		}
	})
	b.Run("follow", func(b *testing.B) {
		spent := cpu(b)
		defer func() { b.ReportMetric(float64(cpu(b)-spent)/float64(b.N), "cpu-ns/op") }()
		for b.Loop() {
			set.Follow(pods)
		}
	})
}

// cpu is the time that this process has spent on CPUs: what other work of the machine does not disturb much.
func cpu(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
