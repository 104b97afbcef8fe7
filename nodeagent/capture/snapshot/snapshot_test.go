package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// whole is what is read back, as anybody would.
type whole struct {
	Version      int
	Truncated    bool
	Links        list[link]
	Addresses    list[address]
	Neighbours   list[neighbour]
	Routes       list[route]
	Rules        list[rule]
	Nftables     list[nft]
	Sockets      list[socket]
	SocketCounts list[socketCount]
	Sysctls      list[sysctl]
	Counters     list[counter]
}

type list[T any] struct {
	Items   []T
	Omitted int
	Error   string
}

// inNamespace runs do on a thread in a network namespace of its own, which ends with the thread.
func inNamespace(t *testing.T, do func()) {
	t.Helper()
	fakepod.NeedRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("making a network namespace: %v", err)
			return
		}
		do()
	}()
	<-done
}

func take(t *testing.T) (whole, []byte) {
	t.Helper()
	text, err := Take(t.Context())
	if err != nil {
		t.Error(err)
	}
	var got whole
	if err := json.Unmarshal(text, &got); err != nil {
		t.Errorf("%v in %.300s", err, text)
	}
	return got, text
}

// run runs a program in this thread's namespace.
func run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v: %s", name, strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

func runJSON(t *testing.T, into any, name string, arguments ...string) {
	t.Helper()
	if err := json.Unmarshal([]byte(run(t, name, arguments...)), into); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nand not\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func configure(t *testing.T) {
	for _, line := range []string{
		// Else local routes come when it has been tried for a second or two whether others have the links' addresses.
		"sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
		"ip link set lo up",
		"ip link add left type veth peer name right",
		"ip link set left up alias towards-the-right",
		"ip link set right up mtu 1400",
		"ip link add bridge type bridge",
		"ip link set right master bridge",
		"ip addr add 192.0.2.1/24 dev left",
		"ip addr add 2001:db8::1/64 dev left nodad",
		"ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev left nud permanent",
		"ip neigh add 2001:db8::7 lladdr 02:00:00:00:00:07 dev left nud permanent",
		"ip route add 198.51.100.0/24 via 192.0.2.7 dev left metric 50",
		"ip route add default via 192.0.2.7 table 100 mtu 1300",
		"ip route add unreachable 203.0.113.0/24",
		"ip route add 2001:db8:1::/48 via 2001:db8::7",
		"ip route add 10.9.0.0/16 nexthop via 192.0.2.7 weight 2 nexthop via 192.0.2.8 weight 1",
		"ip rule add from 192.0.2.0/24 table 100 priority 1000",
		"ip -6 rule add fwmark 0x10/0xff table 100 priority 1001",
		"sysctl -q -w net.ipv4.ip_forward=1",
		"sysctl -q -w net.ipv4.conf.left.rp_filter=2",
	} {
		fields := strings.Fields(line)
		run(t, fields[0], fields[1:]...)
	}
}

func TestAgreesWithIP(t *testing.T) {
	inNamespace(t, func() {
		configure(t)
		got, _ := take(t)
		names := map[int]string{}
		for _, l := range got.Links.Items {
			names[l.Index] = l.Name
		}
		compareLinks(t, got, names)
		compareAddresses(t, got, names)
		compareNeighbours(t, got, names)
		compareRoutes(t, got, names)
		compareRules(t, got)
		if got.Truncated || got.Version != version {
			t.Errorf("truncated %v, version %d", got.Truncated, got.Version)
		}
		for _, e := range []string{
			got.Links.Error, got.Addresses.Error, got.Neighbours.Error, got.Routes.Error, got.Rules.Error, got.Nftables.Error,
			got.Sockets.Error, got.SocketCounts.Error, got.Sysctls.Error, got.Counters.Error,
		} {
			if e != "" {
				t.Error(e)
			}
		}
	})
}

func compareLinks(t *testing.T, got whole, names map[int]string) {
	t.Helper()
	var links []struct {
		Ifindex, Mtu                       int
		Ifname, Operstate, Ifalias, Master string
	}
	runJSON(t, &links, "ip", "-j", "link")
	var have, want []string
	for _, l := range got.Links.Items {
		have = append(have, fmt.Sprint(l.Index, l.Name, strings.ToUpper(l.State), l.MTU, l.Alias, names[l.Master]))
		if l.Name == "left" && (l.Kind != "veth" || l.Statistics == nil || l.Address == "") {
			t.Errorf("%+v", l)
		}
	}
	for _, l := range links {
		want = append(want, fmt.Sprint(l.Ifindex, l.Ifname, l.Operstate, l.Mtu, l.Ifalias, l.Master))
	}
	same(t, "links", have, want)
}

func compareAddresses(t *testing.T, got whole, names map[int]string) {
	t.Helper()
	var links []struct {
		Ifname string
		Info   []struct {
			Local, Scope string
			Prefixlen    int
		} `json:"addr_info"`
	}
	runJSON(t, &links, "ip", "-j", "addr")
	var have, want []string
	for _, a := range got.Addresses.Items {
		have = append(have, names[a.Link]+" "+a.Address+" "+strings.Replace(a.Scope, "universe", "global", 1))
	}
	for _, l := range links {
		for _, a := range l.Info {
			want = append(want, fmt.Sprintf("%s %s/%d %s", l.Ifname, a.Local, a.Prefixlen, a.Scope))
		}
	}
	same(t, "addresses", have, want)
}

func compareNeighbours(t *testing.T, got whole, names map[int]string) {
	t.Helper()
	var neighbours []struct{ Dst, Dev, Lladdr string }
	runJSON(t, &neighbours, "ip", "-j", "neigh", "show", "nud", "permanent")
	var have, want []string
	for _, n := range got.Neighbours.Items {
		if n.State == "PERMANENT" {
			have = append(have, fmt.Sprint(n.Address, names[n.Link], n.LinkLayer))
		}
	}
	for _, n := range neighbours {
		want = append(want, fmt.Sprint(n.Dst, n.Dev, n.Lladdr))
	}
	same(t, "neighbours", have, want)
}

func compareRoutes(t *testing.T, got whole, names map[int]string) {
	t.Helper()
	var have, want []string
	for _, r := range got.Routes.Items {
		line := fmt.Sprint(r.Table, " ", r.Type, " ", r.Destination, " via ", r.Gateway, " metric ", r.Priority)
		if len(r.Hops) == 0 && r.Type != "unreachable" {
			line += " dev " + names[r.Link]
		}
		for _, h := range r.Hops {
			line += fmt.Sprint(" hop ", h.Gateway, " ", names[h.Link], " ", h.Weight)
		}
		have = append(have, line)
	}
	for _, family := range []string{"-4", "-6"} {
		var routes []struct {
			Type, Dst, Gateway, Dev, Table string
			Metric                         int
			Nexthops                       []struct {
				Gateway, Dev string
				Weight       int
			}
		}
		runJSON(t, &routes, "ip", "-j", family, "-d", "route", "show", "table", "all")
		for _, r := range routes {
			line := fmt.Sprint(table(r.Table), " ", r.Type, " ", destination(r.Dst, family), " via ", r.Gateway, " metric ", r.Metric)
			if len(r.Nexthops) == 0 && r.Type != "unreachable" {
				line += " dev " + r.Dev
			}
			for _, h := range r.Nexthops {
				line += fmt.Sprint(" hop ", h.Gateway, " ", h.Dev, " ", h.Weight)
			}
			want = append(want, line)
		}
	}
	same(t, "routes", have, want)
}

// table is the number of what ip calls by a name.
func table(name string) int {
	if n, ok := map[string]int{"": 254, "main": 254, "local": 255, "default": 253}[name]; ok {
		return n
	}
	n, _ := strconv.Atoi(name)
	return n
}

// destination writes out what ip shortens.
func destination(text, family string) string {
	switch {
	case text == "default" && family == "-4":
		return "0.0.0.0/0"
	case text == "default":
		return "::/0"
	case strings.Contains(text, "/"):
		return text
	case strings.Contains(text, ":"):
		return text + "/128"
	default:
		return text + "/32"
	}
}

func compareRules(t *testing.T, got whole) {
	t.Helper()
	var have, want []string
	for _, r := range got.Rules.Items {
		have = append(have, fmt.Sprint(r.Family, " ", r.Priority, " ", r.Source, " ", r.Mark, " ", r.Table))
	}
	for flag, family := range map[string]string{"-4": "inet", "-6": "inet6"} {
		var rules []struct {
			Priority, Srclen   int
			Src, Fwmark, Table string
		}
		runJSON(t, &rules, "ip", "-j", flag, "rule")
		for _, r := range rules {
			source := ""
			if r.Src != "all" {
				source = fmt.Sprintf("%s/%d", r.Src, r.Srclen)
			}
			mark, _ := strconv.ParseUint(strings.TrimPrefix(r.Fwmark, "0x"), 16, 32)
			want = append(want, fmt.Sprint(family, " ", r.Priority, " ", source, " ", mark, " ", table(r.Table)))
		}
	}
	same(t, "rules", have, want)
}

const ruleset = `
table inet filter {
	set blocked { type ipv4_addr; flags interval; elements = { 198.51.100.0/24, 203.0.113.7 } }
	map ports { type inet_service : verdict; elements = { 22 : accept, 23 : drop } }
	chain input {
		type filter hook input priority 5; policy drop;
		ip saddr @blocked counter drop comment "known to be bad"
		tcp dport vmap @ports
		meta iifname "lo" accept
		ct state established,related accept
		limit rate 10/second burst 7 packets log prefix "odd: " reject
		jump more
	}
	chain more { udp dport 53 return; }
}
table ip nat {
	chain postrouting { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }
}
table netdev early {
	chain in { type filter hook ingress device "lo" priority -10; policy accept; }
}
`

func apply(t *testing.T, rules string) {
	t.Helper()
	command := exec.Command("nft", "-f", "-")
	command.Stdin = strings.NewReader(rules)
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("nft: %v: %.300s", err, output)
	}
}

func TestAgreesWithNft(t *testing.T) {
	inNamespace(t, func() {
		run(t, "ip", "link", "set", "lo", "up")
		apply(t, ruleset)
		got, text := take(t)
		var said struct {
			Nftables []map[string]struct {
				Family, Table, Chain, Name, Hook, Policy, Comment string
				Handle                                            uint64
				Prio                                              *int32
			}
		}
		runJSON(t, &said, "nft", "-j", "list", "ruleset")
		line := func(what, family, table, chain, name string, handle uint64, hook, policy, comment string, priority *int32) string {
			if priority == nil {
				priority = new(int32)
			}
			return strings.Join([]string{what, family, table, chain, name, fmt.Sprint(handle), hook, policy, comment, fmt.Sprint(*priority)}, " ")
		}
		var have, want []string
		for _, n := range got.Nftables.Items {
			switch n.What {
			case "element":
				continue
			case "table":
				n.Name, n.Table = n.Table, ""
			}
			have = append(have, line(n.What, n.Family, n.Table, n.Chain, n.Name, n.Handle, n.Hook, n.Policy, n.Comment, n.HookPriority))
		}
		for _, object := range said.Nftables {
			delete(object, "metainfo")
			for what, n := range object {
				what = strings.Replace(what, "map", "set", 1)
				want = append(want, line(what, n.Family, n.Table, n.Chain, n.Name, n.Handle, n.Hook, n.Policy, n.Comment, n.Prio))
			}
		}
		same(t, "nftables", have, want)
		for _, words := range []string{
			`{"flags":0,"from":1,"set":"blocked","type":"lookup"}`, `{"bytes":0,"packets":0,"type":"counter"}`, `"verdict":"jump"`, `"chain":"more"`,
			`"key":"c6336400"`, `"key":"0016"`, `{"key":"iifname","register":1,"type":"meta"}`, `"prefix":"odd: "`, `"rate":10`, `"type":"masq"`,
		} {
			if !strings.Contains(string(text), words) {
				t.Errorf("there is no %s in %+v", words, got.Nftables)
			}
		}
	})
}

func TestAgreesWithSS(t *testing.T) {
	inNamespace(t, func() {
		run(t, "ip", "link", "set", "lo", "up")
		defer openSockets(t)()
		got, _ := take(t)
		states := map[string]string{"LISTEN": "LISTEN", "ESTABLISHED": "ESTAB", "CLOSE": "UNCONN"}
		var have, want []string
		for _, s := range got.Sockets.Items {
			remote := strings.TrimSuffix(s.Remote, ":0")
			if remote != s.Remote {
				remote += ":*"
			}
			have = append(have, fmt.Sprint(s.Protocol, " ", states[s.State], " ", s.Local, " ", remote, " ", s.ReceiveQueue))
		}
		for line := range strings.Lines(run(t, "ss", "-Htuan")) {
			fields := strings.Fields(line)
			want = append(want, fmt.Sprint(fields[0], " ", fields[1], " ", fields[4], " ", fields[5], " ", fields[2]))
		}
		same(t, "sockets", have, want)
		counts := map[string]int{}
		for _, c := range got.SocketCounts.Items {
			counts[c.Protocol+c.State] += c.Count
		}
		if counts["tcpLISTEN"] != 2 || counts["tcpESTABLISHED"] != 2 || counts["udpCLOSE"] != 1 {
			t.Errorf("%v", counts)
		}
	})
}

// openSockets opens some on this thread, and answers with what closes them. One has bytes that nobody reads.
func openSockets(t *testing.T) func() {
	t.Helper()
	four, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return func() {}
	}
	six, sixErr := net.Listen("tcp", "[::1]:0")
	packets, packetsErr := net.ListenPacket("udp", "127.0.0.1:0")
	connection, dialErr := net.Dial("tcp", four.Addr().String())
	accepted, acceptErr := four.Accept()
	for _, err := range []error{sixErr, packetsErr, dialErr, acceptErr} {
		if err != nil {
			t.Error(err)
			return func() {}
		}
	}
	if _, err := connection.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	return func() {
		accepted.Close()
		connection.Close()
		packets.Close()
		six.Close()
		four.Close()
	}
}

// The node's own namespace has keys that no other one has.
func TestKeysOfNode(t *testing.T) {
	s := &items{room: MaximumBytes}
	if err := readSysctls(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for _, item := range s.Items {
		var one sysctl
		if err := json.Unmarshal(item, &one); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(one.Name, "_key") {
			t.Errorf("%s is told", one.Name)
		}
	}
	if len(s.Items) == 0 {
		t.Error("there are no sysctls")
	}
}

func TestSysctlsAndCounters(t *testing.T) {
	inNamespace(t, func() {
		configure(t)
		got, text := take(t)
		values := map[string]string{}
		for _, s := range got.Sysctls.Items {
			values[s.Name] = s.Value
			if isSecret(s.Name) {
				t.Errorf("%s is told", s.Name)
			}
		}
		for name, want := range map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.conf.left.rp_filter": "2"} {
			if said := strings.TrimSpace(run(t, "sysctl", "-n", name)); values[name] != want || said != want {
				t.Errorf("%s is %q and not %q; sysctl says %q", name, values[name], want, said)
			}
		}
		counters := map[string]int64{}
		for _, c := range got.Counters.Items {
			counters[c.Name] = c.Value
		}
		for _, name := range []string{"Ip.Forwarding", "Tcp.ActiveOpens", "TcpExt.ListenDrops", "snmp6.Ip6InReceives", "sockstat.TCP.inuse"} {
			if _, ok := counters[name]; !ok {
				t.Errorf("there is no counter %s", name)
			}
		}
		if counters["Ip.Forwarding"] != 1 {
			t.Error("the counters are of another namespace")
		}
		t.Logf("%d bytes, %d sysctls, %d counters", len(text), len(values), len(counters))
	})
}

// What is too much is left out, counted, and bounded.
func TestBounds(t *testing.T) {
	room := 0
	for _, s := range sections {
		room += s.bytes
	}
	if room > MaximumBytes-(16<<10) {
		t.Errorf("sections may have %d bytes", room)
	}
	inNamespace(t, func() {
		var rules strings.Builder
		rules.WriteString("table ip big { set s { type ipv4_addr; }; chain c { type filter hook input priority 0; }; }\n")
		for i := range 9000 {
			fmt.Fprintf(&rules, "add rule ip big c ip saddr 10.0.%d.%d tcp dport %d counter accept comment \"rule number %d\"\n", i/250, i%250, i+1, i)
		}
		for i := range 900 {
			fmt.Fprintf(&rules, "add element ip big s { 10.1.%d.%d }\n", i/250, i%250)
		}
		apply(t, rules.String())
		got, text := take(t)
		if !got.Truncated || got.Nftables.Omitted == 0 || len(text) > MaximumBytes {
			t.Errorf("truncated %v, omitted %d, %d bytes", got.Truncated, got.Nftables.Omitted, len(text))
		}
		count := map[string]int{}
		for _, n := range got.Nftables.Items {
			count[n.What]++
		}
		if count["rule"] == 0 || count["element"] != maxElements || count["rule"]+count["element"]+got.Nftables.Omitted < 9000+maxElements {
			t.Errorf("%v are there and %d left out", count, got.Nftables.Omitted)
		}
	})
}

func TestEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Take(ctx); err == nil {
		t.Error("it went on")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{8, 0, 1, 0, 'a', 'b', 0, 0, 5, 0, 2, 0x80, 1})
	f.Add(append([]byte{12, 0, 1, 0, 'c', 'o', 'u', 'n', 't', 'e', 'r', 0}, 12, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 1))
	f.Add([]byte("Tcp: A B\nTcp: 1 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseExpression(b)
		parseData(b)
		comment(b)
		_, err := parseSocket(b, unix.IPPROTO_TCP)
		if (err == nil) != (len(b) >= diagMessageBytes) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
		total := 0
		each(b, func(_ uint16, value []byte) { total += len(value) + unix.SizeofNlAttr })
		if total > len(b) {
			t.Errorf("%d bytes of attributes in %d", total, len(b))
		}
		for _, parse := range []func(string, func(string, string)){parsePairs, parseLines, parseSockstat} {
			parse(string(b), func(string, string) {})
		}
	})
}
