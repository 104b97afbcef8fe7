package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// stages are the programs that bytes of a download pass, in their order.
var stages = [...]string{"agent", "API server", "kube-apiserver", "client"}

// work is the processor time that each of stages has had, in seconds.
type work [len(stages)]float64

// A ledger adds up what readings cost.
type ledger struct {
	spent work
	bytes float64
}

// measure adds what a reading costs the stages, and gives its rate in MB/s. What the programs do beside it is counted, too.
func (l *ledger) measure(ctx context.Context, b *bench, read func() (int64, error)) (rate float64, err error) {
	before, err := b.work(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	n, err := read()
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	after, err := b.work(ctx)
	if err != nil {
		return 0, err
	}
	for i := range after {
		l.spent[i] += after[i] - before[i]
	}
	l.bytes += float64(n)
	return float64(n) / 1e6 / took.Seconds(), nil
}

// String tells seconds for each gigabyte.
func (l *ledger) String() string {
	var text strings.Builder
	sum := 0.0
	for i, name := range stages {
		each := l.spent[i] / (l.bytes / 1e9)
		sum += each
		fmt.Fprintf(&text, "%s %.1f, ", name, each)
	}
	fmt.Fprintf(&text, "all %.1f", sum)
	return text.String()
}

// work asks what the stages have used until now. Their pods' processes are found by the names of their cgroups.
func (b *bench) work(ctx context.Context) (now work, err error) {
	for i, component := range []string{"nodeagent", "apiserver"} {
		pods, err := b.kube.CoreV1().Pods(agentv1.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
		if err != nil {
			return work{}, err
		}
		for _, pod := range pods.Items {
			spent, err := ofPod(string(pod.UID))
			if err != nil {
				return work{}, err
			}
			now[i] += spent
		}
	}
	text, err := b.kube.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return work{}, err
	}
	_, behind, _ := bytes.Cut(text, []byte("\nprocess_cpu_seconds_total "))
	value, _, _ := bytes.Cut(behind, []byte("\n"))
	if now[2], err = strconv.ParseFloat(string(value), 64); err != nil {
		return work{}, fmt.Errorf("reading kube-apiserver's processor time: %w", err)
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return work{}, err
	}
	now[3] = time.Duration(own.Utime.Nano() + own.Stime.Nano()).Seconds()
	return now, nil
}

// ofPod is the processor time of a pod's processes that run here, in seconds.
func ofPod(uid string) (seconds float64, err error) {
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, err
	}
	found := false
	for _, path := range groups {
		group, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(bytes.ReplaceAll(group, []byte("_"), []byte("-")), []byte("pod"+uid)) {
			continue // It has ended, or is another's.
		}
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(path), "stat"))
		if err != nil {
			continue
		}
		found = true
		// proc(5): the name is in parentheses; utime and stime are the 12th and 13th field behind it, in 1/100 s.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		for _, field := range fields[11:13] {
			ticks, err := strconv.ParseFloat(string(field), 64)
			if err != nil {
				return 0, fmt.Errorf("reading the processor time of a pod: %w", err)
			}
			seconds += ticks / 100
		}
	}
	if !found {
		return 0, fmt.Errorf("no process of pod %s runs here; processor time can be measured of a local cluster only", uid)
	}
	return seconds, nil
}
