package metrics

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// What a pod does is in its series, and a restart of the agent makes no counter fall but to 0.
func TestRestartOnTheKernel(t *testing.T) {
	fakepod.NeedRoot(t)
	pod, peer := fakepod.New(t, fakepod.Prefix()), fakepod.NewNamespace(t)
	fakepod.Connect(pod.Namespace, peer, "eth0", "eth0", 1)
	w := crowd(0, allGroups()...)
	w.called[pod.UID] = &v1alpha1.TelemetryPod{
		Key: pod.UID, Uid: pod.UID, Namespace: "shop", Name: "web-0", WorkloadKind: "StatefulSet", WorkloadName: "web",
		Groups: []v1alpha1.TelemetryGroupName{traffic, drops, tcp, dns, apiServer},
	}
	bpffs := fakepod.BPFFS(t)
	var before map[string]float64
	agent(t, w, bpffs, pod, func() {
		counters(t, w) // so that what begins with the agent has begun
		pod.Do(func() { exchange(t) })
		fakepod.Eventually(t, "counting what the pod did", func() bool {
			before = counters(t, w)
			return before["pod_packets_total transmit shop web-0 web"] >= 10 &&
				before["pod_tcp_connections_failed_total shop web-0 refused web"] == 1
		}, func() string { return text(t, w.gather(), "pod") })
	})
	agent(t, w, bpffs, pod, func() {
		after := counters(t, w)
		for name, value := range before {
			now, there := after[name]
			if strings.HasPrefix(name, "node_softnet") || strings.HasPrefix(name, "node_conntrack") {
				if now != 0 {
					t.Errorf("%s begins at %v", name, now)
				}
				continue
			}
			if !there || now < value {
				t.Errorf("%s fell from %v to %v", name, value, now)
			}
		}
	})
}

// exchange sends datagrams to nobody, and tries to connect to nobody.
func exchange(t *testing.T) {
	socket, err := net.ListenPacket("udp4", "") // not connected, so that answers of ICMP are no errors
	if err != nil {
		t.Error(err)
		return
	}
	defer socket.Close()
	for range 10 {
		if _, err := socket.WriteTo(make([]byte, 100), &net.UDPAddr{IP: net.IPv4(10, 99, 1, 2), Port: 9}); err != nil {
			t.Error(err)
		}
	}
	if refused, err := net.DialTimeout("tcp", "10.99.1.2:9", 5*time.Second); err == nil {
		refused.Close()
		t.Error("somebody listens")
	}
}

// agent runs do while all collectors and a new gatherer follow the pod.
func agent(t *testing.T, w *world, bpffs string, pod *fakepod.Pod, do func()) {
	t.Helper()
	set := collectors.New(collectors.Environment{BPFFS: bpffs, Node: "n"}, collectors.Defaults())
	defer set.Close()
	followed := make(chan struct{}, 1)
	pods, err := podmap.New(podmap.Config{Changed: func(all []*podmap.Pod) {
		own := slices.DeleteFunc(all, func(p *podmap.Pod) bool { return p.Key != pod.UID }) // other tests have pods, too
		set.Follow(own)
		if len(own) > 0 {
			select {
			case followed <- struct{}{}:
			default:
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- pods.Run(ctx, func() {}) }()
	go func() { set.Run(ctx); ended <- nil }()
	defer func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}()
	<-followed
	w.metrics = New(Config{Pods: pods.Pods, Read: func() Reading { return set.Read() }, Telemetry: w})
	do()
}

// counters are all counters, by name without the prefix and values of labels.
func counters(t *testing.T, w *world) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for _, f := range w.gather() {
		for _, metric := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), Prefix)
			for _, label := range metric.Label {
				name += " " + label.GetValue()
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				all[name] = metric.Counter.GetValue()
			case dto.MetricType_HISTOGRAM:
				all[name] = float64(metric.Histogram.GetSampleCount())
			}
		}
	}
	return all
}
