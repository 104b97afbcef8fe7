package export

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

// jsonEncoder makes a line of JSON of each record, with the names that the attributes have in OTLP.
type jsonEncoder struct{ about about }

// EncodeLogs implements Encoder.
func (e jsonEncoder) EncodeLogs(records []*flowlog.Record) []byte {
	line := &jsonLine{b: make([]byte, 0, 1400*len(records))}
	for _, r := range records {
		_, severity := severityOf(r)
		line.b = append(line.b, `{"timestamp":"`...)
		line.b = r.Time.UTC().AppendFormat(line.b, time.RFC3339Nano)
		line.b = append(line.b, '"')
		line.Text("severity", severity)
		line.Text("event", flowEvent)
		named := clean{line}
		named.Text("k8s.cluster.name", e.about.Cluster)
		named.Text("k8s.node.name", e.about.Node)
		DescribeFlow(r, line)
		line.b = append(line.b, "}\n"...)
	}
	return line.b[:len(line.b):len(line.b)]
}

// EncodeMetrics implements Encoder: there are no lines of metrics.
func (jsonEncoder) EncodeMetrics([]*dto.MetricFamily, time.Time) []Batch { return nil }

// A jsonLine is an object of which the first field was written.
type jsonLine struct{ b []byte }

// name writes a field's name, which has nothing to escape.
func (l *jsonLine) name(name string) {
	l.b = append(l.b, `,"`...)
	l.b = append(l.b, name...)
	l.b = append(l.b, `":`...)
}

func (l *jsonLine) Text(name, value string) {
	l.name(name)
	l.b = append(l.b, '"')
	for _, c := range []byte(value) { // in which JSON escapes two bytes, for there is no control byte
		if c == '"' || c == '\\' {
			l.b = append(l.b, '\\')
		}
		l.b = append(l.b, c)
	}
	l.b = append(l.b, '"')
}

func (l *jsonLine) Number(name string, value int64) {
	l.name(name)
	l.b = strconv.AppendInt(l.b, value, 10)
}

func (l *jsonLine) Float(name string, value float64) {
	l.name(name)
	l.b = strconv.AppendFloat(l.b, value, 'g', -1, 64)
}

func (l *jsonLine) Flag(name string, value bool) {
	l.name(name)
	l.b = strconv.AppendBool(l.b, value)
}

// stdout writes lines to a stream that cannot be told to hurry: whoever reads it may have stopped.
type stdout struct {
	jsonEncoder
	to     io.Writer
	free   chan struct{} // has room while something is being written
	broken bool          // the last line is not whole
}

func newStdout(encoder jsonEncoder, to io.Writer) *stdout {
	return &stdout{jsonEncoder: encoder, to: to, free: make(chan struct{}, 1)}
}

// Send implements Exporter. What cannot be written is dropped: nobody knows how much of it came through.
func (s *stdout) Send(ctx context.Context, batch Batch) (int64, error) {
	select {
	case s.free <- struct{}{}:
	case <-ctx.Done():
		return 0, &Retry{Err: ctx.Err()}
	}
	written := make(chan error, 1)
	go func() {
		defer func() { <-s.free }()
		payload := batch.Payload
		if s.broken {
			payload = append([]byte{'\n'}, payload...)
		}
		_, err := s.to.Write(payload)
		s.broken = err != nil
		written <- err
	}()
	select {
	case err := <-written:
		if err != nil {
			return 0, &Refused{Err: fmt.Errorf("writing to standard output: %w", err), Reason: "write_failed"}
		}
		return 0, nil
	case <-ctx.Done():
		return 0, &Refused{Err: fmt.Errorf("writing to standard output: %w", ctx.Err()), Reason: "write_failed"}
	}
}

// Close implements Exporter. Standard output is not ours to close.
func (*stdout) Close() error { return nil }
