package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// everything is a configuration that asks for all there is.
func everything() *v1alpha1.TelemetryConfig {
	config := &v1alpha1.TelemetryConfig{RetinaMetrics: true, FlowLogs: &v1alpha1.TelemetryFlowLogs{}}
	for _, of := range groupParts {
		config.Groups = append(config.Groups, &v1alpha1.TelemetryGroup{Name: of.name})
	}
	config.Groups[0].Labels = []v1alpha1.TelemetryLabel{v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT, v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME}
	return config
}

func said(lacks []*v1alpha1.TelemetryLack) (lines []string) {
	for _, lack := range lacks {
		lines = append(lines, lack.What+": "+lack.Why)
	}
	return lines
}

func TestLacking(t *testing.T) {
	off := func(names ...string) (states []*v1alpha1.Collector) {
		for _, name := range collectors.Names() {
			state := &v1alpha1.Collector{Name: name, State: v1alpha1.Collector_STATE_RUNNING}
			if slices.Contains(names, name) {
				state.State, state.Message = v1alpha1.Collector_STATE_OFF, "is switched off by configuration"
			}
			states = append(states, state)
		}
		return states
	}
	noHook := []*v1alpha1.Collector{
		{Name: "drops", State: v1alpha1.Collector_STATE_OFF, Message: "kfree_skb: the kernel does not have it"},
		{Name: "tcp", State: v1alpha1.Collector_STATE_DEGRADED, Message: "something is missing"},
	}
	sends := everything()
	sends.Exporters = []*v1alpha1.TelemetryExporter{{Name: "a", Metrics: true}}
	for name, test := range map[string]struct {
		of     ability
		config *v1alpha1.TelemetryConfig
		want   []string
	}{
		"all is there":     {newAbility(off(), 20, ""), everything(), nil},
		"nothing is asked": {newAbility(off(collectors.Names()...), 0, "it is closed"), &v1alpha1.TelemetryConfig{}, nil},
		"flows": {newAbility(off("flows"), 20, ""), everything(), []string{
			"labels of group Traffic: collector flows is switched off by configuration",
			"flow logs: collector flows is switched off by configuration",
		}},
		"drops by kernel": {newAbility(noHook, 20, ""), everything(), []string{
			"group Drops: collector drops does not work: kfree_skb: the kernel does not have it",
			"flow logs of verdict Dropped: collector drops does not work: kfree_skb: the kernel does not have it",
		}},
		"dns": {newAbility(off("dns"), 0, ""), everything(), []string{
			"group DNS: collector dns is switched off by configuration",
			"label DNSName of group Traffic: collector dns is switched off by configuration",
		}},
		"no names":             {newAbility(off(), 0, ""), everything(), []string{"label DNSName: no names of DNS are kept (dns.names is 0 in the agent's configuration)"}},
		"not served":           {newAbility(off(), 1, newEndpoint("").unserved()), everything(), []string{"metrics of pods: " + newEndpoint("").unserved(), "Retina's names: " + newEndpoint("").unserved()}},
		"not served, but sent": {newAbility(off(), 1, newEndpoint("").unserved()), sends, []string{"Retina's names: " + newEndpoint("").unserved()}},
		"traffic, which sees all packets": {newAbility(off("traffic", "tcp"), 1, ""), everything(), []string{
			"group Traffic: collector traffic is switched off by configuration", "group TCP: collector tcp is switched off by configuration",
			"group DNS: collector traffic is switched off by configuration", "group APIServer: collector tcp is switched off by configuration",
			"labels of group Traffic: collector traffic is switched off by configuration",
			"flow logs: collector traffic is switched off by configuration",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := said(test.of.lacking(test.config)); !slices.Equal(got, test.want) {
				t.Errorf("lacking are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
	if all := said(newAbility(off(collectors.Names()...), 0, "x").lacking(everything())); len(all) > v1alpha1.MaxTelemetryLacks {
		t.Errorf("%d parts can be lacking", len(all))
	}
}

// TestLackingOfCollectors: what collectors that are switched off say of themselves is what is lacking.
func TestLackingOfCollectors(t *testing.T) {
	options := collectors.Defaults()
	options.Disabled = collectors.Names()
	set := collectors.New(collectors.Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}, options)
	defer set.Close()
	lacks := map[string]int{"traffic": 4, "drops": 2, "tcp": 2, "dns": 2, "flows": 2}
	for _, state := range set.States() {
		got := said(newAbility([]*v1alpha1.Collector{state}, 20, "").lacking(everything()))
		if len(got) != lacks[state.Name] || len(got) > 0 && !strings.HasSuffix(got[0], ": collector "+state.Name+" is switched off by configuration") {
			t.Errorf("%s: lacking are %q", state.Name, got)
		}
	}
}
