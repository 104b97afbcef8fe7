package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	toolboxImage = "localhost/toolbox:dev"
	// sinkPort is where `traffic serve` takes UDP and TCP.
	sinkPort = "9000"
)

// toolbox describes a pod that runs a command of the toolbox image on a node.
func toolbox(name, node string, command ...string) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			// Through the scheduler, as users do; nodeName would pass by it.
			NodeSelector:                  map[string]string{corev1.LabelHostname: node},
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "toolbox", Image: toolboxImage, ImagePullPolicy: corev1.PullNever, Command: command,
			}},
		},
	}
}

// sink describes a pod that takes what `traffic` sends.
func sink(name, node string) *corev1.Pod { return toolbox(name, node, "/bin/traffic", "serve") }

// start creates pods and returns them as they are when all of them are ready.
func (c *cluster) start(t *testing.T, namespace string, pods ...*corev1.Pod) []*corev1.Pod {
	t.Helper()
	for _, pod := range pods {
		if _, err := c.kube.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatalf("creating pod %s: %v", pod.Name, err)
		}
	}
	started := make([]*corev1.Pod, len(pods))
	for i, pod := range pods {
		eventually(t, podDeadline, "pod "+pod.Name+" to be ready", func(ctx context.Context) (err error) {
			started[i], err = c.kube.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
			if err != nil || isReady(started[i]) {
				return err
			}
			return fmt.Errorf("phase %s, %v", started[i].Status.Phase, started[i].Status.ContainerStatuses)
		})
	}
	return started
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// delete deletes a pod and returns when it is gone.
func (c *cluster) delete(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	pods := c.kube.CoreV1().Pods(pod.Namespace)
	if err := pods.Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatalf("deleting pod %s: %v", pod.Name, err)
	}
	c.waitGone(t, pod)
}

func (c *cluster) waitGone(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	eventually(t, podDeadline, "pod "+pod.Name+" to go", func(ctx context.Context) error {
		// A pod of the same name may have followed.
		list, err := c.kube.CoreV1().Pods(pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return p.UID == pod.UID }) {
			return fmt.Errorf("it is still there")
		}
		return nil
	})
}

// address is the pod's address of one family.
func address(t *testing.T, pod *corev1.Pod, family string) string {
	t.Helper()
	for _, ip := range pod.Status.PodIPs {
		if (family == "ipv6") == isIPv6(ip.IP) {
			return ip.IP
		}
	}
	t.Fatalf("pod %s has no %s address: %v", pod.Name, family, pod.Status.PodIPs)
	return ""
}

// target is where a sink takes datagrams and streams of one family.
func target(t *testing.T, sink *corev1.Pod, family string) string {
	t.Helper()
	return net.JoinHostPort(address(t, sink, family), sinkPort)
}
