package export

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

var paths = [signals]string{Metrics: "v1/metrics", FlowLogs: "v1/logs"}

// httpExporter speaks OTLP/HTTP with binary protobuf.
type httpExporter struct {
	*collector
	client *http.Client
	zips   sync.Pool // of *gzip.Writer
}

// newHTTP does not connect yet.
func newHTTP(c *collector) Exporter {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: c.timeout}).DialContext,
		TLSClientConfig: c.tls, TLSHandshakeTimeout: c.timeout, ForceAttemptHTTP2: true,
		MaxConnsPerHost: int(signals), MaxIdleConnsPerHost: int(signals), IdleConnTimeout: 90 * time.Second,
		MaxResponseHeaderBytes: answerBytes,
		// A collector whose machine is gone is noticed; otherwise every request would end at its timeout.
		HTTP2: &http.HTTP2Config{SendPingTimeout: deadAfter, PingTimeout: deadAfter},
	}
	return &httpExporter{collector: c, client: &http.Client{
		Transport: transport,
		// Headers and flows are for this destination and no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Send implements Exporter.
func (e *httpExporter) Send(ctx context.Context, batch Batch) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	request, err := e.request(ctx, batch)
	if err != nil {
		return 0, err
	}
	response, err := e.client.Do(request)
	if err != nil {
		return 0, &Retry{Err: e.transport(ctx, err)}
	}
	e.answered.Store(true)
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, answerBytes))
	if response.StatusCode/100 != 2 {
		return 0, e.classify(response)
	}
	if err != nil {
		return 0, nil // it was taken; only what was said beside that is lost
	}
	rejected, _, err := rejectedOf(answer)
	if err != nil {
		return 0, nil
	}
	return rejected, nil
}

func (e *httpExporter) request(ctx context.Context, batch Batch) (*http.Request, error) {
	body := batch.Payload
	if e.gzip {
		body = e.compress(body)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.endpoint.JoinPath(paths[batch.Signal]).String(), bytes.NewReader(body))
	if err != nil {
		return nil, &Refused{Err: e.failure("making a request: %v", err)}
	}
	request.Header = e.headers.Clone()
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("User-Agent", e.agent)
	if e.gzip {
		request.Header.Set("Content-Encoding", "gzip")
	}
	return request, nil
}

func (e *httpExporter) compress(payload []byte) []byte {
	var to bytes.Buffer
	zip, ok := e.zips.Get().(*gzip.Writer)
	if !ok {
		zip = gzip.NewWriter(io.Discard)
	}
	defer e.zips.Put(zip)
	zip.Reset(&to)
	_, _ = zip.Write(payload) // a buffer takes everything
	_ = zip.Close()
	return to.Bytes()
}

// Close implements Exporter.
func (e *httpExporter) Close() error {
	e.client.CloseIdleConnections()
	return nil
}

// transport is an error before there was an answer. The URL, which is long, goes.
func (e *httpExporter) transport(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return e.failure("the collector did not answer within otlp.timeoutSeconds")
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return e.failure("the collector cannot be reached%s: %v", e.unanswered(), err)
}

// classify sorts by the OTLP specification (Failures of OTLP/HTTP). What a body says is left out: it may be anybody's page.
func (e *httpExporter) classify(response *http.Response) error {
	err := e.failure("the collector answered %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	switch response.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &Retry{Err: err, After: retryAfter(response.Header.Get("Retry-After"), time.Now())}
	case http.StatusUnauthorized, http.StatusForbidden:
		return &Refused{Err: err, Reason: reasonUnauthorized}
	case http.StatusRequestEntityTooLarge:
		return &Refused{Err: err, Reason: reasonTooLarge}
	case http.StatusNotFound:
		return &Refused{Err: fmt.Errorf("%w: there is no OTLP/HTTP at otlp.endpoint", err)}
	}
	return &Refused{Err: err}
}

// retryAfter reads seconds or a date (RFC 9110); 0 for what is neither, or past.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		if seconds <= 0 {
			return 0
		}
		return time.Duration(min(seconds, int64(askedAtMost/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
