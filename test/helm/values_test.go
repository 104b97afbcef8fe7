package helm

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	server = "networkobservability-apiserver"
	agent  = "networkobservability-nodeagent"
)

// all are the objects of a type, by name.
func all[T any](objects []runtime.Object) map[string]T {
	found := map[string]T{}
	for _, object := range objects {
		if one, ok := object.(T); ok {
			found[object.(metav1.Object).GetName()] = one
		}
	}
	return found
}

// An installed is what the values of a test make.
type installed struct {
	t        testing.TB
	manifest string
	objects  []runtime.Object // those of Kubernetes' own types
	server   *appsv1.Deployment
	agent    *appsv1.DaemonSet
}

func install(t testing.TB, values string) installed {
	t.Helper()
	manifest := mustRender(t, values).Manifest
	objects := typed(t, manifest)
	i := installed{t: t, manifest: manifest, objects: objects, server: all[*appsv1.Deployment](objects)[server], agent: all[*appsv1.DaemonSet](objects)[agent]}
	if i.server == nil || i.agent == nil {
		t.Fatal("there is no Deployment or no DaemonSet")
	}
	return i
}

func (i installed) serverPod() corev1.PodSpec { return i.server.Spec.Template.Spec }
func (i installed) agentPod() corev1.PodSpec  { return i.agent.Spec.Template.Spec }

// config is a program's configuration.
func (i installed) config(program string) tree {
	i.t.Helper()
	return parse(i.t, all[*corev1.ConfigMap](i.objects)[program].Data["config.yaml"])
}

// ofOperator are the objects of one of Prometheus Operator's kinds, by name.
func (i installed) ofOperator(kind string) map[string]tree {
	found := map[string]tree{}
	for _, object := range trees(i.t, i.manifest) {
		if object["kind"] == kind {
			found[object["metadata"].(tree)["name"].(string)] = object
		}
	}
	return found
}

func (i installed) arguments() []string { return i.serverPod().Containers[0].Args }

// checksums are those by which pods are replaced when a configuration changes.
func (i installed) checksums() (server, agent string) {
	const name = "checksum/config"
	return i.server.Spec.Template.Annotations[name], i.agent.Spec.Template.Annotations[name]
}

// same fails unless both are equal.
func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func quantities(cpu, memory string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for name, text := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
		if text != "" {
			list[name] = resource.MustParse(text)
		}
	}
	return list
}

// TestValues demands of each value that it does what values.yaml says. Everything that is rendered is decoded strictly.
func TestValues(t *testing.T) {
	for _, test := range []struct {
		name, values string
		check        func(t *testing.T, i installed)
	}{
		{"images of a registry", `
imagePullSecrets: [{name: registry}, {name: "1"}]
apiserver: {image: {registry: registry.example.com:5000/network, repository: team/server, tag: v1.2.3, pullPolicy: Always}}
nodeagent: {image: {registry: "", digest: "sha256:` + strings.Repeat("0a", 32) + `"}}`, func(t *testing.T, i installed) {
			same(t, "the server's image", i.serverPod().Containers[0].Image, "registry.example.com:5000/network/team/server:v1.2.3")
			same(t, "its policy", i.serverPod().Containers[0].ImagePullPolicy, corev1.PullAlways)
			same(t, "the agent's image", i.agentPod().Containers[0].Image, agent+"@sha256:"+strings.Repeat("0a", 32))
			for _, spec := range []corev1.PodSpec{i.serverPod(), i.agentPod()} {
				same(t, "secrets", spec.ImagePullSecrets, []corev1.LocalObjectReference{{Name: "registry"}, {Name: "1"}})
			}
		}},
		{"more replicas", `apiserver: {replicas: 3}`, func(t *testing.T, i installed) {
			same(t, "replicas", *i.server.Spec.Replicas, int32(3))
			same(t, "disruption budgets", len(all[*policyv1.PodDisruptionBudget](i.objects)), 1)
		}},
		// With a budget of one, its node could not be drained.
		{"one replica", `apiserver: {replicas: 1}`, func(t *testing.T, i installed) {
			same(t, "replicas", *i.server.Spec.Replicas, int32(1))
			same(t, "disruption budgets", len(all[*policyv1.PodDisruptionBudget](i.objects)), 0)
		}},
		{"resources", `
apiserver: {resources: {limits: {cpu: 2, memory: 4Gi}}, goMemLimit: 3600MiB}
nodeagent: {resources: {requests: {cpu: null}, limits: {memory: 1Gi}}, goMemLimit: 400MiB}`, func(t *testing.T, i installed) {
			same(t, "the server's limits", i.serverPod().Containers[0].Resources.Limits, quantities("2", "4Gi"))
			same(t, "the server's requests", i.serverPod().Containers[0].Resources.Requests, quantities("50m", "128Mi"))
			same(t, "the agent's limits", i.agentPod().Containers[0].Resources.Limits, quantities("", "1Gi"))
			same(t, "the agent's requests", i.agentPod().Containers[0].Resources.Requests, quantities("", "48Mi"))
			same(t, "the server's environment", slices.Contains(i.serverPod().Containers[0].Env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: "3600MiB"}), true)
			same(t, "the agent's environment", slices.Contains(i.agentPod().Containers[0].Env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: "400MiB"}), true)
		}},
		{"where pods run", `
apiserver:
  priorityClassName: ""
  nodeSelector: {pool: "1"}
  tolerations: [{key: infra, operator: Exists, effect: NoSchedule}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
nodeagent:
  priorityClassName: network
  nodeSelector: {"example.com/network": "true"}
  tolerations: []
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: type, operator: NotIn, values: [virtual]}]}]}}}`, func(t *testing.T, i installed) {
			same(t, "the server's class", i.serverPod().PriorityClassName, "")
			same(t, "the server's nodes", i.serverPod().NodeSelector, map[string]string{"pool": "1"})
			same(t, "the server's tolerations", i.serverPod().Tolerations, []corev1.Toleration{{Key: "infra", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}})
			same(t, "the server's affinity to pods, which is merged", i.serverPod().Affinity.PodAntiAffinity != nil && i.serverPod().Affinity.NodeAffinity != nil, true)
			same(t, "the agent's class", i.agentPod().PriorityClassName, "network")
			same(t, "the agent's nodes", i.agentPod().NodeSelector, map[string]string{"kubernetes.io/os": "linux", "example.com/network": "true"})
			same(t, "the agent's tolerations", len(i.agentPod().Tolerations), 0)
			same(t, "the agent's affinity", i.agentPod().Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0].Values, []string{"virtual"})
		}},
		{"replacing agents", `nodeagent: {updateStrategy: {rollingUpdate: {maxUnavailable: 3}}}`, func(t *testing.T, i installed) {
			same(t, "maxUnavailable", i.agent.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue(), 3)
		}},
		{"replacing agents by hand", `nodeagent: {updateStrategy: {type: OnDelete, rollingUpdate: null}}`, func(t *testing.T, i installed) {
			same(t, "the strategy", i.agent.Spec.UpdateStrategy, appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType})
		}},
		{"verbosity", `{apiserver: {logVerbosity: 4}, nodeagent: {logVerbosity: 2}}`, func(t *testing.T, i installed) {
			same(t, "the server's arguments", slices.Contains(i.arguments(), "--v=4"), true)
			same(t, "the agent's arguments", i.agentPod().Containers[0].Args, []string{"--config=/etc/networkobservability/config/config.yaml", "--v=2"})
		}},
		// Numbers stay whole numbers, and texts that look like something else stay texts.
		{"configurations", `
apiserver: {config: {captures: {outputs: [{s3: {endpoint: "https://s3.example.com", buckets: ["*", "1e3"]}}], maxClusterCaptures: 10000}}}
nodeagent: {config: {disabled: [infiniband, "on"], flows: {history: 150000, maxAge: 1h}, captures: {quota: 17179869184}}}`, func(t *testing.T, i installed) {
			same(t, "the server's", i.config(server), parse(t, `captures: {volumes: [], outputs: [{s3: {endpoint: "https://s3.example.com", buckets: ["*", "1e3"]}}], maxClusterCaptures: 10000}`))
			same(t, "the agent's", i.config(agent), parse(t, `{withoutHooks: [], disabled: [infiniband, "on"], flows: {history: 150000, maxAge: 1h}, captures: {quota: 17179869184}}`))
			text := all[*corev1.ConfigMap](i.objects)[agent].Data["config.yaml"]
			same(t, "whole numbers in "+text, strings.Contains(text, "quota: 17179869184\n") && strings.Contains(text, "history: 150000\n"), true)
			defaultServer, defaultAgent := install(t, `{}`).checksums()
			changedServer, changedAgent := i.checksums()
			same(t, "both programs are replaced", defaultServer != changedServer && defaultAgent != changedAgent, true)
		}},
		{"only the agents' configuration", `nodeagent: {config: {disabled: [dns]}}`, func(t *testing.T, i installed) {
			defaultServer, defaultAgent := install(t, `{}`).checksums()
			changedServer, changedAgent := i.checksums()
			same(t, "only agents are replaced", defaultServer == changedServer && defaultAgent != changedAgent, true)
		}},
		{"no configuration", `{apiserver: {config: {captures: null}}, nodeagent: {config: {disabled: null, withoutHooks: null, captures: null}}}`, func(t *testing.T, i installed) {
			same(t, "the server's", i.config(server), tree{})
			same(t, "the agent's", i.config(agent), tree{})
		}},
		{"volumes for captures", `
captureVolumes: {share: {nfs: {server: nfs.example.com, path: "/a: b"}}, disk: {hostPath: {path: /srv/captures}}}
apiserver: {config: {captures: {volumes: [by-hand, share]}}}`, func(t *testing.T, i installed) {
			same(t, "the server allows", i.config(server)["captures"].(tree)["volumes"], []any{"by-hand", "share", "disk"})
			spec := i.agentPod()
			for name, path := range map[string]string{"capture-share": "share", "capture-disk": "disk"} {
				same(t, "mounted: "+name, slices.ContainsFunc(spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
					return m.Name == name && m.MountPath == "/var/lib/networkobservability-volumes/"+path && !m.ReadOnly
				}), true)
				same(t, "a volume: "+name, slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool {
					return v.Name == name && (v.NFS != nil && v.NFS.Path == "/a: b" || v.HostPath != nil)
				}), true)
			}
			defaultServer, _ := install(t, `{}`).checksums()
			changed, _ := i.checksums()
			same(t, "the server is replaced", defaultServer != changed, true)
		}},
		{"volumes for captures only", `{captureVolumes: {disk: {emptyDir: {}}}, apiserver: {config: {captures: null}}}`, func(t *testing.T, i installed) {
			same(t, "the server's", i.config(server), parse(t, `captures: {volumes: [disk]}`))
		}},
		{"an identity and an authority", `
nodeagent:
  serviceAccountAnnotations: {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/a # b", number: "1"}
  podLabels: {"azure.workload.identity/use": "true", app.kubernetes.io/name: mine}
  extraEnv: [{name: SSL_CERT_FILE, value: /etc/authority/ca.crt}]
  extraVolumes: [{name: authority, configMap: {name: authority}}]
  extraVolumeMounts: [{name: authority, mountPath: /etc/authority, readOnly: true}]`, func(t *testing.T, i installed) {
			same(t, "annotations", all[*corev1.ServiceAccount](i.objects)[agent].Annotations, map[string]string{"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/a # b", "number": "1"})
			same(t, "labels, ours kept", i.agent.Spec.Template.Labels, map[string]string{"azure.workload.identity/use": "true", "app.kubernetes.io/name": agent, "app.kubernetes.io/component": "nodeagent"})
			container := i.agentPod().Containers[0]
			same(t, "environment", container.Env[len(container.Env)-1], corev1.EnvVar{Name: "SSL_CERT_FILE", Value: "/etc/authority/ca.crt"})
			same(t, "mounts", container.VolumeMounts[len(container.VolumeMounts)-1], corev1.VolumeMount{Name: "authority", MountPath: "/etc/authority", ReadOnly: true})
			same(t, "volumes", i.agentPod().Volumes[len(i.agentPod().Volumes)-1].ConfigMap.Name, "authority")
		}},
		{"an etcd", `storage: {etcd: {servers: ["https://etcd-0:2379", "https://etcd-1:2379"], prefix: /network, tlsSecret: "1"}}`, func(t *testing.T, i installed) {
			for _, want := range []string{"--etcd-servers=https://etcd-0:2379,https://etcd-1:2379", "--etcd-prefix=/network", "--etcd-cafile=/etc/networkobservability/etcd/ca.crt",
				"--etcd-certfile=/etc/networkobservability/etcd/tls.crt", "--etcd-keyfile=/etc/networkobservability/etcd/tls.key"} {
				same(t, want, slices.Contains(i.arguments(), want), true)
			}
			volumes := i.serverPod().Volumes
			same(t, "the Secret", volumes[len(volumes)-1].Secret.SecretName, "1")
			mounts := i.serverPod().Containers[0].VolumeMounts
			same(t, "its mount", mounts[len(mounts)-1].MountPath, "/etc/networkobservability/etcd")
			same(t, "custom resources", len(all[*apiextensionsv1.CustomResourceDefinition](i.objects)), 0)
			same(t, "a right to them", all[*rbacv1.Role](i.objects)[server+"-storage"] == nil && all[*rbacv1.RoleBinding](i.objects)[server+"-storage"] == nil, true)
			same(t, "the right to quotas", all[*rbacv1.ClusterRoleBinding](i.objects)[server+"-quota"] != nil, true)
		}},
		{"an etcd without TLS", `storage: {etcd: {servers: ["http://127.0.0.1:2379"]}}`, func(t *testing.T, i installed) {
			same(t, "arguments", slices.ContainsFunc(i.arguments(), func(a string) bool { return strings.HasPrefix(a, "--etcd-ca") || strings.HasPrefix(a, "--etcd-prefix") }), false)
			same(t, "volumes", len(i.serverPod().Volumes), 1)
		}},
		{"monitors", `
monitoring:
  serviceMonitor: {enabled: true, labels: {release: "1", app.kubernetes.io/part-of: mine}, interval: 15s, prometheus: {namespace: observability, serviceAccountName: "prom"}}`, func(t *testing.T, i installed) {
			monitors := i.ofOperator("ServiceMonitor")
			same(t, "monitors", len(monitors), 2)
			for name, monitor := range monitors {
				labels := monitor["metadata"].(tree)["labels"].(tree)
				same(t, name+": labels", []any{labels["release"], labels["app.kubernetes.io/part-of"]}, []any{"1", "networkobservability"})
				same(t, name+": the interval", monitor["spec"].(tree)["endpoints"].([]any)[0].(tree)["interval"], "15s")
			}
			want := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "prom", Namespace: "observability"}}
			same(t, "who may read", all[*rbacv1.ClusterRoleBinding](i.objects)["networkobservability-metrics-reader:prometheus-operator"].Subjects, want)
			same(t, "who may find", all[*rbacv1.RoleBinding](i.objects)["networkobservability-discovery:prometheus-operator"].Subjects, want)
			same(t, "rules", len(i.ofOperator("PrometheusRule")), 0)
		}},
		{"rules", `monitoring: {prometheusRule: {enabled: true, labels: {release: stack}}}`, func(t *testing.T, i installed) {
			rule := i.ofOperator("PrometheusRule")["networkobservability"]
			same(t, "labels", rule["metadata"].(tree)["labels"].(tree)["release"], "stack")
			first := rule["spec"].(tree)["groups"].([]any)[0].(tree)["rules"].([]any)[0].(tree)
			same(t, "braces of Prometheus", strings.Contains(first["annotations"].(tree)["summary"].(string), "{{ $labels.node }}"), true)
			same(t, "monitors", len(i.ofOperator("ServiceMonitor")), 0)
		}},
		{"boards", `monitoring: {dashboards: {enabled: true, namespace: grafana, labels: {grafana_dashboard: null, board: "yes"}, annotations: null}}`, func(t *testing.T, i installed) {
			boards := 0
			for name, board := range all[*corev1.ConfigMap](i.objects) {
				if !strings.HasPrefix(name, "networkobservability-dashboard-") {
					continue
				}
				boards++
				same(t, name+": namespace", board.Namespace, "grafana")
				same(t, name+": labels", []string{board.Labels["board"], board.Labels["grafana_dashboard"]}, []string{"yes", ""})
				same(t, name+": annotations", len(board.Annotations), 0)
			}
			same(t, "boards", boards, 10)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.check(t, install(t, test.values))
		})
	}
}

// TestRefused demands that a wrong value is refused, and that the message says where it is.
func TestRefused(t *testing.T) {
	for values, want := range map[string]string{
		`apiserver: {replica: 3}`:                                             "at '/apiserver': additional properties 'replica' not allowed",
		`nodeAgent: {}`:                                                       "additional properties 'nodeAgent' not allowed",
		`apiserver: {replicas: 0}`:                                            "at '/apiserver/replicas': minimum: got 0, want 1",
		`apiserver: {replicas: "2"}`:                                          "at '/apiserver/replicas': got string, want integer",
		`apiserver: {image: {pullPolicy: always}}`:                            "at '/apiserver/image/pullPolicy'",
		`apiserver: {image: {tag: "a b"}}`:                                    "at '/apiserver/image/tag'",
		`apiserver: {image: {digest: "0123"}}`:                                "at '/apiserver/image/digest'",
		`nodeagent: {image: {repository: "a:b"}}`:                             "at '/nodeagent/image/repository'",
		`nodeagent: {image: {registry: "https://registry.example.com/"}}`:     "at '/nodeagent/image/registry'",
		`nodeagent: {goMemLimit: 160Mi}`:                                      "at '/nodeagent/goMemLimit'",
		`nodeagent: {nodeSelector: {pool: true}}`:                             "at '/nodeagent/nodeSelector/pool': got boolean, want string",
		`nodeagent: {tolerations: {operator: Exists}}`:                        "at '/nodeagent/tolerations': got object, want array",
		`nodeagent: {updateStrategy: {rollingUpdate: {maxSurge: 1}}}`:         "at '/nodeagent/updateStrategy/rollingUpdate/maxSurge'",
		`nodeagent: {updateStrategy: {rollingUpdate: {maxUnavailable: "0"}}}`: "at '/nodeagent/updateStrategy/rollingUpdate/maxUnavailable'",
		`nodeagent: {updateStrategy: {rollingUpdate: {maxUnavailable: 0%}}}`:  "at '/nodeagent/updateStrategy/rollingUpdate/maxUnavailable'",
		`nodeagent: {config: "captures: {}"}`:                                 "at '/nodeagent/config': got string, want object",
		`nodeagent: {logVerbosity: -1}`:                                       "at '/nodeagent/logVerbosity'",
		`nodeagent: {extraVolumes: [{emptyDir: {}}]}`:                         "at '/nodeagent/extraVolumes/0': missing property 'name'",
		`nodeagent: {extraVolumes: [{name: config, emptyDir: {}}]}`:           `nodeagent.extraVolumes: "config" is the name of a volume of ours; take another`,
		`apiserver: {config: {captures: {volumes: archive}}}`:                 "at '/apiserver/config/captures/volumes': got string, want array",
		`apiserver: null`:                                                     "missing property 'apiserver'",
		`captureVolumes: {"../etc": {emptyDir: {}}}`:                          "'../etc'",
		`captureVolumes: {archive: {}}`:                                       "at '/captureVolumes/archive': minProperties: got 0, want 1",
		`captureVolumes: {archive: {nfs: {}, name: archive}}`:                 "at '/captureVolumes/archive'",
		`storage: {etcd: {servers: ["etcd:2379"]}}`:                           "at '/storage/etcd/servers/0'",
		`storage: {etcd: {servers: ["http://a,http://b"]}}`:                   "at '/storage/etcd/servers/0'",
		`storage: {etcd: {tlsSecret: keys}}`:                                  "storage.etcd.tlsSecret: give storage.etcd.servers too",
		`monitoring: {serviceMonitor: {enabled: "yes"}}`:                      "at '/monitoring/serviceMonitor/enabled': got string, want boolean",
		`monitoring: {serviceMonitor: {interval: 30}}`:                        "at '/monitoring/serviceMonitor/interval'",
		`monitoring: {prometheusRule: {labels: {release: 1}}}`:                "at '/monitoring/prometheusRule/labels/release': got number, want string",
		`monitoring: {dashboards: {namespace: ""}}`:                           "at '/monitoring/dashboards/namespace'",
	} {
		if _, err := render(t, namespace, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant: %s", values, err, want)
		}
	}
}

// TestNamespace demands the reason why another namespace is refused, and what to do.
func TestNamespace(t *testing.T) {
	_, err := render(t, "default", `{}`)
	want := `the namespace is "default": names in certificates and the agents' Service are fixed to namespace network-observability. Install with: -n network-observability --create-namespace`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("in namespace default: %v, want: %s", err, want)
	}
}

// TestSchemaAndValues demands that every value that the schema knows has a default with a comment before it.
func TestSchemaAndValues(t *testing.T) {
	text, err := os.ReadFile(chartFolder + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema tree
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	values, err := os.ReadFile(chartFolder + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	missing(t, "", schema, parse(t, string(values)))
}

// missing reports the properties of a closed object, and of those in it, that have no default. References lead out of what is
// looked at.
func missing(t *testing.T, path string, schema, values tree) {
	t.Helper()
	if schema["additionalProperties"] != false {
		return
	}
	for name, property := range schema["properties"].(tree) {
		value, ok := values[name]
		if !ok && path+name != "global" && name != "type" && name != "maxSurge" {
			t.Errorf("values.yaml has no %s%s", path, name)
		}
		if inner, ok := value.(tree); ok {
			missing(t, path+name+".", property.(tree), inner)
		}
	}
}

func TestLint(t *testing.T) {
	version, err := common.ParseKubeVersion("v1.37.2")
	if err != nil {
		t.Fatal(err)
	}
	for _, values := range []string{`{}`, everything} {
		lint := action.NewLint()
		lint.Strict, lint.Namespace, lint.KubeVersion = true, namespace, version
		result := lint.Run([]string{chartFolder}, parse(t, values))
		if action.HasWarningsOrErrors(result) {
			t.Errorf("with %s: %v, %v", values, result.Messages, result.Errors)
		}
	}
}

// everything switches on what is off by default.
const everything = `
imagePullSecrets: [{name: registry}]
captureVolumes: {archive: {nfs: {server: nfs.example.com, path: /captures}}}
storage: {etcd: {servers: ["https://etcd:2379"], tlsSecret: keys}}
monitoring: {serviceMonitor: {enabled: true, tokenSecret: true}, prometheusRule: {enabled: true}, dashboards: {enabled: true}}`

func TestNotes(t *testing.T) {
	const telemetry, label, definitions = "NetworkTelemetry\"", "kubectl label namespace", "kubectl delete crd"
	plain := mustRender(t, `{}`).Info.Notes
	for _, want := range []string{"are installed", "kubectl get podnetworkstats -A", label, "helm uninstall " + releaseName + " -n " + namespace, definitions} {
		if !strings.Contains(plain, want) {
			t.Errorf("the notes do not say %q:\n%s", want, plain)
		}
	}
	if strings.Contains(plain, telemetry) {
		t.Errorf("the notes speak of metrics:\n%s", plain)
	}
	full := mustRender(t, everything).Info.Notes
	if !strings.Contains(full, telemetry) || strings.Contains(full, definitions) || !strings.Contains(full, "what is in your etcd") {
		t.Errorf("the notes with everything switched on:\n%s", full)
	}
	_, echoed, _ := strings.Cut(full, "    echo '")
	echoed, _, _ = strings.Cut(echoed, "' | kubectl apply -f -\n")
	example, err := os.ReadFile("../../artifacts/monitoring/networktelemetry.yaml")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the NetworkTelemetry of the notes", parse(t, echoed), parse(t, string(example)))
	for _, notes := range []string{plain, full} {
		for line := range strings.Lines(notes) {
			if strings.TrimRight(line, " \t\n") != strings.TrimRight(line, "\n") {
				t.Errorf("a line ends with blanks: %q", line)
			}
		}
		if strings.Contains(notes, "\n\n\n") {
			t.Errorf("two empty lines in\n%s", notes)
		}
	}
}
