package captures

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// rightsFor is how long an answer about rights holds, maxRights how many are kept.
	rightsFor, maxRights = 10 * time.Second, 1000
)

// rights asks the cluster what requesters may do, as they were authenticated when they created a capture. Its methods are
// safe for concurrent use.
type rights struct {
	client kubernetes.Interface
	clock  clock.Clock

	mu      sync.Mutex
	answers map[string]rightsAnswer
}

type rightsAnswer struct {
	allowed bool
	at      time.Time
}

func newRights(client kubernetes.Interface, clock clock.Clock) *rights {
	return &rights{client: client, clock: clock, answers: map[string]rightsAnswer{}}
}

// mayCaptureNodes says whether a requester may create clustercaptures. An answer may be 10 s old.
func (r *rights) mayCaptureNodes(ctx context.Context, requester *v1alpha1.CaptureRequester) (bool, error) {
	return r.may(ctx, requester, &authorizationv1.ResourceAttributes{
		Verb: "create", Group: v1alpha1.GroupName, Version: v1alpha1.SchemeGroupVersion.Version, Resource: "clustercaptures",
	})
}

// mayGetPackets says whether a requester may get the packets of a capture.
func (r *rights) mayGetPackets(ctx context.Context, s *subject) (bool, error) {
	resource := "captures"
	if s.cluster {
		resource = "clustercaptures"
	}
	return r.may(ctx, s.settings.Requester, &authorizationv1.ResourceAttributes{
		Verb: "get", Group: v1alpha1.GroupName, Version: v1alpha1.SchemeGroupVersion.Version, Resource: resource, Subresource: "pcap",
		Namespace: s.meta.Namespace, Name: s.meta.Name,
	})
}

// mayGet says whether a requester may get an object of the core API.
func (r *rights) mayGet(ctx context.Context, requester *v1alpha1.CaptureRequester, resource, namespace, name string) (bool, error) {
	return r.may(ctx, requester, &authorizationv1.ResourceAttributes{Verb: "get", Version: "v1", Resource: resource, Namespace: namespace, Name: name})
}

func (r *rights) may(ctx context.Context, requester *v1alpha1.CaptureRequester, what *authorizationv1.ResourceAttributes) (bool, error) {
	if requester == nil || requester.Username == "" {
		return false, nil // Nobody may do anything.
	}
	spec := authorizationv1.SubjectAccessReviewSpec{
		ResourceAttributes: what, User: requester.Username, UID: requester.UID, Groups: requester.Groups,
	}
	for key, values := range requester.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[strings.ToLower(key)] = values
	}
	question := spec.String()
	if answer, ok := r.known(question); ok {
		return answer, nil
	}
	review, err := r.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("asking for the requester's rights: %w", err)
	}
	allowed := review.Status.Allowed && !review.Status.Denied
	if !allowed && !review.Status.Denied && review.Status.EvaluationError != "" {
		// What is refused is refused for good, and this is no answer.
		return false, fmt.Errorf("asking for the requester's rights: %s", review.Status.EvaluationError)
	}
	r.note(question, allowed)
	return allowed, nil
}

func (r *rights) known(question string) (allowed, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer, ok := r.answers[question]
	if age := r.clock.Since(answer.at); !ok || age < 0 || age >= rightsFor {
		return false, false
	}
	return answer.allowed, true
}

func (r *rights) note(question string, allowed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) >= maxRights {
		clear(r.answers)
	}
	r.answers[question] = rightsAnswer{allowed, r.clock.Now()}
}
