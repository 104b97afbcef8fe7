package directory

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// cluster is a directory whose clock stands at so many seconds since began.
type cluster struct {
	*Directory
	t     *testing.T
	clock *testingclock.FakeClock
	pods  map[string]*live.Record
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, clock: testingclock.NewFakeClock(began), pods: map[string]*live.Record{}}
	var err error
	if c.Directory, err = New(Config{Client: fake.NewClientset(), Clock: c.clock}); err != nil {
		t.Fatal(err)
	}
	c.Replaced(nil)
	return c
}

func (c *cluster) at(seconds float64) {
	c.clock.SetTime(began.Add(time.Duration(seconds * float64(time.Second))))
}

// put creates or changes a pod.
func (c *cluster) put(name string, created float64, change func(*live.Record), ips ...string) {
	record := &live.Record{
		Namespace: "x", Name: name, PodKey: "key-" + name, Node: "n1", IPs: ips,
		Created: metav1.NewTime(began.Add(time.Duration(created) * time.Second)),
	}
	if change != nil {
		change(record)
	}
	before := c.pods[name]
	c.pods[name] = record
	c.Changed(before, record)
}

func (c *cluster) remove(name string) {
	c.Changed(c.pods[name], nil)
	delete(c.pods, name)
}

func (c *cluster) want(address string, seconds float64, want string) {
	c.t.Helper()
	owner, ok := c.Owner(netip.MustParseAddr(address), began.Add(time.Duration(seconds*float64(time.Second))))
	got := "nobody"
	switch {
	case !ok:
	case owner.Pod != nil:
		got = owner.Pod.Name
	case owner.Service != nil:
		got = "svc/" + owner.Service.Name
	default:
		got = "node/" + owner.Node
	}
	if got != want {
		c.t.Errorf("at %v s %s is %s, want %s", seconds, address, got, want)
	}
}

// TestReuse: the owner at the time is named, never the present one.
func TestReuse(t *testing.T) {
	c := newCluster(t)
	c.at(100)
	c.put("a", 98, nil)
	c.want("10.0.0.1", 99, "nobody")
	c.at(101)
	c.put("a", 98, nil, "10.0.0.1")
	c.want("10.0.0.1", 99, "a")
	c.want("10.0.0.1", 90, "nobody")
	c.at(200)
	c.remove("a")
	// The next was created before the first went, and is seen with the address later than it has it.
	c.at(210)
	c.put("b", 190, nil, "10.0.0.1")
	for seconds, owner := range map[float64]string{99: "a", 199.9: "a", 200: "b", 205: "b", 300: "b"} {
		c.want("10.0.0.1", seconds, owner)
	}
	// A third takes over before the second is known to have gone.
	c.at(220)
	c.put("c", 215, nil, "10.0.0.1")
	c.want("10.0.0.1", 219, "b")
	c.want("10.0.0.1", 220, "c")
	c.at(230)
	c.remove("b")
	c.want("10.0.0.1", 229, "c")
	// An address is free again when its pod has ended.
	c.at(240)
	c.put("c", 215, func(r *live.Record) { r.Ended = true }, "10.0.0.1")
	c.at(260)
	c.put("d", 250, nil, "10.0.0.1")
	c.want("10.0.0.1", 239, "c")
	c.want("10.0.0.1", 255, "d")
	c.want("10.0.0.1", 244, "nobody")
}

func TestRemembers(t *testing.T) {
	c := newCluster(t)
	c.put("a", 0, nil, "10.0.0.1")
	c.put("host", 0, func(r *live.Record) { r.HostNetwork = true }, "192.0.2.1")
	c.at(10)
	c.remove("a")
	c.at(10 + 34*60)
	c.sweep()
	c.want("10.0.0.1", 5, "a")
	if _, ok := c.Pod("key-a"); !ok {
		t.Error("a pod that went 34 minutes ago is forgotten")
	}
	c.want("192.0.2.1", 5, "nobody")
	c.at(10 + 36*60)
	c.sweep()
	c.want("10.0.0.1", 5, "nobody")
	if _, ok := c.Pod("key-a"); ok {
		t.Error("a pod that went 36 minutes ago is known")
	}
	c.remove("host")
	if len(c.gone) != 1 || len(c.byNode["n1"]) != 1 {
		t.Errorf("%d are gone, %d on the node", len(c.gone), len(c.byNode["n1"]))
	}
}

// TestBounded: no more than so many that went are known, and nothing is left of the others.
func TestBounded(t *testing.T) {
	c := newCluster(t)
	c.maxGone = 10
	for i := range 100 {
		c.at(float64(i))
		name := fmt.Sprint("p", i)
		c.put(name, float64(i), nil, "10.0.0.1", fmt.Sprintf("10.0.1.%d", i))
		c.remove(name)
	}
	if len(c.gone) != 10 || len(c.Directory.pods) != 10 || len(c.addresses) != 11 || len(c.addresses[netip.MustParseAddr("10.0.0.1")]) != 10 || len(c.byNamespace["x"]) != 10 {
		t.Errorf("%d are gone, %d pods, %d addresses are known", len(c.gone), len(c.Directory.pods), len(c.addresses))
	}
	c.at(2000_000)
	c.sweep()
	if len(c.gone)+len(c.Directory.pods)+len(c.addresses)+len(c.byNamespace)+len(c.byNode)+len(c.arrivals) != 0 {
		t.Error("something is left when all is forgotten")
	}
}

// TestRelabelled: what pods were before their labels changed is known for a while, and not for ever so many.
func TestRelabelled(t *testing.T) {
	c := newCluster(t)
	label := func(value string) {
		c.put("a", 0, func(r *live.Record) { r.Labels = map[string]string{"release": value} }, "10.0.0.1")
	}
	want := func(after uint64, wantAll bool, values ...string) {
		t.Helper()
		before, all := c.RelabelledAfter(after)
		var got []string
		for _, record := range before {
			got = append(got, record.Labels["release"])
		}
		if all != wantAll || !slices.Equal(got, values) {
			t.Errorf("after %d they were %v, all %t, want %v, %t", after, got, all, values, wantAll)
		}
	}
	label("0")
	want(0, true)
	c.put("a", 0, func(r *live.Record) { r.Labels = map[string]string{"release": "0"} }, "10.0.0.2") // Another address is none.
	label("1")
	c.at(60)
	label("2")
	want(0, true, "0", "1")
	want(1, true, "1")
	want(2, true)
	if got := c.Relabelled(); got != 2 {
		t.Errorf("labels changed %d times", got)
	}
	for seconds, want := range map[float64]uint64{-1: 0, 0: 1, 59: 1, 60: 2} {
		if got := c.RelabelledBy(began.Add(time.Duration(seconds) * time.Second)); got != want {
			t.Errorf("after %v s labels had changed %d times, want %d", seconds, got, want)
		}
	}
	c.at(630)
	c.sweep()
	want(0, false, "1")
	want(1, true, "1")
	for i := range maxRelabelled {
		label(fmt.Sprint("next ", i))
	}
	if before, all := c.RelabelledAfter(1); len(before) != maxRelabelled || all {
		t.Errorf("%d are known, all %t", len(before), all)
	}
}

// TestVastLabels: a pod may have a megabyte of labels, and nobody makes others keep many of these.
func TestVastLabels(t *testing.T) {
	c := newCluster(t)
	vast := strings.Repeat("x", 1<<20)
	labelled := func(value string) func(*live.Record) {
		return func(r *live.Record) { r.Labels = map[string]string{value: vast} }
	}
	const times = maxGoneLabels >> 20
	for i := range times {
		c.put("changing", 0, labelled(fmt.Sprint("release-", i)), "10.0.0.1")
	}
	if before, all := c.RelabelledAfter(0); all || len(before) != maxRelabelledLabels>>20-1 || before[len(before)-1].Labels[fmt.Sprint("release-", times-2)] == "" {
		t.Errorf("of %d changes %d are known, all %t", times-1, len(before), all)
	}
	for i := range times + 1 {
		name := fmt.Sprint("pod-", i)
		c.put(name, 0, labelled("release"), "10.0.0.2")
		c.remove(name)
	}
	if len(c.gone) != times-1 {
		t.Errorf("%d pods that went are known", len(c.gone))
	}
	c.at(3 * 3600)
	c.sweep()
	if c.goneLabels != 0 || c.relabelledLabels != 0 {
		t.Errorf("%d and %d bytes of labels are counted when all is forgotten", c.goneLabels, c.relabelledLabels)
	}
}

// TestReplaced: what a new list does not hold has gone.
func TestReplaced(t *testing.T) {
	c := newCluster(t)
	c.put("a", 0, nil, "10.0.0.1")
	c.put("b", 0, nil, "10.0.0.2")
	c.at(50)
	c.Replaced([]*live.Record{c.pods["b"]})
	c.want("10.0.0.1", 49, "a")
	c.want("10.0.0.1", 60, "nobody")
	c.want("10.0.0.2", 60, "b")
	there := map[string]bool{}
	for pod, is := range c.Pods("x") {
		there[pod.Name] = is
	}
	if len(there) != 2 || there["a"] || !there["b"] {
		t.Errorf("there are %v", there)
	}
}

func TestServicesAndNodes(t *testing.T) {
	c := newCluster(t)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "web", CreationTimestamp: metav1.NewTime(began)},
		Spec: corev1.ServiceSpec{
			ClusterIPs: []string{"10.96.0.9", "None"}, ExternalIPs: []string{"203.0.113.1"},
			Ports: []corev1.ServicePort{{Name: "dns", Protocol: "UDP", Port: 53}, {Name: "dns-tcp", Protocol: "TCP", Port: 53}},
		},
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.1.2.0/24"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}},
	}
	c.putService(service)
	c.putNode(node)
	c.put("pod", 0, nil, "10.1.2.1")
	c.want("10.96.0.9", 5, "svc/web")
	c.want("203.0.113.1", 5, "nobody") // Anybody could claim it.
	c.want("192.0.2.1", -1000, "node/n1")
	c.want("10.1.2.0", 5, "node/n1")
	c.want("10.1.2.1", 5, "pod")
	owner, _ := c.Owner(netip.MustParseAddr("10.96.0.9"), began)
	if got := owner.Service.PortName("TCP", 53); got != "dns-tcp" {
		t.Errorf("the port is %q", got)
	}
	c.at(100)
	c.Directory.remove(c.services, "x/web")
	c.removeNode(node)
	c.want("10.96.0.9", 99, "svc/web")
	c.want("10.96.0.9", 110, "nobody")
	c.want("10.1.2.0", 5, "nobody")
}

func TestWorkload(t *testing.T) {
	for want, pod := range map[string]*live.Record{
		"Deployment/web":     {OwnerKind: "ReplicaSet", OwnerName: "web-6f7", Labels: map[string]string{hashLabel: "6f7"}},
		"ReplicaSet/web-6f7": {OwnerKind: "ReplicaSet", OwnerName: "web-6f7", Labels: map[string]string{hashLabel: "other"}},
		"Job/backup-1":       {OwnerKind: "Job", OwnerName: "backup-1"},
		"/":                  {},
	} {
		if kind, name := Workload(pod); kind+"/"+name != want {
			t.Errorf("got %s/%s, want %s", kind, name, want)
		}
	}
}
