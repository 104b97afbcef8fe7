package collectors

import (
	"strings"
	"testing"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestNamesAreThoseOfTheCollectors(t *testing.T) {
	var names []string
	for _, c := range New(Config{}).States() {
		names = append(names, c.Name)
	}
	if strings.Join(names, " ") != strings.Join(Names, " ") {
		t.Errorf("collectors are %v, Names says %v", names, Names)
	}
}

// Whatever is off, the rest goes on and says what is missing.
func TestOff(t *testing.T) {
	for _, name := range Names {
		t.Run(name, func(t *testing.T) {
			set := New(Config{Traffic: traffic.Config{Hook: traffic.Auto}, Off: map[string]string{name: "is switched off by a test"}})
			set.Follow(nil)
			set.sample(time.Now())
			node := set.ReadNode()
			for _, c := range node.Agent.Collectors {
				if isOff := c.State == v1alpha1.Collector_STATE_OFF; isOff != (c.Name == name) {
					t.Errorf("%s is %v: %s", c.Name, c.State, c.Message)
				}
			}
			wantNode := v1alpha1.State_STATE_MEASURED
			if name != "traffic" {
				wantNode = v1alpha1.State_STATE_DEGRADED
			}
			if node.Measurement.State != wantNode {
				t.Errorf("the node is %v: %s", node.Measurement.State, node.Measurement.Message)
			}
			if (node.Protocols == nil) != (name == "protocols") || (len(node.Interfaces) == 0) != (name == "interfaces") {
				t.Errorf("protocols %v, %d interfaces", node.Protocols != nil, len(node.Interfaces))
			}
		})
	}
}

func TestPodInTheNodesNetworkWithoutCgroup(t *testing.T) {
	row := New(Config{}).ReadPod(&podmap.Pod{Key: "a", HostNetwork: true})
	if row.Measurement.State != v1alpha1.State_STATE_NOT_ATTRIBUTED || row.Traffic != nil || row.Protocols != nil {
		t.Errorf("row %v, want one that is not attributed", row)
	}
}

func TestMessagesAreCut(t *testing.T) {
	for _, message := range []string{"", "short", strings.Repeat("ü", 2000), "\xff"} {
		got := cut(message)
		if len(got) > 1<<10 || strings.ToValidUTF8(got, "") != got {
			t.Errorf("%d bytes became %d", len(message), len(got))
		}
	}
}
