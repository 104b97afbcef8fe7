package e2e

import (
	"context"
	"fmt"
	"math/big"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/networkobservability/networkobservability/apis/generated/informers/externalversions"
	listers "github.com/networkobservability/networkobservability/apis/generated/listers/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A follower is a typed informer from the generated client, with default settings, and what it was told.
type follower struct {
	lister listers.PodNetworkStatsNamespaceLister

	mu      sync.Mutex
	deleted []*v1alpha1.PodNetworkStats
	updates int
	faults  []string // what no informer should ever be told
}

// follow starts an informer over one namespace and waits until it is in sync.
func (c *cluster) follow(t *testing.T, namespace string) *follower {
	t.Helper()
	factory := externalversions.NewSharedInformerFactoryWithOptions(c.stats, 0, externalversions.WithNamespace(namespace))
	resource := factory.Networkobservability().V1alpha1().PodNetworkStats()
	f := &follower{lister: resource.Lister().PodNetworkStats(namespace)}
	handler := cache.ResourceEventHandlerFuncs{UpdateFunc: f.updated, DeleteFunc: f.removed}
	registration, err := resource.Informer().AddEventHandler(handler)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	eventually(t, podDeadline, "the informer to be in sync", func(context.Context) error {
		if !registration.HasSynced() {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	return f
}

func (f *follower) updated(before, after any) {
	old, now := before.(*v1alpha1.PodNetworkStats), after.(*v1alpha1.PodNetworkStats)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.updates++
	if old.UID == now.UID && !rises(old.ResourceVersion, now.ResourceVersion) {
		f.faults = append(f.faults, fmt.Sprintf("resource version %s follows %s", now.ResourceVersion, old.ResourceVersion))
	}
}

// rises compares two positive decimals of any size.
func rises(before, after string) bool {
	b, okB := new(big.Int).SetString(before, 10)
	a, okA := new(big.Int).SetString(after, 10)
	return okA && okB && b.Sign() > 0 && a.Cmp(b) > 0
}

func (f *follower) removed(object any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if missed, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = missed.Obj
	}
	f.deleted = append(f.deleted, object.(*v1alpha1.PodNetworkStats))
}

// deletions are the objects of which the informer was told that they are gone.
func (f *follower) deletions() []types.UID {
	f.mu.Lock()
	defer f.mu.Unlock()
	var uids []types.UID
	for _, object := range f.deleted {
		uids = append(uids, object.UID)
	}
	return uids
}

func (f *follower) checkFaults(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fault := range f.faults {
		t.Errorf("the informer was told that %s", fault)
	}
	t.Logf("the informer had %d updates and %d deletions", f.updates, len(f.deleted))
}

// waitFor waits until the informer's copy of a pod's object is as wanted.
func (f *follower) waitFor(t *testing.T, name, what string, wanted func(*v1alpha1.PodNetworkStats) bool) *v1alpha1.PodNetworkStats {
	t.Helper()
	var object *v1alpha1.PodNetworkStats
	took := eventually(t, podDeadline, "the informer to see "+what, func(context.Context) (err error) {
		if object, err = f.lister.Get(name); err != nil {
			return err
		}
		if !wanted(object) {
			return fmt.Errorf("it has %s: %s, labels %v, traffic %+v", object.State, object.Message, object.Labels, object.Traffic)
		}
		return nil
	})
	t.Logf("%s after %v", what, took.Round(1e6))
	return object
}

// TestInformer follows a pod from its creation over traffic and a change of its labels to its end.
func TestInformer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace, nodes := c.namespace(t), c.nodes(t)
	f := c.follow(t, namespace)
	pods := c.start(t, namespace, sink("followed", nodes[0]), sink("sender", nodes[1]))
	followed := pods[0]
	first := f.waitFor(t, "followed", "the new pod's counters", func(s *v1alpha1.PodNetworkStats) bool { return s.State == v1alpha1.Measured })

	c.exec(t, pods[1], "/bin/traffic", "tcp", target(t, followed, "ipv6"), "1000000")
	f.waitFor(t, "followed", "its traffic", func(s *v1alpha1.PodNetworkStats) bool {
		return s.Traffic != nil && s.Traffic.Receive.IPv6.Unicast.Bytes > 1000000
	})
	c.kubectl(t, "label", "pod", "followed", "--namespace", namespace, "colour=blue")
	f.waitFor(t, "followed", "its new label", func(s *v1alpha1.PodNetworkStats) bool { return s.Labels["colour"] == "blue" })
	if gone := f.deletions(); len(gone) != 0 {
		t.Errorf("the informer was told that %v are gone, and all pods are there", gone)
	}

	c.delete(t, followed)
	eventually(t, podDeadline, "the informer to see the pod go", func(context.Context) error {
		if _, err := f.lister.Get("followed"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is still there (%v)", err)
		}
		return nil
	})
	if gone := f.deletions(); len(gone) != 1 || gone[0] != first.UID {
		t.Errorf("the informer was told that %v are gone, want only %s", gone, first.UID)
	}
	f.checkFaults(t)
}

// TestDeletionWaitsForThePod watches a pod that takes its time to end: its object goes with it, not before.
func TestDeletionWaitsForThePod(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	slow := toolbox("slow", c.nodes(t)[0], "/bin/sh", "-c", "trap 'sleep 4; exit' TERM; while true; do sleep 0.2; done")
	grace := int64(30)
	slow.Spec.TerminationGracePeriodSeconds = &grace
	pod := c.start(t, namespace, slow)[0]
	f := c.follow(t, namespace)
	if err := c.kube.CoreV1().Pods(namespace).Delete(t.Context(), "slow", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, podDeadline, "the deletion", func(ctx context.Context) error {
		deletions := len(f.deletions()) // read first: the pod may go between
		_, err := c.kube.CoreV1().Pods(namespace).Get(ctx, "slow", metav1.GetOptions{})
		gone := apierrors.IsNotFound(err)
		if deletions > 0 && !gone {
			t.Fatalf("the informer was told of the end of pod %s, which is still there (%v)", pod.Name, err)
		}
		if deletions == 0 {
			return fmt.Errorf("the informer was not told; pod gone: %v", gone)
		}
		return nil
	})
}

// TestInformerOfNodes is the same for nodes, which do not come and go here.
func TestInformerOfNodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.nodes(t)
	factory := externalversions.NewSharedInformerFactory(c.stats, 0)
	resource := factory.Networkobservability().V1alpha1().NodeNetworkStats()
	lister := resource.Lister()
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	eventually(t, podDeadline, "the informer to have a later reading of each node", func(context.Context) error {
		for _, node := range nodes {
			object, err := lister.Get(node)
			if err != nil {
				return err
			}
			if object.Traffic == nil || object.Window == nil {
				return fmt.Errorf("node %s is %s, window %v", node, object.State, object.Window)
			}
		}
		return nil
	})
}
