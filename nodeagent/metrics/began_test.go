package metrics

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// begins are since when the series of a pod, or of the node with "", count, by family without our prefix; zero where that is
// not said.
func (w *world) begins(pod string) map[string]time.Time {
	all := map[string]time.Time{}
	for _, f := range w.gather() {
		for _, m := range f.Metric {
			of := ""
			for _, label := range m.Label {
				if label.GetName() == "pod" {
					of = label.GetValue()
				}
			}
			created := m.GetCounter().GetCreatedTimestamp()
			if m.Histogram != nil {
				created = m.Histogram.CreatedTimestamp
			}
			if of == pod && m.Gauge == nil {
				all[f.GetName()[len(Prefix):]] = time.Time{}
				if created != nil {
					all[f.GetName()[len(Prefix):]] = created.AsTime()
				}
			}
		}
	}
	return all
}

// TestBegan: what is kept in the kernel began when it did, over restarts of the agent too; what the agent keeps began when it
// was made; and of what is not known nothing is said.
func TestBegan(t *testing.T) {
	counted, followed, exchanged := epoch.Add(-3*time.Hour), epoch.Add(-2*time.Hour), epoch.Add(-time.Minute)
	w := newWorld()
	for _, name := range []v1alpha1.TelemetryGroupName{traffic, drops, tcp, dns, apiServer} {
		w.config.Groups = append(w.config.Groups, &v1alpha1.TelemetryGroup{Name: name, LabelValuesLimit: 10})
	}
	w.config.Groups[0].Labels = []v1alpha1.TelemetryLabel{v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT}
	connections := &v1alpha1.Connections{StartUnixNano: followed.UnixNano(), ClosedSmoothedRtt: &v1alpha1.Histogram{}}
	w.called["a"] = &v1alpha1.TelemetryPod{Key: "a", Namespace: "shop", Name: "web-0", Groups: []v1alpha1.TelemetryGroupName{traffic, drops, tcp, dns, apiServer}}
	w.process["a"] = &podmap.Pod{Key: "a"}
	w.rows["a"] = &v1alpha1.PodStats{
		Measurement: &v1alpha1.Measurement{StartUnixNano: counted.UnixNano()}, Traffic: &v1alpha1.Traffic{}, Connections: connections,
		Drops: &v1alpha1.Drops{Drops: []*v1alpha1.Drop{{Reason: "X", Packets: 1}}}, Dns: &v1alpha1.DNS{}, ApiServer: &v1alpha1.APIServer{Connected: 1},
	}
	w.peers = []peers.Counter{{PodKey: "a", Labels: peers.Labels{Protocol: "TCP", Port: "80"}, Bytes: [2]int64{1, 1}, Began: timestamppb.New(exchanged)}}
	w.node = &v1alpha1.NodeStats{Connections: connections, Softnet: &v1alpha1.Softnet{}, Protocols: &v1alpha1.Protocols{Tcp: &v1alpha1.TCP{}}}
	for restart := range 2 {
		w.now = epoch.Add(time.Duration(restart) * time.Hour)
		w.begin()
		for again := range 2 {
			for name, want := range map[string]time.Time{
				"pod_bytes_total": counted, "pod_packets_total": counted, "pod_peer_bytes_total": exchanged,
				"pod_tcp_connections_opened_total": followed, "pod_tcp_rtt_seconds": followed, "pod_apiserver_connections_total": followed,
				"pod_apiserver_handshake_seconds": followed,
				// Sockets that were open already bring what they had sent; and rows of drops and DNS do not say when they began.
				"pod_tcp_segments_total": {}, "pod_dropped_packets_total": {}, "pod_dns_unanswered_total": {},
			} {
				if got, there := w.begins("web-0")[name]; !there || !got.Equal(want) {
					t.Errorf("agent %d, gather %d: %s began at %v (%v), want %v", restart, again, name, got, there, want)
				}
			}
			for name, want := range map[string]time.Time{
				"node_tcp_connections_opened_total": followed, "node_tcp_rtt_seconds": followed, "node_tcp_segments_total": {},
				"node_softnet_processed_total": epoch.Add(time.Duration(restart) * time.Hour), // it is shown from the agent's first look on
			} {
				if got, there := w.begins("")[name]; !there || !got.Equal(want) {
					t.Errorf("agent %d, gather %d: %s began at %v (%v), want %v", restart, again, name, got, there, want)
				}
			}
			w.now = w.now.Add(time.Minute)
		}
	}
	// The same pod with a sandbox that was made anew counts anew.
	w.rows["a"].Measurement = &v1alpha1.Measurement{StartUnixNano: epoch.UnixNano()}
	if got := w.begins("web-0")["pod_bytes_total"]; !got.Equal(epoch) {
		t.Errorf("the new sandbox's bytes began at %v", got)
	}
}

// TestBeganOfOther: what is folded is added up from the moment on at which there was no place for it.
func TestBeganOfOther(t *testing.T) {
	w := newWorld()
	w.config.SeriesLimit = 12
	w.config.Groups = []*v1alpha1.TelemetryGroup{{Name: traffic}}
	for _, key := range []string{"a", "b", "c"} {
		w.called[key] = &v1alpha1.TelemetryPod{Key: key, Namespace: "shop", Name: key, Groups: []v1alpha1.TelemetryGroupName{traffic}}
		w.process[key] = &podmap.Pod{Key: key}
		w.rows[key] = &v1alpha1.PodStats{Measurement: &v1alpha1.Measurement{StartUnixNano: epoch.Add(-time.Hour).UnixNano()}, Traffic: &v1alpha1.Traffic{}}
	}
	for range 2 {
		if got := w.begins("other")["pod_bytes_total"]; !got.Equal(epoch) {
			t.Errorf("other began at %v", got)
		}
		w.now = w.now.Add(time.Minute)
	}
}
