package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// recheck is how often the right to an open stream is asked for, and how long the answer may take.
	recheck = 3 * time.Second
	// withoutYes is how long a stream stays open when no answer comes: with one more answer that takes its time, 15 s.
	withoutYes = 12 * time.Second
)

// rights are the subresources that the caller must be allowed to get.
func (s *session) rights() []string {
	switch {
	case s.subresource != "attach":
		return []string{s.subresource}
	case s.options.HeadersOnly:
		return []string{"attach", "headers"}
	}
	return []string{"attach", "pcap"}
}

// authorize asks whether the caller may still have this stream. The error is an API error with status 403 when not, and
// any other when there is no answer.
func (s *session) authorize(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recheck)
	defer cancel()
	for _, subresource := range s.rights() {
		decision, reason, err := s.streams.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: s.user, Verb: "get", Namespace: s.namespace, Name: s.name, ResourceRequest: true,
			APIGroup: v1alpha1.GroupName, APIVersion: v1alpha1.SchemeGroupVersion.Version, Resource: s.resource, Subresource: subresource,
		})
		switch {
		case decision == authorizer.DecisionAllow:
		case err != nil:
			return fmt.Errorf("asking whether %s may get %s/%s: %w", s.user.GetName(), s.resource, subresource, err)
		default:
			message := fmt.Sprintf("user %q cannot get %s/%s", s.user.GetName(), s.resource, subresource)
			if reason != "" {
				message += ": " + reason
			}
			return apierrors.NewForbidden(schema.GroupResource{Group: v1alpha1.GroupName, Resource: s.resource + "/" + subresource}, s.name, errors.New(message))
		}
	}
	return nil
}

// guard ends the stream when the caller's right or the capture is gone, or the server stops.
func (s *session) guard(ctx context.Context, end context.CancelCauseFunc) {
	ticker := s.streams.Clock.NewTicker(recheck)
	defer ticker.Stop()
	stopping, yes := s.streams.Stopping, s.streams.Clock.Now()
	var grace <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-stopping:
			stopping, grace = nil, s.streams.Clock.After(s.streams.StopGrace)
		case <-grace:
			end(errStopping)
			return
		case <-ticker.C():
			asked := s.streams.Clock.Now()
			err := s.authorize(ctx)
			if err == nil {
				yes = asked
			} else if apierrors.IsForbidden(err) || s.streams.Clock.Since(yes) >= withoutYes {
				end(fmt.Errorf("the right to read it is gone: %w", err))
				return
			}
			if s.subresource == "attach" {
				continue // Its director looks.
			}
			if _, err := s.load(ctx); errors.Is(err, errDeleted) {
				end(err)
				return
			}
		}
	}
}

// An Authorizer is the part of authorizer.Authorizer that streams need.
type Authorizer interface {
	Authorize(ctx context.Context, attributes authorizer.Attributes) (decision authorizer.Decision, reason string, err error)
}

// SubjectAccessReviews asks the cluster, each time anew.
type SubjectAccessReviews struct {
	Client authorizationclient.SubjectAccessReviewInterface
}

var _ Authorizer = SubjectAccessReviews{}

// Authorize implements Authorizer, for resources.
func (r SubjectAccessReviews) Authorize(ctx context.Context, a authorizer.Attributes) (decision authorizer.Decision, reason string, err error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range a.GetUser().GetExtra() {
		extra[key] = values
	}
	review, err := r.Client.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: a.GetUser().GetName(), UID: a.GetUser().GetUID(), Groups: a.GetUser().GetGroups(), Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: a.GetVerb(), Namespace: a.GetNamespace(), Name: a.GetName(), Group: a.GetAPIGroup(), Version: a.GetAPIVersion(),
			Resource: a.GetResource(), Subresource: a.GetSubresource(),
		},
	}}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return authorizer.DecisionNoOpinion, "", err
	case review.Status.Allowed && !review.Status.Denied:
		return authorizer.DecisionAllow, review.Status.Reason, nil
	case review.Status.EvaluationError != "" && !review.Status.Denied:
		return authorizer.DecisionNoOpinion, review.Status.Reason, errors.New(review.Status.EvaluationError)
	}
	return authorizer.DecisionDeny, review.Status.Reason, nil
}
