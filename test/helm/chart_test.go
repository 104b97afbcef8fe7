package helm

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/loader"
	release "helm.sh/helm/v4/pkg/release/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	chartFolder = "../../artifacts/helm/networkobservability"
	namespace   = "network-observability"
	releaseName = "netobs"
)

// A tree is an object or a part of one, as JSON has it.
type tree = map[string]any

func load(t testing.TB) chart.Charter {
	t.Helper()
	loaded, err := loader.LoadDir(chartFolder)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// parse reads values as a file or --set gives them.
func parse(t testing.TB, text string) tree {
	t.Helper()
	values := tree{}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// render does what helm template does. The manifest is that of the release; its notes are Info.Notes.
func render(t testing.TB, inNamespace, values string) (*release.Release, error) {
	t.Helper()
	install := action.NewInstall(action.NewConfiguration())
	install.DryRunStrategy = action.DryRunClient
	install.ReleaseName, install.Namespace = releaseName, inNamespace
	version, err := common.ParseKubeVersion("v1.37.2") // Helm takes another one in tests
	if err != nil {
		t.Fatal(err)
	}
	install.KubeVersion = version
	rendered, err := install.RunWithContext(t.Context(), load(t), parse(t, values))
	if err != nil {
		return nil, err
	}
	return rendered.(*release.Release), nil
}

func mustRender(t testing.TB, values string) *release.Release {
	t.Helper()
	rendered, err := render(t, namespace, values)
	if err != nil {
		t.Fatal(err)
	}
	return rendered
}

// documents are those of a manifest that hold something.
func documents(manifest string) []string {
	var found []string
	for document := range strings.SplitSeq("\n"+manifest, "\n---\n") {
		if regexp.MustCompile(`(?m)^[^#\s]`).MatchString(document) {
			found = append(found, document)
		}
	}
	return found
}

// trees decodes a manifest. Doubled keys are an error.
func trees(t testing.TB, manifest string) []tree {
	t.Helper()
	var all []tree
	for _, document := range documents(manifest) {
		text, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		object := tree{}
		if err := json.Unmarshal(text, &object); err != nil {
			t.Fatal(err)
		}
		all = append(all, object)
	}
	return all
}

// typed decodes a manifest by the types of Kubernetes: a field that they do not know is an error. Objects of Prometheus Operator
// are left out: those of the chart are those of artifacts/monitoring, which test/monitoring holds to their types.
func typed(t testing.TB, manifest string) []runtime.Object {
	t.Helper()
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(known); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	var all []runtime.Object
	for _, document := range documents(manifest) {
		if strings.Contains(document, "\napiVersion: monitoring.coreos.com/") {
			continue
		}
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Errorf("%v in\n%s", err, document)
			continue
		}
		all = append(all, object)
	}
	return all
}

// kustomized is what kubectl apply -k would apply for artifacts/deploy with components, which are folders of artifacts.
func kustomized(t testing.TB, components ...string) string {
	t.Helper()
	// A kustomization may name other folders only by a path that is relative to its own.
	folder := t.TempDir()
	artifacts, err := filepath.Abs("../../artifacts")
	if err == nil {
		artifacts, err = filepath.Rel(folder, artifacts)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := types.Kustomization{Resources: []string{artifacts + "/deploy"}}
	for _, component := range components {
		file.Components = append(file.Components, artifacts+"/"+component)
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return string(manifest)
}

// TestSameAsKustomize demands that the chart installs what the manifests do, but for what normalized takes away.
func TestSameAsKustomize(t *testing.T) {
	for name, test := range map[string]struct {
		values     string
		components []string
	}{
		"defaults": {values: `{}`},
		"Prometheus Operator": {
			values:     `monitoring: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}}`,
			components: []string{"monitoring/prometheus-operator"},
		},
		"Prometheus Operator, with a token of a Secret": {
			values:     `monitoring: {serviceMonitor: {enabled: true, tokenSecret: true}, prometheusRule: {enabled: true}}`,
			components: []string{"monitoring/prometheus-operator", "monitoring/prometheus-operator/secret-token"},
		},
		"boards": {
			values:     `monitoring: {dashboards: {enabled: true}}`,
			components: []string{"monitoring/dashboards"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := normalized(t, trees(t, kustomized(t, test.components...)))
			rendered := mustRender(t, test.values).Manifest
			typed(t, rendered)
			got := normalized(t, trees(t, rendered))
			for _, key := range slices.Sorted(maps.Keys(want)) {
				if got[key] == nil {
					t.Errorf("the chart has no %s", key)
					continue
				}
				differences(t, key, want[key], got[key])
			}
			for key := range got {
				if want[key] == nil {
					t.Errorf("only the chart has %s", key)
				}
			}
		})
	}
}

// generated is a ConfigMap's name by kustomize, which ends with a hash of what is in it.
var generated = regexp.MustCompile(`^(networkobservability-(?:apiserver|nodeagent))-[a-z0-9]{10}$`)

// normalized are the objects by kind and name, without what may differ between the two ways to install.
func normalized(t testing.TB, objects []tree) map[string]tree {
	t.Helper()
	all := map[string]tree{}
	for _, object := range objects {
		kind, metadata := object["kind"].(string), object["metadata"].(tree)
		switch kind {
		case "Namespace": // helm install --create-namespace makes it; NOTES.txt has the label that it lacks then
			continue
		case "ConfigMap":
			metadata["name"] = generated.ReplaceAllString(metadata["name"].(string), "$1")
			// Comments are not in it when it comes from values.
			data := object["data"].(tree)
			if text, ok := data["config.yaml"]; ok {
				data["config.yaml"] = parse(t, text.(string))
			}
		case "Deployment", "DaemonSet":
			template := object["spec"].(tree)["template"].(tree)
			without(template["metadata"].(tree), "annotations", "checksum/config")
			for _, volume := range template["spec"].(tree)["volumes"].([]any) {
				if from, ok := volume.(tree)["configMap"].(tree); ok {
					from["name"] = generated.ReplaceAllString(from["name"].(string), "$1")
				}
			}
		case "CustomResourceDefinition":
			without(metadata, "annotations", "helm.sh/resource-policy")
		}
		without(metadata, "labels", "helm.sh/chart")
		without(metadata, "labels", "app.kubernetes.io/managed-by")
		inNamespace, _ := metadata["namespace"].(string)
		all[strings.Join([]string{kind, inNamespace, metadata["name"].(string)}, " ")] = object
	}
	return all
}

// without takes a key out of a map of strings, and the map away when nothing else is in it.
func without(of tree, field, key string) {
	if values, ok := of[field].(tree); ok {
		delete(values, key)
		if len(values) == 0 {
			delete(of, field)
		}
	}
}

// differences reports the paths at which two objects differ.
func differences(t testing.TB, path string, want, got any) {
	t.Helper()
	if reflect.DeepEqual(want, got) {
		return
	}
	wanted, isTree := want.(tree)
	found, isToo := got.(tree)
	if isTree && isToo {
		keys := maps.Clone(wanted)
		maps.Copy(keys, found)
		for key := range keys {
			differences(t, path+"."+key, wanted[key], found[key])
		}
		return
	}
	wantedList, isList := want.([]any)
	foundList, isToo := got.([]any)
	if isList && isToo && len(wantedList) == len(foundList) {
		for i := range wantedList {
			differences(t, fmt.Sprintf("%s[%d]", path, i), wantedList[i], foundList[i])
		}
		return
	}
	t.Errorf("%s: kustomize says %v, the chart %v", path, want, got)
}
