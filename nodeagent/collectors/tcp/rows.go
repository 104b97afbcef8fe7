package tcp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
	bpf "github.com/networkobservability/networkobservability/bpf/tcp"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/histograms"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// ReadPod fills in the pod's connections, and those to the Kubernetes API. The error says what is missing, and why.
func (s *snapshot) ReadPod(pod *podmap.Pod, row *v1alpha1.PodStats) (err error) {
	number := headers.PodNumber(pod.Key)
	if row.Connections, row.ApiServer, err = s.fill(number); err != nil {
		return err
	}
	now := s.pods[number]
	switch {
	case pod.HostNetwork:
	case now != nil && now.namespace == pod.NetnsCookie:
		row.Connections.TimeWait = now.timeWait
	default:
		s.text, err = pod.ReadFile("net/sockstat", s.text[:0])
		row.Connections.TimeWait, err = timeWait(s.text, err)
	}
	row.Additional = lost(row.Additional, "sockets_not_followed", s.totals.NotFollowed)
	return errors.Join(s.collector.incomplete, err)
}

// ReadNode fills in the same of the node's network namespace.
func (s *snapshot) ReadNode(row *v1alpha1.NodeStats) (err error) {
	if row.Connections, row.ApiServer, err = s.fill(headers.Node); err != nil {
		return err
	}
	row.Connections.TimeWait, err = timeWait(os.ReadFile("/proc/thread-self/net/sockstat"))
	row.Additional = lost(row.Additional, "sockets_not_followed", s.totals.NotFollowed)
	row.Additional = lost(row.Additional, "events_missed", s.collector.missed())
	return errors.Join(s.collector.incomplete, err)
}

// lost adds a counter of what could not be counted, unless there is nothing.
func lost(counters []*v1alpha1.Counter, name string, value uint64) []*v1alpha1.Counter {
	if value == 0 {
		return counters
	}
	return append(counters, &v1alpha1.Counter{Collector: "tcp", Name: name, Value: int64(value)})
}

func (s *snapshot) fill(number uint64) (*v1alpha1.Connections, *v1alpha1.APIServer, error) {
	if s.problem != nil {
		return nil, nil, s.problem
	}
	err := s.collector.traced.Maps[bpf.MapTotals].Lookup(number, &s.totals)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil, errors.New("counting has not begun yet")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading totals: %w", err)
	}
	now := s.pods[number]
	if now == nil {
		now = &live{}
	}
	open := now.open
	if open == nil {
		open = &nothingOpen
	}
	connections := counters(&s.totals)
	addLive(connections, now)
	if !s.brief {
		connections.OpenSmoothedRtt = histograms.Wire(&open.smoothed)
		connections.OpenMinimumRtt = histograms.Wire(&open.minimum)
	}
	s.collector.mu.Lock()
	known := s.collector.apiKnown
	s.collector.mu.Unlock()
	if !known {
		return connections, nil, nil
	}
	api := &v1alpha1.APIServer{
		Handshake: histograms.Wire(&s.totals.Latencies[bpf.APIHandshake]),
		ClosedRtt: histograms.Wire(&s.totals.Latencies[bpf.APIClosedRTT]),
		Connected: int64(s.totals.APIConnected),
		Failed:    int64(s.totals.APIFailed),
		Open:      now.apiOpen,
	}
	if !s.brief {
		api.Rtt = histograms.Wire(&s.totals.Latencies[bpf.APIClosedRTT], &open.api)
	}
	return connections, api, nil
}

// nothingOpen is of a pod without open connections.
var nothingOpen openRTT

func counters(t *bpf.Totals) *v1alpha1.Connections {
	return &v1alpha1.Connections{
		StartUnixNano:         t.StartUnixNano,
		OpenedActively:        int64(t.OpenedActively),
		OpenedPassively:       int64(t.OpenedPassively),
		FailedRefused:         int64(t.Failed[bpf.Refused]),
		FailedTimeout:         int64(t.Failed[bpf.Timeout]),
		FailedUnreachable:     int64(t.Failed[bpf.Unreachable]),
		FailedAbandoned:       int64(t.Failed[bpf.Abandoned]),
		FailedOther:           int64(t.Failed[bpf.Other]),
		ResetsSent:            int64(t.ResetsSent),
		ResetsReceived:        int64(t.ResetsReceived),
		BytesAcked:            int64(t.Sums.BytesAcked),
		BytesReceived:         int64(t.Sums.BytesReceived),
		SegmentsSent:          int64(t.Sums.SegmentsSent),
		SegmentsReceived:      int64(t.Sums.SegmentsReceived),
		SegmentsRetransmitted: int64(t.Sums.SegmentsRetransmitted),
		ClosedSmoothedRtt:     histograms.Wire(&t.Latencies[bpf.ClosedSmoothedRTT]),
		ClosedMinimumRtt:      histograms.Wire(&t.Latencies[bpf.ClosedMinimumRTT]),
	}
}

func addLive(c *v1alpha1.Connections, l *live) {
	c.SynSent = l.byState[bpf.SynSent]
	c.SynReceived = l.byState[bpf.SynReceived] + l.requests
	c.Established = l.byState[bpf.Established]
	c.FinWait1 = l.byState[bpf.FinWait1]
	c.FinWait2 = l.byState[bpf.FinWait2]
	c.CloseWait = l.byState[bpf.CloseWait]
	c.LastAck = l.byState[bpf.LastAck]
	c.Closing = l.byState[bpf.Closing]
	c.Listen = l.byState[bpf.Listen]
}

// timeWait finds the number of sockets in TIME_WAIT in /proc/PID/net/sockstat ("TCP: inuse 4 orphan 0 tw 2 alloc 5
// mem 1"). It counts both IP versions.
func timeWait(text []byte, err error) (int64, error) {
	if err != nil {
		return 0, fmt.Errorf("reading net/sockstat: %w", err)
	}
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte("TCP:"))
		if !ok {
			continue
		}
		fields := bytes.Fields(rest)
		for i := 0; i+1 < len(fields); i += 2 {
			if string(fields[i]) == "tw" {
				number, err := strconv.ParseUint(string(fields[i+1]), 10, 31)
				if err != nil {
					return 0, fmt.Errorf("parsing net/sockstat: %w", err)
				}
				return int64(number), nil
			}
		}
	}
	return 0, errors.New("parsing net/sockstat: there is no TCP tw")
}
