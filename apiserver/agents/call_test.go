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
	got := answer{want: asked{node: true}}
	got.take(&agentv1.ReadStatsResponse{Node: &agentv1.NodeStats{
		Measurement: &agentv1.Measurement{Message: evil},
		Interfaces:  []*agentv1.Interface{{Name: evil, Kind: evil, State: evil}},
		Agent: &agentv1.AgentInfo{
			Version: evil, KernelVersion: evil,
			Collectors: []*agentv1.Collector{{Name: evil, Message: evil}},
		},
	}})
	text := prototext.Format(got.reply.Node)
	if strings.Count(text, "xxx") == 0 || len(text) > 10*maxMessageBytes {
		t.Errorf("%d bytes are left", len(text))
	}
	for _, escape := range []string{`\x1b`, `\x07`, `\r`, `\n`, "\u202e"} {
		if strings.Contains(text, escape) {
			t.Errorf("%q is left", escape)
		}
	}
}
