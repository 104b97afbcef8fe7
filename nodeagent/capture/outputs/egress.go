package outputs

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// egress decides which addresses may be connected to. Names are looked up once for each connection, and what is dialed is
// an address that was checked.
type egress struct {
	// allowed are networks that the operator allows beside public ones.
	allowed []netip.Prefix
	// only, when it is not empty, are all addresses and ports that are allowed.
	only     []netip.AddrPort
	lookup   func(ctx context.Context, host string) ([]netip.Addr, error)
	patience time.Duration
}

// special are the parts of IPv6's global unicast that are not the public Internet, or lead into IPv4 past the check, and
// those of IPv4.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
	"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)

// platforms are where clouds answer machines, and give them credentials, at addresses that look like any other: Azure's
// virtual public address, and Amazon's link-local services in IPv6.
var platforms = prefixes("168.63.129.16/32", "fd00:ec2::/32")

var publicIPv6 = netip.MustParsePrefix("2000::/3")

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// allows tells whether an address may be connected to. Link-local ones and others where clouds keep the credentials of
// machines, and those that are no single machine's, are never allowed.
func (e *egress) allows(a netip.Addr) bool {
	if a.Zone() != "" {
		return false
	}
	a = a.Unmap() // what ::ffff:127.0.0.1 leads to is 127.0.0.1
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	within := func(network netip.Prefix) bool { return network.Contains(a) }
	return !slices.ContainsFunc(platforms, within) && (slices.ContainsFunc(e.allowed, within) || isPublic(a))
}

func isPublic(a netip.Addr) bool {
	if a.Is6() && !publicIPv6.Contains(a) {
		return false
	}
	for _, network := range special {
		if network.Contains(a) {
			return false
		}
	}
	return true
}

const addressesTried = 8

// dial connects to one of the host's addresses that are allowed.
func (e *egress) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, lasting("the endpoint has no port")
	}
	found, err := e.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: e.patience}
	err = lasting("the store's address is not allowed: it is not public, and in none of the networks that the operator allows for this endpoint")
	tried := 0
	for _, a := range found {
		to := net.JoinHostPort(a.Unmap().String(), port)
		if !e.allowsPort(a, to) || tried == addressesTried {
			continue
		}
		tried++
		var connection net.Conn
		if connection, err = dialer.DialContext(ctx, network, to); err == nil {
			return &impatient{Conn: connection, patience: e.patience}, nil
		}
	}
	return nil, err
}

func (e *egress) allowsPort(a netip.Addr, to string) bool {
	if len(e.only) == 0 {
		return e.allows(a)
	}
	for _, one := range e.only {
		if one.String() == to {
			return true
		}
	}
	return false
}

func (e *egress) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.patience)
	defer cancel()
	return e.lookup(ctx, host)
}

func systemLookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// An impatient connection fails when it can send nothing for too long.
type impatient struct {
	net.Conn
	patience time.Duration
}

// Write implements net.Conn.
func (c *impatient) Write(data []byte) (int, error) {
	const step = 64 << 10 // what has to be taken within the time
	written := 0
	for {
		if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(data[written:min(written+step, len(data))])
		written += n
		if err != nil || written == len(data) {
			return written, err
		}
	}
}

// client makes requests of one store: no proxies, no redirects, nothing kept.
type client struct {
	http     *http.Client
	patience time.Duration
}

func newClient(c Config, e *egress) *client {
	e.lookup, e.patience = c.Lookup, c.Patience
	return &client{patience: c.Patience, http: &http.Client{
		Transport: &http.Transport{
			DialContext:            e.dial,
			TLSClientConfig:        &tls.Config{RootCAs: trusted(c.Roots), MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    c.Patience,
			ResponseHeaderTimeout:  c.Patience,
			IdleConnTimeout:        c.Patience,
			MaxIdleConnsPerHost:    1,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
			WriteBufferSize:        32 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// An answer of a store.
type answer struct {
	status int
	header http.Header
	body   []byte
}

const answerBytes = 256 << 10

// do sends a request and reads the answer, whatever its status. The body's bytes are the caller's again afterwards.
func (c *client) do(request *http.Request, data []byte) (*answer, error) {
	ctx, cancel := context.WithCancel(request.Context())
	body := &lent{closed: make(chan struct{})}
	if data != nil {
		body.rest = data
		request.Body, request.ContentLength = body, int64(len(data))
		if len(data) == 0 {
			request.Body = http.NoBody
		}
	}
	if request.Body == body {
		defer func() { <-body.closed }()
	}
	defer cancel() // before the wait: it ends what still reads the body
	response, err := c.http.Do(request.WithContext(ctx))
	if err != nil {
		return nil, explain(err)
	}
	defer response.Body.Close()
	// Stores that are long at work send blanks meanwhile.
	slow, long := time.AfterFunc(c.patience, cancel), time.AfterFunc(10*c.patience, cancel)
	defer slow.Stop()
	defer long.Stop()
	content, err := io.ReadAll(io.LimitReader(watched{response.Body, func() { slow.Reset(c.patience) }}, answerBytes))
	if err != nil {
		return nil, passing("the store did not end its answer")
	}
	return &answer{status: response.StatusCode, header: response.Header, body: content}, nil
}

// watched tells of every byte that comes.
type watched struct {
	io.Reader
	came func()
}

// Read implements io.Reader.
func (w watched) Read(into []byte) (int, error) {
	n, err := w.Reader.Read(into)
	if n > 0 {
		w.came()
	}
	return n, err
}

// lent is a request's body whose bytes are in use until it is closed, which may be after the answer.
type lent struct {
	rest   []byte
	closed chan struct{}
	once   sync.Once
}

// Read implements io.Reader.
func (l *lent) Read(into []byte) (int, error) {
	if len(l.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(into, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (l *lent) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// parseEndpoint parses the URL of a service. It must not hold anything but a scheme, a host and perhaps a path.
func parseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("is not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("has to begin with https:// or http://")
	case u.User != nil:
		return nil, errors.New("must not hold credentials: they belong into a Secret")
	case u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("names no host")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("must not have a query or a fragment")
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), ""
	if u.Path != "" && validatePath(u.Path[1:]) != nil {
		return nil, errors.New("has a path that is not made of letters, digits and . _ = -")
	}
	return u, nil
}
