package monitoring

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	operatorv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// component is what users of Prometheus Operator apply.
const component = "../../artifacts/monitoring/prometheus-operator"

// read decodes every object of the component strictly: an unknown field, one in the wrong case or a doubled one is an error.
func read(t *testing.T) []runtime.Object {
	t.Helper()
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{operatorv1.AddToScheme, corev1.AddToScheme, rbacv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	paths, err := filepath.Glob(filepath.Join(component, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var objects []runtime.Object
	for _, path := range paths {
		if filepath.Base(path) == "kustomization.yaml" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("reading %s: %v", path, err)
			}
			object, _, err := decoder.Decode(document, nil, nil)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			objects = append(objects, object)
		}
	}
	return objects
}

// TestComponent demands that the operator's types know every field, and that what it checks itself of a monitor holds.
func TestComponent(t *testing.T) {
	found := map[string]int{}
	for _, object := range read(t) {
		found[object.GetObjectKind().GroupVersionKind().Kind]++
		monitor, ok := object.(*operatorv1.ServiceMonitor)
		if !ok {
			continue
		}
		for i, endpoint := range monitor.Spec.Endpoints {
			if err := endpoint.Validate(); err != nil {
				t.Errorf("ServiceMonitor %s, endpoint %d: %v", monitor.Name, i, err)
			}
		}
	}
	if found["ServiceMonitor"] != 2 || found["PrometheusRule"] != 1 {
		t.Errorf("the component has %v, want two ServiceMonitors and a PrometheusRule", found)
	}
}
