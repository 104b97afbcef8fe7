package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// clusterCapture creates a cluster capture, removes it when the test ends, and returns when so many targets are recorded.
func (c *cluster) clusterCapture(t *testing.T, capture *v1alpha1.ClusterCapture, targets int) {
	t.Helper()
	captures := c.stats.NetworkobservabilityV1alpha1().ClusterCaptures()
	if _, err := captures.Create(t.Context(), capture, metav1.CreateOptions{}); err != nil {
		t.Fatalf("creating cluster capture %s: %v", capture.Name, err)
	}
	t.Cleanup(func() {
		// The test's context is over by now.
		if err := captures.Delete(context.Background(), capture.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("deleting cluster capture %s: %v", capture.Name, err)
		}
	})
	c.clusterCaptureUntil(t, capture.Name, fmt.Sprintf("%d targets to be recorded", targets), func(s *v1alpha1.CaptureStatus) bool {
		running := 0
		for _, row := range s.Targets {
			if row.Phase == v1alpha1.CaptureRunning {
				running++
			}
		}
		return running == targets
	})
}

func (c *cluster) clusterCaptureUntil(t *testing.T, name, what string, is func(*v1alpha1.CaptureStatus) bool) (last *v1alpha1.ClusterCapture) {
	t.Helper()
	eventually(t, captureDeadline, what, func(ctx context.Context) (err error) {
		last, err = c.stats.NetworkobservabilityV1alpha1().ClusterCaptures().Get(ctx, name, metav1.GetOptions{})
		if err == nil && !is(&last.Status) {
			err = fmt.Errorf("the status is %+v", last.Status)
		}
		return err
	})
	return last
}

// finishCluster stops a cluster capture and returns it when it has ended well.
func (c *cluster) finishCluster(t *testing.T, name string) *v1alpha1.ClusterCapture {
	t.Helper()
	if r := c.plugin(t, "network", "clustercapture", "stop", name); r.err != nil {
		t.Fatalf("stopping %s: %v: %s", name, r.err, r.stderr)
	}
	return c.clusterCaptureUntil(t, name, "the cluster capture to be complete", func(s *v1alpha1.CaptureStatus) bool {
		return conditionIs(s, v1alpha1.CaptureComplete) && s.File != nil
	})
}

// TestClusterCapture records known amounts on the uplinks of both nodes, and in pods of two namespaces that are chosen by label.
func TestClusterCapture(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	other := c.namespace(t)
	c.start(t, other, sink("apart", c.nodes(t)[1]))
	for _, namespace := range []string{b.sink.Namespace, other} {
		patch := fmt.Appendf(nil, `{"metadata": {"labels": {"recorded": %q}}}`, b.sink.Namespace)
		if _, err := c.kube.CoreV1().Namespaces().Patch(t.Context(), namespace, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	name, filter := "cluster-"+b.sink.Namespace, fmt.Sprintf("udp dst port %s and host sink.%s", sinkPort, b.sink.Namespace)
	capture := &v1alpha1.ClusterCapture{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.ClusterCaptureSpec{
		Nodes: &v1alpha1.CaptureNodes{Selector: &metav1.LabelSelector{}},
		Pods: &v1alpha1.ClusterCapturePods{
			Selector:          &metav1.LabelSelector{},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"recorded": b.sink.Namespace}},
		},
		CaptureSettings: v1alpha1.CaptureSettings{Filter: filter, VantagePoint: v1alpha1.BothEnds},
	}}
	c.clusterCapture(t, capture, 2+4)
	const datagrams = 300
	c.exec(t, b.far.Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, "ipv4"), strconv.Itoa(datagrams), "300")
	done := c.finishCluster(t, name)
	checkCounts(t, done.Status.Totals)
	if done.Status.Nodes != 2 || done.Status.Pods != 4 || done.Status.Totals.Packets != 4*datagrams {
		t.Errorf("%d nodes, %d pods, %+v", done.Status.Nodes, done.Status.Pods, done.Status.Totals)
	}
	file := t.TempDir() + "/cluster.pcapng"
	if r := c.plugin(t, "network", "clustercapture", "download", name, "-o", file); r.err != nil {
		t.Fatalf("downloading: %s", r.stderr)
	}
	interfaces := judge(t, "tshark", "-r", file, "-T", "fields", "-e", "frame.interface_name")
	near, far := b.sink.Spec.NodeName, b.far.Spec.NodeName
	for _, pattern := range []string{near + `/[^/\n]+`, far + `/[^/\n]+`, near + "/" + b.sink.Namespace + "/sink/eth0", far + "/" + b.sink.Namespace + "/far/eth0"} {
		if n := len(regexp.MustCompile(`(?m)^`+pattern+`$`).FindAllString(interfaces, -1)); n != datagrams {
			t.Errorf("%d packets on %s, want %d", n, pattern, datagrams)
		}
	}
	if r := c.plugin(t, "network", "clustercapture", "download", name, "--pod", b.sink.Namespace+"/far", "-o", file); r.err != nil {
		t.Fatalf("downloading one pod: %s", r.stderr)
	}
	if count := strings.Count(judge(t, "tcpdump", "-nr", file), "\n"); count != datagrams {
		t.Errorf("%d packets of one pod", count)
	}
}

// TestCaptureLimits has two nodes use one limit up together: all of it but a sixty-fourth, and never more.
func TestCaptureLimits(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	namespace := b.sink.Namespace
	const limit = 640
	capture := newCapture("limited", "udp dst port "+sinkPort)
	capture.Spec.Pods = v1alpha1.CapturePods{Names: []string{b.near.Name, b.far.Name}}
	capture.Spec.Limits.Packets = new(int64(limit))
	c.capture(t, namespace, capture, 2)
	var done *v1alpha1.Capture
	eventually(t, podDeadline, "the limit to be reached", func(ctx context.Context) (err error) {
		if done, err = c.stats.NetworkobservabilityV1alpha1().Captures(namespace).Get(ctx, "limited", metav1.GetOptions{}); err != nil || conditionIs(&done.Status, v1alpha1.CaptureComplete) {
			return err
		}
		if done.Status.Totals.Packets > limit {
			t.Errorf("%d packets were recorded", done.Status.Totals.Packets)
		}
		for _, sender := range []counted{b.near, b.far} {
			c.exec(t, sender.Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, "ipv4"), "100", "300")
		}
		return fmt.Errorf("counted %+v", done.Status.Totals)
	})
	checkCounts(t, done.Status.Totals)
	if n := done.Status.Totals.Packets; n > limit || n < limit-limit/64 {
		t.Errorf("%d packets were recorded, the limit is %d", n, limit)
	}
	for _, condition := range done.Status.Conditions {
		if condition.Type == v1alpha1.CaptureComplete && condition.Reason != "LimitReached" {
			t.Errorf("it ended by %s: %s", condition.Reason, condition.Message)
		}
	}
	if count := strings.Count(judge(t, "tcpdump", "-nr", c.download(t, namespace, "limited")), "\n"); int64(count) != done.Status.Totals.Packets {
		t.Errorf("the file has %d packets, the status says %d", count, done.Status.Totals.Packets)
	}
}

// TestCaptureRing keeps the newest packets only, of a capture that begins later than it was made.
func TestCaptureRing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	namespace := b.sink.Namespace
	const fileBytes, later = 1 << 20, 8 * time.Second
	start := metav1.NewTime(time.Now().Add(later).Truncate(time.Second))
	capture := newCapture("ring", "port "+sinkPort)
	capture.Spec.Pods = v1alpha1.CapturePods{Names: []string{b.sink.Name}}
	capture.Spec.Ring = &v1alpha1.CaptureRing{Files: 2, FileBytes: *resource.NewQuantity(fileBytes, resource.BinarySI)}
	capture.Spec.StartTime = &start
	c.capture(t, namespace, capture, 1)
	if now := time.Now(); now.Before(start.Time) {
		t.Errorf("it was recording %v before its start", start.Sub(now))
	}
	c.exec(t, b.far.Pod, "/bin/traffic", "tcp", target(t, b.sink.Pod, "ipv4"), "20000000")
	c.exec(t, b.far.Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, "ipv4"), "7", "300")
	done := c.finish(t, namespace, "ring")
	checkCounts(t, done.Status.Totals)
	if done.Status.StartTime.Before(&start) {
		t.Errorf("it began at %v, and was to at %v", done.Status.StartTime, start)
	}
	file := c.download(t, namespace, "ring")
	if info, err := os.Stat(file); err != nil || info.Size() > 2*fileBytes+1<<17 || info.Size() < fileBytes/2 {
		t.Errorf("the file is %v (%v), two files of %d were to be kept", info.Size(), err, fileBytes)
	}
	if count := strings.Count(judge(t, "tcpdump", "-nr", file), ": UDP, "); count != 7 {
		t.Errorf("%d of the 7 newest packets are in the file", count)
	}
}

// allowCluster makes a cluster role, binds it to a service account, and removes both when the test ends.
func (c *cluster) allowCluster(t *testing.T, namespace, account string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	name := namespace + "-" + account
	roles, bindings := c.kube.RbacV1().ClusterRoles(), c.kube.RbacV1().ClusterRoleBindings()
	t.Cleanup(func() {
		// The test's context is over by now.
		for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{bindings.Delete, roles.Delete} {
			if err := remove(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Errorf("removing %s: %v", name, err)
			}
		}
	})
	meta := metav1.ObjectMeta{Name: name}
	if _, err := roles.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatalf("creating cluster role %s: %v", name, err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
	}
	if _, err := bindings.Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatalf("binding cluster role %s: %v", name, err)
	}
}

// TestClusterCaptureRights is TestCaptureRights for cluster captures, and for what takes the right to them.
func TestClusterCaptureRights(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	c.start(t, namespace, hostNetworked("host", c.nodes(t)[0]))
	finished := "rights-" + namespace
	nodes := func(name, filter string) *v1alpha1.ClusterCapture {
		return &v1alpha1.ClusterCapture{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.ClusterCaptureSpec{
			Nodes: &v1alpha1.CaptureNodes{Names: c.nodes(t)[:1]}, CaptureSettings: v1alpha1.CaptureSettings{Filter: filter},
		}}
	}
	c.clusterCapture(t, nodes(finished, "udp port "+sinkPort), 1)
	c.finishCluster(t, finished)
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	create := func(filter string) func(context.Context, *cluster) error {
		return func(ctx context.Context, as *cluster) error {
			_, err := as.stats.NetworkobservabilityV1alpha1().ClusterCaptures().Create(ctx, nodes("x-"+finished, filter), dryRun)
			return err
		}
	}
	host := func(ctx context.Context, as *cluster) error {
		capture := newCapture("host", "")
		capture.Spec.Pods = v1alpha1.CapturePods{Names: []string{"host"}}
		_, err := as.stats.NetworkobservabilityV1alpha1().Captures(namespace).Create(ctx, capture, dryRun)
		return err
	}
	get := func(ctx context.Context, as *cluster) error {
		_, err := as.stats.NetworkobservabilityV1alpha1().ClusterCaptures().Get(ctx, finished, metav1.GetOptions{})
		return err
	}
	read := func(subresource string, parameters ...string) func(context.Context, *cluster) error {
		return func(ctx context.Context, as *cluster) error {
			return as.readOf(ctx, "clustercaptures", "", finished, subresource, parameters...)
		}
	}
	const captures = "captures"
	const clustercaptures = "clustercaptures"
	everyOfNamespaces := may("get", captures, captures+"/pcap", captures+"/headers", captures+"/attach")
	for i, test := range []struct {
		name    string
		rules   []rbacv1.PolicyRule
		do      func(context.Context, *cluster) error
		allowed bool
	}{
		{"create with the rights of captures", []rbacv1.PolicyRule{may("create", captures), everyOfNamespaces}, create(""), false},
		{"create", []rbacv1.PolicyRule{may("create", clustercaptures)}, create("tcp port 80"), true},
		{"create with a filter of payload", []rbacv1.PolicyRule{may("create", clustercaptures), everyOfNamespaces}, create("tcp[20] = 71"), false},
		{"create with a filter of payload, and pcap", []rbacv1.PolicyRule{may("create", clustercaptures), may("get", clustercaptures+"/pcap")}, create("tcp[20] = 71"), true},
		{"a pod of the node's network", []rbacv1.PolicyRule{may("create", captures)}, host, false},
		{"a pod of the node's network, and clustercaptures", []rbacv1.PolicyRule{may("create", captures, clustercaptures)}, host, true},
		{"get without the right", []rbacv1.PolicyRule{everyOfNamespaces, may("list", clustercaptures)}, get, false},
		{"get", []rbacv1.PolicyRule{may("get", clustercaptures)}, get, true},
		{"pcap without the right", []rbacv1.PolicyRule{everyOfNamespaces, may("get", clustercaptures, clustercaptures+"/headers", clustercaptures+"/attach")}, read("pcap"), false},
		{"pcap", []rbacv1.PolicyRule{may("get", clustercaptures+"/pcap")}, read("pcap"), true},
		{"headers without the right", []rbacv1.PolicyRule{everyOfNamespaces, may("get", clustercaptures, clustercaptures+"/attach")}, read("headers"), false},
		{"headers", []rbacv1.PolicyRule{may("get", clustercaptures+"/headers")}, read("headers"), true},
		{"attach without the right", []rbacv1.PolicyRule{everyOfNamespaces, may("get", clustercaptures+"/pcap", clustercaptures+"/headers")}, read("attach"), false},
		{"attach without payload's", []rbacv1.PolicyRule{everyOfNamespaces, may("get", clustercaptures+"/attach", clustercaptures+"/headers")}, read("attach"), false},
		{"attach", []rbacv1.PolicyRule{may("get", clustercaptures+"/attach", clustercaptures+"/pcap")}, read("attach"), true},
		{"attach to headers", []rbacv1.PolicyRule{may("get", clustercaptures+"/attach", clustercaptures+"/headers")}, read("attach", "headersOnly", "true"), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			account := fmt.Sprintf("user-%d", i)
			as := c.user(t, namespace, account)
			c.allowCluster(t, namespace, account, test.rules...)
			c.checkAttempt(t, as, "", test.rules, test.allowed, test.do)
		})
	}
}

// TestCaptureInterface names interfaces that are not there: alone, the capture fails and says why; beside one that is, its row says so.
func TestCaptureInterface(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	pod := c.start(t, namespace, sink("web", c.nodes(t)[0]))[0]
	captures := c.stats.NetworkobservabilityV1alpha1().Captures(namespace)
	const says = "there is no interface net7"
	for name, interfaces := range map[string][]string{"none": {"net7"}, "some": {"eth0", "net7"}} {
		capture := newCapture(name, "")
		capture.Spec.Pods = v1alpha1.CapturePods{Names: []string{pod.Name}, Interfaces: interfaces}
		capture.Spec.DurationSeconds = new(int64(4))
		if _, err := captures.Create(t.Context(), capture, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, ends := range map[string]string{"none": v1alpha1.CaptureFailed, "some": v1alpha1.CaptureComplete} {
		done := c.captureUntil(t, namespace, name, name+" to end", func(s *v1alpha1.CaptureStatus) bool {
			return conditionIs(s, v1alpha1.CaptureComplete) || conditionIs(s, v1alpha1.CaptureFailed)
		})
		if !conditionIs(&done.Status, ends) || len(done.Status.Targets) != 1 || !strings.Contains(done.Status.Targets[0].Message, says) {
			t.Errorf("%s: %+v", name, done.Status)
		}
	}
	if row := c.kubectl(t, "describe", "capture", "none", "--namespace", namespace); !strings.Contains(row, "Not everything was recorded of pod "+namespace+"/web: "+says) {
		t.Errorf("kubectl does not say why: %s", row)
	}
}
