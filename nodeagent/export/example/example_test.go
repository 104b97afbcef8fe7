package example

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/export"
	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Records go the whole way: through the queue, to a server.
func TestExporter(t *testing.T) {
	server, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	exporters := export.New(export.Config{Open: func(wanted *v1alpha1.TelemetryExporter) (export.Exporter, error) {
		return New("node-1", server.LocalAddr().String()), nil
	}})
	exporters.Apply(&v1alpha1.TelemetryConfig{Exporters: []*v1alpha1.TelemetryExporter{{Name: "syslog", FlowLogs: true}}})
	exporters.Log([]*flowlog.Record{record(1), record(2)})

	if err := server.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 64<<10)
	for _, number := range []string{"1", "2"} {
		n, err := server.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		got := string(buffer[:n])
		if !strings.HasPrefix(got, "<134>1 2026-11-01T12:00:00.000000Z node-1 networkobservability - flow [flow@32473 ") ||
			!strings.Contains(got, ` source.k8s.pod.name="web-0" `) || !strings.Contains(got, ` flow.id="`+number+`" `) ||
			!strings.Contains(got, ` dns.question.name="a\"\]\\010b" `) {
			t.Errorf("%q", got)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := exporters.Close(ctx); err != nil {
		t.Error(err)
	}
	if state := exporters.States()[0]; state.Sent != 2 || state.Dropped != 0 {
		t.Errorf("%v", state)
	}
}

func record(number int64) *flowlog.Record {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	return &flowlog.Record{Time: at, Start: at, Last: at, Flow: number, Protocol: 17, Verdict: v1alpha1.Verdict_VERDICT_FORWARDED,
		Local:   flowlog.Endpoint{Address: netip.MustParseAddr("10.1.0.7"), Port: 40312, Namespace: "shop", Pod: "web-0"},
		Peer:    flowlog.Endpoint{Address: netip.MustParseAddr("10.1.0.8"), Port: 53},
		DNSName: "a\"]\nb"}
}
