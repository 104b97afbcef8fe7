package scrape

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/flowcontrol"
)

const (
	// yesFor and noFor are how long answers are good, and longer how much longer a yes is while nobody answers.
	yesFor = 2 * time.Minute
	noFor  = 10 * time.Second
	longer = time.Minute

	// askWithin bounds both questions together.
	askWithin = 5 * time.Second
	// perSecond and burst limit the asking about tokens that had no yes, and apart from it that about those that had.
	perSecond, burst = 2, 10
	// maxYes and maxNo are how many answers are kept.
	maxYes, maxNo = 256, 1024
)

// An answer is what is said to who asked for a page.
type answer struct {
	code int
	// text says why, when the code is not 200.
	text string
	at   time.Time
}

// refuse writes the answer and ends the connection: who may not scrape holds none.
func (a *answer) refuse(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	switch a.code {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, a.text, a.code)
}

// A question is a token, which is not kept itself, and the path that it is to open.
type question struct {
	token [sha256.Size]byte
	path  string
}

// reviews knows who may. Its methods are safe for concurrent use.
type reviews struct {
	client kubernetes.Interface
	now    func() time.Time // time.Now, but for tests
	// problem is that the questions get no answer.
	problem *transitions
	asking  singleflight.Group
	// strangers limits what is asked about tokens that had no yes, known the renewal of a yes.
	strangers, known flowcontrol.RateLimiter

	mu      sync.Mutex
	yes, no map[question]*answer
}

func newReviews(client kubernetes.Interface, failed func(error)) *reviews {
	return &reviews{
		client: client, now: time.Now, problem: &transitions{tell: failed},
		strangers: flowcontrol.NewTokenBucketRateLimiter(perSecond, burst), known: flowcontrol.NewTokenBucketRateLimiter(perSecond, burst),
		yes: map[question]*answer{}, no: map[question]*answer{},
	}
}

// ask answers whether a header's token opens a path. When kube-apiserver does not answer, that is an earlier answer, or 503.
// What is asked ends with the context, which is not that of a request: others wait for the same answer.
func (r *reviews) ask(ctx context.Context, header, path string) *answer {
	scheme, token, _ := strings.Cut(header, " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return &answer{code: http.StatusUnauthorized, text: "a bearer token is needed, as of a service account that may get " + path}
	}
	q := question{sha256.Sum256([]byte(token)), path}
	last, good := r.remembered(q)
	if good {
		return last
	}
	limit := r.strangers
	if last != nil {
		limit = r.known
	}
	fresh, _, _ := r.asking.Do(path+string(q.token[:]), func() (any, error) {
		if again, good := r.remembered(q); good {
			return again, nil // of who was first
		}
		if !limit.TryAccept() {
			return &answer{code: http.StatusTooManyRequests, text: "too many unknown tokens were sent to this agent; try again later"}, nil
		}
		return r.review(ctx, q, token), nil
	})
	a := fresh.(*answer)
	if last != nil && (a.code == http.StatusTooManyRequests || a.code == http.StatusServiceUnavailable) {
		return last
	}
	return a
}

// remembered is the last answer, and whether it is still good: one that is not is a yes that is good while nobody answers.
func (r *reviews) remembered(q question) (last *answer, good bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if a := r.no[q]; a != nil && now.Sub(a.at) < noFor {
		return a, true
	}
	a := r.yes[q]
	if a == nil || now.Sub(a.at) >= yesFor+longer {
		return nil, false
	}
	return a, now.Sub(a.at) < yesFor
}

// review asks both questions, and keeps the answer; it is 503 when there is none.
func (r *reviews) review(ctx context.Context, q question, token string) *answer {
	limited, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	a, err := r.decide(limited, token, q.path)
	if err != nil {
		if ctx.Err() == nil {
			r.problem.saw(fmt.Errorf("asking who may get %s: %w", q.path, err))
		}
		return &answer{code: http.StatusServiceUnavailable, text: "the Kubernetes API did not answer who may get " + q.path + "; the agent's log says why"}
	}
	r.problem.saw(nil)
	a.at = r.now()
	r.keep(q, a)
	return a
}

func (r *reviews) decide(ctx context.Context, token, path string) (*answer, error) {
	who, err := r.client.AuthenticationV1().TokenReviews().Create(ctx, &authentication.TokenReview{
		Spec: authentication.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("reviewing a token: %w", withoutToken(err, token))
	}
	if !who.Status.Authenticated {
		return &answer{code: http.StatusUnauthorized, text: "the token is not valid in this cluster, or not any more"}, nil
	}
	user := who.Status.User
	access := &authorization.SubjectAccessReview{Spec: authorization.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: map[string]authorization.ExtraValue{},
		NonResourceAttributes: &authorization.NonResourceAttributes{Path: path, Verb: "get"},
	}}
	for key, values := range user.Extra {
		access.Spec.Extra[key] = authorization.ExtraValue(values)
	}
	may, err := r.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, access, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("reviewing access: %w", err)
	}
	if !may.Status.Allowed || may.Status.Denied {
		text := fmt.Sprintf("%s may not get %s; the ClusterRole networkobservability-metrics-reader gives the right", strconv.QuoteToASCII(user.Username), path)
		return &answer{code: http.StatusForbidden, text: text}, nil
	}
	return &answer{code: http.StatusOK}, nil
}

// withoutToken makes sure that an error can be logged: a server may repeat what it was sent.
func withoutToken(err error, token string) error {
	if strings.Contains(err.Error(), token) {
		return errors.New("the answer repeats the token and is not shown")
	}
	return err
}

// keep replaces what was answered before.
func (r *reviews) keep(q question, a *answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.yes, q)
	delete(r.no, q)
	into, most, good := r.no, maxNo, noFor
	if a.code == http.StatusOK {
		into, most, good = r.yes, maxYes, yesFor+longer
	}
	if len(into) >= most {
		r.makeRoom(into, most, good)
	}
	into[q] = a
}

// makeRoom forgets what is not good any more and, where that is not enough, others in no order. The caller holds mu.
func (r *reviews) makeRoom(from map[question]*answer, most int, good time.Duration) {
	now := r.now()
	for q, a := range from {
		if now.Sub(a.at) >= good {
			delete(from, q)
		}
	}
	for q := range from {
		if len(from) < most {
			return
		}
		delete(from, q)
	}
}
