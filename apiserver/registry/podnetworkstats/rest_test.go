package podnetworkstats

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	serverwarning "k8s.io/apiserver/pkg/warning"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
	"github.com/networkobservability/networkobservability/apiserver/registry/live/livetest"
)

// A replica is a REST over a cluster in memory, run inside a synctest bubble: its time is the bubble's.
type replica struct {
	*live.REST
	t       *testing.T
	cluster *livetest.Cluster
	view    *livetest.View
	agents  *livetest.Agents
}

// inBubble runs a test with one replica, 10 s between readings.
func inBubble(t *testing.T, test func(t *testing.T, r *replica)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		r := newReplica(t, livetest.NewCluster(100), livetest.NewAgents())
		go r.Run(ctx)
		synctest.Wait()
		test(t, r)
	})
}

func newReplica(t *testing.T, cluster *livetest.Cluster, agents *livetest.Agents) *replica {
	view := cluster.View()
	return &replica{
		REST: live.New(live.Config{
			Kind: kind{}, Host: view, HostType: &corev1.Pod{}, Reader: agents, WatchInterval: 10 * time.Second,
		}),
		t: t, cluster: cluster, view: view, agents: agents,
	}
}

// put creates or updates a pod and waits until the replica knows.
func (r *replica) put(namespace, name, node string, labels map[string]string) (uid string) {
	r.cluster.Put(livetest.Pod(namespace, name, node, labels))
	synctest.Wait()
	return r.cluster.UID(namespace, name)
}

func (r *replica) delete(namespace, name string) {
	r.cluster.Delete(namespace, name)
	synctest.Wait()
}

func in(namespace string) context.Context {
	return genericapirequest.WithNamespace(context.Background(), namespace)
}

func (r *replica) list(ctx context.Context, options metainternalversion.ListOptions) *v1alpha1.PodNetworkStatsList {
	r.t.Helper()
	object, err := r.List(ctx, &options)
	if err != nil {
		r.t.Fatal(err)
	}
	return object.(*v1alpha1.PodNetworkStatsList)
}

func names(list *v1alpha1.PodNetworkStatsList) (names []string) {
	for i := range list.Items {
		names = append(names, list.Items[i].Namespace+"/"+list.Items[i].Name)
	}
	return names
}

// TestListPages reads page by page, on two replicas by turns, while the pod at a page's edge goes.
func TestListPages(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		other := newReplica(t, r.cluster, r.agents)
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go other.Run(ctx)
		for i := range 5 {
			r.put("x", fmt.Sprintf("p%d", i), fmt.Sprintf("n%d", i), nil)
		}
		r.put("y", "p", "n0", nil)
		first := r.list(in("x"), metainternalversion.ListOptions{Limit: 2})
		if got := names(first); !slices.Equal(got, []string{"x/p0", "x/p1"}) || *first.RemainingItemCount != 3 {
			t.Fatalf("the first page is %v and %d", got, *first.RemainingItemCount)
		}
		r.agents.Asked()
		r.delete("x", "p1")
		second := other.list(in("x"), metainternalversion.ListOptions{Limit: 2, Continue: first.Continue})
		if got := names(second); !slices.Equal(got, []string{"x/p2", "x/p3"}) || second.ResourceVersion != first.ResourceVersion {
			t.Errorf("the second page is %v at %s, not at %s", got, second.ResourceVersion, first.ResourceVersion)
		}
		if asked := r.agents.Asked(); len(asked) != 1 || len(asked[0]) != 2 {
			t.Errorf("a page of two pods asked %v", asked)
		}
		last := r.list(in("x"), metainternalversion.ListOptions{Limit: 2, Continue: second.Continue})
		if got := names(last); !slices.Equal(got, []string{"x/p4"}) || last.Continue != "" || last.RemainingItemCount != nil {
			t.Errorf("the last page is %v, %q, %v", got, last.Continue, last.RemainingItemCount)
		}
		// A watch from the list's version tells of what the pages could not.
		w := r.watch(in("x"), metainternalversion.ListOptions{ResourceVersion: last.ResourceVersion})
		defer w.Stop()
		w.want("DELETED x/p1")
	})
}

// A client that goes on to a second page is read ahead for, from the nodes that are asked anyway.
func TestPagesAreReadAhead(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		for i := range 60 {
			r.put("x", fmt.Sprintf("p%02d", i), fmt.Sprintf("n%d", i%3), map[string]string{"odd": fmt.Sprint(i % 2)})
		}
		ahead := func() (keys int, nodes []string) {
			for _, asked := range r.agents.Asked() {
				for node, query := range asked {
					nodes = append(nodes, node)
					keys += len(query.Ahead)
				}
			}
			slices.Sort(nodes)
			return keys, nodes
		}
		ahead()
		options := metainternalversion.ListOptions{Limit: 2}
		for _, test := range []struct {
			page  string
			keys  int
			nodes []string
		}{
			{"first, after which a client may stop", 0, []string{"n0", "n1"}},
			{"second, of p02 and p03: p04 to p43 follow, 26 of them on the same nodes", 26, []string{"n0", "n2"}},
			{"third, of p04 and p05", 26, []string{"n1", "n2"}},
		} {
			options.Continue = r.list(in("x"), options).Continue
			if keys, nodes := ahead(); keys != test.keys || !slices.Equal(nodes, test.nodes) {
				t.Errorf("%s: %d keys ahead, of %v", test.page, keys, nodes)
			}
		}
		options.LabelSelector = labels.SelectorFromSet(labels.Set{"odd": "1"})
		options.Limit = 30
		r.list(in("x"), options)
		if keys, _ := ahead(); keys != 0 {
			t.Errorf("the last page reads %d keys ahead", keys)
		}
	})
}

func TestListSelectsBeforeItReads(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		web := map[string]string{"app": "web"}
		r.put("x", "a", "n1", web)
		r.put("x", "b", "n2", nil)
		r.put("y", "c", "n2", web)
		r.put("y", "pending", "", web)
		for _, test := range []struct {
			namespace, fields, labels string
			want                      []string
			nodes                     int
		}{
			{"", "", "", []string{"x/a", "x/b", "y/c", "y/pending"}, 2},
			{"x", "", "", []string{"x/a", "x/b"}, 2},
			{"", "nodeName=n2", "", []string{"x/b", "y/c"}, 1},
			{"", "nodeName!=n2", "", []string{"x/a", "y/pending"}, 1},
			{"", "metadata.name=c", "", []string{"y/c"}, 1},
			{"", "metadata.namespace=y", "app=web", []string{"y/c", "y/pending"}, 1},
			{"y", "nodeName=", "", []string{"y/pending"}, 0},
			{"z", "", "", nil, 0},
		} {
			r.agents.Asked()
			selector, err := labels.Parse(test.labels)
			if err != nil {
				t.Fatal(err)
			}
			list := r.list(in(test.namespace), metainternalversion.ListOptions{
				FieldSelector: fields.ParseSelectorOrDie(test.fields), LabelSelector: selector,
			})
			if got := names(list); !slices.Equal(got, test.want) {
				t.Errorf("%+v: got %v", test, got)
			}
			nodes := 0
			for _, asked := range r.agents.Asked() {
				nodes += len(asked)
			}
			if nodes != test.nodes {
				t.Errorf("%+v: asked %d nodes", test, nodes)
			}
		}
	})
}

type warnings []string

func (w *warnings) AddWarning(_, text string) { *w = append(*w, text) }

func TestSilentNodes(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		for i := range 13 {
			r.put("x", fmt.Sprintf("p%d", i), fmt.Sprintf("n%d", i), nil)
		}
		r.agents.Silence("n4", "connection refused")
		r.agents.Silence("n9", "no answer in 3s")
		var heard warnings
		list := r.list(serverwarning.WithWarningRecorder(in("x"), &heard), metainternalversion.ListOptions{})
		if want := "2 of 13 nodes did not answer: n4: connection refused; n9: no answer in 3s"; len(heard) != 1 || heard[0] != want {
			t.Errorf("heard %q, want %q", heard, want)
		}
		for i := range list.Items {
			item := &list.Items[i]
			silent := item.NodeName == "n4" || item.NodeName == "n9"
			if (item.State == v1alpha1.NodeSilent) != silent || (item.Traffic == nil) != silent {
				t.Errorf("%s on %s is %s", item.Name, item.NodeName, item.State)
			}
			if silent && !strings.Contains(item.Message, item.NodeName+": ") {
				t.Errorf("%q names neither node nor cause", item.Message)
			}
		}
		_, err := r.Get(in("x"), "p4", &metav1.GetOptions{})
		wantUnavailable(t, err)
		r.agents.Down("no agent answers")
		_, err = r.List(in("x"), nil)
		wantUnavailable(t, err)
		if _, err = r.Get(in("x"), "none", &metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("a pod that is not there: %v", err)
		}
	})
}

func wantUnavailable(t *testing.T, err error) {
	t.Helper()
	if seconds, retry := apierrors.SuggestsClientDelay(err); !apierrors.IsServiceUnavailable(err) || retry {
		t.Errorf("got %v, which suggests to wait %d s, want 503 without", err, seconds)
	}
}

func TestVersionsOfRequests(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		r.put("x", "p", "n1", nil)
		options := func(version string, match metav1.ResourceVersionMatch) *metainternalversion.ListOptions {
			return &metainternalversion.ListOptions{ResourceVersion: version, ResourceVersionMatch: match}
		}
		for _, test := range []struct {
			name    string
			options *metainternalversion.ListOptions
			is      func(error) bool
		}{
			{"any", options("0", metav1.ResourceVersionMatchNotOlderThan), nil},
			{"old", options("5000000000", metav1.ResourceVersionMatchNotOlderThan), nil},
			{"no number", options("x", ""), apierrors.IsBadRequest},
			{"negative", options("-5", ""), apierrors.IsBadRequest},
			{"exact", options("10100000000", metav1.ResourceVersionMatchExact), apierrors.IsResourceExpired},
			{"future", options("99900000000", ""), isTooLarge},
			{"token", &metainternalversion.ListOptions{Continue: "?"}, apierrors.IsBadRequest},
			{"token with version", &metainternalversion.ListOptions{Continue: "e30", ResourceVersion: "5"}, apierrors.IsBadRequest},
		} {
			began := time.Now()
			_, err := r.List(in("x"), test.options)
			if test.is == nil && err != nil || test.is != nil && !test.is(err) {
				t.Errorf("%s: %v", test.name, err)
			}
			if waited := time.Since(began); test.name == "future" && waited != 3*time.Second {
				t.Errorf("waited %v for the future", waited)
			}
		}
	})
}

func isTooLarge(err error) bool {
	return apierrors.IsTimeout(err) && apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// TestStates: what the agent says, and what is known of the pod, make the state.
func TestStates(t *testing.T) {
	ended := func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodSucceeded }
	for _, test := range []struct {
		name, node string
		change     func(*corev1.Pod)
		said       agentv1.State
		want       v1alpha1.MeasurementState
		counters   bool
	}{
		{"measured", "n1", nil, agentv1.State_STATE_MEASURED, v1alpha1.Measured, true},
		{"degraded", "n1", nil, agentv1.State_STATE_DEGRADED, v1alpha1.Degraded, true},
		{"not found yet", "n1", nil, agentv1.State_STATE_NOT_FOUND, v1alpha1.Pending, false},
		{"ended", "n1", ended, agentv1.State_STATE_NOT_FOUND, v1alpha1.Ended, false},
		{"ended, sandbox alive", "n1", ended, agentv1.State_STATE_MEASURED, v1alpha1.Measured, true},
		{"not attributed", "n1", nil, agentv1.State_STATE_NOT_ATTRIBUTED, v1alpha1.NotAttributed, false},
		{"unscheduled", "", nil, agentv1.State_STATE_MEASURED, v1alpha1.Pending, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *replica) {
				pod := livetest.Pod("x", "p", test.node, map[string]string{"app": "web"})
				pod.Annotations = map[string]string{"secret": "not copied"}
				if test.change != nil {
					test.change(pod)
				}
				r.cluster.Put(pod)
				synctest.Wait()
				uid := r.cluster.UID("x", "p")
				r.agents.State(uid, test.said)
				r.agents.Count(uid, 7)
				object, err := r.Get(in("x"), "p", nil)
				if err != nil {
					t.Fatal(err)
				}
				got := object.(*v1alpha1.PodNetworkStats)
				if got.State != test.want || (got.Traffic != nil) != test.counters || (got.Protocols != nil) != test.counters {
					t.Errorf("got %s, %v", got.State, got.Traffic)
				}
				if got.State != v1alpha1.Measured && got.State != v1alpha1.Degraded && got.Message == "" {
					t.Errorf("%s says no reason", got.State)
				}
				if len(got.UID) != 36 || string(got.UID) == uid || got.Labels["app"] != "web" || got.Annotations != nil || got.OwnerReferences != nil {
					t.Errorf("metadata is %+v", got.ObjectMeta)
				}
				if test.counters && (got.Traffic.Receive.Packets != 4*7 || got.Traffic.Receive.NonIP.Packets != 7 || got.Traffic.Transmit.BytesPerSecond.String() != "7m") {
					t.Errorf("traffic is %+v", got.Traffic)
				}
			})
		})
	}
}

// TestPodKey: annotations are believed of mirror pods only.
func TestPodKey(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef"
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		pod := livetest.Pod("kube-system", "etcd-n1", "n1", nil)
		pod.UID = "uid"
		isController := true
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: "Node", Name: "n1", Controller: &isController}}
		pod.Annotations = map[string]string{configHash: hash, corev1.MirrorPodAnnotationKey: hash}
		change(pod)
		return pod
	}
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"mirror":            {mirror(func(*corev1.Pod) {}), hash},
		"hash only":         {mirror(func(p *corev1.Pod) { delete(p.Annotations, corev1.MirrorPodAnnotationKey) }), "uid"},
		"another's uid":     {mirror(func(p *corev1.Pod) { p.Annotations[configHash] = "d9b2d63d-a233-4123-847a-7d0a1e2e8c11" }), "uid"},
		"no owner":          {mirror(func(p *corev1.Pod) { p.OwnerReferences = nil }), "uid"},
		"owner of its own":  {mirror(func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "ReplicaSet" }), "uid"},
		"on another node":   {mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" }), "uid"},
		"no annotations":    {mirror(func(p *corev1.Pod) { p.Annotations = nil }), "uid"},
		"empty annotations": {mirror(func(p *corev1.Pod) { p.Annotations[configHash], p.Annotations[corev1.MirrorPodAnnotationKey] = "", "" }), "uid"},
	} {
		if got := podKey(test.pod); got != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

// A watching client, inside a bubble.
type watching struct {
	watch.Interface
	t    *testing.T
	last *v1alpha1.PodNetworkStats
}

func (r *replica) watch(ctx context.Context, options metainternalversion.ListOptions) *watching {
	r.t.Helper()
	w, err := r.Watch(ctx, &options)
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return &watching{Interface: w, t: r.t}
}

// want compares what has come, and nothing more, without waiting.
func (w *watching) want(want ...string) {
	w.t.Helper()
	synctest.Wait()
	var got []string
	for {
		select {
		case event, ok := <-w.ResultChan():
			if !ok {
				got = append(got, "closed")
			} else {
				got = append(got, w.describe(event))
			}
			if ok {
				synctest.Wait()
				continue
			}
		default:
		}
		break
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("the watch got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func (w *watching) describe(event watch.Event) string {
	if status, ok := event.Object.(*metav1.Status); ok {
		return fmt.Sprintf("%s %d %s", event.Type, status.Code, status.Reason)
	}
	w.last = event.Object.(*v1alpha1.PodNetworkStats)
	if event.Type == watch.Bookmark {
		return fmt.Sprintf("BOOKMARK end=%q", w.last.Annotations[metav1.InitialEventsAnnotationKey])
	}
	text := fmt.Sprintf("%s %s/%s", event.Type, w.last.Namespace, w.last.Name)
	if event.Type != watch.Deleted {
		text += " " + string(w.last.State)
	}
	if w.last.Traffic != nil && event.Type != watch.Deleted {
		text += fmt.Sprintf(" %d", w.last.Traffic.Receive.NonIP.Packets)
	}
	return text
}

func initially() metainternalversion.ListOptions {
	yes := true
	return metainternalversion.ListOptions{
		AllowWatchBookmarks: true, SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}
}

func TestWatch(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		uid := r.put("x", "a", "n1", nil)
		r.put("x", "b", "n2", nil)
		w := r.watch(in("x"), initially())
		defer w.Stop()
		w.want("ADDED x/a Measured 0", "ADDED x/b Measured 0", `BOOKMARK end="true"`)

		// Numbers that do not change are no news; those that do are, at the next reading and for one object.
		time.Sleep(10 * time.Second)
		w.want()
		r.agents.Count(uid, 5)
		time.Sleep(10 * time.Second)
		w.want("MODIFIED x/a Measured 5")

		// A silent node is told of once, and once when it is back.
		r.agents.Silence("n2", "no answer")
		time.Sleep(10 * time.Second)
		w.want("MODIFIED x/b NodeSilent")
		r.agents.Silence("n2", "another cause")
		time.Sleep(10 * time.Second)
		w.want()
		r.agents.Silence("n2", "")
		time.Sleep(10 * time.Second)
		w.want("MODIFIED x/b Measured 0")

		// A pod comes unscheduled, gets a node and is read at once, changes labels with its numbers, and goes.
		r.put("x", "c", "", nil)
		w.want("ADDED x/c Pending")
		r.put("x", "c", "n1", nil)
		w.want("MODIFIED x/c Pending")
		time.Sleep(250 * time.Millisecond)
		w.want("MODIFIED x/c Measured 0")
		r.put("x", "a", "n1", map[string]string{"app": "web"})
		w.want("MODIFIED x/a Measured 5")
		r.delete("x", "c")
		w.want("DELETED x/c")

		// Others' namespaces are not our business, and a minute brings a bookmark.
		r.put("y", "a", "n1", nil)
		w.want()
		time.Sleep(time.Minute)
		w.want(`BOOKMARK end=""`)
	})
}

func TestWatchSelects(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		web := map[string]string{"app": "web"}
		options := initially()
		options.LabelSelector = labels.SelectorFromSet(web)
		options.FieldSelector = fields.ParseSelectorOrDie("nodeName=n1")
		w := r.watch(in(""), options)
		defer w.Stop()
		w.want(`BOOKMARK end="true"`)
		r.put("x", "a", "", web)
		r.put("x", "b", "n1", nil)
		w.want()
		r.put("x", "a", "n1", web)
		w.want("ADDED x/a Pending")
		r.put("x", "b", "n1", web)
		w.want("ADDED x/b Pending")
		r.put("x", "a", "n1", nil)
		w.want("DELETED x/a")
		if w.last.Labels["app"] != "web" {
			t.Error("what left the selection was not shown as it was")
		}
		r.delete("x", "a")
		w.want()
		r.delete("x", "b")
		w.want("DELETED x/b")
		if asked := r.agents.Asked(); len(asked) > 0 {
			t.Errorf("asked for what nobody watches: %v", asked)
		}
	})
}

func TestWatchBegins(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		r.put("x", "a", "n1", nil)
		start := func(options metainternalversion.ListOptions, want ...string) {
			t.Helper()
			w := r.watch(in("x"), options)
			w.want(want...)
			w.Stop()
			w.want("closed")
		}
		no := false
		start(metainternalversion.ListOptions{}, "ADDED x/a Measured 0")
		start(metainternalversion.ListOptions{ResourceVersion: "0"}, "ADDED x/a Measured 0")
		start(metainternalversion.ListOptions{SendInitialEvents: &no})
		start(metainternalversion.ListOptions{ResourceVersion: "10000000000"}, "ADDED x/a Measured 0")
		start(metainternalversion.ListOptions{ResourceVersion: "10100000000"})
		old := r.watch(in("x"), metainternalversion.ListOptions{ResourceVersion: "9900000000"})
		old.want("ERROR 410 Expired", "closed")
		// Without bookmarks there is nothing to mark the end with.
		options := initially()
		options.AllowWatchBookmarks = false
		start(options, "ADDED x/a Measured 0")
		// All nodes silent: the watch begins all the same.
		r.agents.Down("nobody there")
		start(initially(), "ADDED x/a NodeSilent", `BOOKMARK end="true"`)
	})
}

// TestSlowWatcher: one that reads nothing is neither waited for nor kept for ever, and misses no last number.
func TestSlowWatcher(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		for i := range 40 {
			r.put("x", fmt.Sprintf("p%02d", i), "n1", nil)
		}
		// The pods are read soon, for nobody; from here on the rounds are half way between the readings.
		time.Sleep(5 * time.Second)
		slow := r.watch(in("x"), metainternalversion.ListOptions{SendInitialEvents: new(bool)})
		defer slow.Stop()
		quick := r.watch(in("x"), metainternalversion.ListOptions{SendInitialEvents: new(bool)})
		defer quick.Stop()
		for i := range int64(6) {
			for p := range 40 {
				r.agents.Count(r.cluster.UID("x", fmt.Sprintf("p%02d", p)), i+1)
			}
			time.Sleep(10 * time.Second)
			for range 40 {
				if got := quick.describe(<-quick.ResultChan()); !strings.HasSuffix(got, fmt.Sprint(" ", i+1)) {
					t.Fatalf("round %d brought %s", i+1, got)
				}
			}
		}
		last := map[string]string{}
		for range 3 * 40 {
			got := slow.describe(<-slow.ResultChan())
			last[slow.last.Name] = got
		}
		slow.want()
		time.Sleep(10 * time.Second)
		for range 40 {
			got := slow.describe(<-slow.ResultChan())
			last[slow.last.Name] = got
		}
		for name, got := range last {
			if got != "MODIFIED x/"+name+" Measured 6" {
				t.Errorf("the last of %s is %s", name, got)
			}
		}
		quick.want()
		// More creations than a queue holds.
		for i := range 1100 {
			r.cluster.Put(livetest.Pod("x", fmt.Sprintf("q%d", i), "", nil))
		}
		synctest.Wait()
		events := 0
		for range slow.ResultChan() {
			events++
		}
		if events >= 1000 {
			t.Errorf("a slow watcher was sent %d events", events)
		}
	})
}

// TestMovingWatch: a client goes from replica to replica, of which one lags, and misses nothing that was deleted.
func TestMovingWatch(t *testing.T) {
	inBubble(t, func(t *testing.T, ahead *replica) {
		behind := newReplica(t, ahead.cluster, ahead.agents)
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go behind.Run(ctx)
		ahead.put("x", "a", "n1", nil)
		ahead.put("x", "b", "n1", nil)

		// The list is from the replica that lags: b is deleted, and it does not know.
		behind.view.Hold()
		ahead.delete("x", "b")
		list := behind.list(in("x"), metainternalversion.ListOptions{})
		if got := names(list); !slices.Equal(got, []string{"x/a", "x/b"}) {
			t.Fatalf("the lagging replica lists %v", got)
		}
		w := ahead.watch(in("x"), metainternalversion.ListOptions{ResourceVersion: list.ResourceVersion})
		w.want("DELETED x/b")
		version := w.last.ResourceVersion
		w.Stop()

		// Back on the one that lags, the client waits until it has caught up.
		if _, err := behind.Watch(in("x"), &metainternalversion.ListOptions{ResourceVersion: version}); !isTooLarge(err) {
			t.Errorf("a watch from the future began: %v", err)
		}
		ahead.delete("x", "a")
		time.AfterFunc(time.Second, behind.view.Release)
		w = behind.watch(in("x"), metainternalversion.ListOptions{ResourceVersion: version})
		defer w.Stop()
		w.want("DELETED x/a")
	})
}

// TestYoungReplica: one that has just started names the version of its list, of which no event tells the other.
func TestYoungReplica(t *testing.T) {
	inBubble(t, func(t *testing.T, old *replica) {
		old.put("x", "a", "n1", nil)
		old.cluster.Skip(50)
		young := newReplica(t, old.cluster, old.agents)
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go young.Run(ctx)
		synctest.Wait()
		list := young.list(in("x"), metainternalversion.ListOptions{})
		// The old one asks the host how far it is, and serves on from the young one's version.
		w := old.watch(in("x"), metainternalversion.ListOptions{ResourceVersion: list.ResourceVersion})
		defer w.Stop()
		w.want()
		after := old.list(in("x"), metainternalversion.ListOptions{})
		if len(after.ResourceVersion) != len(list.ResourceVersion) || after.ResourceVersion <= list.ResourceVersion {
			t.Errorf("behind %s comes %s", list.ResourceVersion, after.ResourceVersion)
		}
		// Its clients' versions from before are too old for the young one: what happened since is not known to it.
		w = young.watch(in("x"), metainternalversion.ListOptions{ResourceVersion: "10000000000"})
		w.want("ERROR 410 Expired", "closed")
	})
}

// TestBrokenHostWatch: the host forgets while its watch is cut, and a list shows what happened.
func TestBrokenHostWatch(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		r.put("x", "a", "n1", nil)
		r.put("x", "b", "n1", nil)
		w := r.watch(in("x"), initially())
		defer w.Stop()
		w.want("ADDED x/a Measured 0", "ADDED x/b Measured 0", `BOOKMARK end="true"`)
		r.view.Hold()
		r.delete("x", "a")
		r.put("x", "c", "", nil)
		r.cluster.Compact()
		w.want()
		r.view.Release()
		r.view.Break()
		time.Sleep(5 * time.Second)
		w.want("DELETED x/a", "ADDED x/c Pending")
	})
}
