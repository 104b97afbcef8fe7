package captures

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned/scheme"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// deciders, callers and slowCallers work at a time: on captures, on calls that agents answer at once, and on those that wait
	// for a disk.
	deciders, callers, slowCallers = 32, 64, 64
	// many targets make deciding costly, so that news of them is gathered for a while.
	manyTargets, gather = 300, 200 * time.Millisecond
)

// A term is the time for which this replica leads. Everything that it knows beyond stored objects ends with it.
type term struct {
	*Controller
	recorder record.EventRecorder
	rights   *rights

	captures workqueue.TypedRateLimitingInterface[key]
	quick    workqueue.TypedRateLimitingInterface[callKey]
	slow     workqueue.TypedRateLimitingInterface[callKey]

	// open is how many captures record, or are ending.
	open atomic.Int64

	mu      sync.Mutex
	entries map[key]*entry
	looking map[string]bool // nodes that are being asked for a list
}

// An entry is a capture in work.
type entry struct {
	key key
	uid types.UID

	mu sync.Mutex
	// gone: the object was deleted.
	gone bool
	m    *machine
	// stale: targets have to be found anew.
	stale bool
	// pending are calls to make, by node. assembling says that the file is being laid out.
	pending    map[string]*call
	assembling bool
	// warned is the last warning that was logged.
	warned string
}

// A callKey names a call in a queue: at most one of a capture to a node. The call for the node "" lays out the file.
type callKey struct {
	key  key
	uid  types.UID
	node string
}

func newTerm(c *Controller) *term {
	return &term{Controller: c, rights: newRights(c.cfg.Client, c.cfg.Clock), entries: map[key]*entry{}, looking: map[string]bool{}}
}

// run controls captures until ctx ends.
func (t *term) run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	logger.Info("This replica controls captures")
	defer logger.Info("This replica no longer controls captures")
	t.metrics.leading.Set(1)
	defer t.metrics.leading.Set(0)
	defer t.metrics.count(nil)
	defer t.record()()
	stop := t.openQueues()
	var working sync.WaitGroup
	defer working.Wait()
	defer stop()
	work(ctx, &working, deciders, t.captures, t.reconcile)
	work(ctx, &working, callers, t.quick, t.call)
	work(ctx, &working, slowCallers, t.slow, t.call)
	working.Go(func() { t.look(ctx) })
	working.Go(func() { t.sweep(ctx) })
	unfollow, err := t.follow()
	if err != nil {
		logger.Error(err, "Captures are not controlled")
	}
	<-ctx.Done()
	unfollow()
}

func (t *term) openQueues() (stop func()) {
	t.captures = newQueue[key](t)
	t.quick = newQueue[callKey](t)
	t.slow = newQueue[callKey](t)
	return func() {
		t.captures.ShutDown()
		t.quick.ShutDown()
		t.slow.ShutDown()
	}
}

func newQueue[K comparable](t *term) workqueue.TypedRateLimitingInterface[K] {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[K](100*time.Millisecond, 30*time.Second)
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[K]{Clock: t.cfg.Clock})
}

// work has workers take keys until the queue is shut down.
func work[K comparable](ctx context.Context, working *sync.WaitGroup, workers int, queue workqueue.TypedRateLimitingInterface[K], do func(context.Context, K)) {
	for range workers {
		working.Go(func() {
			for {
				one, shut := queue.Get()
				if shut {
					return
				}
				if ctx.Err() == nil {
					do(ctx, one)
				}
				queue.Done(one)
			}
		})
	}
}

// record begins to write Events, of which client-go bounds the rate by object.
func (t *term) record() (stop func()) {
	broadcaster := record.NewBroadcaster()
	sink := broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: t.cfg.Client.CoreV1().Events("")})
	t.recorder = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "networkobservability-apiserver"})
	return func() {
		sink.Stop()
		broadcaster.Shutdown()
	}
}

// follow hears of captures and of changes in the cluster, of all there is at first.
func (t *term) follow() (stop func(), err error) {
	stops := []func(){t.cluster.follow(follower{pod: t.podChanged, labels: t.labelsChanged})}
	stop = func() {
		for _, one := range stops {
			one()
		}
	}
	for _, informer := range t.Controller.captures {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    t.seen,
			UpdateFunc: func(_, object any) { t.seen(object) },
			DeleteFunc: t.deleted,
		})
		if err != nil {
			return stop, err
		}
		stops = append(stops, func() { _ = informer.RemoveEventHandler(registration) }) // It fails when the informer has ended.
	}
	return stop, nil
}

// seen takes over an object.
func (t *term) seen(object any) {
	s, err := subjectOf(object)
	if err != nil {
		return
	}
	if e := t.entryFor(s); e != nil {
		t.captures.Add(e.key)
	}
}

// entryFor is the entry of an object, which takes it over. Another object that had its name is gone.
func (t *term) entryFor(s *subject) *entry {
	t.mu.Lock()
	e := t.entries[s.key()]
	if e != nil && e.uid == s.uid() {
		t.mu.Unlock()
		e.mu.Lock()
		defer e.mu.Unlock()
		if !older(s, e.m.subject) {
			e.m.saw(s)
		}
		return e
	}
	chosen, err := selectionOf(s.object)
	if err != nil {
		chosen = &selection{} // Of nobody.
	}
	fresh := &entry{key: s.key(), uid: s.uid(), m: newMachine(s, chosen), stale: true, pending: map[string]*call{}}
	if err != nil {
		fresh.m.compiled(nil, nil, err)
	}
	t.entries[s.key()] = fresh
	t.mu.Unlock()
	if e != nil {
		t.bury(e)
	}
	return fresh
}

// older says that an object on its way here was overtaken by what this replica has written.
func older(s, than *subject) bool {
	a, err := strconv.ParseUint(s.meta.ResourceVersion, 10, 64)
	b, err2 := strconv.ParseUint(than.meta.ResourceVersion, 10, 64)
	return err == nil && err2 == nil && a < b
}

// deleted takes an object away.
func (t *term) deleted(object any) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	s, err := subjectOf(object)
	if err != nil {
		return
	}
	t.remove(s.key(), s.uid())
}

func (t *term) remove(k key, uid types.UID) {
	t.mu.Lock()
	e := t.entries[k]
	if e == nil || e.uid != uid {
		t.mu.Unlock()
		return
	}
	delete(t.entries, k)
	t.mu.Unlock()
	t.bury(e)
}

// bury has all nodes of a capture that is gone remove what is there. Where a call is under way, that comes after it.
func (t *term) bury(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	for node, mem := range e.m.members {
		if !mem.absent && !mem.busy {
			t.slow.Add(callKey{e.key, e.uid, node})
		}
	}
}

func (t *term) entry(k key) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.entries[k]
}

func (t *term) all() []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*entry, 0, len(t.entries))
	for _, e := range t.entries {
		all = append(all, e)
	}
	return all
}

// podChanged finds the captures that choose a pod.
func (t *term) podChanged(before, after *pod) {
	for _, e := range t.all() {
		if t.cluster.chooses(e.selection(), before, after) {
			t.outdate(e)
		}
	}
}

// labelsChanged has every capture of cluster scope look for its targets anew.
func (t *term) labelsChanged() {
	for _, e := range t.all() {
		if e.key.cluster {
			t.outdate(e)
		}
	}
}

// selection never changes.
func (e *entry) selection() *selection { return e.m.selection }

func (t *term) outdate(e *entry) {
	e.mu.Lock()
	e.stale = true
	e.mu.Unlock()
	t.enqueue(e)
}

// enqueue has an entry decided upon: at once, but for large ones, of which there is news all the time.
func (t *term) enqueue(e *entry) {
	e.mu.Lock()
	large := len(e.m.members) > manyTargets
	e.mu.Unlock()
	if large {
		t.captures.AddAfter(e.key, gather)
	} else {
		t.captures.Add(e.key)
	}
}

// reconcile decides what to do about a capture, and does it, but for calls, which are left to others.
func (t *term) reconcile(ctx context.Context, k key) {
	e := t.entry(k)
	if e == nil {
		return
	}
	t.match(e)
	t.authorize(ctx, e)
	t.prepare(ctx, e)
	d, s := t.decide(e)
	for _, c := range d.calls {
		t.queueOf(c).Add(callKey{e.key, e.uid, c.node})
	}
	if !d.again.IsZero() {
		t.captures.AddAfter(k, max(d.again.Sub(t.cfg.Clock.Now()), time.Millisecond))
	}
	if d.status != nil {
		t.write(ctx, e, s, d.status)
	}
	if d.remove {
		t.expire(ctx, s)
	}
}

func (t *term) queueOf(c *call) workqueue.TypedRateLimitingInterface[callKey] {
	if c.stop != nil || c.seal {
		return t.slow
	}
	return t.quick
}

// match finds an entry's targets anew, if they may have changed.
func (t *term) match(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stale && !t.cfg.Clock.Now().Before(e.m.begin()) {
		e.stale = false
		e.m.setTargets(t.cluster.targets(e.m.selection))
	}
}

// decide decides under the entry's lock. s is the object that was decided upon.
func (t *term) decide(e *entry) (d decision, s *subject) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return decision{}, e.m.subject
	}
	now := t.cfg.Clock.Now()
	if e.m.needsProgram(now) && e.m.refused == nil {
		t.captures.Add(e.key) // It has begun, or another leader has written what names stand for, since the filter was prepared.
	}
	d = e.m.decide(now)
	for _, c := range d.calls {
		e.pending[c.node] = c
	}
	if d.assemble && !e.assembling {
		e.assembling = true
		t.slow.Add(callKey{e.key, e.uid, ""})
	}
	return d, e.m.subject
}

// authorize finds out whether pods in their nodes' network may be recorded.
func (t *term) authorize(ctx context.Context, e *entry) {
	e.mu.Lock()
	pods, requester := e.m.askHostNetwork(t.cfg.Clock.Now()), e.m.settings.Requester
	e.mu.Unlock()
	if len(pods) == 0 {
		return
	}
	allowed, err := t.rights.mayCaptureNodes(ctx, requester)
	if err != nil {
		t.warn(ctx, e, err, "The requester's rights cannot be asked for")
		t.captures.AddRateLimited(e.key)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, uid := range pods {
		e.m.hostNetwork[uid] = allowed
	}
}

// prepare compiles the filter when the capture starts. It asks for rights, and so is not under the entry's lock.
func (t *term) prepare(ctx context.Context, e *entry) {
	e.mu.Lock()
	needed, s, known := e.m.needsProgram(t.cfg.Clock.Now()), e.m.subject, e.m.names
	e.mu.Unlock()
	if !needed {
		return
	}
	program, names, refused, err := t.compile(ctx, s, known)
	if refused != nil && !refused.final {
		t.warn(ctx, e, errors.New(refused.message), "The requester's rights cannot be asked for")
		t.captures.AddRateLimited(e.key)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case !e.m.needsProgram(t.cfg.Clock.Now()), !equality.Semantic.DeepEqual(known, e.m.names):
	case refused != nil:
		e.m.refused = refused
	default:
		e.m.compiled(program, names, err)
	}
}

// write writes a status, and reads the object anew when somebody else has written it.
func (t *term) write(ctx context.Context, e *entry, s *subject, status *v1alpha1.CaptureStatus) {
	written, err := t.updateStatus(ctx, s.withStatus(status))
	switch {
	case err == nil:
		t.metrics.writes.WithLabelValues("ok").Inc()
		t.wrote(e, s, written)
		t.captures.Forget(e.key)
		t.captures.Add(e.key)
		return
	case apierrors.IsNotFound(err):
		t.remove(s.key(), s.uid())
		return
	case apierrors.IsConflict(err):
		t.metrics.writes.WithLabelValues("conflict").Inc()
		err = t.reread(ctx, e)
	default:
		t.metrics.writes.WithLabelValues("error").Inc()
		e.mu.Lock()
		e.m.uncertain()
		e.mu.Unlock()
	}
	if err != nil && ctx.Err() == nil {
		t.warn(ctx, e, err, "The status of a capture cannot be written and is tried again")
	}
	t.captures.AddRateLimited(e.key)
}

func (t *term) wrote(e *entry, before *subject, written runtime.Object) {
	s, err := subjectOf(written)
	if err != nil {
		return
	}
	e.mu.Lock()
	e.m.wrote(s, t.cfg.Clock.Now())
	e.warned = ""
	e.mu.Unlock()
	for _, event := range eventsOf(before.status, s.status) {
		t.recorder.Event(s.object, event.kind, event.reason, event.message)
	}
}

func (t *term) updateStatus(ctx context.Context, object runtime.Object) (runtime.Object, error) {
	api := t.cfg.Captures.NetworkobservabilityV1alpha1()
	if c, ok := object.(*v1alpha1.Capture); ok {
		return api.Captures(c.Namespace).UpdateStatus(ctx, c, metav1.UpdateOptions{})
	}
	return api.ClusterCaptures().UpdateStatus(ctx, object.(*v1alpha1.ClusterCapture), metav1.UpdateOptions{})
}

// get reads an object from the store.
func (t *term) get(ctx context.Context, k key) (runtime.Object, error) {
	api := t.cfg.Captures.NetworkobservabilityV1alpha1()
	if k.cluster {
		return api.ClusterCaptures().Get(ctx, k.name, metav1.GetOptions{})
	}
	return api.Captures(k.namespace).Get(ctx, k.name, metav1.GetOptions{})
}

func (t *term) reread(ctx context.Context, e *entry) error {
	object, err := t.get(ctx, e.key)
	if apierrors.IsNotFound(err) {
		t.remove(e.key, e.uid)
		return nil
	}
	if err != nil {
		return err
	}
	t.seen(object)
	return nil
}

// expire deletes a capture whose time is over, unless it is another by now.
func (t *term) expire(ctx context.Context, s *subject) {
	uid := s.uid()
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	api := t.cfg.Captures.NetworkobservabilityV1alpha1()
	var err error
	if s.cluster {
		err = api.ClusterCaptures().Delete(ctx, s.meta.Name, options)
	} else {
		err = api.Captures(s.meta.Namespace).Delete(ctx, s.meta.Name, options)
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "A capture whose time is over cannot be deleted and is tried again", "capture", s.key().String())
		t.captures.AddAfter(s.key(), slowly)
	}
}

// warn logs a warning, unless it is the last one again.
func (t *term) warn(ctx context.Context, e *entry, err error, message string) {
	e.mu.Lock()
	repeated := e.warned == err.Error()
	e.warned = err.Error()
	e.mu.Unlock()
	if !repeated {
		klog.FromContext(ctx).Error(err, message, "capture", e.key.String())
	}
}

// An event is one about an object.
type event struct{ kind, reason, message string }

// eventsOf are those that a change of the status is worth.
func eventsOf(before, after *v1alpha1.CaptureStatus) (events []event) {
	for _, condition := range after.Conditions {
		i := slices.IndexFunc(before.Conditions, func(c metav1.Condition) bool { return c.Type == condition.Type })
		changed := i < 0 || before.Conditions[i].Status != condition.Status || before.Conditions[i].Reason != condition.Reason
		if !changed {
			continue
		}
		is := condition.Status == metav1.ConditionTrue
		switch {
		case is && condition.Type == v1alpha1.CaptureFailed:
			events = append(events, event{corev1.EventTypeWarning, condition.Reason, condition.Message})
		case condition.Type == v1alpha1.CaptureStored && condition.Reason == storeFailed:
			events = append(events, event{corev1.EventTypeWarning, condition.Reason, condition.Message})
		case is && condition.Type == v1alpha1.CaptureComplete:
			events = append(events, event{corev1.EventTypeNormal, "Completed", condition.Message})
		case is:
			events = append(events, event{corev1.EventTypeNormal, condition.Type, condition.Message})
		}
	}
	return append(events, joined(before, after)...)
}

// joined is of targets that came when others were being recorded, in one event.
func joined(before, after *v1alpha1.CaptureStatus) []event {
	if before.StartTime == nil {
		return nil
	}
	running := map[string]bool{}
	for i := range before.Targets {
		if before.Targets[i].Phase == v1alpha1.CaptureRunning {
			running[rowKey(&before.Targets[i])] = true
		}
	}
	var names []string
	for i := range after.Targets {
		if row := &after.Targets[i]; row.Phase == v1alpha1.CaptureRunning && !running[rowKey(row)] {
			names = append(names, rowName(*row))
		}
	}
	if len(names) == 0 || after.OmittedTargets > 0 {
		return nil
	}
	return []event{{corev1.EventTypeNormal, "Joined", "Recording " + strings.TrimSpace(some(names)) + "."}}
}
