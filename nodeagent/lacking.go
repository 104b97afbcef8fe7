package main

import (
	"slices"
	"strings"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A part is something that a configuration of telemetry may ask for, and the collectors without any one of which it cannot be
// given. Packets of DNS and of flows are seen by the programs of traffic.
type part struct {
	what       string
	collectors []string
	asked      bool
}

// groupParts are the groups of metrics of pods.
var groupParts = []struct {
	name       v1alpha1.TelemetryGroupName
	what       string
	collectors []string
}{
	{v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC, "group Traffic", []string{"traffic"}},
	{v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_DROPS, "group Drops", []string{"drops"}},
	{v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TCP, "group TCP", []string{"tcp"}},
	{v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_DNS, "group DNS", []string{"dns", "traffic"}},
	{v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_API_SERVER, "group APIServer", []string{"tcp"}},
}

// An ability is what there is on a node to do a configuration with.
type ability struct {
	// off says of collectors that give nothing why.
	off map[string]string
	// noNames: no names of DNS are kept.
	noNames bool
	// unserved is why nobody can scrape; empty when somebody can.
	unserved string
}

// newAbility reads states of collectors.
func newAbility(states []*v1alpha1.Collector, names int, unserved string) ability {
	a := ability{off: map[string]string{}, noNames: names == 0, unserved: unserved}
	for _, c := range states {
		if c.GetState() != v1alpha1.Collector_STATE_OFF {
			continue
		}
		if message := c.GetMessage(); strings.HasPrefix(message, "is ") {
			a.off[c.GetName()] = "collector " + c.GetName() + " " + message
		} else {
			a.off[c.GetName()] = "collector " + c.GetName() + " does not work: " + message
		}
	}
	return a
}

// lacking says what a configuration asks for that cannot be given. What works in part is not among it: that the states of
// collectors say.
func (a ability) lacking(config *v1alpha1.TelemetryConfig) (lacks []*v1alpha1.TelemetryLack) {
	lack := func(what, why string) { lacks = append(lacks, &v1alpha1.TelemetryLack{What: what, Why: why}) }
	for _, p := range partsOf(config) {
		if why := a.missing(p.collectors); p.asked && why != "" {
			lack(p.what, why)
		}
	}
	if a.noNames && named(config) && a.off["dns"] == "" {
		lack("label DNSName", "no names of DNS are kept (dns.names is 0 in the agent's configuration)")
	}
	sent := slices.ContainsFunc(config.GetExporters(), (*v1alpha1.TelemetryExporter).GetMetrics)
	if a.unserved != "" && len(config.GetGroups()) > 0 && !sent {
		lack("metrics of pods", a.unserved)
	}
	if a.unserved != "" && config.GetRetinaMetrics() {
		lack("Retina's names", a.unserved)
	}
	return lacks
}

// partsOf are those that depend on collectors.
func partsOf(config *v1alpha1.TelemetryConfig) (parts []part) {
	for _, of := range groupParts {
		parts = append(parts, part{of.what, of.collectors, groupOf(config, of.name) != nil})
	}
	traffic := groupOf(config, v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC)
	logs := config.GetFlowLogs()
	dropped := len(logs.GetVerdicts()) == 0 || slices.Contains(logs.GetVerdicts(), v1alpha1.Verdict_VERDICT_DROPPED)
	return append(parts,
		part{"labels of group Traffic", []string{"flows", "traffic"}, len(traffic.GetLabels()) > 0},
		part{"label DNSName of group Traffic", []string{"dns"}, labelled(traffic)},
		part{"flow logs", []string{"flows", "traffic"}, logs != nil},
		part{"flow logs of verdict Dropped", []string{"drops"}, logs != nil && dropped},
	)
}

// missing is why one of some collectors gives nothing; empty when all work.
func (a ability) missing(collectors []string) string {
	for _, name := range collectors {
		if why := a.off[name]; why != "" {
			return why
		}
	}
	return ""
}

func groupOf(config *v1alpha1.TelemetryConfig, name v1alpha1.TelemetryGroupName) *v1alpha1.TelemetryGroup {
	for _, group := range config.GetGroups() {
		if group.GetName() == name {
			return group
		}
	}
	return nil
}

func labelled(group *v1alpha1.TelemetryGroup) bool {
	return slices.Contains(group.GetLabels(), v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME)
}

// named says whether some metrics shall have names of DNS.
func named(config *v1alpha1.TelemetryConfig) bool {
	return slices.ContainsFunc(config.GetGroups(), labelled)
}
