package export

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	defaultTimeout = 10 * time.Second
	// deadAfter is how long a connection may be silent when it should not be.
	deadAfter = 15 * time.Second
	// answerBytes is how large an answer may be: a collector has little to say.
	answerBytes = 64 << 10
	// messageBytes is how much is kept of what a destination says.
	messageBytes = 300
	userAgent    = "networkobservability-nodeagent"
)

// collector is what is known of a destination that speaks OTLP.
type collector struct {
	otlpEncoder
	endpoint *url.URL
	tls      *tls.Config // nil for http://
	headers  http.Header
	gzip     bool
	timeout  time.Duration
	agent    string // User-Agent
	identity *tls.Certificate
	errors   errorSums
	// asked says that the collector has asked for a certificate, answered that it has answered a request.
	asked, answered atomic.Bool
}

func openOTLP(encoder otlpEncoder, wanted *v1alpha1.OTLPDestination) (Exporter, error) {
	c, err := newCollector(encoder, wanted)
	switch {
	case err != nil:
		return nil, err
	case wanted.GetProblem() != "":
		return nil, errors.New(wanted.GetProblem())
	case wanted.GetNeedsHeaders() && len(wanted.GetHeaders()) == 0, wanted.GetNeedsClientCertificate() && len(wanted.GetClientKey()) == 0:
		return nil, errNeedsSecret
	case wanted.GetHttp():
		return newHTTP(c), nil
	}
	return newGRPC(c)
}

func newCollector(encoder otlpEncoder, wanted *v1alpha1.OTLPDestination) (*collector, error) {
	c := &collector{otlpEncoder: encoder, gzip: wanted.GetGzip(), timeout: time.Duration(wanted.GetTimeoutNano()), agent: userAgent + "/" + encoder.about.Version}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	var err error
	if c.endpoint, err = parseEndpoint(wanted.GetEndpoint()); err != nil {
		return nil, errInvalid("otlp.endpoint", err)
	}
	if c.headers, err = parseHeaders(wanted.GetHeaders()); err != nil {
		return nil, errInvalid("otlp.headersSecret", err)
	}
	if c.endpoint.Scheme == "http" {
		return c, nil
	}
	roots, err := trusted(wanted.GetCaBundle())
	if err != nil {
		return nil, errInvalid("otlp.caBundle", err)
	}
	name := wanted.GetServerName()
	if name == "" {
		name = c.endpoint.Hostname()
	}
	c.tls = &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}
	if c.identity, err = identityOf(wanted); err != nil {
		return nil, errInvalid("otlp.clientCertificateSecret", err)
	}
	c.tls.GetClientCertificate = c.identify
	return c, nil
}

// EncodeMetrics implements Encoder, with sums that do not fall.
func (c *collector) EncodeMetrics(families []*dto.MetricFamily, at time.Time) []Batch {
	resources := resourcesOf(families)
	c.errors.steady(resources)
	return c.encode(resources, at)
}

// identityOf is by what the collector knows the agent; nil for nothing.
func identityOf(wanted *v1alpha1.OTLPDestination) (*tls.Certificate, error) {
	if len(wanted.GetClientKey()) == 0 {
		return nil, nil
	}
	pair, err := tls.X509KeyPair(wanted.GetClientCertificate(), wanted.GetClientKey())
	if err != nil { // what it says is for programmers
		return nil, errors.New("tls.crt and tls.key have to be a certificate and its key, in PEM")
	}
	return &pair, nil
}

// identify is called when a collector asks for a certificate. It gets the one there is, whatever authorities it names: one that
// it does not want is refused with a reason.
func (c *collector) identify(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c.asked.Store(true)
	if c.identity == nil {
		return &tls.Certificate{}, nil
	}
	if until := c.identity.Leaf.NotAfter; time.Now().After(until) {
		return nil, fmt.Errorf("otlp.clientCertificateSecret: the certificate expired at %s; put a renewed one into the Secret", until.UTC().Format(time.RFC3339))
	}
	return c.identity, nil
}

// unanswered is what to look at while a collector has never answered. With TLS 1.3 it refuses a client after the client has taken
// the connection for good, so that why it does gets lost mostly.
func (c *collector) unanswered() string {
	switch {
	case c.answered.Load() || !c.asked.Load():
		return ""
	case c.identity == nil:
		return "; it asks for a client certificate: name one in otlp.clientCertificateSecret"
	}
	return "; it asks for a client certificate and may not accept that of otlp.clientCertificateSecret"
}

// parseEndpoint never quotes the endpoint, in which somebody may have written a password.
func parseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("it is no URL; write https://HOST:PORT")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("it has to begin with https:// or http://")
	case u.Hostname() == "":
		return nil, errors.New("it has no host; write https://HOST:PORT")
	case u.User != nil:
		return nil, errors.New("it must not have a user or password; put an authorization header into headersSecret")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("it must not have a query or fragment")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
	}
	return u, nil
}

// reservedHeaders are what the protocols say themselves.
var reservedHeaders = []string{"connection", "content-encoding", "content-length", "content-type", "host", "te", "trailer", "transfer-encoding", "upgrade", "user-agent"}

// parseHeaders checks the headers of a Secret. Space around values goes: a key of a Secret often ends with a line feed.
func parseHeaders(given map[string]string) (http.Header, error) {
	headers := http.Header{}
	for name, value := range given {
		value = strings.TrimSpace(value)
		lower := strings.ToLower(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return nil, fmt.Errorf("key %q is no name of a header", printable(name, 64))
		case slices.Contains(reservedHeaders, lower) || strings.HasPrefix(lower, "grpc-") || strings.HasSuffix(lower, "-bin"):
			return nil, fmt.Errorf("header %q cannot be set: the protocol does", lower)
		case !httpguts.ValidHeaderFieldValue(value) || strings.ContainsFunc(value, func(r rune) bool { return r > unicode.MaxASCII }):
			return nil, fmt.Errorf("the value of header %q has bytes that no header may have", lower)
		}
		headers.Set(name, value)
	}
	return headers, nil
}

// failure makes an error of what went wrong without any header's value, whatever the destination echoed.
func (c *collector) failure(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	for _, values := range c.headers {
		for _, value := range values {
			text = hide(text, value)
			for _, part := range strings.Fields(value) { // "Bearer TOKEN"
				text = hide(text, part)
			}
		}
	}
	return errors.New(printable(text, messageBytes))
}

// hide leaves words such as "Basic" and numbers that are in every text.
func hide(text, value string) string {
	if len(value) < 4 || slices.Contains([]string{"basic", "bearer", "digest", "token"}, strings.ToLower(value)) {
		return text
	}
	return strings.ReplaceAll(text, value, "[header]")
}

// said is what a destination says, with a separator before it. Nothing when it knows headers, for it may say them in any form.
func (c *collector) said(message string) string {
	if message == "" || len(c.headers) > 0 {
		return ""
	}
	return ": " + message
}

// trusted are the authorities that a collector's certificate may be from.
func trusted(bundle []byte) (*x509.CertPool, error) {
	if len(bundle) == 0 {
		return systemRoots(), nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, errors.New("it has no certificate; give a PEM file of one or more")
	}
	return pool, nil
}

// rejectedOf reads an ExportMetricsServiceResponse or ExportLogsServiceResponse, which are alike: partial_success (1) with
// rejected_data_points or rejected_log_records (1) and error_message (2). Unknown fields are skipped.
func rejectedOf(answer []byte) (rejected int64, message string, err error) {
	err = eachField(answer, func(field protowire.Number, number uint64, content []byte) error {
		if field != 1 || content == nil {
			return nil
		}
		return eachField(content, func(field protowire.Number, number uint64, content []byte) error {
			switch {
			case field == 1 && content == nil:
				rejected = int64(number)
			case field == 2 && content != nil:
				message = string(content)
			}
			return nil
		})
	})
	if err != nil {
		return 0, "", fmt.Errorf("reading the answer: %w", err)
	}
	return max(rejected, 0), message, nil
}

// eachField calls back with varints and with what has a length, which is then not nil.
func eachField(b []byte, call func(field protowire.Number, number uint64, content []byte) error) error {
	for len(b) > 0 {
		field, form, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var number uint64
		var content []byte
		switch form {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			content, n = protowire.ConsumeBytes(b)
		default:
			if n = protowire.ConsumeFieldValue(field, form, b); n >= 0 {
				b = b[n:]
				continue
			}
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := call(field, number, content); err != nil {
			return err
		}
	}
	return nil
}

// printable is text as it may be stored and shown: UTF-8 without control bytes, which are escaped as in zone files (\DDD),
// and not longer than so many bytes.
func printable(text string, limit int) string {
	clean := true
	for i := 0; i < len(text) && clean; i++ {
		clean = text[i] >= ' ' && text[i] < 0x7f
	}
	if clean && len(text) <= limit {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		piece := text[i : i+size]
		if r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) {
			piece = ""
			for _, c := range []byte(text[i : i+size]) {
				piece += fmt.Sprintf(`\%03d`, c)
			}
		}
		if b.Len()+len(piece) > limit {
			break
		}
		b.WriteString(piece)
		i += size
	}
	return b.String()
}
