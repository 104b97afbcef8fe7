package pcapfilter

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// list returns n texts with words between them.
func list(n int, before, between string, f func(i int) string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = f(i)
	}
	return before + strings.Join(all, between)
}

// TestBounds compiles texts that are as large as they may be, or larger. The optimizer's steps are bounded, so none
// takes long; what does not fit is refused with an error that says so.
func TestBounds(t *testing.T) {
	t.Parallel()
	address := func(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255) }
	for name, c := range map[string]struct{ text, want string }{
		"too long":          {strings.Repeat(" ", MaxText+1), "longer than 65536 bytes"},
		"as long as can be": {strings.Repeat(" ", MaxText-2) + "ip", ""},
		"parentheses":       {strings.Repeat("(", 30000) + "ip" + strings.Repeat(")", 30000), "nested more than"},
		"some parentheses":  {strings.Repeat("(", 90) + "ip" + strings.Repeat(")", 90), ""},
		"negations":         {strings.Repeat("!", 60000) + "ip", "nested more than"},
		"minus signs":       {"ip[" + strings.Repeat("-", 60000) + "1]=1", "nested more than"},
		"indices":           {strings.Repeat("ip[", 20000) + "1", "nested more than"},
		"some indices":      {strings.Repeat("ip[", 40) + "1" + strings.Repeat("]", 40) + "=1", ""},
		"a long sum":        {list(13000, "", "+", func(i int) string { return "len" }) + "=1", "instructions and the kernel takes"},
		"a constant sum":    {"len = " + list(9000, "", " + ", func(i int) string { return "1" }), ""},
		"a product of 0":    {list(5000, "", "*", func(i int) string { return "ip[0]" }) + "*0 = 1", "takes too long to compile"},
		"registers":         {"ip[0] = " + list(20, "", "|(", func(i int) string { return "ip[1]" }) + strings.Repeat(")", 19), "more than the kernel's 16 registers"},
		"powers":            {"len = " + list(20000, "", "%", func(i int) string { return "3" }), "nested more than"},
		"many ports":        {list(6000, "port ", " or ", func(i int) string { return fmt.Sprint(i) }), "has grown too complex"},
		"some ports":        {list(150, "port ", " or ", func(i int) string { return fmt.Sprint(3 * i) }), ""},
		"many hosts":        {list(4000, "host ", " or ", address), "has grown too complex"},
		"some hosts":        {list(300, "host ", " or ", address), ""},
		"many IPv4 hosts":   {list(1200, "ip host ", " or ", address), "instructions and the kernel takes"},
		"bytes":             {list(1500, "", " or ", func(i int) string { return fmt.Sprintf("ether[%d]=%d", i*7%97, i%256) }), ""},
		"alternating":       {list(2500, "", " or ", func(i int) string { return []string{"tcp", "udp", "not ip", "port 5"}[i%4] }), ""},
		"one name":          {"host " + strings.Repeat("a", 60000), "expected the name of a Service or Pod"},
		"one number":        {"len = " + strings.Repeat("9", 60000), "does not fit into 32 bits"},
		"colons":            {"host " + strings.Repeat("1:", 30000), ""},
		"dots":              {"host " + strings.Repeat("1.", 30000) + "1", "expected the name"},
		"vlans":             {list(3000, "", " and ", func(int) string { return "vlan" }), "has grown too complex"},
		"labels":            {list(500, "", " and ", func(i int) string { return fmt.Sprintf("mpls %d", i) }), ""},
		"tunnels":           {list(6, "", " and ", func(int) string { return "geneve" }), "registers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Compile(c.text, Options{Resolve: resolveFixed})
			switch {
			case err != nil && (c.want == "" && name != "alternating" && name != "colons" || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %.300v, want an error with %q", err, c.want)
			case err == nil && c.want != "":
				t.Errorf("got %d instructions, want an error with %q", len(p.Instructions), c.want)
			case err == nil:
				checkKernel(t, name, p.Instructions)
			}
			if err != nil && len(err.Error()) > 600 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

// TestAddressesAreBounded gives a name more addresses than a filter may have, and as many as it may.
func TestAddressesAreBounded(t *testing.T) {
	t.Parallel()
	resolve := func(n int) func(Name) ([]netip.Addr, error) {
		return func(Name) ([]netip.Addr, error) {
			var all []netip.Addr
			for i := range n {
				all = append(all, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
			}
			return all, nil
		}
	}
	if _, err := Compile("host web", Options{Resolve: resolve(maxAddresses + 1)}); err == nil || !strings.Contains(err.Error(), "more than 512 addresses") {
		t.Errorf("got %v", err)
	}
	p, err := Compile("host web", Options{Resolve: resolve(maxAddresses)})
	if err != nil {
		t.Fatal(err)
	}
	checkKernel(t, "host web", p.Instructions)
	if _, err := Compile("host web and not host web", Options{Resolve: resolve(maxAddresses)}); err == nil {
		t.Error("twice as many addresses are not refused")
	}
}

// TestLongJumps checks programs with jumps that need more than 8 bits against the filters that they are made of.
func TestLongJumps(t *testing.T) {
	hosts := make([]string, 300)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("host 10.1.%d.%d", i%5, i%7)
	}
	whole, err := Compile("("+strings.Join(hosts, " or ")+") and tcp", Options{})
	if err != nil {
		t.Fatal(err)
	}
	var parts []*Program
	for _, text := range hosts {
		p, err := Compile(text+" and tcp", Options{})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, p)
	}
	for _, p := range makePackets(500, 13) {
		if len(p.data) < 80 {
			continue // cut within its headers: the order of tests shows
		}
		any := uint32(0)
		for _, part := range parts {
			any = max(any, run(part.Instructions, p))
		}
		if got := run(whole.Instructions, p); got != any {
			t.Fatalf("%d, the parts say %d (%s)", got, any, p.kind)
		}
	}
}
