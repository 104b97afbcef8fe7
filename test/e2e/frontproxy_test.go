package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// serverName is the name by which kube-apiserver knows our server.
const serverName = "networkobservability-apiserver." + agentv1.Namespace + ".svc"

// TestForgedFrontProxy asks our server directly, past kube-apiserver, and claims in the front proxy's headers
// to be the administrator. Only the front proxy's own certificate makes them count: everybody else is who its
// certificate says, or nobody, and is refused.
func TestForgedFrontProxy(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	address := c.portForward(t, &c.servers(t)[0], "10250")
	admin := http.Header{"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}}
	nobody := http.Header{"X-Remote-User": {"e2e-nobody"}, "X-Remote-Group": {"system:authenticated"}}
	intruder := c.clusterCertificate(t, "e2e-intruder")
	for _, test := range []struct {
		name        string
		certificate *tls.Certificate
		headers     http.Header
		want        []int
		message     string // part of it
	}{
		{"no certificate", nil, admin, []int{http.StatusUnauthorized, http.StatusForbidden}, ""},
		{"certificate of the cluster", intruder, admin, []int{http.StatusForbidden}, `User "e2e-intruder"`},
		{"certificate of the cluster, no header", intruder, nil, []int{http.StatusForbidden}, `User "e2e-intruder"`},
		{"front proxy CA, wrong name", c.frontProxyCertificate(t, "front-proxy-imposter"), admin, []int{http.StatusUnauthorized, http.StatusForbidden}, ""},
		{"front proxy", c.frontProxyCertificate(t, "front-proxy-client"), nobody, []int{http.StatusForbidden}, `User "e2e-nobody"`},
		{"front proxy, for the administrator", c.frontProxyCertificate(t, "front-proxy-client"), admin, []int{http.StatusOK}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.certificate == nil && test.name != "no certificate" {
				t.Skip("the front proxy's CA key is not on this machine")
			}
			client := c.directClient(t, test.certificate)
			for _, resource := range []string{"podnetworkstats", "nodenetworkstats"} {
				status, message := ask(t, client, address, resource, test.headers)
				if !slices.Contains(test.want, status) || !strings.Contains(message, test.message) {
					t.Errorf("reading %s gives %d %q, want one of %v naming %s", resource, status, message, test.want, test.message)
				}
			}
		})
	}
}

// portForward returns an address of this machine that leads to a port of a pod, until the test ends.
func (c *cluster) portForward(t *testing.T, pod *corev1.Pod, port string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := c.kubectlCommand(ctx, "port-forward", "--namespace", pod.Namespace, "pod/"+pod.Name, ":"+port, "--address=127.0.0.1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() }) // it ends by the signal
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("forwarding a port: %v", err)
	}
	address, _, found := strings.Cut(strings.TrimPrefix(line, "Forwarding from "), " -> ")
	if !found {
		t.Fatalf("kubectl port-forward says %q", line)
	}
	return address
}

// directClient verifies our server by the CA that the server publishes.
func (c *cluster) directClient(t *testing.T, certificate *tls.Certificate) *http.Client {
	t.Helper()
	published, err := c.kube.CoreV1().ConfigMaps(agentv1.Namespace).Get(t.Context(), agentv1.CAConfigMapName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(published.Data[agentv1.ServingCAKey])) {
		t.Fatalf("ConfigMap %s holds no serving CA", agentv1.CAConfigMapName)
	}
	config := &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12}
	if certificate != nil {
		// Whatever CAs the server names: the test wants its certificate to be sent.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: 30 * time.Second}
}

// ask lists a resource and returns the status and the message of a refusal.
func ask(t *testing.T, client *http.Client, address, resource string, headers http.Header) (int, string) {
	t.Helper()
	path := fmt.Sprintf("https://%s/apis/%s/%s", address, v1alpha1.SchemeGroupVersion, resource)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = headers.Clone()
	response, err := client.Do(request)
	if err != nil {
		t.Fatalf("asking the server directly: %v", err)
	}
	defer response.Body.Close()
	var status metav1.Status
	if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	return response.StatusCode, status.Message
}

// frontProxyCertificate signs a certificate with the key of the front proxy's CA, which lies beside the CA on
// the control plane of a local cluster; nil where it does not.
func (c *cluster) frontProxyCertificate(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	for _, flags := range apiserverCommands(t) {
		if host, err := url.Parse(c.config.Host); err != nil || host.Hostname() != flags["--advertise-address"] {
			continue // of another cluster on this machine
		}
		ca := filepath.Join(flags["root"], flags["--requestheader-client-ca-file"])
		key := strings.TrimSuffix(ca, filepath.Ext(ca)) + ".key"
		authority, err := tls.LoadX509KeyPair(ca, key)
		if err != nil {
			return nil
		}
		return issue(t, authority, name)
	}
	return nil
}

// apiserverCommands are the flags of every kube-apiserver on this machine, with the root of its files.
func apiserverCommands(t *testing.T) []map[string]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]string
	for _, file := range files {
		content, err := os.ReadFile(file)
		args := strings.Split(string(content), "\x00")
		if err != nil || filepath.Base(args[0]) != "kube-apiserver" {
			continue
		}
		flags := map[string]string{"root": filepath.Join(filepath.Dir(file), "root")}
		for _, arg := range args[1:] {
			name, value, _ := strings.Cut(arg, "=")
			flags[name] = value
		}
		all = append(all, flags)
	}
	return all
}
