package export

import (
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// schemaURL is of the semantic conventions whose names are used.
	schemaURL = "https://opentelemetry.io/schemas/1.43.0"
	ours      = "networkobservability_"
	podPrefix = ours + "pod_"
	podInfo   = ours + "pod_info"
	podDrops  = ours + "pod_dropped_packets_total"
)

// conventional are families for which the semantic conventions have a name, or whose own name would say nothing without its
// unit.
var conventional = map[string]instrument{
	ours + "pod_bytes_total":            {name: "k8s.pod.network.io", unit: "By"},
	ours + "node_interface_bytes_total": {name: "k8s.node.network.io", unit: "By"},
	ours + "node_interface_errors_total": {
		name: "k8s.node.network.errors", unit: "{error}"},
	ours + "pod_peer_bytes_total": {name: "networkobservability.pod.peer.io", unit: "By"},
}

// podErrors is made of podDrops.
var podErrors = instrument{name: "k8s.pod.network.errors", unit: "{error}", kind: dto.MetricType_COUNTER,
	description: "Packets of the pod that were dropped, but for those that every healthy network drops."}

// An instrument is what OTLP says of a family.
type instrument struct {
	name, unit, description string
	kind                    dto.MetricType
}

// units are the endings of names that count something.
var units = map[string]string{
	"packets": "{packet}", "segments": "{segment}", "datagrams": "{datagram}", "connections": "{connection}",
	"queries": "{query}", "responses": "{response}", "messages": "{message}", "errors": "{error}", "resets": "{reset}",
}

// instrumentOf names a family: networkobservability_pod_tcp_rtt_seconds becomes networkobservability.pod.tcp_rtt with unit s.
// A collector that turns such a name into one for Prometheus comes back to where it came from.
func instrumentOf(family *dto.MetricFamily) instrument {
	in, known := conventional[family.GetName()]
	in.kind, in.description = family.GetType(), family.GetHelp()
	if known {
		return in
	}
	name := family.GetName()
	if in.kind == dto.MetricType_COUNTER {
		name = strings.TrimSuffix(name, "_total")
	}
	if bare, ok := strings.CutSuffix(name, "_bytes"); ok {
		name, in.unit = bare, "By"
	} else if bare, ok := strings.CutSuffix(name, "_seconds"); ok {
		name, in.unit = bare, "s"
	} else {
		in.unit = units[name[strings.LastIndexByte(name, '_')+1:]]
	}
	in.name = strings.Replace(name, "_", ".", dots(name))
	return in
}

// dots is how many parts of a name are made namespaces: networkobservability.pod.…, go.…
func dots(name string) int {
	if strings.HasPrefix(name, ours) {
		return 2
	}
	return 1
}

// labels are the names of attributes of points. Others stay as they are.
var labels = map[string]string{
	"direction": "network.io.direction", "interface": "network.interface.name", "family": "network.type",
	"protocol": "network.transport", "dns_name": "dns.question.name",
	"namespace": "k8s.namespace.name", "pod": "k8s.pod.name",
	"peer_namespace": "peer.k8s.namespace.name", "peer_workload": "peer.k8s.workload.name",
	"service_namespace": "peer.k8s.service.namespace", "service": "peer.k8s.service.name",
}

// states are values of network.connection.state that are written otherwise.
var states = map[string]string{"fin_wait1": "fin_wait_1", "fin_wait2": "fin_wait_2"}

// label writes a label of a family's metric.
func (w *writer) label(field protowire.Number, family string, l *dto.LabelPair) {
	name, value := l.GetName(), printable(l.GetValue(), textBytes)
	switch {
	case name == "port":
		w.port(field, family, value)
		return
	case name == "protocol":
		value = strings.ToLower(value)
	case name == "state" && strings.HasSuffix(family, "_tcp_connections"):
		name = "network.connection.state"
		if other, ok := states[value]; ok {
			value = other
		}
	}
	if known, ok := labels[name]; ok {
		name = known
	}
	w.textAttribute(field, name, value)
}

// port is a number, as the conventions say; folded ports ("other") have none.
func (w *writer) port(field protowire.Number, family, value string) {
	number, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return
	}
	name := "server.port"
	if family == podDrops {
		name = "destination.port"
	}
	w.intAttribute(field, name, number)
}

// workloads are the attributes of kinds of workloads.
var workloads = map[string]string{
	"Deployment": "k8s.deployment.name", "ReplicaSet": "k8s.replicaset.name", "StatefulSet": "k8s.statefulset.name",
	"DaemonSet": "k8s.daemonset.name", "Job": "k8s.job.name", "CronJob": "k8s.cronjob.name",
	"ReplicationController": "k8s.replicationcontroller.name",
}
