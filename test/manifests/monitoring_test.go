package manifests

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const metricsReader = "networkobservability-metrics-reader"

// A tlsConfig is what a ServiceMonitor has for an endpoint.
type tlsConfig struct {
	ServerName string
	CA         struct{ ConfigMap struct{ Name, Key string } }
}

// monitor is a ServiceMonitor, as far as it is checked here.
type monitor struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		JobLabel  string
		Selector  struct{ MatchLabels map[string]string }
		Endpoints []struct {
			Port, Scheme string
			HonorLabels  bool
			TLSConfig    tlsConfig
		}
	}
}

// TestServiceMonitors holds the optional component to what is deployed: who is scraped, how it is checked, and who may.
func TestServiceMonitors(t *testing.T) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../../artifacts/monitoring/prometheus-operator")
	if err != nil {
		t.Fatal(err)
	}
	deployed := build(t)
	services := map[string]*corev1.Service{}
	for _, object := range deployed {
		if service, ok := object.(*corev1.Service); ok {
			services[service.Name] = service
		}
	}
	monitors := map[string]monitor{}
	for _, resource := range resources.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		switch resource.GetKind() {
		case "ServiceMonitor":
			var m monitor
			if err := yaml.Unmarshal(text, &m); err != nil {
				t.Fatal(err)
			}
			monitors[m.Metadata.Name] = m
		case "Service":
			object, _, err := scheme.Codecs.UniversalDeserializer().Decode(text, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			service := object.(*corev1.Service)
			services[service.Name] = service
		case "ClusterRoleBinding":
			var binding rbacv1.ClusterRoleBinding
			if err := yaml.UnmarshalStrict(text, &binding); err != nil {
				t.Fatal(err)
			}
			only[*rbacv1.ClusterRole](t, deployed, binding.RoleRef.Name)
		}
	}
	for name, serverName := range map[string]string{
		"networkobservability-nodeagent": agentv1.MetricsDNSName,
		"networkobservability-apiserver": "networkobservability-apiserver." + agentv1.Namespace + ".svc",
	} {
		m, ok := monitors[name]
		if !ok || len(m.Spec.Endpoints) != 1 {
			t.Errorf("there is no ServiceMonitor %s with one endpoint", name)
			continue
		}
		endpoint := m.Spec.Endpoints[0]
		ca := endpoint.TLSConfig.CA.ConfigMap
		if endpoint.Scheme != "https" || !endpoint.HonorLabels || endpoint.TLSConfig.ServerName != serverName || ca.Name != agentv1.CAConfigMapName || ca.Key != agentv1.ServingCAKey {
			t.Errorf("%s is scraped like this: %+v", name, endpoint)
		}
		var matched []string
		for _, service := range services {
			labels := map[string]string{}
			for label := range m.Spec.Selector.MatchLabels {
				labels[label] = service.Labels[label]
			}
			has := slices.ContainsFunc(service.Spec.Ports, func(port corev1.ServicePort) bool { return port.Name == endpoint.Port })
			if encoded(t, labels) == encoded(t, m.Spec.Selector.MatchLabels) && has {
				matched = append(matched, service.Name)
				if job := service.Labels[m.Spec.JobLabel]; job != name {
					t.Errorf("the job of %s is %q", name, job)
				}
			}
		}
		if len(matched) != 1 {
			t.Errorf("%s selects the Services %v", name, matched)
		}
	}
}

func encoded(t *testing.T, labels map[string]string) string {
	t.Helper()
	text, err := json.Marshal(labels)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestScrapeConfiguration holds the configuration for a plain Prometheus to what is deployed.
func TestScrapeConfiguration(t *testing.T) {
	text, err := os.ReadFile("../../artifacts/monitoring/prometheus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Jobs []struct {
			Name        string `json:"job_name"`
			Scheme      string
			HonorLabels bool `json:"honor_labels"`
			TLS         struct {
				ServerName string `json:"server_name"`
			} `json:"tls_config"`
			Relabel []struct {
				From   []string `json:"source_labels"`
				Target string   `json:"target_label"`
				Regex  string
			} `json:"relabel_configs"`
		} `json:"scrape_configs"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	want := map[string]struct{ serverName, port string }{
		"networkobservability-nodeagent": {agentv1.MetricsDNSName, strconv.Itoa(agentv1.MetricsPort)},
		"networkobservability-apiserver": {"networkobservability-apiserver." + agentv1.Namespace + ".svc", "10250"},
	}
	for _, job := range config.Jobs {
		if job.Scheme != "https" || !job.HonorLabels || job.TLS.ServerName != want[job.Name].serverName || job.Relabel[0].Regex != want[job.Name].port {
			t.Errorf("job %s is scraped like this: %+v, want %+v", job.Name, job, want[job.Name])
		}
		delete(want, job.Name)
	}
	if len(want) != 0 || !bytes.Contains(text, []byte("target_label: node\n")) {
		t.Errorf("jobs are missing: %v; or the label node is", want)
	}

	rights, err := os.ReadFile("../../artifacts/monitoring/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(rights), "\n---\n") {
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch object := object.(type) {
		case *rbacv1.ClusterRoleBinding:
			if object.RoleRef.Name != metricsReader {
				t.Errorf("Prometheus is bound to %s", object.RoleRef.Name)
			}
			only[*rbacv1.ClusterRole](t, build(t), object.RoleRef.Name)
		case *rbacv1.Role:
			for _, rule := range object.Rules {
				if slices.Contains(rule.Resources, "secrets") || slices.Contains(rule.Resources, "*") || object.Namespace != agentv1.Namespace {
					t.Errorf("Prometheus may do more than find pods: %+v", rule)
				}
			}
		}
	}
}
