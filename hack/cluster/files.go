package main

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
)

// An authorities holds the two that a cluster has: what the one for the front proxy signs may say on whose
// behalf a request comes, so it signs nothing else.
type authorities struct{ cluster, frontProxy *Authority }

func (p Plan) loadAuthorities() (authorities, error) {
	dir := p.controlDir()
	cluster, err := loadAuthority(dir, "ca")
	if err != nil {
		return authorities{}, err
	}
	frontProxy, err := loadAuthority(dir, "front-proxy-ca")
	return authorities{cluster, frontProxy}, err
}

// controlDir is kubernetesDir of the control plane as the host sees it.
func (p Plan) controlDir() string {
	return filepath.Join(p.LibDir(p.Control()), filepath.Base(kubernetesDir))
}

// writeFiles writes what the machines' programs read. Keys that are there already stay.
func (p Plan) writeFiles() error {
	ca, err := p.loadAuthorities()
	if err != nil {
		return err
	}
	if err := p.writeControlFiles(ca); err != nil {
		return fmt.Errorf("writing the control plane's files: %w", err)
	}
	for _, m := range p.NodeMachines() {
		if err := p.writeNodeFiles(m, ca.cluster); err != nil {
			return fmt.Errorf("writing files of %s: %w", m.Name, err)
		}
	}
	return p.ensureKubeconfig(ca.cluster, p.Kubeconfig(), Subject{Name: "admin", Groups: []string{"system:masters"}})
}

func (p Plan) writeControlFiles(ca authorities) error {
	dir := p.controlDir()
	if err := ensureSigningKey(dir, "service-account"); err != nil {
		return err
	}
	if err := ca.cluster.ensureKeyPair(dir, "apiserver", Subject{Name: "kube-apiserver", Hosts: p.apiserverHosts()}); err != nil {
		return err
	}
	kubelet := Subject{Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}}
	if err := ca.cluster.ensureKeyPair(dir, "apiserver-kubelet-client", kubelet); err != nil {
		return err
	}
	if err := ca.frontProxy.ensureKeyPair(dir, "front-proxy-client", Subject{Name: "front-proxy-client"}); err != nil {
		return err
	}
	manager := Subject{Name: "system:kube-controller-manager"}
	if err := p.ensureKubeconfig(ca.cluster, dir+"/controller-manager.kubeconfig", manager); err != nil {
		return err
	}
	return p.ensureKubeconfig(ca.cluster, dir+"/scheduler.kubeconfig", Subject{Name: "system:kube-scheduler"})
}

func (p Plan) apiserverHosts() []string {
	hosts := []string{"localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain}
	hosts = append(hosts, p.Control().Addrs.Strings()...)
	return append(hosts, p.APIService().Strings()...)
}

func (p Plan) writeNodeFiles(m Machine, ca *Authority) error {
	lib := p.LibDir(m)
	kubelet, proxy := filepath.Join(lib, "kubelet"), filepath.Join(lib, "kube-proxy")
	for path, content := range map[string][]byte{
		filepath.Join(lib, "containerd/config.toml"):           []byte(containerdConfig()),
		filepath.Join(lib, "cni/net.d/10-"+p.Name+".conflist"): p.cniConfig(m),
		filepath.Join(kubelet, "config.json"):                  p.kubeletConfig(m),
		filepath.Join(kubelet, "ca.crt"):                       ca.PEM.Cert,
		filepath.Join(kubelet, "resolv.conf"):                  nil, // nothing beyond the cluster answers
		filepath.Join(proxy, "config.json"):                    p.proxyConfig(m),
	} {
		if err := writeFile(path, content, 0o644); err != nil {
			return err
		}
	}
	serving := Subject{Name: "system:node:" + m.Name, Groups: []string{"system:nodes"}, Hosts: append(m.Addrs.Strings(), m.Name)}
	if err := ca.ensureKeyPair(kubelet, "serving", serving); err != nil {
		return err
	}
	client := Subject{Name: serving.Name, Groups: serving.Groups}
	if err := p.ensureKubeconfig(ca, filepath.Join(kubelet, "kubeconfig"), client); err != nil {
		return err
	}
	return p.ensureKubeconfig(ca, filepath.Join(proxy, "kubeconfig"), Subject{Name: "system:kube-proxy"})
}

// ensureKubeconfig keeps a kubeconfig with a client certificate for the subject.
func (p Plan) ensureKubeconfig(ca *Authority, path string, s Subject) error {
	if fileExists(path) {
		return nil
	}
	pair, err := ca.Issue(s)
	if err != nil {
		return fmt.Errorf("issuing client certificate of %s: %w", s.Name, err)
	}
	return writeFile(path, p.kubeconfig(s.Name, ca.PEM.Cert, pair), 0o600)
}

func (p Plan) kubeconfig(user string, ca []byte, pair KeyPair) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return encode(map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": p.Name,
		"contexts":        []any{map[string]any{"name": p.Name, "context": map[string]any{"cluster": p.Name, "user": user}}},
		"clusters": []any{map[string]any{"name": p.Name, "cluster": map[string]any{
			"server": p.APIServer(), "certificate-authority-data": b64(ca)}}},
		"users": []any{map[string]any{"name": user, "user": map[string]any{
			"client-certificate-data": b64(pair.Cert), "client-key-data": b64(pair.Key)}}},
	})
}
