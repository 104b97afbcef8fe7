// Package example is the worked example of docs/exporters.md: it sends records of flows as datagrams of syslog (RFC 5424),
// with what is known of a flow as structured data. The agent does not run it.
package example

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/networkobservability/networkobservability/nodeagent/export"
	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

// Exporter sends to one syslog server.
type Exporter struct {
	node    string
	address string
	open    net.Conn // nil until something is sent, and after a failure
}

var _ export.Exporter = (*Exporter)(nil)

// New makes an exporter that says it runs on a node. It does not connect yet.
func New(node, address string) *Exporter { return &Exporter{node: node, address: address} }

// EncodeLogs implements export.Encoder. Payloads are appended to each other, so that each message has its length before it.
func (e *Exporter) EncodeLogs(records []*flowlog.Record) []byte {
	var payload []byte
	for _, r := range records {
		message := e.message(r)
		payload = binary.BigEndian.AppendUint16(payload, uint16(len(message)))
		payload = append(payload, message...)
	}
	return payload
}

// EncodeMetrics implements export.Encoder: there are none.
func (*Exporter) EncodeMetrics([]*dto.MetricFamily, time.Time) []export.Batch { return nil }

// Send implements export.Exporter. Nobody answers a datagram, so what was sent counts as arrived.
func (e *Exporter) Send(ctx context.Context, batch export.Batch) (rejected int64, err error) {
	if e.open == nil {
		if e.open, err = new(net.Dialer).DialContext(ctx, "udp", e.address); err != nil {
			return 0, &export.Retry{Err: fmt.Errorf("reaching the syslog server: %w", err)}
		}
	}
	for payload := batch.Payload; len(payload) > 0; {
		size := int(binary.BigEndian.Uint16(payload))
		if _, err := e.open.Write(payload[2 : 2+size]); err != nil {
			_ = e.Close() // it is dialed again
			return 0, &export.Retry{Err: fmt.Errorf("sending to the syslog server: %w", err)}
		}
		payload = payload[2+size:]
	}
	return 0, nil
}

// Close implements export.Exporter.
func (e *Exporter) Close() error {
	if e.open == nil {
		return nil
	}
	err := e.open.Close()
	e.open = nil
	return err
}

// priority is facility local0, severity informational.
const priority = 16*8 + 6

// message has the flow as one element of structured data.
func (e *Exporter) message(r *flowlog.Record) string {
	var element data
	export.DescribeFlow(r, &element)
	return fmt.Sprintf("<%d>1 %s %s networkobservability - flow [flow@32473%s]", priority, r.Time.UTC().Format("2006-01-02T15:04:05.000000Z07:00"), e.node, element.String())
}

// data writes parameters of structured data.
type data struct{ strings.Builder }

var escaped = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`)

func (d *data) Text(name, value string)         { fmt.Fprintf(d, ` %s="%s"`, name, escaped.Replace(value)) }
func (d *data) Number(name string, value int64) { d.Text(name, strconv.FormatInt(value, 10)) }
func (d *data) Float(name string, value float64) {
	d.Text(name, strconv.FormatFloat(value, 'g', -1, 64))
}
func (d *data) Flag(name string, value bool) { d.Text(name, strconv.FormatBool(value)) }
