package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// Where machines keep their files, as they see them themselves.
const (
	kubernetesDir = "/var/lib/kubernetes" // control plane: keys and kubeconfigs
	kubeletDir    = "/var/lib/kubelet"
	proxyDir      = "/var/lib/kube-proxy"
	cniDir        = "/var/lib/cni"
	containerd    = "/run/containerd/containerd.sock"
	cniPlugins    = "/usr/lib/cni" // of Debian's containernetworking-plugins
)

// pinnedSysctls are the values that kubelet insists on. They belong to the whole machine, so kubelet gets to
// see them as it likes and changes nothing.
var pinnedSysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// machineSpec says what runs on a machine; bin is the folder of the built programs.
func (p Plan) machineSpec(m Machine, bin string) MachineSpec {
	spec := MachineSpec{Name: m.Name, LibDir: p.LibDir(m), LogDir: p.LogDir(m)}
	switch m.Role {
	case RoleControl:
		spec.Services = []Service{
			{Name: "etcd", Path: filepath.Join(bin, "etcd"), Args: p.etcdArgs()},
			{Name: "kube-apiserver", Path: filepath.Join(bin, "kube-apiserver"), Args: p.apiserverArgs()},
			{Name: "kube-controller-manager", Path: filepath.Join(bin, "kube-controller-manager"), Args: p.controllerManagerArgs()},
			{Name: "kube-scheduler", Path: filepath.Join(bin, "kube-scheduler"), Args: p.schedulerArgs()},
		}
	case RoleNode:
		spec.Sysctls = pinnedSysctls
		spec.Services = []Service{
			{Name: "containerd", Path: "/usr/bin/containerd", Args: []string{"--config", "/var/lib/containerd/config.toml"}},
			{Name: "kubelet", Path: filepath.Join(bin, "kubelet"), Args: p.kubeletArgs(m)},
			{Name: "kube-proxy", Path: filepath.Join(bin, "kube-proxy"), Args: []string{"--config=" + proxyDir + "/config.json"}},
		}
	}
	return spec
}

// etcd listens on the loopback of the control plane's own namespace, where nothing but the control plane is.
func (p Plan) etcdArgs() []string {
	return []string{
		"--name=" + p.Name,
		"--data-dir=/var/lib/etcd",
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=" + p.Name + "=http://127.0.0.1:2380",
		"--unsafe-no-fsync", // the cluster is for trying things out: faster, and a power cut may cost it
	}
}

func (p Plan) apiserverArgs() []string {
	return []string{
		"--advertise-address=" + p.Control().Addrs.V4.String(),
		"--bind-address=::",
		"--secure-port=6443",
		"--etcd-servers=http://127.0.0.1:2379",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-cluster-ip-range=" + p.ServiceNet().String(),

		"--client-ca-file=" + kubernetesDir + "/ca.crt",
		"--tls-cert-file=" + kubernetesDir + "/apiserver.crt",
		"--tls-private-key-file=" + kubernetesDir + "/apiserver.key",

		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + kubernetesDir + "/service-account.pub",
		"--service-account-signing-key-file=" + kubernetesDir + "/service-account.key",

		"--kubelet-certificate-authority=" + kubernetesDir + "/ca.crt",
		"--kubelet-client-certificate=" + kubernetesDir + "/apiserver-kubelet-client.crt",
		"--kubelet-client-key=" + kubernetesDir + "/apiserver-kubelet-client.key",
		"--kubelet-preferred-address-types=InternalIP",

		// No kube-proxy runs here, so aggregated API servers are reached at their endpoints.
		"--enable-aggregator-routing=true",
		"--proxy-client-cert-file=" + kubernetesDir + "/front-proxy-client.crt",
		"--proxy-client-key-file=" + kubernetesDir + "/front-proxy-client.key",
		"--requestheader-client-ca-file=" + kubernetesDir + "/front-proxy-ca.crt",
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
	}
}

func (p Plan) controllerManagerArgs() []string {
	kubeconfig := kubernetesDir + "/controller-manager.kubeconfig"
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--cluster-name=" + p.Name,
		"--cluster-cidr=" + p.PodNet().String(),
		"--service-cluster-ip-range=" + p.ServiceNet().String(),
		"--allocate-node-cidrs=false", // the plan fixes them
		"--root-ca-file=" + kubernetesDir + "/ca.crt",
		"--client-ca-file=" + kubernetesDir + "/ca.crt",
		"--requestheader-client-ca-file=" + kubernetesDir + "/front-proxy-ca.crt",
		"--service-account-private-key-file=" + kubernetesDir + "/service-account.key",
		"--cluster-signing-cert-file=" + kubernetesDir + "/ca.crt",
		"--cluster-signing-key-file=" + kubernetesDir + "/ca.key",
	}
}

func (p Plan) schedulerArgs() []string {
	kubeconfig := kubernetesDir + "/scheduler.kubeconfig"
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
	}
}

func (p Plan) kubeletArgs(m Machine) []string {
	return []string{
		"--config=" + kubeletDir + "/config.json",
		"--kubeconfig=" + kubeletDir + "/kubeconfig",
		"--hostname-override=" + m.Name,
		"--node-ip=" + m.Addrs.String(),
		"--node-labels=" + nodeLabels(m),
	}
}

// nodeLabels are those that a cloud would give: nodes take turns over three zones of one region.
func nodeLabels(m Machine) string {
	zone := string(rune('a' + (m.Index-1)%3))
	return "topology.kubernetes.io/region=local,topology.kubernetes.io/zone=local-" + zone +
		",node.kubernetes.io/instance-type=local.small"
}

// kubeletConfig is JSON, which kubelet reads as it reads YAML.
func (p Plan) kubeletConfig(m Machine) []byte {
	return encode(map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": kubeletDir + "/ca.crt"},
		},
		"authorization":            map[string]any{"mode": "Webhook"},
		"tlsCertFile":              kubeletDir + "/serving.crt",
		"tlsPrivateKeyFile":        kubeletDir + "/serving.key",
		"clusterDomain":            clusterDomain,
		"clusterDNS":               []string{p.DNSService().V4.String()},
		"resolvConf":               kubeletDir + "/resolv.conf",
		"containerRuntimeEndpoint": "unix://" + containerd,
		"volumePluginDir":          kubeletDir + "/volume-plugins",

		"cgroupDriver":                     "cgroupfs",
		"cgroupRoot":                       "/" + m.Name,
		"failCgroupV1":                     false,
		"failSwapOn":                       false,
		"oomScoreAdj":                      0, // lowering it needs CAP_SYS_RESOURCE
		"makeIPTablesUtilChains":           false,
		"imageMinimumGCAge":                "24h", // no registry could bring an image back
		"imageGCHighThresholdPercent":      100,
		"evictionHard":                     map[string]string{"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
		"evictionPressureTransitionPeriod": "10s",
	})
}

func (p Plan) proxyConfig(m Machine) []byte {
	return encode(map[string]any{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"mode":               "nftables",
		"hostnameOverride":   m.Name,
		"clientConnection":   map[string]any{"kubeconfig": proxyDir + "/kubeconfig"},
		"clusterCIDR":        p.PodNet().String(),
		"detectLocalMode":    "ClusterCIDR",
		"oomScoreAdj":        0,
		"metricsBindAddress": "127.0.0.1:10249",
		// Conntrack's sizes belong to the whole machine.
		"conntrack": map[string]any{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	})
}

// cniConfig is the pod network: a bridge per node, an address of each family per pod.
func (p Plan) cniConfig(m Machine) []byte {
	pods := p.NodePodNet(m)
	return encode(map[string]any{
		"cniVersion": "1.0.0",
		"name":       p.Name,
		"plugins": []any{
			map[string]any{
				"type":             "bridge",
				"bridge":           "cni0",
				"isDefaultGateway": true,
				"hairpinMode":      true,
				"ipam": map[string]any{
					"type":    "host-local",
					"dataDir": cniDir + "/networks",
					"ranges":  []any{[]any{map[string]any{"subnet": pods.V4.String()}}, []any{map[string]any{"subnet": pods.V6.String()}}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	})
}

// containerdConfig lists what differs from containerd's defaults.
func containerdConfig() []byte {
	return fmt.Appendf(nil, `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = %q

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  # runc could not lower it: that takes CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = "%s/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`, containerd, pauseImage, cniPlugins, cniDir)
}

func encode(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // only maps, strings, numbers and booleans come here
	}
	return append(b, '\n')
}
