package export

import (
	"strconv"
	"strings"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

const (
	// flowEvent is the name of the event that a record of a flow is.
	flowEvent = "networkobservability.flow"
	// recordsAtOnce is how many records a batch has at most, before batches are joined. With the longest names that there can be
	// these have less than half of the smallest queue, of 1 MiB.
	recordsAtOnce = 128
	// textBytes is how long an attribute's text is at most.
	textBytes = 1024
)

// Numbers and names of severities in OTLP.
const (
	severityInfo, severityWarn = 9, 13
	severityInfoText           = "INFO"
	severityWarnText           = "WARN"
)

// Attributes take what is known of a flow, in an encoding of theirs.
type Attributes interface {
	// Text is UTF-8 without control bytes, and not empty.
	Text(name, value string)
	Number(name string, value int64)
	Float(name string, value float64)
	Flag(name string, value bool)
}

// clean makes text what Attributes expects.
type clean struct{ Attributes }

func (c clean) Text(name, value string) {
	if value != "" {
		c.Attributes.Text(name, printable(value, textBytes))
	}
}

// endpointNames are the names of attributes of one end.
type endpointNames struct {
	address, port, namespace, pod, workloadKind, workload, serviceNamespace, service, node string
	packets, bytes, flags                                                                  string
	translated                                                                             *endpointNames
}

func namesOf(prefix string) *endpointNames {
	return &endpointNames{
		address: prefix + ".address", port: prefix + ".port",
		namespace: prefix + ".k8s.namespace.name", pod: prefix + ".k8s.pod.name",
		workloadKind: prefix + ".k8s.workload.kind", workload: prefix + ".k8s.workload.name",
		serviceNamespace: prefix + ".k8s.service.namespace", service: prefix + ".k8s.service.name",
		node:    prefix + ".k8s.node.name",
		packets: prefix + ".packets", bytes: prefix + ".bytes", flags: prefix + ".tcp.flags",
	}
}

var sourceNames, destinationNames = namesOf("source"), namesOf("destination")

func init() {
	sourceNames.translated, destinationNames.translated = namesOf("source.translated"), namesOf("destination.translated")
}

// DescribeFlow gives all that a record says. docs/exporters.md has a table of the names.
func DescribeFlow(r *flowlog.Record, attributes Attributes) {
	to := clean{attributes}
	local, peer := sourceNames, destinationNames
	if received(r) {
		local, peer = peer, local
	}
	describeEndpoint(&r.Local, local, r.Protocol, to)
	describeEndpoint(&r.Peer, peer, r.Protocol, to)
	if r.Translated.Address.IsValid() {
		describeEndpoint(&r.Translated, peer.translated, r.Protocol, to)
	}
	to.Text("network.transport", transportOf(r.Protocol))
	to.Text("network.type", typeOf(r))
	to.Text("network.io.direction", directionOf(r))
	to.Text("dns.question.name", r.DNSName)
	to.Number(local.packets, r.TransmittedPackets)
	to.Number(local.bytes, r.TransmittedBytes)
	to.Number(peer.packets, r.ReceivedPackets)
	to.Number(peer.bytes, r.ReceivedBytes)
	if r.Protocol == tcpProtocol {
		to.Text(local.flags, flagsOf(r.TransmittedFlags))
		to.Text(peer.flags, flagsOf(r.ReceivedFlags))
	}
	if r.Handshake > 0 {
		to.Float("flow.tcp.handshake", r.Handshake.Seconds())
	}
	to.Number("flow.id", r.Flow)
	to.Text("flow.start", timeOf(r.Start))
	to.Text("flow.last", timeOf(r.Last))
	to.Flag("flow.ended", r.Ended)
	to.Text("flow.verdict", verdictOf(r.Verdict))
	if r.DroppedPackets > 0 {
		to.Number("flow.dropped_packets", r.DroppedPackets)
	}
	to.Text("flow.drop_reason", r.DropReason)
	to.Number("flow.sampled_one_in", max(r.SampledOneIn, 1))
}

func describeEndpoint(e *flowlog.Endpoint, names *endpointNames, protocol int32, to clean) {
	if e.Address.IsValid() {
		to.Text(names.address, e.Address.Unmap().String())
	}
	if e.Port != 0 || protocol == tcpProtocol || protocol == udpProtocol {
		to.Number(names.port, int64(e.Port))
	}
	to.Text(names.namespace, e.Namespace)
	to.Text(names.pod, e.Pod)
	to.Text(names.workloadKind, e.WorkloadKind)
	to.Text(names.workload, e.WorkloadName)
	to.Text(names.serviceNamespace, e.ServiceNamespace)
	to.Text(names.service, e.Service)
	to.Text(names.node, e.Node)
}

const tcpProtocol, udpProtocol = 6, 17

var transports = map[int32]string{1: "icmp", 2: "igmp", tcpProtocol: "tcp", udpProtocol: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 132: "sctp", 136: "udplite"}

// transportOf is the protocol's name in lower case, or its number.
func transportOf(protocol int32) string {
	if name, ok := transports[protocol]; ok {
		return name
	}
	return strconv.Itoa(int(protocol))
}

func typeOf(r *flowlog.Record) string {
	switch {
	case !r.Local.Address.IsValid():
		return ""
	case r.Local.Address.Unmap().Is4():
		return "ipv4"
	}
	return "ipv6"
}

// received tells whether the peer opened the flow.
func received(r *flowlog.Record) bool { return r.Direction == v1alpha1.Direction_DIRECTION_RECEIVE }

func directionOf(r *flowlog.Record) string {
	if received(r) {
		return "receive"
	}
	return "transmit"
}

func verdictOf(v v1alpha1.Verdict) string {
	switch v {
	case v1alpha1.Verdict_VERDICT_FORWARDED:
		return "forwarded"
	case v1alpha1.Verdict_VERDICT_DROPPED:
		return "dropped"
	case v1alpha1.Verdict_VERDICT_REJECTED:
		return "rejected"
	}
	return ""
}

func severityOf(r *flowlog.Record) (int, string) {
	if r.Verdict == v1alpha1.Verdict_VERDICT_DROPPED || r.Verdict == v1alpha1.Verdict_VERDICT_REJECTED {
		return severityWarn, severityWarnText
	}
	return severityInfo, severityInfoText
}

// flagNames are those of TCP's header, from the lowest bit.
var flagNames = [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

func flagsOf(flags int32) string {
	var names []string
	for bit, name := range flagNames {
		if flags&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

func timeOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// summaryOf is a line for people, as "tcp shop/web-0 -> shop/db-0:5432 dropped (NETFILTER_DROP)".
func summaryOf(r *flowlog.Record) string {
	source, destination := &r.Local, &r.Peer
	if received(r) {
		source, destination = destination, source
	}
	line := transportOf(r.Protocol) + " " + whoIs(source) + " -> " + whoIs(destination)
	if destination.Port != 0 {
		line += ":" + strconv.Itoa(int(destination.Port))
	}
	if verdict := verdictOf(r.Verdict); verdict != "" {
		line += " " + verdict
	}
	if r.DropReason != "" {
		line += " (" + r.DropReason + ")"
	}
	return printable(line, textBytes)
}

func whoIs(e *flowlog.Endpoint) string {
	switch {
	case e.Pod != "":
		return e.Namespace + "/" + e.Pod
	case e.Service != "":
		return e.ServiceNamespace + "/" + e.Service
	case e.Node != "":
		return e.Node
	case e.Address.Unmap().Is6():
		return "[" + e.Address.String() + "]"
	}
	return e.Address.Unmap().String()
}

// Fields of opentelemetry/proto/logs/v1.
const (
	resourceLogsField                                 = 1 // of ExportLogsServiceRequest
	resourceField, scopeLogsField, logsSchemaURLField = 1, 2, 3
	scopeField, logRecordsField                       = 1, 2
	logTime, logSeverity, logSeverityText, logBody    = 1, 2, 3, 5
	logAttributes, logObservedTime, logEventName      = 6, 11, 12
)

// EncodeLogs implements Encoder: an ExportLogsServiceRequest.
func (e otlpEncoder) EncodeLogs(records []*flowlog.Record) []byte {
	w := &writer{b: make([]byte, 0, 256+1400*len(records))}
	resource := w.begin(resourceLogsField)
	e.resource(w, nil)
	scope := w.begin(scopeLogsField)
	e.scope(w)
	for _, r := range records {
		e.record(w, r)
	}
	w.end(scope)
	w.text(logsSchemaURLField, schemaURL)
	w.end(resource)
	return w.b[:len(w.b):len(w.b)]
}

func (e otlpEncoder) record(w *writer, r *flowlog.Record) {
	record := w.begin(logRecordsField)
	w.fixed(logTime, uint64(r.Time.UnixNano()))
	severity, text := severityOf(r)
	w.varint(logSeverity, uint64(severity))
	w.text(logSeverityText, text)
	body := w.begin(logBody)
	w.text(stringValue, summaryOf(r))
	w.end(body)
	DescribeFlow(r, logRecord{w})
	w.fixed(logObservedTime, uint64(r.Time.UnixNano()))
	w.text(logEventName, flowEvent)
	w.end(record)
}

// logRecord writes attributes of a LogRecord.
type logRecord struct{ *writer }

func (l logRecord) Text(name, value string) {
	l.textAttribute(logAttributes, name, value)
}
func (l logRecord) Number(name string, value int64)  { l.intAttribute(logAttributes, name, value) }
func (l logRecord) Float(name string, value float64) { l.doubleAttribute(logAttributes, name, value) }
func (l logRecord) Flag(name string, value bool)     { l.boolAttribute(logAttributes, name, value) }
