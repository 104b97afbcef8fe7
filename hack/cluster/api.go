package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// An API asks kube-apiserver as the administrator.
type API struct {
	base   string
	client *http.Client
}

// api makes a client with a certificate that is signed for the occasion.
func (p Plan) api() (*API, error) {
	ca, err := loadAuthority(p.controlDir(), "ca")
	if err != nil {
		return nil, err
	}
	pair, err := ca.Issue(Subject{Name: "cluster", Groups: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS13},
	}
	return &API{base: p.APIServer(), client: &http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

// do sends a request and decodes the answer into result, unless that is nil.
func (a *API) do(ctx context.Context, method, path, contentType string, body []byte, result any) error {
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, bytes.TrimSpace(answer))
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer, result)
}

// Ready is nil when kube-apiserver serves.
func (a *API) Ready(ctx context.Context) error {
	return a.do(ctx, http.MethodGet, "/readyz", "", nil, nil)
}

// leaseDuration is how long kubelet's word holds; it renews its lease every quarter of that.
const leaseDuration = 40 * time.Second

// NodeReady is nil when the node's kubelet has spoken since a time, and says that it is ready. The last word
// of a kubelet that is gone does not count.
func (a *API) NodeReady(ctx context.Context, name string, since time.Time) error {
	var node struct {
		Status struct {
			Conditions []condition `json:"conditions"`
		} `json:"status"`
	}
	if err := a.do(ctx, http.MethodGet, "/api/v1/nodes/"+name, "", nil, &node); err != nil {
		return err
	}
	i := slices.IndexFunc(node.Status.Conditions, func(c condition) bool { return c.Type == "Ready" })
	if i < 0 {
		return fmt.Errorf("node %s has said nothing of its state", name)
	}
	ready := node.Status.Conditions[i]
	if ready.Status != "True" {
		return fmt.Errorf("node %s is not ready: %s", name, ready.Message)
	}
	if !ready.LastHeartbeatTime.Before(since.Truncate(time.Second)) {
		return nil
	}
	return a.leaseRenewed(ctx, name, since) // a state that stays the same is rarely repeated
}

// A condition is of a Node.
type condition struct {
	Type              string    `json:"type"`
	Status            string    `json:"status"`
	Message           string    `json:"message"`
	LastHeartbeatTime time.Time `json:"lastHeartbeatTime"`
}

func (a *API) leaseRenewed(ctx context.Context, name string, since time.Time) error {
	var lease struct {
		Spec struct {
			RenewTime time.Time `json:"renewTime"`
		} `json:"spec"`
	}
	path := "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/" + name
	if err := a.do(ctx, http.MethodGet, path, "", nil, &lease); err != nil {
		return err
	}
	if lease.Spec.RenewTime.Before(since) {
		return fmt.Errorf("kubelet of %s has not spoken since %s", name, lease.Spec.RenewTime.Format(time.TimeOnly))
	}
	return nil
}

// DescribeNode sets what a cloud's controllers would: the role, and the pod networks that the plan fixes.
func (a *API) DescribeNode(ctx context.Context, p Plan, m Machine) error {
	pods := p.NodePodNet(m)
	patch := encode(map[string]any{
		"metadata": map[string]any{"labels": map[string]string{"node-role.kubernetes.io/worker": ""}},
		"spec":     map[string]any{"podCIDR": pods.V4.String(), "podCIDRs": []string{pods.V4.String(), pods.V6.String()}},
	})
	return a.do(ctx, http.MethodPatch, "/api/v1/nodes/"+m.Name, "application/merge-patch+json", patch, nil)
}

// DNSAvailable is nil when a CoreDNS pod serves.
func (a *API) DNSAvailable(ctx context.Context) error {
	var deployment struct {
		Metadata struct {
			Generation int64 `json:"generation"`
		} `json:"metadata"`
		Status struct {
			ObservedGeneration int64 `json:"observedGeneration"`
			AvailableReplicas  int   `json:"availableReplicas"`
		} `json:"status"`
	}
	if err := a.do(ctx, http.MethodGet, "/apis/apps/v1/namespaces/kube-system/deployments/coredns", "", nil, &deployment); err != nil {
		return err
	}
	if deployment.Status.ObservedGeneration < deployment.Metadata.Generation || deployment.Status.AvailableReplicas == 0 {
		return errors.New("no CoreDNS pod is available")
	}
	return nil
}

// kubectl prepares a call as the administrator; what kubectl remembers goes with the cluster.
func (c *Cluster) kubectl(ctx context.Context, args ...string) *exec.Cmd {
	flags := []string{"--kubeconfig", c.Kubeconfig(), "--cache-dir", filepath.Join(c.StateDir(), "kubectl-cache")}
	return exec.CommandContext(ctx, filepath.Join(c.Bin, "kubectl"), append(flags, args...)...)
}

// apply merges a manifest into what is there.
func (c *Cluster) apply(ctx context.Context, manifest []byte) error {
	cmd := c.kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-f", "-")
	cmd.Stdin = bytes.NewReader(manifest)
	out, err := cmd.CombinedOutput()
	return explain(err, out)
}
