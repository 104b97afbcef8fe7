package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// table counts what a pod receives and sends, by family, apart from loopback: the kernel's own packet filter
// is the independent judge. It counts buffers and their bytes at IP level. Frames to another host's address,
// which a bridge floods while it does not know where that host is, end before the inet chains, belong in no
// total, and are counted apart. Neighbours are asked now and then whether they are still there: what a pod sends
// for that is in discovery6 too, for comparisons with what a receiver counts of a test's own packets.
const table = `
table netdev netobs_e2e {
	counter receive4flooded { }
	counter receive6flooded { }
	chain flooded {
		type filter hook ingress device eth0 priority 0;
		meta pkttype other ether type ip counter name receive4flooded
		meta pkttype other ether type ip6 counter name receive6flooded
	}
}
table inet netobs_e2e {
	counter receive4 { }
	counter receive4other { }
	counter receive6 { }
	counter receive6other { }
	counter transmit4 { }
	counter transmit4other { }
	counter transmit6 { }
	counter transmit6other { }
	counter discovery6 { }
	%s
	chain receive {
		type filter hook prerouting priority -500;
		iifname "lo" return
		%s
		ip daddr { 224.0.0.0/4, 255.255.255.255 } counter name receive4other return
		ip6 daddr ff00::/8 counter name receive6other return
		meta nfproto ipv4 counter name receive4
		meta nfproto ipv6 counter name receive6
	}
	chain transmit {
		type filter hook postrouting priority 500;
		oifname "lo" return
		ip daddr { 224.0.0.0/4, 255.255.255.255 } counter name transmit4other return
		ip6 daddr ff00::/8 counter name transmit6other return
		ip6 nexthdr icmpv6 counter name discovery6
		meta nfproto ipv4 counter name transmit4
		meta nfproto ipv6 counter name transmit6
	}
}
`

// A count is what one nftables counter holds.
type count struct {
	Packets int64 `json:"packets"`
	Bytes   int64 `json:"bytes"`
}

func (c count) minus(d count) count { return count{c.Packets - d.Packets, c.Bytes - d.Bytes} }

// A counted pod has the tables above in its network namespace.
type counted struct {
	*corev1.Pod
	netns netns
}

// count puts the tables into a pod's network namespace. extra are further counters of what it receives, by
// name, each with its match.
func (c *cluster) count(t *testing.T, pod *corev1.Pod, extra map[string]string) counted {
	t.Helper()
	var declared, rules []string
	for name, match := range extra {
		declared = append(declared, "counter "+name+" { }")
		rules = append(rules, match+" counter name "+name)
	}
	ns := podNetns(t, pod)
	ns.run(t, fmt.Sprintf(table, strings.Join(declared, "\n"), strings.Join(rules, "\n")), "nft", "-f", "-")
	return counted{Pod: pod, netns: ns}
}

// counters reads all counters of the tables, by name.
func (p counted) counters(t *testing.T) map[string]count {
	t.Helper()
	var answer struct {
		Objects []struct {
			Counter *struct {
				Name string `json:"name"`
				count
			} `json:"counter"`
		} `json:"nftables"`
	}
	out := p.netns.run(t, "", "nft", "--json", "list", "counters")
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("reading nftables' answer: %v", err)
	}
	counters := map[string]count{}
	for _, object := range answer.Objects {
		if object.Counter != nil {
			counters[object.Counter.Name] = object.Counter.count
		}
	}
	return counters
}

// A snapshot is both counts of some pods at one moment, by pod.
type snapshot struct {
	stats map[string]*v1alpha1.PodNetworkStats
	nft   map[string]map[string]count
}

// snapshot reads nftables, the API, and nftables again, until both readings of nftables agree and the API's
// lies between them. The pods must be quiet by then, and in one namespace.
func (c *cluster) snapshot(t *testing.T, pods ...counted) (s snapshot) {
	t.Helper()
	eventually(t, podDeadline, "both counts of one quiet moment", func(ctx context.Context) (err error) {
		s.nft = readAll(t, pods)
		if s.stats, err = c.statsSince(ctx, time.Now(), pods); err != nil {
			return err
		}
		if !reflect.DeepEqual(s.nft, readAll(t, pods)) {
			return errors.New("packets passed meanwhile")
		}
		return nil
	})
	return s
}

// statsSince lists the pods' statistics if all were read on their nodes after a moment: answers may be shared
// between callers for up to a second.
func (c *cluster) statsSince(ctx context.Context, moment time.Time, pods []counted) (map[string]*v1alpha1.PodNetworkStats, error) {
	list, err := c.stats.NetworkobservabilityV1alpha1().PodNetworkStats(pods[0].Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing statistics: %w", err)
	}
	found := map[string]*v1alpha1.PodNetworkStats{}
	for i := range list.Items {
		found[list.Items[i].Name] = &list.Items[i]
	}
	for _, pod := range pods {
		stats := found[pod.Name]
		switch {
		case stats == nil:
			return nil, fmt.Errorf("no statistics of %s", pod.Name)
		case stats.Traffic == nil:
			return nil, fmt.Errorf("%s is %s without traffic: %s", pod.Name, stats.State, stats.Message)
		case stats.Timestamp.Time.Before(moment):
			return nil, fmt.Errorf("statistics of %s are of %v, before %v", pod.Name, stats.Timestamp, moment)
		}
	}
	return found, nil
}

func readAll(t *testing.T, pods []counted) map[string]map[string]count {
	t.Helper()
	all := map[string]map[string]count{}
	for _, pod := range pods {
		all[pod.Name] = pod.counters(t)
	}
	return all
}

// cells are the counters of an object that nftables counts too, by the names that the table has for them.
func cells(stats *v1alpha1.PodNetworkStats) map[string]v1alpha1.TrafficCounters {
	receive, transmit := stats.Traffic.Receive, stats.Traffic.Transmit
	return map[string]v1alpha1.TrafficCounters{
		"receive4": receive.IPv4.Unicast, "receive4other": receive.IPv4.NonUnicast,
		"receive6": receive.IPv6.Unicast, "receive6other": receive.IPv6.NonUnicast,
		"transmit4": transmit.IPv4.Unicast, "transmit4other": transmit.IPv4.NonUnicast,
		"transmit6": transmit.IPv6.Unicast, "transmit6other": transmit.IPv6.NonUnicast,
	}
}

// A change is by how much both counts of one pod rose between two snapshots.
type change struct {
	stats map[string]v1alpha1.TrafficCounters
	nft   map[string]count
}

func changeOf(pod string, before, after snapshot) change {
	c := change{stats: map[string]v1alpha1.TrafficCounters{}, nft: map[string]count{}}
	old := cells(before.stats[pod])
	for name, now := range cells(after.stats[pod]) {
		c.stats[name] = v1alpha1.TrafficCounters{
			Packets: now.Packets - old[name].Packets,
			Bytes:   now.Bytes - old[name].Bytes,
			Buffers: now.Buffers - old[name].Buffers,
		}
	}
	for name, now := range after.nft[pod] {
		c.nft[name] = now.minus(before.nft[pod][name])
	}
	return c
}

// withoutDiscovery is what a pod sent to single destinations by its statistics, less what it asked its neighbours.
func (c change) withoutDiscovery(digit string) count {
	sent := c.stats["transmit"+digit]
	left := count{sent.Packets, sent.Bytes}
	if digit == "6" {
		left = left.minus(c.nft["discovery6"])
	}
	return left
}

// wireCells are all names in a table that both sides count.
func wireCells() []string {
	var names []string
	for _, direction := range []string{"receive", "transmit"} {
		for _, family := range []string{"4", "6"} {
			names = append(names, direction+family, direction+family+"other")
		}
	}
	return names
}

// checkEqual demands that the statistics rose as nftables did, where every buffer was one packet. No cell may
// differ, by anything.
func (c change) checkEqual(t *testing.T, pod string, names ...string) {
	t.Helper()
	for _, name := range names {
		got, want := c.stats[name], c.nft[name]
		if got.Packets != want.Packets || got.Bytes != want.Bytes || got.Buffers != want.Packets {
			t.Errorf("%s, %s: statistics rose by %+v, nftables by %+v", pod, name, got, want)
		}
	}
}
