package telemetry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// lookPause is the shortest time between two looks at what is stored, retryLook the time after one that failed.
	lookPause, retryLook = 250 * time.Millisecond, time.Second
	// readSecretsEvery is how often Secrets are read again, retrySecrets after how long those of which the host has said nothing.
	// They are not watched: the right to get one is all that is needed so.
	readSecretsEvery, retrySecrets = time.Minute, 5 * time.Second
)

// A point is a moment in the host's history, and the NetworkTelemetry that there was: none when object is nil.
//
// Its revision is a resourceVersion of the host at which this was the spec, read from the store and not from a cache. So
// of two revisions that are of different specs, the higher one is of the later spec, whoever read it and whenever,
// deletion and another creation included. It is kept for as long as this replica leads and sees this spec; since writing
// the status moves the resourceVersion, another leader may have another one for the same spec, which changes nothing but
// the number.
type point struct {
	object   *v1alpha1.NetworkTelemetry
	revision int64
	// confirmed is the last such resourceVersion that is known, of the look number look.
	confirmed int64
	look      uint64
}

// look reads what is stored now.
func look(ctx context.Context, client versioned.Interface) (point, error) {
	// Without a resourceVersion the answer is as new as the store.
	list, err := client.NetworkobservabilityV1alpha1().NetworkTelemetries().List(ctx, metav1.ListOptions{})
	if err != nil {
		return point{}, fmt.Errorf("reading the NetworkTelemetry: %w", err)
	}
	at, version := point{}, list.ResourceVersion
	for i := range list.Items {
		if one := &list.Items[i]; one.Name == v1alpha1.NetworkTelemetryName {
			at.object, version = one, one.ResourceVersion
		}
	}
	at.revision, err = strconv.ParseInt(version, 10, 64)
	if err != nil || at.revision <= 0 {
		return point{}, fmt.Errorf("reading the NetworkTelemetry: its resourceVersion %q is no positive number", version)
	}
	at.confirmed = at.revision
	return at, nil
}

// lookedAt gives a point that was looked at after d, which may be nil, its number, and the revision that is kept when the spec is
// the same; then d is the same but for the point.
func (d *desired) lookedAt(p point) (at point, same *desired) {
	if d == nil {
		p.look = 1
		return p, nil
	}
	p.look = d.look + 1
	if !sameSpec(p.object, d.object) {
		return p, nil
	}
	p.revision = d.revision
	return p, &desired{point: p, config: d.config, chosen: d.chosen, problem: d.problem}
}

// sameSpec says whether two objects, or none, have the same spec. A generation may come back with another spec when the
// store is restored from a backup.
func sameSpec(a, b *v1alpha1.NetworkTelemetry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.UID == b.UID && a.Generation == b.Generation && equality.Semantic.DeepEqual(&a.Spec, &b.Spec)
}

// follow hears of changes of the NetworkTelemetry, until stop is called.
func (t *term) follow() (stop func(), err error) {
	registration, err := t.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    t.saw,
		UpdateFunc: func(_, object any) { t.saw(object) },
		DeleteFunc: func(any) { t.lookAgain() },
	})
	if err != nil {
		return nil, err
	}
	return func() { _ = t.informer.RemoveEventHandler(registration) }, nil // It fails when the informer has ended.
}

// saw takes over an object of the spec that is known, and has any other looked at in the store.
func (t *term) saw(object any) {
	telemetry, ok := object.(*v1alpha1.NetworkTelemetry)
	if !ok || telemetry.Name != v1alpha1.NetworkTelemetryName {
		return
	}
	if want := t.want(); want == nil || !sameSpec(telemetry, want.object) {
		t.lookAgain()
		return
	}
	t.keep(telemetry)
}

// keep takes over an object, whose status may be newer.
func (t *term) keep(object *v1alpha1.NetworkTelemetry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !older(object, t.object) {
		t.object = object
	}
}

// older says that an object was overtaken on its way here.
func older(object, than *v1alpha1.NetworkTelemetry) bool {
	if object == nil || than == nil || object.UID != than.UID {
		return false
	}
	a, err := strconv.ParseUint(object.ResourceVersion, 10, 64)
	b, err2 := strconv.ParseUint(than.ResourceVersion, 10, 64)
	return err == nil && err2 == nil && a < b
}

// lookAgain has the store looked at.
func (t *term) lookAgain() {
	select {
	case t.looking <- struct{}{}:
	default:
	}
}

// steer decides what agents shall do, until ctx ends.
func (t *term) steer(ctx context.Context) {
	secrets := t.cfg.Clock.NewTicker(retrySecrets)
	defer secrets.Stop()
	var warned string
	for {
		select {
		case <-ctx.Done():
			return
		case <-secrets.C():
			t.refreshSecrets(ctx)
			continue
		case <-t.looking:
		}
		pause, err := lookPause, t.refresh(ctx)
		if err != nil {
			pause = retryLook
			t.lookAgain()
		}
		warned = warn(ctx, err, warned, "What agents shall send is not known, and is read again")
		if !t.sleep(ctx, pause) {
			return
		}
	}
}

// refresh looks at what is stored, and has agents told if it is something else.
func (t *term) refresh(ctx context.Context) error {
	at, err := look(ctx, t.cfg.Own)
	if err != nil {
		return err
	}
	at, same := t.want().lookedAt(at)
	if same != nil {
		t.publish(same)
		return nil
	}
	t.readSecrets(ctx, at.object)
	if ctx.Err() != nil {
		return ctx.Err() // then it is not the Secrets' fault that they could not be read
	}
	t.publish(newDesired(at, t.secrets))
	return nil
}

// readSecrets reads the Secrets of a spec. It is called by one goroutine, as is refreshSecrets.
func (t *term) readSecrets(ctx context.Context, object *v1alpha1.NetworkTelemetry) {
	t.secrets, t.secretsRead = readSecrets(ctx, t.cfg.Client, object, t.cfg.Clock.Now(), t.secrets), t.cfg.Clock.Now()
}

// refreshSecrets reads Secrets again, when it is time, and has agents told of those that have changed.
func (t *term) refreshSecrets(ctx context.Context) {
	want := t.want()
	if want == nil || len(t.secrets) == 0 {
		return
	}
	unread := false
	for _, one := range t.secrets {
		unread = unread || one.unread
	}
	if !unread && t.cfg.Clock.Since(t.secretsRead) < readSecretsEvery {
		return
	}
	before := t.secrets
	t.readSecrets(ctx, want.object)
	if ctx.Err() == nil && !maps.EqualFunc(before, t.secrets, secret.equal) {
		t.publish(newDesired(want.point, t.secrets))
	}
}

// sleep waits, and says whether there is time left.
func (t *term) sleep(ctx context.Context, pause time.Duration) bool {
	timer := t.cfg.Clock.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// warn logs an error unless it is the last one again, and gives what is the last one now.
func warn(ctx context.Context, err error, last, message string) string {
	if err == nil || errors.Is(err, context.Canceled) {
		return ""
	}
	if err.Error() != last {
		klog.FromContext(ctx).Error(err, message)
	}
	return err.Error()
}
