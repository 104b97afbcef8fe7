// Package manifests checks what artifacts/deploy builds, without a cluster.
package manifests

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// build renders artifacts/deploy and decodes it strictly: an unknown or doubled field is an error. Definitions of custom
// resources are left to apiserver/storage, whose tests have kube-apiserver check them.
func build(t *testing.T) []runtime.Object {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../../artifacts/deploy")
	if err != nil {
		t.Fatal(err)
	}
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	for _, resource := range resources.Resources() {
		if resource.GetKind() == "CustomResourceDefinition" {
			continue
		}
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", resource.CurId(), err)
		}
		objects = append(objects, object)
	}
	return objects
}

// only returns the single object of a type; with a name, of that name.
func only[T any](t *testing.T, objects []runtime.Object, name string) T {
	t.Helper()
	var found []T
	for _, object := range objects {
		named, ok := object.(interface{ GetName() string })
		if one, typed := object.(T); typed && ok && (name == "" || named.GetName() == name) {
			found = append(found, one)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of type %T named %q, want 1", len(found), *new(T), name)
	}
	return found[0]
}

func TestNothingIsPrivileged(t *testing.T) {
	objects := build(t)
	agent := only[*appsv1.DaemonSet](t, objects, agentv1.ServiceName).Spec.Template.Spec
	server := only[*appsv1.Deployment](t, objects, "networkobservability-apiserver").Spec.Template.Spec
	for _, spec := range []corev1.PodSpec{agent, server} {
		for _, container := range spec.Containers {
			c := container.SecurityContext
			if c == nil || c.Privileged != nil && *c.Privileged || c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation {
				t.Errorf("%s: privileged, or may become so", container.Name)
				continue
			}
			if c.ReadOnlyRootFilesystem == nil || !*c.ReadOnlyRootFilesystem {
				t.Errorf("%s: the root file system can be written", container.Name)
			}
			if len(c.Capabilities.Drop) != 1 || c.Capabilities.Drop[0] != "ALL" {
				t.Errorf("%s: does not drop all capabilities", container.Name)
			}
		}
	}
	allowed := map[corev1.Capability]bool{"BPF": true, "PERFMON": true, "NET_ADMIN": true, "NET_BROADCAST": true, "NET_RAW": true, "SYS_ADMIN": true, "SYS_PTRACE": true}
	for _, capability := range agent.Containers[0].SecurityContext.Capabilities.Add {
		if !allowed[capability] {
			t.Errorf("the agent asks for %s, which it does not need", capability)
		}
	}
	if len(server.Containers[0].SecurityContext.Capabilities.Add) != 0 || server.HostNetwork || server.HostPID {
		t.Error("the API server asks for rights on its node")
	}
}

func TestAvailability(t *testing.T) {
	objects := build(t)
	server := only[*appsv1.Deployment](t, objects, "networkobservability-apiserver")
	if *server.Spec.Replicas < 2 || len(server.Spec.Template.Spec.TopologySpreadConstraints) == 0 {
		t.Error("the API server is not spread over two replicas")
	}
	selectors := []*metav1.LabelSelector{only[*policyv1.PodDisruptionBudget](t, objects, "").Spec.Selector}
	for _, constraint := range server.Spec.Template.Spec.TopologySpreadConstraints {
		selectors = append(selectors, constraint.LabelSelector)
	}
	for _, selector := range selectors {
		if selector == nil || selector.MatchLabels["app.kubernetes.io/name"] != server.Name {
			t.Errorf("the disruption budget or a spread constraint selects %v, not the API server", selector)
		}
	}
}

func TestAPIService(t *testing.T) {
	service := only[*apiregistrationv1.APIService](t, build(t), "")
	if service.Spec.InsecureSkipTLSVerify {
		t.Error("the APIService does not verify the server")
	}
	if service.Spec.GroupPriorityMinimum <= 1000 {
		t.Error("custom resources of the same short names would win")
	}
	if service.Spec.Group != v1alpha1.GroupName || service.Spec.Version != v1alpha1.SchemeGroupVersion.Version {
		t.Errorf("the APIService is for %s/%s", service.Spec.Group, service.Spec.Version)
	}
}

// The agents' rights are what PROTOCOL.md and the design say, and no more.
func TestAgentRights(t *testing.T) {
	role := only[*rbacv1.ClusterRole](t, build(t), agentv1.ServiceAccountName)
	want := map[string]string{
		"certificates.k8s.io/certificatesigningrequests": "create get list watch",
		"authentication.k8s.io/tokenreviews":             "create",
		"authorization.k8s.io/subjectaccessreviews":      "create",
	}
	for _, rule := range role.Rules {
		if len(rule.NonResourceURLs) > 0 {
			t.Errorf("an agent may %v %v", rule.Verbs, rule.NonResourceURLs)
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				if verbs := strings.Join(rule.Verbs, " "); want[group+"/"+resource] != verbs {
					t.Errorf("an agent may %s %s/%s", verbs, group, resource)
				}
				delete(want, group+"/"+resource)
			}
		}
	}
	for resource, verbs := range want {
		t.Errorf("an agent may not %s %s", verbs, resource)
	}
}

// Every port that an agent listens at for others is one of the Service and of the node.
func TestAgentPorts(t *testing.T) {
	objects := build(t)
	agent := only[*appsv1.DaemonSet](t, objects, agentv1.ServiceName).Spec.Template.Spec
	service := only[*corev1.Service](t, objects, agentv1.ServiceName)
	for name, number := range map[string]int32{"grpc": agentv1.Port, "metrics": agentv1.MetricsPort} {
		offered := slices.ContainsFunc(agent.Containers[0].Ports, func(p corev1.ContainerPort) bool {
			return p.Name == name && p.ContainerPort == number && p.HostPort == number
		})
		found := slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool {
			return p.Name == name && p.Port == number && p.TargetPort.StrVal == name
		})
		if !offered || !found {
			t.Errorf("port %s: of the DaemonSet %v, of the Service %v", name, offered, found)
		}
	}
	if name := service.Name + "." + service.Namespace + ".svc"; name != agentv1.MetricsDNSName {
		t.Errorf("the Service is %s, and certificates are for %s", name, agentv1.MetricsDNSName)
	}
}

// Pod statistics and flows come with view; node statistics and anything else do not.
func TestViewRole(t *testing.T) {
	for _, object := range build(t) {
		role, ok := object.(*rbacv1.ClusterRole)
		if !ok || role.Labels["rbac.authorization.k8s.io/aggregate-to-view"] != "true" {
			continue
		}
		for _, rule := range role.Rules {
			if strings.Join(rule.Resources, " ") != "podnetworkstats networkflows" || strings.Join(rule.Verbs, " ") != "get list watch" {
				t.Errorf("%s adds to view: %v %v", role.Name, rule.Verbs, rule.Resources)
			}
		}
	}
}

func TestNetworkPolicies(t *testing.T) {
	objects := build(t)
	if deny := only[*networkingv1.NetworkPolicy](t, objects, "default-deny"); len(deny.Spec.PodSelector.MatchLabels) != 0 || len(deny.Spec.Ingress) != 0 {
		t.Error("default-deny does not deny all")
	}
	allow := only[*networkingv1.NetworkPolicy](t, objects, "networkobservability-apiserver")
	server := only[*appsv1.Deployment](t, objects, "networkobservability-apiserver")
	for key, value := range allow.Spec.PodSelector.MatchLabels {
		if server.Spec.Template.Labels[key] != value {
			t.Errorf("the policy selects %s=%s, which no replica has", key, value)
		}
	}
}

// TestAuthenticationReader guards against a namespace for all, which would move the binding out of the one
// namespace in which it grants anything.
func TestAuthenticationReader(t *testing.T) {
	binding := only[*rbacv1.RoleBinding](t, build(t), "networkobservability-apiserver:authentication-reader")
	if binding.Namespace != metav1.NamespaceSystem {
		t.Errorf("the binding is in namespace %s, and the role in %s", binding.Namespace, metav1.NamespaceSystem)
	}
}
