package export

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	logsservice "go.opentelemetry.io/proto/otlp/collector/logs/v1"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// both runs a test over gRPC and over HTTP.
func both(t *testing.T, run func(t *testing.T, overHTTP bool)) {
	t.Run("gRPC", func(t *testing.T) { run(t, false) })
	t.Run("HTTP", func(t *testing.T) { run(t, true) })
}

func (s *sink) serve(t *testing.T, overHTTP bool, certificate *tls.Certificate) (stop func()) {
	t.Helper()
	switch {
	case overHTTP && certificate != nil:
		return s.serveHTTP(t, "/below", &tls.Config{Certificates: []tls.Certificate{*certificate}})
	case overHTTP:
		return s.serveHTTP(t, "/below", nil)
	case certificate != nil:
		return s.serveGRPC(t, "127.0.0.1:0", credentials.NewServerTLSFromCert(certificate))
	}
	return s.serveGRPC(t, "127.0.0.1:0", nil)
}

// Metrics and flow logs arrive over TLS, under another name than the address, with headers.
func TestOTLP(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		certificate, bundle := authority(t, "collector.monitoring.svc")
		s := newSink()
		s.serve(t, overHTTP, &certificate)
		s.bundle = bundle
		wanted := toSink(s, overHTTP)
		wanted.Metrics = true
		wanted.GetOtlp().ServerName = "collector.monitoring.svc"
		wanted.GetOtlp().NeedsHeaders = true
		wanted.GetOtlp().Headers = map[string]string{"Authorization": "Bearer canary-7261\n", "x-tenant": "network"}
		e := exporters(t, nil)
		e.Apply(configOf(wanted))
		e.Log(flows(0, 1000))
		s.await(t, "records and metrics", func() bool { return len(s.records) == 1000 && s.points > 0 })
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, number := range s.records {
			if number != fmt.Sprint(i) {
				t.Fatalf("record %d is %s", i, number)
			}
		}
		for name, want := range map[string]string{"authorization": "Bearer canary-7261", "x-tenant": "network"} {
			got := http.Header{}
			for name, values := range s.headers[0] {
				got[http.CanonicalHeaderKey(name)] = values
			}
			if got.Get(name) != want {
				t.Errorf("%s: %q", name, got.Get(name))
			}
		}
		if agent := fmt.Sprint(s.headers[0]["user-agent"], s.headers[0]["User-Agent"]); !strings.Contains(agent, "networkobservability-nodeagent/v1.2.3") {
			t.Errorf("user agent %s", agent)
		}
	})
}

func withDelay(code codes.Code, delay time.Duration) error {
	answer, err := status.New(code, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	if err != nil {
		return err
	}
	return answer.Err()
}

// The table of the OTLP specification.
func TestWhatIsTriedAgain(t *testing.T) {
	grpc := map[codes.Code]bool{codes.Canceled: true, codes.DeadlineExceeded: true, codes.Aborted: true, codes.OutOfRange: true, codes.Unavailable: true, codes.DataLoss: true}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		e := &grpcExporter{collector: &collector{}}
		var retry *Retry
		if got := errors.As(e.classify(status.New(code, "x")), &retry); got != grpc[code] {
			t.Errorf("%v is tried again: %v", code, got)
		}
	}
	e := &grpcExporter{collector: &collector{}}
	var retry *Retry
	if err := e.classify(status.Convert(withDelay(codes.ResourceExhausted, 7*time.Second))); !errors.As(err, &retry) || retry.After != 7*time.Second {
		t.Errorf("%v", err)
	}
	again := []int{429, 502, 503, 504}
	for _, code := range []int{300, 301, 307, 308, 400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 501, 502, 503, 504, 505} {
		e := &httpExporter{collector: &collector{}}
		response := &http.Response{StatusCode: code, Header: http.Header{"Retry-After": []string{"3"}}}
		if got := errors.As(e.classify(response), &retry); got != slices.Contains(again, code) {
			t.Errorf("%d is tried again: %v", code, got)
		} else if got && retry.After != 3*time.Second {
			t.Errorf("%d after %v", code, retry.After)
		}
	}
}

// What gRPC says of a connection that it could not make is said without its layers; what a collector says is told apart.
func TestUnavailable(t *testing.T) {
	e := &grpcExporter{collector: &collector{endpoint: &url.URL{Host: "collector.example.com:4317"}}}
	for said, want := range map[string]string{
		noAddress: "the collector cannot be reached: DNS has no address for collector.example.com",
		`connection error: desc = "transport: Error while dialing: dial tcp 192.0.2.1:9: i/o timeout"`: "the collector cannot be reached: dial tcp 192.0.2.1:9: i/o timeout",
		`last connection error: connection error: desc = "transport: authentication handshake failed: tls: first record does not look like a TLS handshake"`: "the collector cannot be reached: " +
			"tls: first record does not look like a TLS handshake",
		"connection error: desc = unquoted": "the collector cannot be reached: connection error: desc = unquoted",
		"data refused":                      "the collector cannot be reached, or is overloaded (Unavailable): data refused",
	} {
		var retry *Retry
		if err := e.classify(status.New(codes.Unavailable, said)); !errors.As(err, &retry) || retry.Error() != want {
			t.Errorf("of %q: %v", said, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "0": 0, "x": 0, "99999999999999": askedAtMost,
		now.Add(90 * time.Second).Format(http.TimeFormat): 90*time.Second - 5, now.Add(-time.Hour).Format(http.TimeFormat): 0} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	d := &destination{config: Config{RetryAfter: time.Second, RetryAtMost: 30 * time.Second}}
	for failures, most := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 6: 30 * time.Second, 1000: 30 * time.Second} {
		if got := d.backoff(failures, 0); got < most/2 || got > most {
			t.Errorf("after %d failures %v", failures, got)
		}
	}
	if got := d.backoff(1, time.Nanosecond); got != d.config.RetryAfter {
		t.Errorf("asked to wait for a nanosecond: %v", got)
	}
	if got := d.backoff(1, time.Hour); got != askedAtMost {
		t.Errorf("asked to wait an hour: %v", got)
	}
}

// Batches that come to nothing at first arrive later, and those that never would are counted.
func TestTriedAgain(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		s := newSink()
		s.answer = func(attempt int) error {
			if attempt <= 3 {
				return []error{status.Error(codes.Unavailable, "starting"), withDelay(codes.ResourceExhausted, time.Millisecond), status.Error(codes.Aborted, "x")}[attempt-1]
			}
			return nil
		}
		s.http = func(attempt int, w http.ResponseWriter) bool {
			if attempt <= 3 {
				w.WriteHeader([]int{503, 429, 504}[attempt-1])
				return true
			}
			return false
		}
		s.serve(t, overHTTP, nil)
		e := exporters(t, nil)
		e.Apply(configOf(toSink(s, overHTTP)))
		e.Log(flows(0, 100))
		s.await(t, "the records", func() bool { return len(s.records) == 100 })
		if c := e.settled(t, "collector", FlowLogs); c.sent != 100 || c.droppedInAll() != 0 {
			t.Errorf("sent %d, dropped %v", c.sent, c.dropped)
		}
		s.mu.Lock()
		s.answer = func(int) error { return status.Error(codes.InvalidArgument, "no") }
		s.http = func(_ int, w http.ResponseWriter) bool { w.WriteHeader(400); return true }
		s.mu.Unlock()
		e.Log(flows(100, 10))
		c := e.settled(t, "collector", FlowLogs)
		if c.sent != 100 || c.dropped[reasonRefused] != 10 {
			t.Errorf("sent %d, dropped %v", c.sent, c.dropped)
		}
		e.await(t, "the refusal to be told", func(states []*v1alpha1.TelemetryExporterState) bool {
			state := states[0]
			return state.Failing && !state.Reaching && state.Sent == 100 && state.Dropped == 10 && state.Message != ""
		})
	})
}

// settled waits until nothing waits for a destination, and until that was noted.
func (e *Exporters) settled(t *testing.T, name string, s Signal) counts {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		c, waiting := e.tally(name, s)
		if waiting == 0 && c.given > 0 {
			return c
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d still wait", waiting)
		}
	}
}

func TestPartialSuccess(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		s := newSink()
		s.rejects = 3
		s.serve(t, overHTTP, nil)
		e := exporters(t, nil)
		e.Apply(configOf(toSink(s, overHTTP)))
		e.Log(flows(0, 10))
		c := e.settled(t, "collector", FlowLogs)
		if c.sent != 7 || c.dropped[reasonRejected] != 3 {
			t.Errorf("sent %d, dropped %v", c.sent, c.dropped)
		}
	})
}

// Whatever a collector echoes, no error says what is in the Secret.
func TestErrorsWithoutHeaders(t *testing.T) {
	const canary = "canary-0b51d8e2"
	both(t, func(t *testing.T, overHTTP bool) {
		certificate, bundle := authority(t, "collector")
		for _, failure := range []string{"echo", "unreachable", "untrusted", "plain", "invalid"} {
			s := newSink()
			s.answer = func(int) error {
				return status.Errorf(codes.Unauthenticated, "%q is wrong, and so is %q", canary, "Bearer "+canary)
			}
			s.http = func(_ int, w http.ResponseWriter) bool {
				w.WriteHeader(401)
				fmt.Fprint(w, canary)
				return true
			}
			stop := s.serve(t, overHTTP, &certificate)
			s.bundle = bundle
			wanted := toSink(s, overHTTP)
			wanted.GetOtlp().ServerName, wanted.GetOtlp().Headers = "collector", map[string]string{"authorization": "Bearer " + canary, "x-key": canary}
			switch failure {
			case "unreachable":
				stop()
			case "untrusted":
				wanted.GetOtlp().CaBundle = nil
			case "plain": // HTTP without TLS to a server with it answers with text
				wanted.GetOtlp().Endpoint = strings.Replace(s.url, "https://", "http://", 1)
			case "invalid":
				wanted.GetOtlp().Headers["x-key"] = "\x00" + canary
			}
			told := make(chan string, 100)
			e := exporters(t, func(c *Config) { c.Failed = func(_ string, err error) { told <- fmt.Sprint(err) } })
			e.Apply(configOf(wanted))
			e.Log(flows(0, 1))
			select {
			case text := <-told:
				text += e.States()[0].GetMessage()
				if strings.Contains(text, canary) || !e.States()[0].GetFailing() {
					t.Errorf("%s: %q", failure, text)
				}
				t.Logf("%s: %s", failure, e.States()[0].GetMessage())
			case <-time.After(patience):
				t.Errorf("%s: no failure", failure)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = e.Close(ctx) // the record cannot be sent
		}
	})
}

// A redirect is not followed: headers and flows are for the one destination.
func TestNoRedirects(t *testing.T) {
	other := newSink()
	other.serveHTTP(t, "/below", nil)
	s := newSink()
	s.http = func(_ int, w http.ResponseWriter) bool {
		w.Header().Set("Location", other.url+"/v1/logs")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
	s.serveHTTP(t, "/below", nil)
	e := exporters(t, nil)
	e.Apply(configOf(toSink(s, true)))
	e.Log(flows(0, 1))
	if c := e.settled(t, "collector", FlowLogs); c.dropped[reasonRefused] != 1 || other.seen != 0 {
		t.Errorf("dropped %v, the other saw %d", c.dropped, other.seen)
	}
}

func TestInvalidDestinations(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1alpha1.OTLPDestination)
		want   string
	}{
		"scheme":   {func(o *v1alpha1.OTLPDestination) { o.Endpoint = "ftp://x" }, "otlp.endpoint"},
		"host":     {func(o *v1alpha1.OTLPDestination) { o.Endpoint = "https://:1" }, "otlp.endpoint"},
		"password": {func(o *v1alpha1.OTLPDestination) { o.Endpoint = "https://u:secret@h:1" }, "otlp.endpoint"},
		"path":     {func(o *v1alpha1.OTLPDestination) { o.Endpoint = "https://h:1/path" }, "otlp.endpoint"},
		"bundle":   {func(o *v1alpha1.OTLPDestination) { o.CaBundle = []byte("x") }, "otlp.caBundle"},
		"header":   {func(o *v1alpha1.OTLPDestination) { o.Headers = map[string]string{"a b": "x"} }, "otlp.headersSecret"},
		"reserved": {func(o *v1alpha1.OTLPDestination) { o.Headers = map[string]string{"Content-Type": "x"} }, "otlp.headersSecret"},
		"value":    {func(o *v1alpha1.OTLPDestination) { o.Headers = map[string]string{"a": "secret\x01"} }, "otlp.headersSecret"},
		"problem":  {func(o *v1alpha1.OTLPDestination) { o.Problem = "the Secret x is not there" }, "the Secret x is not there"},
		"waiting":  {func(o *v1alpha1.OTLPDestination) { o.NeedsHeaders = true }, "waiting for headers"},
	} {
		wanted := &v1alpha1.OTLPDestination{Endpoint: "https://h:1"}
		c.change(wanted)
		_, err := open(Config{}, &v1alpha1.TelemetryExporter{Name: "x", To: &v1alpha1.TelemetryExporter_Otlp{Otlp: wanted}})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a collector answers is read within bounds, and agrees with the code that is generated.
func FuzzAnswer(f *testing.F) {
	for _, partial := range []*logsservice.ExportLogsPartialSuccess{nil, {}, {RejectedLogRecords: 3, ErrorMessage: "too old"}, {RejectedLogRecords: -3}} {
		encoded, err := proto.Marshal(&logsservice.ExportLogsServiceResponse{PartialSuccess: partial})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, answer []byte) {
		rejected, message, err := rejectedOf(answer)
		var want logsservice.ExportLogsServiceResponse
		if proto.Unmarshal(answer, &want) != nil {
			return // text that is not UTF-8, groups within groups: whatever we say of it, we live
		}
		if err != nil || rejected != max(want.GetPartialSuccess().GetRejectedLogRecords(), 0) || message != want.GetPartialSuccess().GetErrorMessage() {
			t.Errorf("%d %q %v, want %v", rejected, message, err, &want)
		}
	})
}
