package networkflows

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// watched is a client's watch, and what the client knows by it.
type watched struct {
	w       *world
	watch   watch.Interface
	cancel  context.CancelFunc
	cache   map[string]*v1alpha1.NetworkFlow
	version uint64
}

func (w *world) watch(namespace string, options *metainternalversion.ListOptions) *watched {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.request(namespace))
	w.t.Cleanup(cancel)
	got, err := w.rest.Watch(ctx, options)
	if err != nil {
		w.t.Fatal(err)
	}
	return &watched{w: w, watch: got, cancel: cancel, cache: map[string]*v1alpha1.NetworkFlow{}}
}

// stop ends the watch and waits for its end.
func (c *watched) stop() {
	c.cancel()
	for range c.watch.ResultChan() {
	}
}

// next is the next event, as "ADDED POD PACKETS"; a status is "ERROR REASON".
func (c *watched) next() string {
	c.w.t.Helper()
	select {
	case event, ok := <-c.watch.ResultChan():
		if !ok {
			return "end"
		}
		return c.take(event)
	case <-time.After(patience):
		positions := map[string][]int64{}
		for _, node := range c.w.names.Nodes() {
			positions[node+" "+strconv.FormatInt(c.w.agents.Instance(node), 10)] = c.w.agents.Positions(node)
		}
		c.w.t.Fatalf("no event came; the client knows of %q, there are %v", slices.Sorted(maps.Keys(c.cache)), positions)
		return ""
	}
}

func (c *watched) take(event watch.Event) string {
	c.w.t.Helper()
	if status, ok := event.Object.(*metav1.Status); ok {
		return fmt.Sprintf("%s %s", event.Type, status.Reason)
	}
	flow := event.Object.(*v1alpha1.NetworkFlow)
	version, err := strconv.ParseUint(flow.ResourceVersion, 10, 64)
	if err != nil || version < c.version {
		c.w.t.Errorf("%s has version %q behind %d", event.Type, flow.ResourceVersion, c.version)
	}
	c.version = version
	switch event.Type {
	case watch.Bookmark:
		return fmt.Sprintf("BOOKMARK %s", flow.Annotations[metav1.InitialEventsAnnotationKey])
	case watch.Deleted:
		delete(c.cache, flow.Namespace+"/"+flow.Name)
		return fmt.Sprintf("DELETED %s", flow.Pod.Name)
	}
	c.cache[flow.Namespace+"/"+flow.Name] = flow
	return fmt.Sprintf("%s %s %d", event.Type, flow.Pod.Name, flow.Receive.Packets)
}

func (c *watched) want(events ...string) {
	c.w.t.Helper()
	for _, want := range events {
		if got := c.next(); got != want {
			c.w.t.Fatalf("got %s, want %s", got, want)
		}
	}
}

func packets(n int64) func(*agentv1.Flow) {
	return func(f *agentv1.Flow) { f.Receive = &agentv1.Counters{Packets: n} }
}

func streaming() *metainternalversion.ListOptions {
	yes := true
	return &metainternalversion.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}
}

func after(version string) *metainternalversion.ListOptions {
	return &metainternalversion.ListOptions{ResourceVersion: version}
}

func TestWatch(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	w.pod("y", "other", "n1", nil)
	first := w.agents.Record("n1", w.flow(a, "198.51.100.1", 1))
	c := w.watch("x", streaming())
	c.want("ADDED a 3", "BOOKMARK true")
	second := w.agents.Record("n1", w.flow(a, "198.51.100.1", 2))
	c.want("ADDED a 3")
	w.agents.Record("n1", w.flow(w.pods["y/other"], "198.51.100.1", 2))
	w.agents.Change("n1", first, packets(9))
	c.want("MODIFIED a 9")
	w.agents.Remove("n1", second)
	c.want("DELETED a")
	// Pods that come while nodes are watched: on a node that is, and on one that is not.
	b := w.pod("x", "b", "n1", nil)
	w.agents.Record("n1", w.flow(b, "198.51.100.1", 3))
	c.want("ADDED b 3")
	d := w.pod("x", "d", "n2", nil)
	w.agents.Record("n2", w.flow(d, "198.51.100.1", 4))
	c.want("ADDED d 3")
	if len(c.cache) != 3 {
		t.Errorf("the client knows of %v", slices.Collect(maps.Keys(c.cache)))
	}
	w.agents.Restart("n2")
	c.want("ERROR Expired", "end")
}

// TestWatchFromList: what kubectl get -w does. Nothing that happens between the list and the watch is lost.
func TestWatchFromList(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	first, second := w.agents.Record("n1", w.flow(a, "198.51.100.1", 1)), w.agents.Record("n1", w.flow(a, "198.51.100.1", 2))
	w.agents.Record("n1", w.flow(a, "198.51.100.1", 3))
	list := w.list("x", nil)
	w.agents.Change("n1", first, packets(8))
	w.agents.Remove("n1", second)
	w.agents.Record("n1", w.flow(a, "198.51.100.1", 4))
	c := w.watch("x", after(list.ResourceVersion))
	c.want("MODIFIED a 8", "ADDED a 3", "DELETED a")
	w.agents.Change("n1", first, packets(9))
	c.want("MODIFIED a 9")

	// And on from there, at the version of the last event.
	at := strconv.FormatUint(c.version, 10)
	c.stop()
	w.agents.Remove("n1", first)
	c = w.watch("x", after(at))
	c.want("DELETED a")
}

// TestWatchElsewhere: a version of another replica is gone on from while it is young, and else refused.
func TestWatchElsewhere(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	w.agents.Record("n1", w.flow(a, "198.51.100.1", 1))
	young := w.flow(a, "198.51.100.1", 0)
	young.LastUnixNano = time.Now().UnixNano()
	packets(7)(young)
	w.agents.Record("n1", young)
	c := w.watch("x", after(format(uint64(time.Now().UnixMicro()))))
	c.want("MODIFIED a 7")
	c.stop()
	c = w.watch("x", after(format(uint64(time.Now().Add(-2*time.Minute).UnixMicro()))))
	c.want("ERROR Expired", "end")
	future := after(format(uint64(time.Now().Add(time.Hour).UnixMicro())))
	if _, err := w.rest.Watch(w.request("x"), future); err == nil || !strings.Contains(err.Error(), "Too large resource version") {
		t.Errorf("a version of the future: %v", err)
	}
}

// TestWatchSelected: flows come into a selection and leave it.
func TestWatchSelected(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	at := w.agents.Record("n1", w.flow(a, "198.51.100.1", 1))
	never := w.agents.Record("n1", w.flow(a, "198.51.100.1", 2))
	c := w.watch("x", w.options("", "verdict=dropped"))
	verdict := func(v agentv1.Verdict) func(*agentv1.Flow) { return func(f *agentv1.Flow) { f.Verdict = v } }
	w.agents.Change("n1", at, verdict(agentv1.Verdict_VERDICT_DROPPED))
	c.want("ADDED a 3")
	w.agents.Change("n1", at, packets(5))
	c.want("MODIFIED a 5")
	w.agents.Change("n1", never, packets(5))
	w.agents.Remove("n1", never)
	w.agents.Change("n1", at, verdict(agentv1.Verdict_VERDICT_FORWARDED))
	c.want("DELETED a")
	w.agents.Change("n1", at, verdict(agentv1.Verdict_VERDICT_DROPPED))
	c.want("ADDED a 5")
	w.agents.Remove("n1", at)
	c.want("DELETED a")
}

// TestWatchSelectedAfter: of flows from before its version, a watch does not say that they left a selection in which they cannot
// have been.
func TestWatchSelectedAfter(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	verdict := func(v agentv1.Verdict) func(*agentv1.Flow) { return func(f *agentv1.Flow) { f.Verdict = v } }
	protocol := func(number int32) func(*agentv1.Flow) { return func(f *agentv1.Flow) { f.Protocol = number } }
	other, perhaps := w.flow(a, "198.51.100.1", 1), w.flow(a, "198.51.100.1", 2)
	protocol(17)(other)
	protocol(6)(perhaps)
	verdict(agentv1.Verdict_VERDICT_DROPPED)(perhaps)
	otherAt, perhapsAt := w.agents.Record("n1", other), w.agents.Record("n1", perhaps)
	list := w.list("x", nil)
	options := w.options("", "protocol=TCP,verdict=Dropped")
	options.ResourceVersion = list.ResourceVersion
	c := w.watch("x", options)
	w.agents.Change("n1", otherAt, packets(5))
	w.agents.Change("n1", perhapsAt, verdict(agentv1.Verdict_VERDICT_FORWARDED))
	c.want("DELETED a") // of the second one: the client may have it
	w.agents.Change("n1", otherAt, packets(6))
	w.agents.Remove("n1", otherAt)
	w.agents.Change("n1", perhapsAt, verdict(agentv1.Verdict_VERDICT_DROPPED))
	c.want("ADDED a 3")
}

// TestWatchLateNode: a watch begins without a silent node, and has its flows when it answers.
func TestWatchLateNode(t *testing.T) {
	w := newWorld(t)
	w.agents.Record("n1", w.flow(w.pod("x", "a", "n1", nil), "198.51.100.1", 1))
	w.agents.Record("n2", w.flow(w.pod("x", "b", "n2", nil), "198.51.100.1", 1))
	w.agents.Silence("n2", errors.New("no answer"))
	c := w.watch("x", streaming())
	if got := w.warnings.take(); len(got) != 1 || got[0] != "1 of 2 nodes did not answer: n2: no answer" {
		t.Errorf("warned of %q", got)
	}
	c.want("ADDED a 3", "BOOKMARK true")
	w.agents.Silence("n2", nil)
	c.want("ADDED b 3")
	// A node that falls silent loses nothing.
	w.agents.Silence("n2", errors.New("no answer"))
	w.agents.Record("n2", w.flow(w.pods["x/b"], "198.51.100.1", 2))
	w.agents.Silence("n2", nil)
	c.want("ADDED b 3")
}

func TestSlowWatcher(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	c, other := w.watch("x", streaming()), w.watch("x", streaming())
	c.want("BOOKMARK true")
	other.want("BOOKMARK true")
	for i := range 20 {
		w.agents.Record("n1", w.flow(a, "198.51.100.1", float64(i)))
	}
	for range 20 {
		other.want("ADDED a 3")
	}
	watcher := c.watch.(*watcher)
	b := batch{events: make([]event, maxQueue)}
	// Under the lock it is certain that c was offered all flows too, more than go into its channel: it takes no batch out.
	w.rest.hub.mu.Lock()
	watcher.offer(b)
	watcher.offer(b)
	w.rest.hub.mu.Unlock()
	for got := c.next(); got != "ERROR Expired"; got = c.next() {
		if got == "end" {
			t.Fatal("the watch ended without a reason")
		}
	}
}

// TestStalledWatchers: clients that do not read what they missed keep nobody else from it.
func TestStalledWatchers(t *testing.T) {
	w := newWorld(t)
	w.rest.hub.catchUpTime = time.Second
	a := w.pod("x", "a", "n1", nil)
	list := w.list("x", nil)
	const flows = 100 // more than wait in the channel of a watch
	for range flows {
		w.agents.Record("n1", w.flow(a, "198.51.100.1", 1))
	}
	var stalled []*watched
	for range maxCatchingUp {
		stalled = append(stalled, w.watch("x", after(list.ResourceVersion)))
	}
	first := make([]string, len(stalled))
	for i, one := range stalled {
		first[i] = one.next() // It has a place, or on a busy machine had it.
	}
	// Who reads may take longer than a busy machine leaves in a second.
	w.rest.hub.catchUpTime = time.Minute
	c := w.watch("x", after(list.ResourceVersion))
	if !c.until(func() bool { return len(c.cache) == flows }) {
		t.Error("the watch of one who reads ended")
	}
	// Both were cut off: one that is read before its time is up would still come to the end.
	w.rest.hub.mu.Lock()
	places := w.rest.hub.feeds["n1"].catchingUp
	w.rest.hub.mu.Unlock()
	if err := places.Acquire(t.Context(), maxCatchingUp); err != nil {
		t.Fatal(err)
	}
	places.Release(maxCatchingUp)
	for i, one := range stalled {
		for got := first[i]; got != "ERROR Expired"; got = one.next() {
			if got == "end" {
				t.Fatal("the watch ended without a reason")
			}
		}
	}
}

// TestWatchRelabelled: flows come into a selection by labels, and leave it, with their pods.
func TestWatchRelabelled(t *testing.T) {
	web, other := map[string]string{"app": "web"}, map[string]string{"app": "other"}
	for _, fields := range []string{"", "verdict=Forwarded"} { // By what can change, too.
		w := newWorld(t)
		a, b, z := w.pod("x", "a", "n1", web), w.pod("x", "b", "n2", other), w.pod("x", "z", "n1", web)
		w.pod("y", "c", "n1", web)
		first := w.agents.Record("n1", w.flow(a, "198.51.100.1", 1))
		w.agents.Record("n1", w.flow(w.pods["y/c"], "198.51.100.1", 1))
		w.agents.Record("n2", w.flow(b, "198.51.100.1", 1))
		options := w.options("app=web", fields)
		options.SendInitialEvents, options.AllowWatchBookmarks = new(true), true
		c := w.watch("x", options)
		c.want("ADDED a 3", "BOOKMARK true")
		w.relabel(a, map[string]string{"app": "web", "release": "2"})
		w.relabel(w.pods["y/c"], other)
		w.agents.Change("n1", first, packets(4))
		c.want("MODIFIED a 4")
		w.relabel(a, other)
		c.want("DELETED a")
		w.agents.Change("n1", first, packets(5))
		w.agents.Record("n1", w.flow(z, "198.51.100.1", 1))
		c.want("ADDED z 3") // And nothing of a, which came before on the same node.
		w.relabel(a, web)
		c.want("ADDED a 5")

		// The node of b is not followed at first.
		for _, labels := range []map[string]string{web, other, web} {
			w.relabel(b, labels)
			pods := []string{"a", "b", "z"}
			if labels["app"] == "other" {
				pods = []string{"a", "z"}
			}
			if !c.until(func() bool { return c.has(pods...) }) {
				t.Fatal("the watch ended")
			}
		}
		w.agents.Remove("n1", first)
		if !c.until(func() bool { return c.has("b", "z") }) {
			t.Fatal("the watch ended")
		}
	}
}

// TestWatchOtherOwner: what a pod belongs to can change as its labels can.
func TestWatchOtherOwner(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	w.agents.Record("n1", w.flow(a, "198.51.100.1", 1))
	options := w.options("", "workload=ReplicaSet/web")
	options.SendInitialEvents, options.AllowWatchBookmarks = new(true), true
	c := w.watch("x", options)
	c.want("BOOKMARK true")
	adopted := *a
	adopted.OwnerKind, adopted.OwnerName = "ReplicaSet", "web"
	w.names.Changed(a, &adopted)
	if !c.until(func() bool { return c.has("a") }) {
		t.Fatal("the watch ended")
	}
	w.names.Changed(&adopted, a)
	if !c.until(func() bool { return c.has() }) {
		t.Fatal("the watch ended")
	}
}

// TestWatchRelabelledAfter: a watch that goes on from a version tells of pods whose labels have changed since, also where none of a
// node's is selected any more.
func TestWatchRelabelledAfter(t *testing.T) {
	web, other := map[string]string{"app": "web"}, map[string]string{"app": "other"}
	w := newWorld(t)
	a, b := w.pod("x", "a", "n1", web), w.pod("x", "b", "n2", other)
	for range 2 {
		w.agents.Record("n1", w.flow(a, "198.51.100.1", 1))
	}
	w.agents.Record("n2", w.flow(b, "198.51.100.1", 1))
	list := w.list("x", w.options("app=web", ""))
	byLabel := func(version string) *metainternalversion.ListOptions {
		options := w.options("app=web", "")
		options.ResourceVersion = version
		return options
	}
	w.relabel(a, other)
	w.relabel(b, web)
	c := w.watch("x", byLabel(list.ResourceVersion))
	for i := range list.Items {
		c.cache["x/"+list.Items[i].Name] = &list.Items[i]
	}
	if !c.until(func() bool { return c.has("b") }) {
		t.Fatal("the watch from the list's version ended")
	}

	// And on from there. What goes meanwhile is not missed either.
	cache, version := c.cache, c.version
	c.stop()
	w.relabel(a, web)
	w.relabel(b, other)
	w.agents.Remove("n1", w.agents.Positions("n1")[0])
	c = w.watch("x", byLabel(format(version)))
	c.cache, c.version = cache, version
	if !c.until(func() bool { return c.has("a") }) {
		t.Fatal("the watch from the version of an event ended")
	}

	// But not behind more than is remembered.
	version = c.version
	c.stop()
	for range 5001 {
		w.relabel(a, other)
		w.relabel(a, web)
	}
	c = w.watch("x", byLabel(format(version)))
	c.want("ERROR Expired", "end")
}

// TestWatchModel: whatever happens, a client that goes on where it was, or starts anew when told so, ends with what the
// agents have, of what it selects.
func TestWatchModel(t *testing.T) {
	for name, selector := range map[string]string{"all": "", "by labels": "app=web"} {
		t.Run(name, func(t *testing.T) { watchModel(t, selector) })
	}
}

func watchModel(t *testing.T, selector string) {
	random := seeded(t)
	w := newWorld(t, "n1", "n2", "n3")
	nodes := []string{"n1", "n2", "n3"}
	labels := []map[string]string{{"app": "web"}, {"app": "other"}, {"app": "web", "release": "2"}}
	var pods []*live.Record
	for _, node := range nodes {
		for i := range 2 {
			pods = append(pods, w.pod("x", fmt.Sprint(node, "-", i), node, labels[i]))
		}
	}
	begin := func(version string) *metainternalversion.ListOptions {
		options := streaming()
		if version != "" {
			options = after(version)
		}
		options.LabelSelector = w.options(selector, "").LabelSelector
		return options
	}
	var trace []string
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(trace)
		}
	})
	happen := func() {
		node := nodes[random.IntN(3)]
		positions := w.agents.Positions(node)
		what := random.IntN(100)
		trace = append(trace, fmt.Sprint(node, " ", what))
		switch {
		case what == 0:
			w.agents.Restart(node)
		case what == 1:
			w.agents.Forget(node)
		case what < 10:
			w.relabel(pods[random.IntN(len(pods))], labels[random.IntN(len(labels))])
		case what < 50 || len(positions) == 0:
			w.agents.Record(node, w.flow(w.pods[fmt.Sprint("x/", node, "-", random.IntN(2))], "198.51.100.1", 1))
		case what < 75:
			w.agents.Change(node, positions[random.IntN(len(positions))], packets(random.Int64N(1000)))
		default:
			w.agents.Remove(node, positions[random.IntN(len(positions))])
		}
	}
	c := w.watch("x", begin(""))
	synced := false
	for range 300 {
		for range random.IntN(5) {
			happen()
		}
		again := begin("")
		if synced && random.IntN(10) == 0 {
			again = begin(format(c.version))
			trace = append(trace, "again")
			c.stop()
		} else if c.until(func() bool { return c.is(nodes, selector) }) {
			synced = true
			trace = append(trace, "synced")
			continue
		}
		trace = append(trace, "watch")
		cache, version := c.cache, c.version
		c = w.watch("x", again)
		if again.SendInitialEvents == nil {
			c.cache, c.version = cache, version
		}
	}
}

// until takes events until something is so; it returns false when the watch has ended before.
func (c *watched) until(is func() bool) bool {
	c.w.t.Helper()
	for !is() {
		if got := c.next(); got == "end" {
			return false
		}
	}
	return true
}

// has says whether the client knows of flows of these pods, in order of their names.
func (c *watched) has(pods ...string) bool {
	var got []string
	for _, flow := range c.cache {
		got = append(got, flow.Pod.Name)
	}
	slices.Sort(got)
	return slices.Equal(got, pods)
}

// is says whether the client knows what the agents have, of pods with labels.
func (c *watched) is(nodes []string, selector string) bool {
	c.w.t.Helper()
	selected, err := labels.Parse(selector)
	if err != nil {
		c.w.t.Fatal(err)
	}
	want := map[string]bool{}
	for _, node := range nodes {
		for position, key := range c.w.agents.Pods(node) {
			if selected.Matches(labels.Set(c.w.pods[key].Labels)) {
				want["x/"+place{node, c.w.agents.Instance(node), position}.name()] = true
			}
		}
	}
	if len(want) != len(c.cache) {
		return false
	}
	for name := range c.cache {
		if !want[name] {
			return false
		}
	}
	return true
}
