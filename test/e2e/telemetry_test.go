package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const injected = 200

// nodeStats reads the statistics of one node.
func (c *cluster) nodeStats(t *testing.T, node string) *v1alpha1.NodeNetworkStats {
	t.Helper()
	stats, err := c.stats.NetworkobservabilityV1alpha1().NodeNetworkStats().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("reading statistics of node %s: %v", node, err)
	}
	return stats
}

// dropOnNode drops what a node forwards and matches, without telling anybody, as a network policy does.
func (c *cluster) dropOnNode(t *testing.T, node, table, match string) (heal func()) {
	t.Helper()
	ns := podNetns(t, c.agents(t)[node])
	ns.run(t, fmt.Sprintf(`table inet %s { chain forward { type filter hook forward priority -10; %s; }; }`, table, match), "nft", "-f", "-")
	heal = sync.OnceFunc(func() {
		if out, err := ns.command(context.Background(), "nft", "delete", "table", "inet", table).CombinedOutput(); err != nil {
			t.Errorf("ending the policy: %v: %s", err, out)
		}
	})
	t.Cleanup(heal)
	return heal
}

// dropsOf sums the drops of a pod that match.
func dropsOf(stats *v1alpha1.PodNetworkStats, match func(*v1alpha1.DropCount) bool) (packets int64) {
	if stats.Drops == nil {
		return 0
	}
	for i := range stats.Drops.Reasons {
		if match(&stats.Drops.Reasons[i]) {
			packets += stats.Drops.Reasons[i].Packets
		}
	}
	return packets
}

// TestDrops injects drops, each kind at a port of its own, against nftables' own counters: in the pod, on the way
// through its node, and where nobody listens.
func TestDrops(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	b.sink.netns.run(t, `table inet netobs_drops { chain input { type filter hook input priority 0; udp dport 7001 drop; }; }`, "nft", "-f", "-")
	for _, family := range []string{"ipv4", "ipv6"} {
		sink := address(t, b.sink.Pod, family)
		word := map[string]string{"ipv4": "ip", "ipv6": "ip6"}[family]
		// A policy of the node: what is for the sink ends in the node's own namespace.
		heal := c.dropOnNode(t, b.sink.Spec.NodeName, "netobs_policy_"+family, fmt.Sprintf("%s daddr %s udp dport 7002 drop", word, sink))
		for _, test := range []struct {
			name, port string
			class      v1alpha1.DropClass
			by         v1alpha1.DropAttribution
		}{
			{"nftables in the pod", "7001", v1alpha1.DropPolicy, ""},
			{"a policy on the node", "7002", v1alpha1.DropPolicy, v1alpha1.AttributedByAddress},
			{"nobody listens", "7003", v1alpha1.DropNoSocket, ""},
		} {
			t.Run(family+": "+test.name, func(t *testing.T) {
				port, err := strconv.Atoi(test.port)
				if err != nil {
					t.Fatal(err)
				}
				ours := func(d *v1alpha1.DropCount) bool {
					return d.Port == int32(port) && d.Protocol == "UDP" && d.Class == test.class && d.Direction == v1alpha1.Receive &&
						(test.by == "" || d.AttributedBy == test.by)
				}
				before := c.snapshot(t, b.sink)
				c.exec(t, b.far.Pod, "/bin/traffic", "udp", net.JoinHostPort(sink, test.port), strconv.Itoa(injected), "100", "1ms")
				var got int64
				eventually(t, podDeadline, "drops to be counted", func(context.Context) error {
					after := c.snapshot(t, b.sink)
					got = dropsOf(after.stats["sink"], ours) - dropsOf(before.stats["sink"], ours)
					if got != injected {
						return fmt.Errorf("%d drops, want %d: %+v", got, injected, after.stats["sink"].Drops)
					}
					return nil
				})
			})
		}
		heal()
	}
	t.Run("kubectl shows them", func(t *testing.T) {
		eventually(t, podDeadline, "the column to hold every drop", func(context.Context) error {
			out := c.kubectl(t, "get", "podnetworkstats", "sink", "--namespace", b.sink.Namespace)
			fields := strings.Fields(strings.Split(out, "\n")[1])
			column := slices.Index(strings.Fields(out), "DROPS")
			if thousands, err := strconv.ParseFloat(strings.TrimSuffix(fields[column], "k"), 64); err != nil || 1000*thousands < 6*injected {
				return fmt.Errorf("DROPS is %q, want at least %d:\n%s", fields[column], 6*injected, out)
			}
			return nil
		})
	})
}

// TestConnections opens, refuses and cuts off a known number of connections, against the network namespace's own
// counters where there are any.
func TestConnections(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	b.sink.netns.run(t, `table inet netobs_cut { chain input { type filter hook input priority 0; tcp dport 7004 drop; }; }`, "nft", "-f", "-")
	for _, family := range []string{"ipv4", "ipv6"} {
		t.Run(family, func(t *testing.T) {
			ip := address(t, b.sink.Pod, family)
			before := c.snapshot(t, b.sink, b.far)
			connect := func(port string, count int, timeout, want string) {
				t.Helper()
				if out := c.exec(t, b.far.Pod, "/bin/traffic", "connect", net.JoinHostPort(ip, port), strconv.Itoa(count), timeout); !strings.Contains(out, want) {
					t.Errorf("port %s: %q, want %q", port, out, want)
				}
			}
			connect("9000", 50, "5s", "50 connected")
			connect("7005", 40, "5s", "40 failed")
			connect("7004", 5, "300ms", "5 failed")
			eventually(t, podDeadline, "connections to be counted", func(context.Context) error {
				after := c.snapshot(t, b.sink, b.far)
				old, now := before.stats["far"].Connections, after.stats["far"].Connections
				if old == nil || now == nil {
					return fmt.Errorf("connections are not followed: %s", after.stats["far"].Message)
				}
				got := [4]int64{
					now.OpenedActively - old.OpenedActively, now.Failed.Refused - old.Failed.Refused,
					now.Failed.Abandoned - old.Failed.Abandoned, now.Failed.Timeout - old.Failed.Timeout,
				}
				if want := [4]int64{50, 40, 5, 0}; got != want {
					return fmt.Errorf("opened, refused, abandoned and timed out are %v, want %v", got, want)
				}
				accepted := after.stats["sink"].Connections.OpenedPassively - before.stats["sink"].Connections.OpenedPassively
				if accepted != 50 {
					return fmt.Errorf("the sink accepted %d connections, want 50", accepted)
				}
				if opens := after.stats["far"].Protocols.TCP.ActiveOpens - before.stats["far"].Protocols.TCP.ActiveOpens; opens != 95 {
					return fmt.Errorf("the kernel counts %d attempts, want 95", opens)
				}
				if now.Closed.Smoothed.Count-old.Closed.Smoothed.Count != 50 || now.Closed.Smoothed.P50 == nil {
					return fmt.Errorf("round-trip times are of %d connections, want 50", now.Closed.Smoothed.Count-old.Closed.Smoothed.Count)
				}
				return nil
			})
		})
	}
}

// TestAPIServerLatency has a pod connect to the Service kubernetes, and demands the node's own connections too.
func TestAPIServerLatency(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	pod := c.start(t, c.namespace(t), toolbox("caller", c.nodes(t)[0], "sleep", "600"))[0]
	c.waitMeasured(t, podDeadline, pod) // by then the agent has been told where the API is served
	const calls = 20
	c.exec(t, pod, "sh", "-c", fmt.Sprintf("/bin/traffic connect $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT %d 5s", calls))
	eventually(t, podDeadline, "connections to the API to be measured", func(ctx context.Context) error {
		stats, err := c.get(ctx, pod)
		if err != nil {
			return err
		}
		api := stats.APIServer
		if api == nil || api.Connected != calls || api.Handshake.Count != calls || api.Handshake.P99 == nil || api.RTT.Count < calls || api.Failed != 0 {
			return fmt.Errorf("got %+v, want %d connections: %s", api, calls, stats.Message)
		}
		return nil
	})
}

// TestDNS looks names up through the cluster's own DNS, with nftables as the judge of how many messages passed.
func TestDNS(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	pod := c.start(t, c.namespace(t), toolbox("asker", c.nodes(t)[0], "sleep", "600"))[0]
	ns := podNetns(t, pod)
	ns.run(t, `table inet netobs_dns {
		counter queries { }
		counter responses { }
		chain out { type filter hook output priority 0; udp dport 53 counter name queries; }
		chain in { type filter hook input priority 0; udp sport 53 counter name responses; }
	}`, "nft", "-f", "-")
	counters := counted{Pod: pod, netns: ns}
	c.waitMeasured(t, podDeadline, pod)
	c.exec(t, pod, "sh", "-c", `/bin/traffic dns kubernetes.default.svc.cluster.local 20 0s; /bin/traffic dns nothing.example.invalid 3 0s; true`)
	eventually(t, podDeadline, "look-ups to be counted", func(ctx context.Context) error {
		nft := counters.counters(t)
		stats, err := c.get(ctx, pod)
		if err != nil {
			return err
		}
		dns := stats.DNS
		if dns == nil {
			return fmt.Errorf("DNS is not parsed: %s", stats.Message)
		}
		if dns.Queries != nft["queries"].Packets || dns.Responses != nft["responses"].Packets || dns.Queries < 40 {
			return fmt.Errorf("%d queries and %d responses, by nftables %v", dns.Queries, dns.Responses, nft)
		}
		if dns.Unanswered != 0 || dns.Unparsed != 0 || dns.Errors == 0 || dns.Latency.Count != dns.Responses || dns.Latency.P99 == nil {
			return fmt.Errorf("got %+v", dns)
		}
		if len(dns.TopNames) == 0 || !strings.HasPrefix(dns.TopNames[0].Name, "kubernetes.default.svc.cluster.local") {
			return fmt.Errorf("names are %+v", dns.TopNames)
		}
		if !slices.ContainsFunc(dns.ResponsesByCode, func(r v1alpha1.DNSResponseCount) bool { return r.Code == "NXDOMAIN" }) {
			return fmt.Errorf("codes are %+v", dns.ResponsesByCode)
		}
		return nil
	})
}

// TestNodeTelemetry demands every part of a node's object that this machine can have.
func TestNodeTelemetry(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, node := range c.nodes(t) {
		stats := c.nodeStats(t, node)
		if stats.State != v1alpha1.Measured {
			t.Errorf("node %s is %s: %s", node, stats.State, stats.Message)
		}
		if stats.Drops == nil || stats.Connections == nil || stats.Connections.States.Listen == 0 || stats.Connections.States.Established == 0 {
			t.Errorf("node %s has drops %+v and connections %+v", node, stats.Drops, stats.Connections)
		}
		if stats.APIServer == nil || stats.APIServer.Open == 0 || stats.APIServer.RTT.P99 == nil {
			t.Errorf("node %s reaches the API like this: %+v", node, stats.APIServer)
		}
		if stats.Flows == nil || stats.Flows.Capacity == 0 || stats.Softnet == nil || stats.Softnet.Processed == 0 || stats.SocketMemory == nil || stats.SocketMemory.Sockets == 0 {
			t.Errorf("node %s has flows %+v, softnet %+v, socket memory %+v", node, stats.Flows, stats.Softnet, stats.SocketMemory)
		}
		if stats.Conntrack == nil || stats.Conntrack.Limit == 0 || stats.Conntrack.Entries == 0 {
			t.Errorf("node %s has conntrack %+v", node, stats.Conntrack)
		}
		for _, collector := range stats.Agent.Collectors {
			if collector.State != v1alpha1.CollectorRunning {
				t.Errorf("node %s: collector %s is %s: %s", node, collector.Name, collector.State, collector.Message)
			}
		}
	}
}

// TestWithoutHooks takes every hook of the kernel for missing that is not needed for counting packets. The rest goes on,
// and every object says what is missing.
func TestWithoutHooks(t *testing.T) {
	c := newCluster(t)
	b := newBed(t, c)
	restore := c.useConfig(t, "without-hooks", "withoutHooks: [kfree_skb, inet_sock_set_state, tcp_send_reset, tcp_receive_reset, bpf_sk_storage_map, tcp]")
	for _, node := range c.nodes(t) {
		stats := c.nodeStats(t, node)
		for _, collector := range stats.Agent.Collectors {
			missing := collector.Name == "drops" || collector.Name == "tcp"
			if (collector.State == v1alpha1.CollectorRunning) == missing || missing && !strings.Contains(collector.Message, "taken for missing") {
				t.Errorf("node %s: collector %s is %s: %s", node, collector.Name, collector.State, collector.Message)
			}
		}
	}
	before := c.snapshot(t, b.sink, b.far)
	c.exec(t, b.far.Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, "ipv4"), "500", "300")
	after := c.snapshot(t, b.sink, b.far)
	for _, pod := range []counted{b.sink, b.far} {
		changeOf(pod.Name, before, after).checkEqual(t, pod.Name, wireCells()...)
	}
	restore()
	c.waitMeasured(t, podDeadline, b.sink.Pod, b.far.Pod)
}
