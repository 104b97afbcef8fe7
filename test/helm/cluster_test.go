package helm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
)

const (
	binaries = "../../_output/bin"
	// required is set where a missing program is a failure, as in make test.
	required      = "REQUIRE_CONTROL_PLANE"
	startDeadline = 2 * time.Minute
	bearer        = "test"
)

// newCluster starts a real kube-apiserver with its etcd, and nothing else: nobody runs pods, fills in what other controllers do, or
// deletes what a namespace has. Both end with the test. Without the programs the test is skipped, or fails where they have to be there.
func newCluster(t *testing.T) *rest.Config {
	t.Helper()
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		if _, err := os.Stat(filepath.Join(binaries, name)); err != nil {
			if os.Getenv(required) != "" {
				t.Fatal(err)
			}
			t.Skipf("%v: build it with: go run ./hack/cluster build", err)
		}
	}
	dir := t.TempDir()
	ports := freePorts(t, 3)
	etcd, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	start(t, dir, "etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
	writeKeys(t, dir)
	ended := start(t, dir, "kube-apiserver",
		"--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(ports[2]),
		"--authorization-mode=RBAC", "--token-auth-file="+filepath.Join(dir, "tokens.csv"),
		"--tls-cert-file="+filepath.Join(dir, "server.crt"), "--tls-private-key-file="+filepath.Join(dir, "server.key"),
		"--service-account-issuer=https://test", "--service-account-key-file="+filepath.Join(dir, "accounts.key"),
		"--service-account-signing-key-file="+filepath.Join(dir, "accounts.key"),
		"--service-cluster-ip-range=198.18.0.0/24", "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none")
	config := &rest.Config{
		Host: fmt.Sprintf("https://localhost:%d", ports[2]), BearerToken: bearer, QPS: -1, WarningHandler: rest.NoWarnings{},
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "server.crt")},
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var last error
	err = wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, startDeadline, true, func(ctx context.Context) (bool, error) {
		last = client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		select {
		case <-ended:
			return false, fmt.Errorf("kube-apiserver ended")
		default:
			return last == nil, nil
		}
	})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "kube-apiserver.log"))
		t.Fatalf("waiting for kube-apiserver: %v: %v\n%s", err, last, log[max(0, len(log)-2000):])
	}
	return config
}

// start runs a program until the test ends. The channel is closed when it has ended.
func start(t *testing.T, dir, name string, args ...string) <-chan struct{} {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	// A test that panics or times out ends nothing by itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return ended
}

// writeKeys writes the server's certificate, the key of service accounts and the administrator's token.
func writeKeys(t *testing.T, dir string) {
	t.Helper()
	certificate, key, err := cert.GenerateSelfSignedCertKey("localhost", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(accounts)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"server.crt": certificate, "server.key": key,
		"accounts.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		"tokens.csv":   []byte(bearer + `,admin,1,"system:masters"` + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
