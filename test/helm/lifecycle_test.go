package helm

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"helm.sh/helm/v4/pkg/action"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/kube"
	release "helm.sh/helm/v4/pkg/release/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var (
	apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
	configMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	daemonSets  = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	envelopes   = schema.GroupVersionResource{Group: "storage.network-observability.io", Version: "v1", Resource: "storedcaptures"}
	leases      = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
	services    = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	secrets     = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

const apiService = "v1alpha1.networkobservability.k8s.io"

// A host is a cluster that the chart is installed in, as helm does it.
type host struct {
	t      *testing.T
	config *rest.Config
	client dynamic.Interface
}

func newHost(t *testing.T) *host {
	t.Setenv("KUBECONFIG", "/dev/null") // Helm and kubectl know this cluster only
	config := newCluster(t)
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, config: config, client: client}
	h.await("kube-apiserver has made what is its own", func() error {
		_, err := client.Resource(services).Namespace("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		return err
	})
	return h
}

// helm is what a call of the program begins with: nothing is remembered from the call before.
func (h *host) helm() *action.Configuration {
	h.t.Helper()
	flags := genericclioptions.NewConfigFlags(true)
	cache, inNamespace := h.t.TempDir(), namespace
	flags.APIServer, flags.BearerToken, flags.CAFile = &h.config.Host, &h.config.BearerToken, &h.config.CAFile
	flags.CacheDir, flags.Namespace = &cache, &inNamespace
	configuration := action.NewConfiguration()
	if err := configuration.Init(flags, namespace, "secret"); err != nil {
		h.t.Fatal(err)
	}
	return configuration
}

// install takes options as flags of helm install.
func (h *host) install(name, values string, options ...func(*action.Install)) (*release.Release, error) {
	h.t.Helper()
	install := action.NewInstall(h.helm())
	install.ReleaseName, install.Namespace, install.CreateNamespace = name, namespace, true
	install.WaitStrategy = kube.HookOnlyStrategy // nobody runs pods here
	for _, option := range options {
		option(install)
	}
	installed, err := install.RunWithContext(h.t.Context(), load(h.t), parse(h.t, values))
	if err != nil {
		return nil, err
	}
	return installed.(*release.Release), nil
}

// upgrade takes the chart as change leaves it.
func (h *host) upgrade(values string, change func(*chartv2.Chart)) *release.Release {
	h.t.Helper()
	upgrade := action.NewUpgrade(h.helm())
	upgrade.Namespace, upgrade.WaitStrategy = namespace, kube.HookOnlyStrategy
	changed := load(h.t).(*chartv2.Chart)
	change(changed)
	upgraded, err := upgrade.RunWithContext(h.t.Context(), releaseName, changed, parse(h.t, values))
	if err != nil {
		h.t.Fatal(err)
	}
	return upgraded.(*release.Release)
}

func (h *host) uninstall() {
	h.t.Helper()
	uninstall := action.NewUninstall(h.helm())
	uninstall.WaitStrategy, uninstall.Timeout = kube.HookOnlyStrategy, time.Minute
	response, err := uninstall.Run(releaseName)
	if err != nil {
		h.t.Fatal(err)
	}
	if !strings.Contains(response.Info, "[CustomResourceDefinition] storedcaptures.storage.network-observability.io") {
		h.t.Errorf("helm uninstall does not say what it keeps: %s", response.Info)
	}
}

func (h *host) get(resource schema.GroupVersionResource, inNamespace, name string) *unstructured.Unstructured {
	h.t.Helper()
	object, err := h.client.Resource(resource).Namespace(inNamespace).Get(h.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	return object
}

// create makes an object that the chart does not, as the API server does.
func (h *host) create(resource schema.GroupVersionResource, kind, name string, content tree) {
	h.t.Helper()
	object := tree{"apiVersion": resource.GroupVersion().String(), "kind": kind, "metadata": tree{"namespace": namespace, "name": name}}
	maps.Copy(object, content)
	if _, err := h.client.Resource(resource).Namespace(namespace).Create(h.t.Context(), &unstructured.Unstructured{Object: object}, metav1.CreateOptions{}); err != nil {
		h.t.Fatal(err)
	}
}

// everythingThere are the resource, namespace and name of every object of the cluster.
func (h *host) everythingThere() map[string]bool {
	h.t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	lists, err := client.ServerPreferredResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) { // ours, which nobody serves here
		h.t.Fatal(err)
	}
	found := map[string]bool{}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, resource := range list.APIResources {
			if !slices.Contains(resource.Verbs, "list") || resource.Name == "events" || resource.Name == "componentstatuses" {
				continue
			}
			objects, err := h.client.Resource(version.WithResource(resource.Name)).List(h.t.Context(), metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				h.t.Fatalf("listing %s: %v", resource.Name, err)
			}
			for _, object := range objects.Items {
				found[words(resource.Name, object.GetNamespace(), object.GetName())] = true
			}
		}
	}
	return found
}

// words joins those that are not empty.
func words(all ...string) string {
	return strings.Join(slices.DeleteFunc(all, func(word string) bool { return word == "" }), " ")
}

// TestLifecycle installs, changes, takes back and removes the chart in a real cluster, in which nobody serves our API: as bad as it gets.
func TestLifecycle(t *testing.T) {
	h := newHost(t)
	before := h.everythingThere()

	installed, err := h.install(releaseName, `monitoring: {dashboards: {enabled: true}}`)
	if err != nil {
		t.Fatal(err)
	}
	h.hasAll(installed)
	if !strings.Contains(installed.Info.Notes, "kubectl label namespace network-observability") {
		t.Errorf("the notes do not say that the namespace lacks a label:\n%s", installed.Info.Notes)
	}

	// Names are of the cluster's, so that there cannot be two.
	if _, err := h.install("another", `{}`); err == nil || !strings.Contains(err.Error(), "exists and cannot be imported into the current release") {
		t.Errorf("a second release: %v", err)
	}

	h.beServed()
	h.await("a custom resource can be made", func() error {
		_, err := h.client.Resource(envelopes).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
		return err
	})
	h.create(envelopes, "StoredCapture", "shop.web", tree{"spec": tree{"namespace": "shop", "object": "{}"}})

	generation := h.get(deployments, namespace, server).GetGeneration()
	firstAgents := h.checksum(daemonSets, agent)
	const word = "Where the object was, as a later version may say it."
	upgraded := h.upgrade(`nodeagent: {config: {disabled: [dns]}}`, func(c *chartv2.Chart) {
		for _, template := range c.Templates {
			if template.Name == "templates/storage/envelopes.yaml" {
				template.Data = bytes.Replace(template.Data, []byte("Where the object is."), []byte(word), 1)
			}
		}
	})
	h.hasAll(upgraded)
	same(t, "what the API server filled in", h.bundle(), "Y2E=")
	same(t, "the definition is upgraded", strings.Contains(fmt.Sprint(h.get(definitions, "", "storedcaptures.storage.network-observability.io").Object), word), true)
	same(t, "agents are replaced", h.checksum(daemonSets, agent) != firstAgents, true)
	same(t, "the API server is not", h.get(deployments, namespace, server).GetGeneration(), generation)
	same(t, "the boards are gone", h.everythingThere()["configmaps "+namespace+" networkobservability-dashboard-cluster"], false)
	if !strings.Contains(upgraded.Info.Notes, "are upgraded") {
		t.Errorf("the notes of an upgrade:\n%s", upgraded.Info.Notes)
	}

	rollback := action.NewRollback(h.helm())
	rollback.WaitStrategy = kube.HookOnlyStrategy
	if err := rollback.Run(releaseName); err != nil {
		t.Fatal(err)
	}
	same(t, "the agents' configuration is as before", h.checksum(daemonSets, agent), firstAgents)
	same(t, "the boards are there", h.everythingThere()["configmaps "+namespace+" networkobservability-dashboard-cluster"], true)
	same(t, "what the API server filled in", h.bundle(), "Y2E=")

	h.uninstall()
	h.await("nothing is left but what the notes name", func() error { return h.leftovers(before) })

	// What was kept is taken up again, and by nobody else.
	if _, err := h.install("another", `{}`); err == nil || !strings.Contains(err.Error(), "cannot be imported") {
		t.Errorf("another release took the custom resources: %v", err)
	}
	if _, err := h.install(releaseName, `{}`); err != nil {
		t.Fatal(err)
	}
	h.get(envelopes, namespace, "shop.web")
}

// TestTakeOver has a release take what kubectl apply -k made, as the chart's README describes.
func TestTakeOver(t *testing.T) {
	h := newHost(t)
	kubectl := exec.CommandContext(t.Context(), filepath.Join(binaries, "kubectl"), "--server="+h.config.Host, "--token="+bearer,
		"--certificate-authority="+h.config.CAFile, "--cache-dir="+t.TempDir(), "apply", "-k", "../../artifacts/deploy")
	if said, err := kubectl.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	h.beServed()
	if _, err := h.install(releaseName, `{}`); err == nil || !strings.Contains(err.Error(), "cannot be imported into the current release") {
		t.Errorf("taken without being told to: %v", err)
	}
	taken, err := h.install(releaseName, `nodeagent: {config: {disabled: [dns]}}`, func(install *action.Install) {
		install.TakeOwnership, install.ForceConflicts = true, true
	})
	if err != nil {
		t.Fatal(err)
	}
	h.hasAll(taken)
	same(t, "what the API server filled in", h.bundle(), "Y2E=")
	// The ConfigMaps of kustomize, whose names have a hash, are nobody's now.
	left, err := h.client.Resource(configMaps).Namespace(namespace).List(t.Context(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/part-of=networkobservability,app.kubernetes.io/managed-by!=Helm",
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "ConfigMaps left", len(left.Items), 2)
	for _, one := range left.Items {
		same(t, one.GetName()+" is one of kustomize's", generated.MatchString(one.GetName()), true)
	}
	h.uninstall()
}

// beServed does what a running API server does to the cluster.
func (h *host) beServed() {
	h.t.Helper()
	bundle := []byte(`{"spec": {"caBundle": "Y2E="}}`)
	if _, err := h.client.Resource(apiServices).Patch(h.t.Context(), apiService, apitypes.MergePatchType, bundle, metav1.PatchOptions{FieldManager: server}); err != nil {
		h.t.Fatal(err)
	}
	h.create(secrets, "Secret", "networkobservability-ca", nil)
	h.create(configMaps, "ConfigMap", "networkobservability-ca", nil)
	for _, name := range []string{"networkobservability-certificates", "networkobservability-captures", "networkobservability-telemetry"} {
		h.create(leases, "Lease", name, nil)
	}
}

func (h *host) bundle() string {
	h.t.Helper()
	bundle, _, _ := unstructured.NestedString(h.get(apiServices, "", apiService).Object, "spec", "caBundle")
	return bundle
}

func (h *host) checksum(resource schema.GroupVersionResource, name string) string {
	h.t.Helper()
	sum, _, _ := unstructured.NestedString(h.get(resource, namespace, name).Object, "spec", "template", "metadata", "annotations", "checksum/config")
	if sum == "" {
		h.t.Errorf("%s has no checksum", name)
	}
	return sum
}

// hasAll demands every object of a release's manifest.
func (h *host) hasAll(of *release.Release) {
	h.t.Helper()
	resources, err := h.helm().KubeClient.Build(strings.NewReader(of.Manifest), false)
	if err != nil {
		h.t.Fatal(err)
	}
	if len(resources) < 30 {
		h.t.Errorf("the manifest has %d objects only", len(resources))
	}
	for _, resource := range resources {
		if err := resource.Get(); err != nil {
			h.t.Error(err)
		}
	}
}

// leftovers is an error unless the cluster has what it had before and what the notes say that helm uninstall leaves.
func (h *host) leftovers(before map[string]bool) error {
	left := h.everythingThere()
	maps.DeleteFunc(left, func(key string, _ bool) bool { return before[key] })
	want := []string{
		"namespaces " + namespace,
		"secrets " + namespace + " networkobservability-ca",
		"configmaps " + namespace + " networkobservability-ca",
		"leases " + namespace + " networkobservability-certificates",
		"leases " + namespace + " networkobservability-captures",
		"leases " + namespace + " networkobservability-telemetry",
		"customresourcedefinitions storedcaptures." + envelopes.Group,
		"customresourcedefinitions storedclustercaptures." + envelopes.Group,
		"customresourcedefinitions storednetworktelemetries." + envelopes.Group,
		"apiservices v1." + envelopes.Group, // of the definitions
		"storedcaptures " + namespace + " shop.web",
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(left)); !slices.Equal(got, want) {
		return fmt.Errorf("left is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return nil
}

func (h *host) await(what string, check func() error) {
	h.t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(h.t.Context(), 100*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		last = check()
		return last == nil, nil
	})
	if err != nil {
		h.t.Fatalf("waiting until %s: %v: %v", what, err, last)
	}
}
