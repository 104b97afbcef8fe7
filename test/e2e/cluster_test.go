package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
)

const (
	// podDeadline is for what happens at once where nothing else does: for a pod to start or to go, a right to be in force, a
	// reading to be taken.
	podDeadline = 90 * time.Second
	// answerDeadline is what the design allows for a list while a node is silent, and for a recovery.
	answerDeadline = 10 * time.Second
)

// A cluster is the one that the tests run on, as its administrator sees it.
type cluster struct {
	output     string // folder with the kubeconfig and the logs
	kubeconfig string
	config     *rest.Config // without the client's own rate limit
	kube       kubernetes.Interface
	stats      versioned.Interface
}

// newCluster skips the test when there is no cluster.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	output := os.Getenv("E2E_OUTPUT")
	if output == "" {
		t.Skip("no cluster: run make e2e")
	}
	if os.Geteuid() != 0 {
		t.Skip("counting inside pods needs root")
	}
	c := &cluster{output: output, kubeconfig: filepath.Join(output, "kubeconfig")}
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		t.Fatalf("reading the kubeconfig: %v", err)
	}
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{} // tests that expect warnings set their own
	c.config = config
	c.kube = kubernetes.NewForConfigOrDie(config)
	c.stats = versioned.NewForConfigOrDie(config)
	return c
}

// eventually calls check until it returns nil, and fails the test at the deadline with check's last word.
// It returns how long that took.
func eventually(t *testing.T, deadline time.Duration, what string, check func(context.Context) error) time.Duration {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return time.Since(start)
		}
		if last == nil || ctx.Err() == nil { // at the deadline a client only says that it was interrupted
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting %v for %s: %v", deadline, what, last)
		case <-ticker.C:
		}
	}
}

// namespace makes a namespace for one test and deletes it afterwards.
func (c *cluster) namespace(t *testing.T) string {
	t.Helper()
	created, err := c.kube.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("creating a namespace: %v", err)
	}
	t.Cleanup(func() {
		// The test's context is over by now.
		err := c.kube.CoreV1().Namespaces().Delete(context.Background(), created.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			t.Errorf("deleting namespace %s: %v", created.Name, err)
		}
	})
	eventually(t, podDeadline, "the default service account", func(ctx context.Context) error {
		_, err := c.kube.CoreV1().ServiceAccounts(created.Name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return created.Name
}

// nodes are the names of the nodes that run pods, in order, at least two.
func (c *cluster) nodes(t *testing.T) []string {
	t.Helper()
	list, err := c.kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatalf("listing nodes: %v", err)
	}
	var names []string
	for _, node := range list.Items {
		names = append(names, node.Name)
	}
	slices.Sort(names)
	if len(names) < 2 {
		t.Fatalf("the cluster has %d nodes, and the tests need two", len(names))
	}
	return names
}

// agents are the running agents' pods by node.
func (c *cluster) agents(t *testing.T) map[string]*corev1.Pod {
	t.Helper()
	return byNode(c.running(t, "nodeagent"))
}

// servers are the running pods of our API server.
func (c *cluster) servers(t *testing.T) []corev1.Pod {
	t.Helper()
	return c.running(t, "apiserver")
}

func (c *cluster) running(t *testing.T, component string) []corev1.Pod {
	t.Helper()
	list, err := c.kube.CoreV1().Pods(agentv1.Namespace).List(t.Context(),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
	if err != nil {
		t.Fatalf("listing the pods of the %s: %v", component, err)
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		return pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning
	})
}

func byNode(pods []corev1.Pod) map[string]*corev1.Pod {
	nodes := map[string]*corev1.Pod{}
	for i := range pods {
		nodes[pods[i].Spec.NodeName] = &pods[i]
	}
	return nodes
}

// waitHealthy waits until everything of ours is as it should be, for tests that have disturbed it.
func (c *cluster) waitHealthy(t *testing.T) {
	t.Helper()
	nodes := c.nodes(t)
	eventually(t, podDeadline, "every agent and both API servers to be ready", func(ctx context.Context) error {
		daemons, err := c.kube.AppsV1().DaemonSets(agentv1.Namespace).Get(ctx, "networkobservability-nodeagent", metav1.GetOptions{})
		if err != nil {
			return err
		}
		servers, err := c.kube.AppsV1().Deployments(agentv1.Namespace).Get(ctx, "networkobservability-apiserver", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if int(daemons.Status.NumberReady) != len(nodes) || daemons.Status.UpdatedNumberScheduled != daemons.Status.NumberReady ||
			daemons.Status.ObservedGeneration != daemons.Generation {
			return fmt.Errorf("agents: %+v", daemons.Status)
		}
		if servers.Status.ReadyReplicas != *servers.Spec.Replicas || servers.Status.Replicas != *servers.Spec.Replicas {
			return fmt.Errorf("API servers: %+v", servers.Status)
		}
		return nil
	})
}
