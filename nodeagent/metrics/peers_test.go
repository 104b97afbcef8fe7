package metrics

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// TestPeersThatEnd: the series of labels that have given their place away end, of a pod with a place and of one that is folded.
// Nothing of them stays, other goes on, and labels that come back begin at 0.
func TestPeersThatEnd(t *testing.T) {
	w := newWorld()
	w.config.SeriesLimit = 30
	w.config.Groups = []*v1alpha1.TelemetryGroup{{Name: traffic, Labels: []v1alpha1.TelemetryLabel{v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT}, LabelValuesLimit: 5}}
	for _, key := range []string{"a", "b"} {
		w.called[key] = &v1alpha1.TelemetryPod{Key: key, Namespace: "shop", Name: key, Groups: []v1alpha1.TelemetryGroupName{traffic}}
		w.rows[key] = &v1alpha1.PodStats{Traffic: &v1alpha1.Traffic{}}
	}
	counters := func(generation int, packets int64) {
		w.peers = nil
		for _, key := range []string{"a", "b"} {
			for i := range 5 {
				w.peers = append(w.peers, peers.Counter{PodKey: key, Began: timestamppb.New(epoch.Add(time.Duration(generation) * time.Minute)), Labels: peers.Labels{Protocol: "TCP", Port: fmt.Sprint(1000*generation + i)}, Packets: [2]int64{packets, 0}})
			}
		}
	}
	gathered := func() (ports int, used int, folded int64) {
		w.now = w.now.Add(time.Second)
		text := w.text(t, "pod_peer_packets_total")
		for line := range strings.Lines(text) {
			if strings.Contains(line, `pod="a"`) {
				ports++
			}
			if strings.Contains(line, `pod="other"`) {
				if _, err := fmt.Sscanf(line[strings.LastIndexByte(line, ' ')+1:], "%d", &folded); err != nil {
					t.Fatal(err)
				}
			}
		}
		return ports, w.metrics.ledger.used, folded
	}
	w.process["a"] = &podmap.Pod{Key: "a"}
	counters(0, 1)
	gathered()
	w.process["b"] = &podmap.Pod{Key: "b"} // for which there is no room
	_, used, _ := gathered()
	const rounds = 50
	counters(0, 3)
	for generation := range rounds {
		counters(generation, 3)
		ports, now, _ := gathered()
		if ports != 5 || now != used {
			t.Fatalf("generation %d: %d ports, %d places used, want 5 and %d", generation, ports, now, used)
		}
	}
	if series := len(w.metrics.pods["a"].account.series) + len(w.metrics.pods["b"].account.series); series > 40 {
		t.Errorf("%d series are remembered", series)
	}
	// Of the folded pod the first look at a group counts for nothing, and everything after it.
	if _, _, folded := gathered(); folded != 5*(2+3*(rounds-1)) {
		t.Errorf("folded are %d packets, want %d", folded, 5*(2+3*(rounds-1)))
	}
	counters(0, 2) // the first labels come back
	for i := range w.peers {
		w.peers[i].Began = timestamppb.New(epoch.Add(time.Hour))
	}
	if ports, _, folded := gathered(); ports != 5 || folded != 5*(2+3*(rounds-1)+2) {
		t.Errorf("%d ports, folded are %d", ports, folded)
	}
}
