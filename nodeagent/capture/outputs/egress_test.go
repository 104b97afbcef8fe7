package outputs

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAllowedAddresses(t *testing.T) {
	public := egress{}
	private := egress{allowed: prefixes("10.0.0.0/8", "127.0.0.0/8", "fd00::/8", "0.0.0.0/0", "::/0")}
	for text, want := range map[string]struct{ public, private bool }{
		"93.184.215.14":          {true, true},
		"2606:4700::1111":        {true, true},
		"::ffff:93.184.215.14":   {true, true},
		"127.0.0.1":              {false, true},
		"::ffff:127.0.0.1":       {false, true},
		"::1":                    {false, true},
		"10.1.2.3":               {false, true},
		"::ffff:10.1.2.3":        {false, true},
		"172.31.255.255":         {false, true},
		"192.168.0.1":            {false, true},
		"100.100.100.200":        {false, true},
		"192.0.0.192":            {false, true},
		"198.18.0.1":             {false, true},
		"fd00:ec3::254":          {false, true},
		"fd00:ec2::254":          {false, false},
		"168.63.129.16":          {false, false},
		"::ffff:168.63.129.16":   {false, false},
		"fec0::1":                {false, true},
		"64:ff9b::7f00:1":        {false, true}, // translated to 127.0.0.1
		"2002:7f00:1::":          {false, true}, // tunnelled to it
		"2001:0:7f00:1::":        {false, true},
		"240.0.0.1":              {false, true},
		"169.254.169.254":        {false, false},
		"::ffff:169.254.169.254": {false, false},
		"169.254.170.23":         {false, false},
		"fe80::1":                {false, false},
		"fe80::1%eth0":           {false, false},
		"2606:4700::1111%eth0":   {false, false},
		"0.0.0.0":                {false, false},
		"::":                     {false, false},
		"224.0.0.1":              {false, false},
		"ff02::1":                {false, false},
		"255.255.255.255":        {false, false},
	} {
		a := netip.MustParseAddr(text)
		if got := public.allows(a); got != want.public {
			t.Errorf("%s is allowed: %v", text, got)
		}
		if got := private.allows(a); got != want.private {
			t.Errorf("%s is allowed by every network: %v", text, got)
		}
	}
	if public.allows(netip.Addr{}) {
		t.Error("no address is allowed")
	}
}

// quick are pauses that a test can wait for.
func quick() Config {
	return Config{RetryAfter: time.Millisecond, RetryAtMost: 5 * time.Millisecond, RetryFor: 50 * time.Millisecond, Patience: 10 * time.Second}.withDefaults()
}

func get(t *testing.T, c *client, url string) (*answer, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.do(request, nil)
}

// pair listens at one port of two addresses.
func pair(t *testing.T, first, second string) (net.Listener, net.Listener) {
	t.Helper()
	for range 100 {
		a, err := net.Listen("tcp", first+":0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(a.Addr().String())
		if b, err := net.Listen("tcp", second+":"+port); err == nil {
			return a, b
		}
		a.Close()
	}
	t.Fatal("no port is free at both addresses")
	return nil, nil
}

// A name that leads elsewhere the next time leads nowhere then, and what was checked is what was connected to.
func TestRebinding(t *testing.T) {
	var inside, outside atomic.Int32
	store, internal := pair(t, "127.0.0.2", "127.0.0.1")
	for listener, count := range map[net.Listener]*atomic.Int32{store: &outside, internal: &inside} {
		server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { count.Add(1) })}}
		server.Start()
		t.Cleanup(server.Close)
	}
	config := quick()
	lookups := 0
	config.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		lookups++
		if lookups == 1 {
			return []netip.Addr{netip.MustParseAddr("127.0.0.2")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("169.254.169.254")}, nil
	}
	c := newClient(config, &egress{allowed: prefixes("127.0.0.2/32")})
	defer c.close()
	_, port, _ := net.SplitHostPort(store.Addr().String())
	if _, err := get(t, c, "http://store.example:"+port); err != nil || outside.Load() != 1 || lookups != 1 {
		t.Fatalf("%v, %d requests, %d lookups", err, outside.Load(), lookups)
	}
	c.close()
	_, err := get(t, c, "http://store.example:"+port)
	var f *failure
	if !errors.As(err, &f) || !f.lasting || !strings.Contains(f.reason, "not allowed") || inside.Load() != 0 {
		t.Errorf("%v, %d requests", err, inside.Load())
	}
	for _, literal := range []string{"127.0.0.1", "[::ffff:127.0.0.1]", "0x7f000001", "2130706433"} {
		if _, err := get(t, c, "http://"+literal+":"+port); err == nil || inside.Load() != 0 {
			t.Errorf("%s: %v, %d requests", literal, err, inside.Load())
		}
	}
}

func TestNoProxy(t *testing.T) {
	var visits atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	defer proxy.Close()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	config := quick()
	config.Lookup = func(context.Context, string) ([]netip.Addr, error) { return nil, &net.DNSError{IsNotFound: true} }
	c := newClient(config, &egress{allowed: prefixes("127.0.0.0/8")})
	defer c.close()
	_, err := get(t, c, "http://store.example/secret")
	if err == nil || err.Error() != "the store's name has no address" || visits.Load() != 0 {
		t.Errorf("%v, %d visits", err, visits.Load())
	}
}

// A certificate that nobody vouches for, and one for another name, are refused, and nothing of them is repeated.
func TestCertificates(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	config := quick()
	config.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	for _, url := range []string{server.URL, "https://store.test:" + port} {
		c := newClient(config, &egress{allowed: prefixes("127.0.0.0/8")})
		_, err := get(t, c, url)
		c.close()
		var f *failure
		if !errors.As(err, &f) || !f.lasting || f.reason != "the store's certificate is not trusted, or not for its name" {
			t.Errorf("%s: %v", url, err)
		}
		config.Roots = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs // trusted, and of another name
	}
	c := newClient(config, &egress{allowed: prefixes("127.0.0.0/8")})
	defer c.close()
	if _, err := get(t, c, "https://example.com:"+port); err != nil { // the name that it is for
		t.Error(err)
	}
	if _, err := get(t, c, "https://"+plain(t)); err == nil || err.Error() != "the store does not speak TLS as it should" {
		t.Error(err)
	}
}

func plain(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// An answer that never ends does not fill memory.
func TestEndlessAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	c := newClient(quick(), &egress{allowed: prefixes("127.0.0.0/8")})
	defer c.close()
	said, err := get(t, c, server.URL)
	if err != nil || len(said.body) != answerBytes {
		t.Errorf("%v", err)
	}
}

func TestEndpoints(t *testing.T) {
	for text, good := range map[string]bool{
		"https://s3.example.com": true, "http://127.0.0.1:9000": true, "https://s3.example.com/below/": true, "https://[2001:db8::1]:443": true,
		"": false, "s3.example.com": false, "ftp://s3.example.com": false, "https://": false, "https://user:password@s3.example.com": false,
		"https://key@s3.example.com": false, "https://s3.example.com?token=1": false, "https://s3.example.com#x": false, "https://s3.example.com/../x": false,
		"https://s3.example.com/%2e%2e/x": false, "https:s3.example.com": false, "https://s3.example.com\x00": false, "https://s3.example.com/a b": false,
	} {
		if _, err := parseEndpoint(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		} else if err != nil && strings.Contains(err.Error(), "password") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestRoots(t *testing.T) {
	if mozilla().Equal(x509.NewCertPool()) {
		t.Error("Mozilla trusts nobody")
	}
	given := x509.NewCertPool()
	if trusted(given) != given || trusted(nil).Equal(given) {
		t.Error("other authorities are trusted than those that are given, or none")
	}
}
