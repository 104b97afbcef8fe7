package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned/typed/networkobservability/v1alpha1"
	api "github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// replicas are clients of each replica of our API server, past kube-apiserver, which would choose one itself.
func (c *cluster) replicas(t *testing.T, namespace string) []v1alpha1.PodNetworkStatsInterface {
	t.Helper()
	published, err := c.kube.CoreV1().ConfigMaps(agentv1.Namespace).Get(t.Context(), agentv1.CAConfigMapName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var clients []v1alpha1.PodNetworkStatsInterface
	for _, server := range c.servers(t) {
		config := rest.CopyConfig(c.config)
		config.Host = "https://" + c.portForward(t, &server, "10250")
		config.TLSClientConfig.ServerName = serverName
		config.TLSClientConfig.CAData = []byte(published.Data[agentv1.ServingCAKey])
		clients = append(clients, versioned.NewForConfigOrDie(config).NetworkobservabilityV1alpha1().PodNetworkStats(namespace))
	}
	if len(clients) < 2 {
		t.Fatalf("%d API servers run, and the test needs two", len(clients))
	}
	return clients
}

// TestVersionsSuitAnyReplica reads a list from one replica, and goes on from it at the other: with the next
// page, and with a watch that tells what happened since.
func TestVersionsSuitAnyReplica(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace, nodes := c.namespace(t), c.nodes(t)
	pods := c.start(t, namespace, sink("a", nodes[0]), sink("b", nodes[1]), sink("c", nodes[0]))
	replicas := c.replicas(t, namespace)
	t.Run("pages", func(t *testing.T) { checkPages(t, replicas) })

	list, err := replicas[0].List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.delete(t, pods[0])
	created := c.start(t, namespace, sink("d", nodes[1]))[0]
	for i, replica := range replicas {
		t.Run(fmt.Sprintf("watch at replica %d", i), func(t *testing.T) {
			checkReplay(t, replica, list, pods[0], created)
		})
	}
	t.Run("too old", func(t *testing.T) { checkTooOld(t, replicas[1]) })
	t.Run("list and then bookmark", func(t *testing.T) { checkWatchList(t, replicas[1], []string{"b", "c", "d"}) })
}

func checkPages(t *testing.T, replicas []v1alpha1.PodNetworkStatsInterface) {
	var names, versions []string
	options := metav1.ListOptions{Limit: 1}
	for page := 0; page == 0 || options.Continue != ""; page++ {
		list, err := replicas[page%len(replicas)].List(t.Context(), options)
		if err != nil {
			t.Fatalf("reading page %d: %v", page, err)
		}
		for _, item := range list.Items {
			names = append(names, item.Name)
		}
		versions = append(versions, list.ResourceVersion)
		options.Continue = list.Continue
	}
	if !slices.Equal(names, []string{"a", "b", "c"}) || len(slices.Compact(versions)) != 1 {
		t.Errorf("pages of two replicas give %v with versions %v", names, versions)
	}
}

// checkReplay watches from a list on, and wants to be told of one deletion and one new pod.
func checkReplay(t *testing.T, replica v1alpha1.PodNetworkStatsInterface, list *api.PodNetworkStatsList, deleted, created *corev1.Pod) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*answerDeadline)
	defer cancel()
	w, err := replica.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	last, seen := list.ResourceVersion, map[string]watch.EventType{}
	for seen[deleted.Name] != watch.Deleted || seen[created.Name] == "" {
		event, open := <-w.ResultChan()
		stats, ok := event.Object.(*api.PodNetworkStats)
		if !open || !ok {
			t.Fatalf("the watch ended with %+v; seen: %v", event, seen)
		}
		if !rises(last, stats.ResourceVersion) {
			t.Errorf("version %s of %s %s follows %s", stats.ResourceVersion, event.Type, stats.Name, last)
		}
		if _, before := seen[created.Name]; stats.Name == created.Name && !before && event.Type != watch.Added {
			t.Errorf("the first event of a new pod is %s", event.Type)
		}
		last, seen[stats.Name] = stats.ResourceVersion, event.Type
	}
}

// checkTooOld watches from a version that nobody remembers.
func checkTooOld(t *testing.T, replica v1alpha1.PodNetworkStatsInterface) {
	w, err := replica.Watch(t.Context(), metav1.ListOptions{ResourceVersion: "1"})
	if err == nil {
		defer w.Stop()
		event := <-w.ResultChan()
		err = apierrors.FromObject(event.Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("watching from version 1 gives %v, want 410", err)
	}
}

// checkWatchList begins a watch with all objects, as client-go's informers do by default.
func checkWatchList(t *testing.T, replica v1alpha1.PodNetworkStatsInterface, want []string) {
	ctx, cancel := context.WithTimeout(t.Context(), answerDeadline)
	defer cancel()
	yes := true
	w, err := replica.Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var names []string
	for {
		event, open := <-w.ResultChan()
		stats, ok := event.Object.(*api.PodNetworkStats)
		switch {
		case !open || !ok:
			t.Fatalf("the watch ended with %+v after %v", event, names)
		case event.Type == watch.Bookmark && stats.Annotations[metav1.InitialEventsAnnotationKey] == "true":
			slices.Sort(names)
			if !slices.Equal(names, want) {
				t.Errorf("the initial events are of %v, want %v", names, want)
			}
			return
		case event.Type != watch.Added:
			t.Errorf("an initial event is %s", event.Type)
		}
		names = append(names, stats.Name)
	}
}
