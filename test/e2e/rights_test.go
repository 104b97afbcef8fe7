package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// user makes a service account and returns the cluster as it sees it: with its token and no certificate.
func (c *cluster) user(t *testing.T, namespace, name string) *cluster {
	t.Helper()
	accounts := c.kube.CoreV1().ServiceAccounts(namespace)
	if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatalf("creating service account %s: %v", name, err)
	}
	token, err := accounts.CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("creating a token for %s: %v", name, err)
	}
	return c.withToken(t, token.Status.Token)
}

// withToken is the cluster as the bearer of a token sees it.
func (c *cluster) withToken(t *testing.T, token string) *cluster {
	t.Helper()
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken, config.QPS = token, -1
	config.WarningHandler = rest.NoWarnings{}
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["e2e"] = &clientcmdapi.Cluster{Server: c.config.Host, CertificateAuthority: c.config.CAFile, CertificateAuthorityData: c.config.CAData}
	kubeconfig.AuthInfos["e2e"] = &clientcmdapi.AuthInfo{Token: token}
	kubeconfig.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: "e2e"}
	kubeconfig.CurrentContext = "e2e"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*kubeconfig, path); err != nil {
		t.Fatalf("writing a kubeconfig: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return &cluster{
		output: c.output, kubeconfig: path, config: config,
		kube: kubernetes.NewForConfigOrDie(config), stats: versioned.NewForConfigOrDie(config),
	}
}

// bind gives a service account of a namespace a role there.
func (c *cluster) bind(t *testing.T, namespace, account string, role rbacv1.RoleRef) {
	t.Helper()
	role.APIGroup = rbacv1.GroupName
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
		RoleRef:    role,
	}
	if _, err := c.kube.RbacV1().RoleBindings(namespace).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatalf("binding role %s: %v", role.Name, err)
	}
}

// attempts are the ways to read statistics, by what they would see.
func (c *cluster) attempts(namespace string, pod *corev1.Pod) map[string]func(context.Context) error {
	api := c.stats.NetworkobservabilityV1alpha1()
	watching := func(ctx context.Context, namespace string) error {
		w, err := api.PodNetworkStats(namespace).Watch(ctx, metav1.ListOptions{})
		if err == nil {
			w.Stop()
		}
		return err
	}
	return map[string]func(context.Context) error{
		"get": func(ctx context.Context) error { _, err := c.get(ctx, pod); return err },
		"list": func(ctx context.Context) error {
			_, err := api.PodNetworkStats(namespace).List(ctx, metav1.ListOptions{})
			return err
		},
		"watch": func(ctx context.Context) error { return watching(ctx, namespace) },
		"list others": func(ctx context.Context) error {
			_, err := api.PodNetworkStats(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
			return err
		},
		"list all": func(ctx context.Context) error {
			_, err := api.PodNetworkStats("").List(ctx, metav1.ListOptions{})
			return err
		},
		"list all, selecting": func(ctx context.Context) error {
			_, err := api.PodNetworkStats("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.namespace=" + namespace})
			return err
		},
		"watch all": func(ctx context.Context) error { return watching(ctx, "") },
		"list flows": func(ctx context.Context) error {
			_, err := api.NetworkFlows(namespace).List(ctx, metav1.ListOptions{Limit: 1})
			return err
		},
		"watch flows": func(ctx context.Context) error {
			w, err := api.NetworkFlows(namespace).Watch(ctx, metav1.ListOptions{})
			if err == nil {
				w.Stop()
			}
			return err
		},
		"list all flows": func(ctx context.Context) error {
			_, err := api.NetworkFlows("").List(ctx, metav1.ListOptions{Limit: 1})
			return err
		},
		"list others' flows": func(ctx context.Context) error {
			_, err := api.NetworkFlows(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{FieldSelector: "peer.namespace=" + namespace})
			return err
		},
		"list nodes": func(ctx context.Context) error {
			_, err := api.NodeNetworkStats().List(ctx, metav1.ListOptions{})
			return err
		},
		"get node": func(ctx context.Context) error {
			_, err := api.NodeNetworkStats().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
			return err
		},
	}
}

// TestRights reads as users with real tokens and real roles: each sees what its role says and is refused the
// rest with 403.
func TestRights(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	pod := c.start(t, namespace, sink("mine", c.nodes(t)[0]))[0]
	reader := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"podnetworkstats"}, Verbs: []string{"get", "list"}},
	}}
	if _, err := c.kube.RbacV1().Roles(namespace).Create(t.Context(), reader, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		user    string
		role    rbacv1.RoleRef
		allowed []string
	}{
		{"reader", rbacv1.RoleRef{Kind: "Role", Name: "reader"}, []string{"get", "list"}},
		{"viewer", rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"}, []string{"get", "list", "watch", "list flows", "watch flows"}},
		{"stranger", rbacv1.RoleRef{}, nil},
	} {
		t.Run(test.user, func(t *testing.T) {
			user := c.user(t, namespace, test.user)
			if test.role.Name != "" {
				c.bind(t, namespace, test.user, test.role)
			}
			user.checkRights(t, namespace, pod, test.allowed)
		})
	}
}

func (c *cluster) checkRights(t *testing.T, namespace string, pod *corev1.Pod, allowed []string) {
	t.Helper()
	attempts := c.attempts(namespace, pod)
	for _, name := range allowed {
		// kube-apiserver and our server learn of a new binding with a delay, and remember a refusal for 10 s.
		eventually(t, podDeadline, name+" to be allowed", attempts[name])
		delete(attempts, name)
	}
	for name, attempt := range attempts {
		if err := attempt(t.Context()); !apierrors.IsForbidden(err) {
			t.Errorf("%s should be forbidden: %v", name, err)
		}
	}
}

// TestRightsThroughKubectl is what a tenant types.
func TestRightsThroughKubectl(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	c.start(t, namespace, sink("mine", c.nodes(t)[0]))
	tenant := c.user(t, namespace, "tenant")
	c.bind(t, namespace, "tenant", rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"})
	eventually(t, podDeadline, "the tenant to read its namespace", func(context.Context) error {
		if r := tenant.kubectlRun(t, "get", "pns", "--namespace", namespace); r.err != nil || !strings.Contains(r.stdout, "mine") {
			return fmt.Errorf("%v: %s%s", r.err, r.stdout, r.stderr)
		}
		return nil
	})
	for _, args := range [][]string{{"get", "pns", "--all-namespaces"}, {"get", "pns", "--namespace=kube-system"}, {"get", "nf", "--namespace=kube-system"}, {"get", "nnst"}} {
		if r := tenant.kubectlFails(t, args...); !strings.Contains(r.stderr, "(Forbidden)") || r.stdout != "" {
			t.Errorf("kubectl %v says %s%s", args, r.stdout, r.stderr)
		}
	}
	for resource, want := range map[string]string{"podnetworkstats.networkobservability.k8s.io": "yes", "nodenetworkstats.networkobservability.k8s.io": "no"} {
		r := tenant.kubectlRun(t, "auth", "can-i", "watch", resource, "--namespace", namespace)
		if got := strings.TrimSpace(r.stdout); got != want {
			t.Errorf("auth can-i watch %s says %q, want %q (%s)", resource, got, want, r.stderr)
		}
	}
}
