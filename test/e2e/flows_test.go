package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// flows lists the flows of a namespace that a field selector selects, page by page of a few.
func (c *cluster) flows(ctx context.Context, namespace, selector string) ([]v1alpha1.NetworkFlow, error) {
	var all []v1alpha1.NetworkFlow
	options := metav1.ListOptions{FieldSelector: selector, Limit: 7}
	for {
		page, err := c.stats.NetworkobservabilityV1alpha1().NetworkFlows(namespace).List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("listing flows: %w", err)
		}
		all = append(all, page.Items...)
		if options.Continue = page.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// TestFlows sends known amounts and demands that the flows of every pod sum up to its counters, that both ends show
// them with their names, and that selectors select.
func TestFlows(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	namespace := b.sink.Namespace
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, near := range []bool{true, false} {
			c.exec(t, b.sender(near).Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, family), "500", "300")
			c.exec(t, b.sender(near).Pod, "/bin/traffic", "tcp", target(t, b.sink.Pod, family), "3000000")
		}
	}
	t.Run("sums", func(t *testing.T) {
		eventually(t, podDeadline, "flows to hold every packet", func(ctx context.Context) error {
			flows, err := c.flows(ctx, namespace, "")
			if err != nil {
				return err
			}
			after := c.snapshot(t, b.sink, b.near, b.far)
			for name, stats := range after.stats {
				var sum [4]int64
				for _, flow := range flows {
					if flow.Pod.Name == name {
						sum[0] += flow.Receive.Packets
						sum[1] += flow.Receive.Bytes
						sum[2] += flow.Transmit.Packets
						sum[3] += flow.Transmit.Bytes
					}
				}
				rx, tx := stats.Traffic.Receive, stats.Traffic.Transmit
				if want := [4]int64{rx.Packets, rx.Bytes, tx.Packets, tx.Bytes}; sum != want {
					return fmt.Errorf("flows of %s sum up to %v, its counters are %v", name, sum, want)
				}
				if coverage := stats.Flows.Coverage; coverage == nil || coverage.String() != "1" {
					return fmt.Errorf("%s is covered to %v: %+v", name, coverage, stats.Flows)
				}
			}
			return nil
		})
	})
	t.Run("both ends", func(t *testing.T) {
		for _, test := range []struct{ selector, pod, peer, direction string }{
			{"pod=far,protocol=TCP,port=9000", "far", "sink", "Egress"},
			{"pod=sink,peer.pod=far,protocol=TCP,direction=Ingress", "sink", "far", "Ingress"},
			{"peer=" + address(t, b.sink.Pod, "ipv4") + ",pod=near,protocol=UDP", "near", "sink", "Egress"},
		} {
			flows, err := c.flows(t.Context(), namespace, test.selector)
			if err != nil {
				t.Fatal(err)
			}
			if len(flows) == 0 {
				t.Errorf("%s selects nothing", test.selector)
			}
			for _, flow := range flows {
				if flow.Pod.Name != test.pod || flow.Peer.Kind != v1alpha1.PeerPod || flow.Peer.Name != test.peer || flow.Peer.Namespace != namespace ||
					string(flow.Direction) != test.direction || flow.Verdict != v1alpha1.Forwarded {
					t.Errorf("%s selects %+v", test.selector, flow)
				}
				if flow.Protocol == "TCP" && flow.Direction == v1alpha1.Egress && flow.Handshake == nil {
					t.Errorf("the handshake of %+v was not seen", flow)
				}
				if got, err := c.stats.NetworkobservabilityV1alpha1().NetworkFlows(namespace).Get(t.Context(), flow.Name, metav1.GetOptions{}); err != nil || got.UID != flow.UID {
					t.Errorf("getting %s: %v", flow.Name, err)
				}
			}
		}
		if flows, err := c.flows(t.Context(), namespace, "until=1h"); err != nil || len(flows) != 0 {
			t.Errorf("%d flows began an hour ago (%v)", len(flows), err)
		}
	})
	t.Run("bad selectors", func(t *testing.T) {
		for selector, want := range map[string]string{"prot=TCP": "prot", "port=http": "port", "since=yesterday": "since", "verdict=Lost": "verdict"} {
			_, err := c.flows(t.Context(), namespace, selector)
			if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want a bad request that names %s", selector, err, want)
			}
		}
	})
	t.Run("verdicts", func(t *testing.T) { b.checkVerdicts(t, c) })
	t.Run("follow", func(t *testing.T) { b.checkFollow(t, c) })
}

// checkVerdicts makes flows that are rejected and dropped.
func (b bed) checkVerdicts(t *testing.T, c *cluster) {
	sink := address(t, b.sink.Pod, "ipv4")
	heal := c.dropOnNode(t, b.far.Spec.NodeName, "netobs_verdict", "ip daddr "+sink+" udp dport 7102 drop")
	defer heal()
	c.exec(t, b.far.Pod, "/bin/traffic", "connect", sink+":7101", "1", "5s")
	c.exec(t, b.far.Pod, "/bin/traffic", "udp", sink+":7102", "20", "100")
	eventually(t, podDeadline, "verdicts", func(ctx context.Context) error {
		for _, test := range []struct {
			port    int
			verdict v1alpha1.FlowVerdict
			reason  string
		}{{7101, v1alpha1.Rejected, ""}, {7102, v1alpha1.Dropped, "NETFILTER_DROP"}} {
			selector := "pod=far,port=" + strconv.Itoa(test.port) + ",verdict=" + string(test.verdict)
			flows, err := c.flows(ctx, b.far.Namespace, selector)
			if err != nil {
				return err
			}
			if len(flows) != 1 || flows[0].DropReason != test.reason {
				return fmt.Errorf("%s selects %+v", selector, flows)
			}
		}
		return nil
	})
}

// checkFollow watches, and demands that a new flow is shown soon after its first packet.
func (b bed) checkFollow(t *testing.T, c *cluster) {
	list, err := c.stats.NetworkobservabilityV1alpha1().NetworkFlows(b.far.Namespace).List(t.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	events, err := c.stats.NetworkobservabilityV1alpha1().NetworkFlows(b.far.Namespace).Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "pod=far,port=7103", ResourceVersion: list.ResourceVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	begun := time.Now()
	c.exec(t, b.far.Pod, "/bin/traffic", "udp", address(t, b.sink.Pod, "ipv4")+":7103", "3", "100")
	deadline := time.After(podDeadline)
	for {
		select {
		case event := <-events.ResultChan():
			flow, ok := event.Object.(*v1alpha1.NetworkFlow)
			if ok && event.Type == watch.Deleted && flow.DeletionTimestamp != nil && flow.StartTime == nil {
				continue // Of a flow from before the watch that left the history, nobody knows whether the client has it.
			}
			if !ok || event.Type != watch.Added || flow.Peer.Port != 7103 {
				t.Errorf("got %s of %+v", event.Type, event.Object)
			}
			t.Logf("a new flow was shown %v after it was begun, starting a program in the pod included", time.Since(begun))
		case <-deadline:
			t.Error("the new flow is not shown")
		}
		return
	}
}
