package agents

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// TestTextsAreCleaned: no text of an agent reaches a terminal with control characters, or without end.
func TestTextsAreCleaned(t *testing.T) {
	evil := "a\x1b]0;title\a\u202e\r\n" + strings.Repeat("x", 100<<10)
	got := answer{want: asked{node: true, keys: map[string]struct{}{"key": {}}}, reply: Reply{Pods: map[string]*agentv1.PodStats{}}}
	counters := func() []*agentv1.Counter { return []*agentv1.Counter{{Collector: evil, Name: evil}} }
	drops := func() *agentv1.Drops { return &agentv1.Drops{Drops: []*agentv1.Drop{{Reason: evil}}} }
	got.take(&agentv1.ReadStatsResponse{
		Pods: []*agentv1.PodStats{{Key: "key", Measurement: &agentv1.Measurement{Message: evil}, Drops: drops(), Additional: counters()}},
		Node: &agentv1.NodeStats{
			Measurement: &agentv1.Measurement{Message: evil}, Drops: drops(), Additional: counters(),
			Interfaces: []*agentv1.Interface{{Name: evil, Kind: evil, State: evil, Driver: counters(), Queue: &agentv1.Queue{Kind: evil}}},
			Infiniband: []*agentv1.InfiniBandPort{{Device: evil, State: evil, Counters: counters()}},
			Agent: &agentv1.AgentInfo{
				Version: evil, KernelVersion: evil,
				Collectors: []*agentv1.Collector{{Name: evil, Message: evil}},
			},
		},
	})
	text := prototext.Format(got.reply.Node) + prototext.Format(got.reply.Pods["key"])
	if strings.Count(text, "xxx") == 0 || len(text) > 30*maxMessageBytes {
		t.Errorf("%d bytes are left", len(text))
	}
	for _, escape := range []string{`\x1b`, `\x07`, `\r`, `\n`, "\u202e"} {
		if strings.Contains(text, escape) {
			t.Errorf("%q is left", escape)
		}
	}
}
