package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

const (
	podsPerNamespace  = 100
	endpointsPerSlice = 100
	// writers make objects at a time.
	writers = 16
)

// grow adds nodes, agents' endpoints and pods, and returns when our API server knows of them.
func (w *world) grow(ctx context.Context, s step) error {
	places := spread(w.nodes, s)
	if err := w.addNodes(ctx, s.nodes); err != nil {
		return fmt.Errorf("making nodes: %w", err)
	}
	if err := w.addPods(ctx, places); err != nil {
		return fmt.Errorf("making pods: %w", err)
	}
	return sandbox.Await(ctx, startDeadline, "our API server to see all pods", func() error { return w.seen(ctx) })
}

// spread says on which node each new pod is: on the new ones, each of which gets as many, and otherwise at random,
// the same in every run.
func spread(from int, to step) []int {
	places := make([]int, 0, (to.nodes-from)*to.podsPerNode)
	for node := from; node < to.nodes; node++ {
		for range to.podsPerNode {
			places = append(places, node)
		}
	}
	random := rand.New(rand.NewPCG(uint64(to.nodes), 1))
	random.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	return places
}

func (w *world) addNodes(ctx context.Context, upTo int) error {
	err := inParallel(upTo-w.nodes, "nodes", func(i int) error {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(w.nodes + i)}}
		_, err := w.clients.kubernetes.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	for first := w.nodes; first < upTo; first += endpointsPerSlice {
		name := fmt.Sprintf("%s-%04d", agentv1.ServiceName, first)
		slice := sliceOf(name, agentv1.ServiceName, "grpc", agentv1.Port)
		for i := first; i < min(first+endpointsPerSlice, upTo); i++ {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{agentAddress(i)}, NodeName: new(nodeName(i)),
				Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true)},
			})
		}
		if _, err := w.clients.kubernetes.DiscoveryV1().EndpointSlices(agentv1.Namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	w.nodes = upTo
	return nil
}

// addPods makes a pod at each of places, in new namespaces.
func (w *world) addPods(ctx context.Context, places []int) error {
	first := w.pods / podsPerNamespace
	w.namespaces = nil
	for i := range len(places) / podsPerNamespace {
		w.namespaces = append(w.namespaces, fmt.Sprintf("team-%04d", first+i))
	}
	for _, name := range w.namespaces {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := w.clients.kubernetes.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	err := inParallel(len(places), "pods", func(i int) error {
		pod := podOn(nodeName(places[i]), i%podsPerNamespace)
		pods := w.clients.kubernetes.CoreV1().Pods(w.namespaces[i/podsPerNamespace])
		made, err := pods.Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		made.Status = runningAt(fmt.Sprintf("198.19.%d.%d", places[i]%250, 1+i%250))
		_, err = pods.UpdateStatus(ctx, made, metav1.UpdateOptions{})
		return err
	})
	w.pods += len(places)
	return err
}

// podOn is a small pod of a Deployment.
func podOn(node string, i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("server-%d-7c9f6d5b84-x%04d", i/10, i),
			Labels: map[string]string{
				"app.kubernetes.io/name": "server", "app.kubernetes.io/instance": fmt.Sprintf("server-%d", i/10), "pod-template-hash": "7c9f6d5b84",
			},
		},
		Spec: corev1.PodSpec{
			NodeName: node,
			Containers: []corev1.Container{{
				Name: "server", Image: "localhost/server:1.2.3", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				Env: []corev1.EnvVar{{Name: "LISTEN", Value: ":8080"}, {Name: "LEVEL", Value: "info"}},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
				}},
			}},
		},
	}
}

func runningAt(ip string) corev1.PodStatus {
	now := metav1.Now()
	return corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, StartTime: &now,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "server", Ready: true, Image: "localhost/server:1.2.3", ContainerID: "containerd://0123456789abcdef",
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}},
	}
}

// inParallel calls make for each of the first n numbers, and says how far it is.
func inParallel(n int, what string, make func(i int) error) error {
	began := time.Now()
	var done atomic.Int64
	defer sayEvery(15*time.Second, func() { fmt.Printf("lists: made %d of %d %s\n", done.Load(), n, what) })()
	var group errgroup.Group
	group.SetLimit(writers)
	for i := range n {
		group.Go(func() error {
			defer done.Add(1)
			return make(i)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if n > 1 {
		fmt.Printf("lists: made %d %s in %v\n", n, what, time.Since(began).Round(100*time.Millisecond))
	}
	return nil
}

// sayEvery calls say from time to time until stop is called.
func sayEvery(interval time.Duration, say func()) (stop func()) {
	ticker := time.NewTicker(interval)
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				say()
			case <-ended:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(ended)
	}
}

// seen asks for one object, since the answer says how many more there are.
func (w *world) seen(ctx context.Context) error {
	text, err := w.clients.kubernetes.Discovery().RESTClient().Get().AbsPath(ours.path("")).Param("limit", "1").
		SetHeader("Accept", "application/json").Do(ctx).Raw()
	if err != nil {
		return err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	total := len(list.Items)
	if list.RemainingItemCount != nil {
		total += int(*list.RemainingItemCount)
	}
	if total != w.pods {
		return fmt.Errorf("it knows %d of %d", total, w.pods)
	}
	return nil
}
