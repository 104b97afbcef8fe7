package scrape

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/util/flowcontrol"
)

func TestAnswersAreKept(t *testing.T) {
	w := newWorld(t, nil)
	asked := func(want int64, when string) {
		t.Helper()
		if n := w.api.tokens.Load(); n != want {
			t.Errorf("%s: %d questions, want %d", when, n, want)
		}
	}
	for range 5 {
		w.code("good")
		w.code("forged")
	}
	asked(2, "five scrapes each")
	w.clock.step(noFor)
	w.code("forged")
	asked(3, "after a no has expired")
	w.clock.step(yesFor - noFor - 1)
	w.code("good")
	asked(3, "shortly before a yes expires")
	w.clock.step(1)
	w.code("good")
	asked(4, "after it has")
	w.do("GET", "/metrics/retina", "Bearer good")
	asked(5, "another page")
}

func TestRightThatIsTakenAway(t *testing.T) {
	w := newWorld(t, nil)
	if code := w.code("good"); code != 200 {
		t.Fatal(code)
	}
	w.api.revoked.Store(true)
	if code := w.code("good"); code != 200 {
		t.Errorf("while the yes is good: %d", code)
	}
	w.clock.step(yesFor)
	if code := w.code("good"); code != 403 {
		t.Errorf("after it: %d", code)
	}
	// A no stays one when nobody answers any more.
	w.api.down.Store(true)
	w.clock.step(noFor)
	if code := w.code("good"); code != 503 {
		t.Errorf("when nobody answers: %d", code)
	}
	w.api.down.Store(false)
	w.api.revoked.Store(false)
	if code := w.code("good"); code != 200 {
		t.Errorf("given back: %d", code)
	}
}

func TestWhileTheAPIDoesNotAnswer(t *testing.T) {
	w := newWorld(t, nil)
	w.code("good")
	w.api.down.Store(true)
	w.clock.step(yesFor)
	for range 3 {
		if code := w.code("good"); code != 200 {
			t.Errorf("a little longer: %d", code)
		}
	}
	response, body := w.do("GET", "/metrics", "Bearer stranger")
	if response.StatusCode != 503 || response.Header.Get("Retry-After") == "" || !strings.Contains(body, "did not answer") || strings.Contains(body, "etcd") {
		t.Errorf("a stranger gets %d %q", response.StatusCode, body)
	}
	w.do("GET", "/metrics", "") // which asks nothing and says nothing about the API
	w.clock.step(longer)
	if code := w.code("good"); code != 503 {
		t.Errorf("too long: %d", code)
	}
	err := <-w.failures
	if !strings.Contains(err.Error(), "asking who may get /metrics: reviewing a token: ") || len(w.failures) != 0 {
		t.Errorf("told of %v and %d more", err, len(w.failures))
	}
	if strings.Contains(err.Error(), "good") {
		t.Errorf("the token was told: %v", err)
	}
	w.api.down.Store(false)
	if code := w.code("good"); code != 200 {
		t.Errorf("when it answers again: %d", code)
	}
}

func TestEqualQuestionsAreAskedOnce(t *testing.T) {
	w := newWorld(t, func(w *world) { w.api.hold = make(chan struct{}) })
	const scrapes = 20
	var all sync.WaitGroup
	codes := make(chan int, scrapes)
	for range scrapes {
		all.Go(func() {
			codes <- w.server.reviews.ask(t.Context(), "Bearer good", "/metrics").code
		})
	}
	close(w.api.hold)
	all.Wait()
	close(codes)
	for code := range codes {
		if code != 200 {
			t.Errorf("one got %d", code)
		}
	}
	if tokens, access := w.api.tokens.Load(), w.api.access.Load(); tokens != 1 || access != 1 {
		t.Errorf("%d and %d questions", tokens, access)
	}
}

// However many tokens are made up, few are asked about, and scrapers go on.
func TestFloodOfTokens(t *testing.T) {
	w := newWorld(t, func(w *world) {
		// No token comes back while the test runs.
		w.server.reviews.strangers = flowcontrol.NewTokenBucketRateLimiter(1e-6, burst)
	})
	w.code("good") // takes the first of burst
	codes := map[int]int{}
	for i := range 1000 {
		codes[w.server.reviews.ask(t.Context(), fmt.Sprint("Bearer made-up-", i), "/metrics").code]++
	}
	if codes[401] != burst-1 || codes[429] != 1000-burst+1 {
		t.Errorf("answers by code: %v", codes)
	}
	if n := w.api.tokens.Load(); n != burst {
		t.Errorf("%d questions", n)
	}
	w.clock.step(yesFor)
	if code := w.code("good"); code != 200 || w.api.tokens.Load() != burst+1 {
		t.Errorf("the scraper got %d, after %d questions", code, w.api.tokens.Load())
	}
	if response, _ := w.do("GET", "/metrics", "Bearer made-up"); response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") == "" {
		t.Errorf("a stranger got %d", response.StatusCode)
	}
}

// A renewal for which there is no room now waits: the yes is good a little longer.
func TestRenewalsAreLimited(t *testing.T) {
	w := newWorld(t, func(w *world) { w.server.reviews.known = flowcontrol.NewTokenBucketRateLimiter(1e-6, 1) })
	w.server.reviews.known.TryAccept()
	w.code("good")
	w.clock.step(yesFor)
	if code := w.code("good"); code != 200 || w.api.tokens.Load() != 1 {
		t.Errorf("%d after %d questions", code, w.api.tokens.Load())
	}
}

func TestAnswersAreBounded(t *testing.T) {
	r := newReviews(nil, nil)
	clock := &clock{now: time.Unix(1e9, 0)}
	r.now = clock.Now
	put := func(n int, code int) question {
		q := question{sha256.Sum256(fmt.Appendf(nil, "%d %d", n, code)), "/metrics"}
		r.keep(q, &answer{code: code, at: clock.Now()})
		return q
	}
	yes := put(0, 200)
	for n := range 5 * maxNo {
		put(n, 401)
	}
	if last, good := r.remembered(yes); !good || last.code != 200 {
		t.Error("a flood of no displaced a yes")
	}
	if len(r.no) > maxNo {
		t.Errorf("%d answers are kept", len(r.no))
	}
	for n := range 5 * maxYes {
		put(n, 200)
	}
	if len(r.yes) > maxYes {
		t.Errorf("%d answers are kept", len(r.yes))
	}
	clock.step(yesFor + longer)
	put(1, 200)
	put(1, 401)
	if len(r.yes) != 1 && len(r.yes) != 0 {
		t.Errorf("%d answers that are not good are kept", len(r.yes))
	}
}

// FuzzHeader holds that no header but that of a known token opens anything.
func FuzzHeader(f *testing.F) {
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer  good", "bearer good", "Basic good", "Bearer good, Bearer x", "\x00"} {
		f.Add(header)
	}
	client := (&api{t: f}).client()
	f.Fuzz(func(t *testing.T, header string) {
		r := newReviews(client, func(err error) { t.Error(err) })
		r.strangers = unlimited{}
		answer := r.ask(t.Context(), header, "/metrics")
		scheme, token, _ := strings.Cut(header, " ")
		if is := strings.EqualFold(scheme, "Bearer") && strings.TrimSpace(token) == "good"; is != (answer.code == 200) {
			t.Errorf("%q gets %d", header, answer.code)
		}
	})
}
