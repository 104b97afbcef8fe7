package pcapfilter

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// resolveFixed knows a few names, as a caller would.
func resolveFixed(n Name) ([]netip.Addr, error) {
	addresses := map[Name]string{
		{Name: "web"}:                      "10.1.2.3",
		{Name: "web", Namespace: "shop"}:   "10.1.2.3 10.1.2.4 2001:db8::1",
		{Name: "empty"}:                    "",
		{Name: "my-web-1"}:                 "10.2.0.1",
		{Name: "ip"}:                       "1.2.3.4",
		{Service, "shop", "web"}:           "10.1.3.3",
		{Pod, "shop", "web-0"}:             "2001:db8::2",
		{Pod, "shop", "web-0.old"}:         "192.168.1.1",
		{Object: Pod, Name: "10"}:          "10.1.2.4",
		{Object: Service, Name: "port"}:    "::ffff:10.1.2.4",
		{Object: Service, Name: "tcp-syn"}: "10.1.2.4",
	}
	list, ok := addresses[n]
	if !ok {
		return nil, fmt.Errorf("there is no Service or Pod of this name; kubectl get services,pods lists them")
	}
	var all []netip.Addr
	for _, a := range strings.Fields(list) {
		all = append(all, netip.MustParseAddr(a))
	}
	return all, nil
}

// transcript rewrites each line "> filter" of a file with what answer says to it, and fails if that differs.
func transcript(t *testing.T, file string, answer func(text string) string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "#") || line == "\n" {
			b.WriteString(line)
		}
		if text, ok := strings.CutPrefix(line, "> "); ok {
			b.WriteString(line + answer(strings.TrimSuffix(text, "\n")))
		}
	}
	if b.String() == string(data) {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want := strings.Split(string(data), "\n")
	for i, line := range strings.Split(b.String(), "\n") {
		if i >= len(want) || line != want[i] {
			t.Fatalf("%s:%d: got %q; look at the difference after go test ./apiserver/pcapfilter -update", file, i+1, line)
		}
	}
	t.Fatalf("%s is longer than what is answered", file)
}

func TestErrors(t *testing.T) {
	transcript(t, "testdata/errors.txt", func(text string) string {
		_, err := Compile(text, Options{Resolve: resolveFixed})
		if err == nil {
			return "compiles\n"
		}
		return err.Error() + "\n"
	})
}

// TestPrograms keeps the programs of some filters, for machines without tcpdump.
func TestPrograms(t *testing.T) {
	transcript(t, "testdata/programs.txt", func(text string) string {
		p, err := Compile(text, Options{Resolve: resolveFixed, SnapLen: 128})
		if err != nil {
			return err.Error() + "\n"
		}
		var b strings.Builder
		for i, raw := range p.Instructions {
			fmt.Fprintf(&b, "%3d %04x %d %d %#x\n", i, raw.Op, raw.Jt, raw.Jf, raw.K)
		}
		fmt.Fprintf(&b, "headers only: %v\n", p.HeadersOnly)
		return b.String()
	})
}

func TestErrorPosition(t *testing.T) {
	_, err := Compile("tcp and blah", Options{})
	var e *Error
	if !errors.As(err, &e) || e.Offset != 8 || e.Token != "blah" {
		t.Fatalf("got %#v, want an *Error at byte 8 about blah", err)
	}
	_, err = Compile("tcp and ", Options{})
	if !errors.As(err, &e) || e.Offset != 8 || e.Token != "" {
		t.Fatalf("got %#v, want an *Error at the end, byte 8", err)
	}
}

// TestErrorsAreEscaped checks that control bytes of a filter do not reach a terminal by way of an error.
func TestErrorsAreEscaped(t *testing.T) {
	for _, text := range []string{"tcp \x1b[2J", "host \\a\x1b[31m", "\xff\xfe", "port \u202e", "host \\\x07"} {
		_, err := Compile(text, Options{Resolve: resolveFixed})
		if err == nil {
			t.Errorf("%q compiles", text)
			continue
		}
		for _, c := range []byte(err.Error()) {
			if c < ' ' || c > '~' {
				t.Errorf("%q: the error has the byte %#x: %q", text, c, err)
			}
		}
	}
}

// TestNames compares filters with names with the same filters with addresses.
func TestNames(t *testing.T) {
	for named, plain := range map[string]string{
		"host web":                       "host 10.1.2.3",
		"host web.shop":                  "host 10.1.2.3 or host 10.1.2.4 or host 2001:db8::1",
		"ip host web.shop":               "ip host 10.1.2.3 or ip host 10.1.2.4",
		"ip6 src host web.shop":          "ip6 src host 2001:db8::1",
		"arp host web.shop":              "arp host 10.1.2.3 or arp host 10.1.2.4",
		"src svc/web.shop":               "src 10.1.3.3",
		"src or dst pod/web-0.shop":      "host 2001:db8::2",
		"host pod/web-0.old.shop":        "host 192.168.1.1",
		"host my-web-1 and port 80":      "host 10.2.0.1 and port 80",
		`host \ip`:                       "host 1.2.3.4",
		"host pod/10":                    "host 10.1.2.4",
		"host svc/port":                  "host 10.1.2.4",
		"host svc/tcp-syn":               "host 10.1.2.4",
		"host web or my-web-1":           "host 10.1.2.3 or 10.2.0.1",
		"host (web or 1.2.3.4) and tcp":  "host (10.1.2.3 or 1.2.3.4) and tcp",
		"not host web and not svc/port":  "not host 10.1.2.3 and not 10.1.2.4",
		"dst host web and not (port 80)": "dst host 10.1.2.3 and not (port 80)",
	} {
		a, err := Compile(named, Options{Resolve: resolveFixed})
		if err != nil {
			t.Errorf("%s: %v", named, err)
			continue
		}
		b, err := Compile(plain, Options{})
		if err != nil {
			t.Fatalf("%s: %v", plain, err)
		}
		compareOn(t, named, true, a.Instructions, b.Instructions, makePackets(2000, 3))
		if !a.HeadersOnly {
			t.Errorf("%s: names are addresses, which are in headers", named)
		}
	}
}

func TestResolveOncePerName(t *testing.T) {
	calls := map[Name]int{}
	_, err := Compile("host web or host web or src web", Options{Resolve: func(n Name) ([]netip.Addr, error) {
		calls[n]++
		return resolveFixed(n)
	}})
	if err != nil || calls[Name{Name: "web"}] != 1 || len(calls) != 1 {
		t.Fatalf("got %v and calls %v, want one", err, calls)
	}
}

func TestEmptyAcceptsAll(t *testing.T) {
	for _, text := range []string{"", "  \n\t"} {
		p, err := Compile(text, Options{SnapLen: 96})
		if err != nil || len(p.Instructions) != 1 || run(p.Instructions, &packet{}) != 96 || !p.HeadersOnly {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
}

func TestSnapLen(t *testing.T) {
	p, err := Compile("ip", Options{SnapLen: 128})
	if err != nil {
		t.Fatal(err)
	}
	frame := &packet{data: append(make([]byte, 12), 8, 0)}
	if got := run(p.Instructions, frame); got != 128 {
		t.Errorf("an IPv4 packet is answered %d, want 128", got)
	}
	frame.data[13] = 6
	if got := run(p.Instructions, frame); got != 0 {
		t.Errorf("an ARP packet is answered %d, want 0", got)
	}
}

func BenchmarkCompile(b *testing.B) {
	var hosts []string
	for i := range 100 {
		hosts = append(hosts, fmt.Sprintf("10.1.2.%d", i))
	}
	for name, text := range map[string]string{
		"port":     "tcp port 80",
		"flags":    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not net 10.1.0.0/16",
		"100hosts": "host " + strings.Join(hosts, " or "),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Compile(text, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
