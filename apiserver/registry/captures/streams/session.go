package streams

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/klog/v2"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const contentType = "application/vnd.tcpdump.pcap"

// Annotations of audit events, at the end of a stream.
const (
	auditBytes   = "captures." + v1alpha1.GroupName + "/bytes"
	auditPayload = "captures." + v1alpha1.GroupName + "/payload"
	auditUID     = "captures." + v1alpha1.GroupName + "/uid"
	auditEnd     = "captures." + v1alpha1.GroupName + "/end"
)

// Why streams are ended that nothing else ends.
var (
	errDeleted  = errors.New("the capture was deleted")
	errStopping = errors.New("this server stops; another one goes on")
)

// A session is one request.
type session struct {
	*REST
	name, namespace string
	options         *v1alpha1.CaptureReadOptions
	user            user.Info
	responder       rest.Responder
	// capture is as it was when the stream opened.
	capture *capture
}

// payload is whether packets are shown whole.
func (s *session) payload() bool {
	return s.subresource == "pcap" || s.subresource == "attach" && !s.options.HeadersOnly
}

// ServeHTTP implements http.Handler. A stream that fails midway is broken off: a clean end is a whole answer.
func (s *session) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	out := &output{response: w}
	err := s.answer(req, out)
	result := "complete"
	switch {
	case err == nil:
	case out.began:
		result = "broken"
	default:
		result = "refused"
	}
	s.streams.metrics.ended.WithLabelValues(s.subresource, result).Inc()
	switch {
	case err == nil, req.Context().Err() != nil, errors.Is(err, errGone):
		// Whole, or nobody is there any more to be told.
	case out.began:
		panic(http.ErrAbortHandler)
	default:
		s.responder.Error(apiError(err))
	}
}

func (s *session) answer(req *http.Request, out *output) (err error) {
	if out.upgrade, err = s.upgrades(req); err != nil {
		return err
	}
	return s.stream(genericrequest.WithNamespace(req.Context(), s.namespace), out)
}

// stream opens the stream, serves it beside its guard, and tells of its end.
func (s *session) stream(ctx context.Context, out *output) error {
	leave, err := s.streams.limits.enter(s.user.GetName())
	if err != nil {
		return err
	}
	defer leave()
	if err := s.authorize(ctx); err != nil {
		return err
	}
	if s.capture, err = s.load(ctx); err != nil {
		return err
	}
	open := s.streams.metrics.open.WithLabelValues(s.subresource)
	open.Inc()
	defer open.Dec()

	ctx, end := context.WithCancelCause(ctx)
	began := s.streams.Clock.Now()
	s.logger(ctx).Info("Stream of packets begins")
	err = s.guarded(ctx, end, out)
	s.tell(ctx, out, s.streams.Clock.Since(began), err)
	return err
}

// guarded serves the stream until it is complete or its guard ends it. Then writes that wait for the client fail.
func (s *session) guarded(ctx context.Context, end context.CancelCauseFunc, out *output) (err error) {
	var guard sync.WaitGroup
	defer guard.Wait()
	defer end(nil)
	out.gone = func() { end(errGone) }
	defer func() { out.leave(err == nil) }()
	defer unblock(ctx, out)()
	guard.Go(func() { s.guard(ctx, end) })

	err = s.serve(s, ctx, out)
	if err == nil {
		err = out.start()
	}
	if err == nil {
		err = out.drain()
	}
	_, lost := errors.AsType[clientError](err)
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case lost && out.conn != nil:
		err = errGone // A write met its end before the watch for it did.
	}
	return err
}

// unblock makes writes fail once ctx has ended, until stop is called. Nothing of it runs any more when stop has returned.
func unblock(ctx context.Context, out *output) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		out.abort()
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

func (s *session) logger(ctx context.Context) klog.Logger {
	return klog.FromContext(ctx).WithValues("user", s.user.GetName(), "resource", s.resource+"/"+s.subresource,
		"capture", klog.KRef(s.namespace, s.name), "uid", s.capture.header.UID, "payload", s.payload(),
		"node", s.options.Node, "podNamespace", s.options.Namespace, "pod", s.options.Pod, "offset", s.options.Offset)
}

// tell writes down how the stream ended.
func (s *session) tell(ctx context.Context, out *output, took time.Duration, err error) {
	how := "complete"
	switch {
	case errors.Is(err, context.Canceled):
		how = "the client went away"
	case err != nil:
		how = err.Error()
	}
	s.streams.metrics.bytes.WithLabelValues(s.subresource).Add(float64(out.sent))
	s.logger(ctx).Info("Stream of packets ended", "bytes", out.sent, "took", took, "how", how)
	audit.AddAuditAnnotations(ctx, auditBytes, strconv.FormatInt(out.sent, 10), auditPayload, strconv.FormatBool(s.payload()),
		auditUID, s.capture.header.UID, auditEnd, how)
}

// load gets the capture as it is stored now. It is errDeleted when it is no longer the one that the stream began with.
func (s *session) load(ctx context.Context) (*capture, error) {
	object, err := s.getter.Get(ctx, s.name, &metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && s.capture != nil:
		return nil, errDeleted
	case err != nil:
		return nil, err
	}
	c, err := view(object)
	if err == nil && s.capture != nil && c.meta.UID != s.capture.meta.UID {
		return nil, errDeleted
	}
	return c, err
}

// apiError makes an answer of an error: one of nodes unless it says otherwise.
func apiError(err error) error {
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &status):
		return err
	case errors.Is(err, errDeleted):
		return statusError(http.StatusGone, metav1.StatusReasonGone, err.Error())
	}
	return apierrors.NewServiceUnavailable(err.Error())
}

// statusError is an API error for which there is no constructor.
func statusError(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

func (s *session) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: v1alpha1.GroupName, Resource: s.resource}
}
