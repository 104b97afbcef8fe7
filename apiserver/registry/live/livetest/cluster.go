package livetest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// A Cluster is the host's side of pods: each change has a version of its own, as in etcd.
type Cluster struct {
	mu      sync.Mutex
	version uint64
	pods    map[string]*corev1.Pod
	events  []event
	// compacted is the version before which events are forgotten.
	compacted uint64
	uids      int
	// changed is closed and replaced at each change of anything here or in a view.
	changed chan struct{}
}

type event struct {
	version uint64
	watch.Event
}

// NewCluster begins at a version.
func NewCluster(version uint64) *Cluster {
	return &Cluster{version: version, compacted: version, pods: map[string]*corev1.Pod{}, changed: make(chan struct{})}
}

// Pod makes a pod, on no node if node is empty.
func Pod(namespace, name, node string, labels map[string]string) *corev1.Pod {
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name, pod.Labels = namespace, name, labels
	pod.Spec.NodeName = node
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIPs = []corev1.PodIP{{IP: "192.0.2.1"}}
	return pod
}

func (c *Cluster) locked(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Put creates the pod or updates it, and returns the version.
func (c *Cluster) Put(pod *corev1.Pod) (version uint64) {
	c.locked(func() {
		pod = pod.DeepCopy()
		key := pod.Namespace + "/" + pod.Name
		kind := watch.Modified
		if old := c.pods[key]; old != nil {
			pod.UID, pod.CreationTimestamp = old.UID, old.CreationTimestamp
		} else {
			kind = watch.Added
			c.uids++
			pod.UID = types.UID(fmt.Sprintf("uid-%d", c.uids))
		}
		version = c.happen(kind, pod)
		c.pods[key] = pod
	})
	return version
}

// Delete deletes a pod and returns the version.
func (c *Cluster) Delete(namespace, name string) (version uint64) {
	c.locked(func() {
		key := namespace + "/" + name
		pod := c.pods[key].DeepCopy()
		delete(c.pods, key)
		version = c.happen(watch.Deleted, pod)
	})
	return version
}

// Skip lets other things happen in the cluster, which move its version too.
func (c *Cluster) Skip(versions uint64) { c.locked(func() { c.version += versions }) }

// Compact forgets all events.
func (c *Cluster) Compact() { c.locked(func() { c.compacted, c.events = c.version, nil }) }

func (c *Cluster) happen(kind watch.EventType, pod *corev1.Pod) uint64 {
	c.version++
	pod.ResourceVersion = strconv.FormatUint(c.version, 10)
	c.events = append(c.events, event{c.version, watch.Event{Type: kind, Object: pod}})
	return c.version
}

// UID is the UID of a pod.
func (c *Cluster) UID(namespace, name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.pods[namespace+"/"+name].UID)
}

// A View is how one replica sees the cluster.
type View struct {
	cluster *Cluster
	// The rest is guarded by the cluster's lock. held is where watches stand still, if not 0; broken counts how
	// often they were cut.
	held   uint64
	broken int
	// bookmark is up to where watches have been asked to say how far they are.
	bookmark uint64
	// mute suppresses the bookmark that a short watch brings.
	mute bool
}

var _ cache.ListerWatcherWithContext = &View{}

// View makes a view that does not lag.
func (c *Cluster) View() *View { return &View{cluster: c} }

// Hold lets no further event through.
func (v *View) Hold() { v.cluster.locked(func() { v.held = v.cluster.version }) }

// Release lets events through again.
func (v *View) Release() { v.cluster.locked(func() { v.held = 0 }) }

// Break cuts the watches, which begin anew where they were, if that is not compacted.
func (v *View) Break() { v.cluster.locked(func() { v.broken++ }) }

// Bookmark says how far the cluster is.
func (v *View) Bookmark() { v.cluster.locked(func() { v.bookmark = v.cluster.version }) }

// Mute suppresses the bookmark that short watches bring.
func (v *View) Mute() { v.cluster.locked(func() { v.mute = true }) }

// IsWatchListSemanticsUnSupported makes reflectors list.
func (v *View) IsWatchListSemanticsUnSupported() bool { return true }

// List is ListWithContext.
func (v *View) List(options metav1.ListOptions) (runtime.Object, error) {
	return v.ListWithContext(context.Background(), options)
}

// Watch is WatchWithContext.
func (v *View) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return v.WatchWithContext(context.Background(), options)
}

// ListWithContext lists all pods as they are now, even if watches are held.
func (v *View) ListWithContext(context.Context, metav1.ListOptions) (runtime.Object, error) {
	v.cluster.mu.Lock()
	defer v.cluster.mu.Unlock()
	list := &corev1.PodList{}
	list.ResourceVersion = strconv.FormatUint(v.cluster.version, 10)
	for _, pod := range v.cluster.pods {
		list.Items = append(list.Items, *pod.DeepCopy())
	}
	return list, nil
}

// WatchWithContext watches from a version on.
func (v *View) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	from, err := strconv.ParseUint(options.ResourceVersion, 10, 64)
	if err != nil {
		return nil, err
	}
	v.cluster.mu.Lock()
	defer v.cluster.mu.Unlock()
	if from < v.cluster.compacted {
		return nil, apierrors.NewResourceExpired("too old resource version")
	}
	w := &watcher{view: v, at: from, broken: v.broken, results: make(chan watch.Event), done: make(chan struct{})}
	w.stop = sync.OnceFunc(func() { close(w.done) })
	if *options.TimeoutSeconds < 10 && !v.mute {
		v.bookmark = v.cluster.version
	}
	go w.run(ctx)
	return w, nil
}

type watcher struct {
	view    *View
	at      uint64
	broken  int
	results chan watch.Event
	stop    func()
	done    chan struct{}
}

func (w *watcher) Stop()                          { w.stop() }
func (w *watcher) ResultChan() <-chan watch.Event { return w.results }

func (w *watcher) run(ctx context.Context) {
	defer close(w.results)
	for {
		next, changed, ok := w.next()
		if !ok {
			return
		}
		if next != nil {
			select {
			case w.results <- *next:
				continue
			case <-ctx.Done():
				return
			case <-w.done:
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-w.done:
			return
		}
	}
}

// next is the next event, or nil when there is none yet; ok is false when the watch is cut.
func (w *watcher) next() (next *watch.Event, changed <-chan struct{}, ok bool) {
	c := w.view.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.broken != w.view.broken {
		return nil, nil, false
	}
	i := slices.IndexFunc(c.events, func(e event) bool { return e.version > w.at })
	if i >= 0 && (w.view.held == 0 || c.events[i].version <= w.view.held) {
		w.at = c.events[i].version
		return &watch.Event{Type: c.events[i].Type, Object: c.events[i].Object.DeepCopyObject()}, nil, true
	}
	if bookmark := w.view.bookmark; i < 0 && bookmark > w.at && w.view.held == 0 {
		w.at = bookmark
		pod := &corev1.Pod{}
		pod.ResourceVersion = strconv.FormatUint(bookmark, 10)
		return &watch.Event{Type: watch.Bookmark, Object: pod}, nil, true
	}
	return nil, c.changed, true
}
