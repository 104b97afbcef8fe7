package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// allow makes a role of a namespace and binds it to a service account there.
func (c *cluster) allow(t *testing.T, namespace, account string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: account}, Rules: rules}
	if _, err := c.kube.RbacV1().Roles(namespace).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatalf("creating role %s: %v", account, err)
	}
	c.bind(t, namespace, account, rbacv1.RoleRef{Kind: "Role", Name: account})
}

func may(verb string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupName}, Resources: resources, Verbs: []string{verb}}
}

// read reads a subresource of a capture to its end.
func (c *cluster) read(ctx context.Context, namespace, name, subresource string, parameters ...string) error {
	return c.readOf(ctx, "captures", namespace, name, subresource, parameters...)
}

// readOf is read for captures and cluster captures, which have no namespace.
func (c *cluster) readOf(ctx context.Context, resource, namespace, name, subresource string, parameters ...string) error {
	request := c.stats.NetworkobservabilityV1alpha1().RESTClient().Get().NamespaceIfScoped(namespace, namespace != "").
		Resource(resource).Name(name).SubResource(subresource).MaxRetries(0)
	for i := 0; i < len(parameters); i += 2 {
		request = request.Param(parameters[i], parameters[i+1])
	}
	stream, err := request.Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	_, err = io.Copy(io.Discard, stream)
	return err
}

// checkAttempt demands that a user is allowed to do something, or refused with 403 although the rights that the user has are in force.
func (c *cluster) checkAttempt(t *testing.T, as *cluster, namespace string, rights []rbacv1.PolicyRule, allowed bool, do func(context.Context, *cluster) error) {
	t.Helper()
	as.awaitRights(t, namespace, rights)
	if !allowed {
		if err := do(t.Context(), as); !apierrors.IsForbidden(err) {
			t.Errorf("answered %v, want 403", err)
		}
		return
	}
	// A right that is new takes up to 10 s to be seen where the lack of it was asked for before.
	eventually(t, podDeadline, "the right to be seen", func(ctx context.Context) error { return do(ctx, as) })
}

// TestCaptureRights tries everything with real tokens and exactly those rights that each case names.
func TestCaptureRights(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	pods := c.start(t, namespace, sink("target", c.nodes(t)[0]), hostNetworked("host", c.nodes(t)[0]))
	named := func(name, filter string, names ...string) *v1alpha1.Capture {
		capture := newCapture(name, filter)
		capture.Spec.Pods = v1alpha1.CapturePods{Names: names}
		return capture
	}
	c.capture(t, namespace, named("finished", "", "target"), 1)
	c.finish(t, namespace, "finished")
	target, host := pods[0].Name, pods[1].Name
	create := func(capture *v1alpha1.Capture) func(context.Context, *cluster) error {
		return func(ctx context.Context, as *cluster) error {
			_, err := as.stats.NetworkobservabilityV1alpha1().Captures(namespace).Create(ctx, capture, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		}
	}
	read := func(subresource string, parameters ...string) func(context.Context, *cluster) error {
		return func(ctx context.Context, as *cluster) error {
			return as.read(ctx, namespace, "finished", subresource, parameters...)
		}
	}
	get := func(ctx context.Context, as *cluster) error {
		_, err := as.stats.NetworkobservabilityV1alpha1().Captures(namespace).Get(ctx, "finished", metav1.GetOptions{})
		return err
	}
	headers, payload := create(named("a", "tcp port 80", target)), create(named("b", "tcp[20] = 71", target))
	for i, test := range []struct {
		name    string
		rules   []rbacv1.PolicyRule
		do      func(context.Context, *cluster) error
		allowed bool
	}{
		{"create without the right", nil, headers, false},
		{"create", []rbacv1.PolicyRule{may("create", "captures")}, headers, true},
		{"create with a filter of payload", []rbacv1.PolicyRule{may("create", "captures")}, payload, false},
		{"create with a filter of payload, and pcap", []rbacv1.PolicyRule{may("create", "captures"), may("get", "captures/pcap")}, payload, true},
		{"create with a pod of the node's network", []rbacv1.PolicyRule{may("create", "captures")}, create(named("c", "", host)), false},
		{"get without the right", []rbacv1.PolicyRule{may("list", "captures"), may("get", "captures/pcap", "captures/headers", "captures/attach")}, get, false},
		{"get", []rbacv1.PolicyRule{may("get", "captures")}, get, true},
		{"pcap without the right", []rbacv1.PolicyRule{may("get", "captures"), may("get", "captures/headers", "captures/attach")}, read("pcap"), false},
		{"pcap", []rbacv1.PolicyRule{may("get", "captures/pcap")}, read("pcap"), true},
		{"headers without the right", []rbacv1.PolicyRule{may("get", "captures", "captures/attach")}, read("headers"), false},
		{"headers", []rbacv1.PolicyRule{may("get", "captures/headers")}, read("headers"), true},
		{"attach without the right", []rbacv1.PolicyRule{may("get", "captures", "captures/pcap", "captures/headers")}, read("attach"), false},
		{"attach without payload's", []rbacv1.PolicyRule{may("get", "captures/attach", "captures/headers")}, read("attach"), false},
		{"attach", []rbacv1.PolicyRule{may("get", "captures/attach", "captures/pcap")}, read("attach"), true},
		{"attach to headers", []rbacv1.PolicyRule{may("get", "captures/attach", "captures/headers")}, read("attach", "headersOnly", "true"), true},
		{"attach to headers without headers'", []rbacv1.PolicyRule{may("get", "captures/attach")}, read("attach", "headersOnly", "true"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			account := fmt.Sprintf("user-%d", i)
			as := c.user(t, namespace, account)
			if len(test.rules) > 0 {
				c.allow(t, namespace, account, test.rules...)
			}
			c.checkAttempt(t, as, namespace, test.rules, test.allowed, test.do)
		})
	}
}

// awaitRights waits until kube-apiserver knows that the user has rights.
func (c *cluster) awaitRights(t *testing.T, namespace string, rights []rbacv1.PolicyRule) {
	t.Helper()
	for _, right := range rights {
		for _, resource := range right.Resources {
			resource, subresource, _ := strings.Cut(resource, "/")
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Verb: right.Verbs[0], Group: v1alpha1.GroupName, Resource: resource, Subresource: subresource,
			}}}
			eventually(t, podDeadline, "the right to be in force", func(ctx context.Context) error {
				answer, err := c.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
				if err == nil && !answer.Status.Allowed {
					err = fmt.Errorf("it is not: %v", right)
				}
				return err
			})
		}
	}
}

func hostNetworked(name, node string) *corev1.Pod {
	pod := toolbox(name, node, "/bin/sleep", "3600")
	pod.Spec.HostNetwork = true
	return pod
}

// TestCaptureRightRevoked takes the right to payload away in the middle of a stream of it.
func TestCaptureRightRevoked(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	c.start(t, namespace, sink("target", c.nodes(t)[0]))
	c.capture(t, namespace, newCapture("running", ""), 1)
	const account = "reader"
	as := c.user(t, namespace, account)
	c.allow(t, namespace, account, may("get", "captures/attach", "captures/pcap"))

	var stream io.ReadCloser
	eventually(t, podDeadline, "the right to be seen", func(ctx context.Context) (err error) {
		// Not the context of one try: the stream lives on.
		stream, err = as.stats.NetworkobservabilityV1alpha1().RESTClient().Get().Namespace(namespace).
			Resource("captures").Name("running").SubResource("attach").MaxRetries(0).Stream(t.Context())
		return err
	})
	defer stream.Close()
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, stream); ended <- err }()
	select {
	case err := <-ended:
		t.Fatalf("the stream ended before: %v", err)
	case <-time.After(4 * time.Second): // it is re-checked once, and goes on
	}
	revoked := time.Now()
	if err := c.kube.RbacV1().RoleBindings(namespace).Delete(t.Context(), account, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("the stream ended with %v, and should have been broken off", err)
		}
		t.Logf("the stream was closed %v after the right was gone", time.Since(revoked).Round(time.Millisecond))
	case <-time.After(15 * time.Second):
		t.Error("the stream is open 15 s after the right was gone")
	}
}

// TestCaptureHeaders sends what nobody else may read, and looks for it in all that is shown to who may read headers only.
func TestCaptureHeaders(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	pods := c.start(t, namespace, sink("near", c.nodes(t)[0]), sink("far", c.nodes(t)[1]))
	c.capture(t, namespace, newCapture("secret", "port "+sinkPort), len(pods))
	const datagrams = 10
	for _, pod := range pods {
		for _, family := range []string{"ipv4", "ipv6"} {
			for _, network := range []string{"udp", "tcp"} {
				conn, err := net.Dial(network, target(t, pod, family))
				if err != nil {
					t.Fatal(err)
				}
				for range datagrams {
					if _, err := io.WriteString(conn, payloadCanary); err != nil {
						t.Error(err)
					}
				}
				conn.Close()
			}
		}
	}
	c.captureUntil(t, namespace, "secret", "all that was sent", func(s *v1alpha1.CaptureStatus) bool {
		return s.Totals.Packets >= int64(len(pods)*2*(datagrams+1))
	})
	c.finish(t, namespace, "secret")
	as := c.user(t, namespace, "reader")
	rights := may("get", "captures", "captures/headers", "captures/attach")
	c.allow(t, namespace, "reader", rights)
	as.awaitRights(t, namespace, []rbacv1.PolicyRule{rights})
	if whole := c.contentOf(t, namespace, "secret", "pcap"); bytes.Count(whole, []byte(payloadCanary)) < len(pods)*2*(datagrams+1) {
		t.Errorf("whole packets have it %d times", bytes.Count(whole, []byte(payloadCanary)))
	}
	shown := map[string][]byte{
		"headers":                     as.contentOf(t, namespace, "secret", "headers"),
		"headers of a pod":            as.contentOf(t, namespace, "secret", "headers", "pod", "far"),
		"headers, resumed":            as.contentOf(t, namespace, "secret", "headers", "offset", "1000"),
		"attach with headersOnly":     as.contentOf(t, namespace, "secret", "attach", "headersOnly", "true"),
		"the object":                  []byte(as.kubectl(t, "get", "capture", "secret", "--namespace", namespace, "-o", "yaml", "--show-managed-fields")),
		"the events of its namespace": []byte(c.kubectl(t, "get", "events", "--namespace", namespace, "-o", "yaml")),
	}
	for _, component := range []string{"apiserver", "nodeagent"} {
		for _, pod := range c.running(t, component) {
			shown["the log of "+pod.Name] = []byte(c.logOf(t, &pod))
		}
	}
	for where, content := range shown {
		if len(content) == 0 {
			t.Errorf("%s: nothing was shown", where)
		}
		for _, form := range disguises(payloadCanary) {
			if bytes.Contains(content, []byte(form)) {
				t.Errorf("%s: payload, as %.20q", where, form)
			}
		}
	}
}

// contentOf reads a subresource of a capture, and gives it.
func (c *cluster) contentOf(t *testing.T, namespace, name, subresource string, parameters ...string) []byte {
	t.Helper()
	request := c.stats.NetworkobservabilityV1alpha1().RESTClient().Get().Namespace(namespace).Resource("captures").Name(name).SubResource(subresource)
	for i := 0; i < len(parameters); i += 2 {
		request = request.Param(parameters[i], parameters[i+1])
	}
	var content []byte
	eventually(t, podDeadline, "the right to "+subresource+" to be seen", func(ctx context.Context) (err error) {
		content, err = request.Do(ctx).Raw()
		return err
	})
	return content
}
