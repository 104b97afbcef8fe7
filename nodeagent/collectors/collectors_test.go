package collectors

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestNamesAreThoseOfTheCollectors(t *testing.T) {
	set := New(Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}, Defaults())
	defer set.Close()
	var names []string
	for _, c := range set.States() {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, Names()) {
		t.Errorf("collectors are %v, Names says %v", names, Names())
	}
}

// Whatever is off, the rest goes on, and the objects say what is off.
func TestOff(t *testing.T) {
	bpffs := fakepod.BPFFS(t)
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			options := Defaults()
			options.Disabled = []string{name}
			set := New(Environment{BPFFS: bpffs, Node: "n"}, options)
			defer set.Close()
			set.Follow(nil)
			set.sample(time.Now())
			node := set.Read().Node()
			for _, c := range node.Agent.Collectors {
				if isOff := c.State == v1alpha1.Collector_STATE_OFF; isOff != (c.Name == name) {
					t.Errorf("%s is %v: %s", c.Name, c.State, c.Message)
				}
			}
			if node.Measurement.State != v1alpha1.State_STATE_MEASURED || !strings.Contains(node.Measurement.Message, name+": is switched off") {
				t.Errorf("the node is %v: %s", node.Measurement.State, node.Measurement.Message)
			}
			if (node.Protocols == nil) != (name == "protocols") || (len(node.Interfaces) == 0) != (name == "interfaces") {
				t.Errorf("protocols %v, %d interfaces", node.Protocols != nil, len(node.Interfaces))
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"disabled: [dns]":                     "",
		"{\"traffic\": {\"hook\": \"tcx\"}}":  "",
		"disabled: [nothing]":                 `disabled[0]: "nothing" is none of traffic, `,
		"traffic: {hook: xdp}":                `traffic.hook: "xdp" is none of auto, tcx and clsact`,
		"traffic: {hok: tcx}":                 `unknown field "traffic.hok"`,
		"Traffic: {hook: tcx}":                `unknown field "Traffic"`,
		"disabled: 3":                         "disabled",
		"flows: {history: 1000, maxAge: 24h}": "",
		"flows: {history: 999}":               "flows.history: 999 is not between 1000 and 200000",
		"flows: {history: 200001}":            "flows.history: 200001 is not between",
		"flows: {history: lots}":              "flows.history",
		"flows: {maxAge: 59s}":                "flows.maxAge: 59s is not between 1m0s and 24h0m0s",
		"flows: {maxAge: 24h1s}":              "flows.maxAge: 24h0m1s is not between",
		"flows: {maxAge: 30}":                 "flows.maxAge",
		"flows: {maxage: 30m}":                `unknown field "flows.maxage"`,
		"dns: {names: 0}":                     "",
		"dns: {names: 100}":                   "",
		"dns: {names: -1}":                    "dns.names: -1 is not between 0 and 100",
		"dns: {names: 101}":                   "dns.names: 101 is not between",
		"dns: {names: many}":                  "dns.names",
		"dns: {name: 20}":                     `unknown field "dns.name"`,
		"disabled: [dns]\ndisabled: []":       "disabled",
		"\t":                                  "yaml",
	} {
		_, err := Parse([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestPodInTheNodesNetworkWithoutCgroup(t *testing.T) {
	row := New(Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}, Defaults()).Read().Pod(&podmap.Pod{Key: "a", HostNetwork: true})
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
