package storage

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	kubescheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/yaml"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	binaries = "../../_output/bin"
	// required is set where a missing program is a failure, as in make test.
	required      = "REQUIRE_CONTROL_PLANE"
	startDeadline = 3 * time.Minute
	bearer        = "test"
	// ownAddress is where both programs listen. Nobody connects from it, so the kernel does not give their ports away before they do.
	ownAddress = "127.0.0.2"
)

// cluster is a kube-apiserver and its etcd, both real, which all tests of the package share. The first that needs it
// starts it.
var cluster struct {
	once   sync.Once
	config *rest.Config
	etcd   etcd
	err    error  // why there is none
	end    func() // ends what was started; nil when nothing was
}

func TestMain(m *testing.M) {
	code := m.Run()
	if cluster.end != nil {
		cluster.end()
		printSkips(os.Stdout)
	}
	if code == 0 {
		if err := goleak.Find(leftByLibraries()...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// needCluster skips, or fails where the programs have to be there, when the cluster is not.
func needCluster(t testing.TB) {
	t.Helper()
	cluster.once.Do(func() {
		dir, err := os.MkdirTemp("", "storage")
		if err != nil {
			cluster.err = err
			return
		}
		ctx, stop := context.WithCancel(context.Background())
		wait, err := startCluster(ctx, dir)
		cluster.err, cluster.end = err, func() {
			stop()
			wait()
			os.RemoveAll(dir)
		}
	})
	if cluster.err == nil {
		return
	}
	if os.Getenv(required) != "" {
		t.Fatal(cluster.err)
	}
	t.Skip(cluster.err)
}

// startCluster returns when kube-apiserver serves the envelopes' custom resources. Wait returns when all has ended.
func startCluster(ctx context.Context, dir string) (wait func(), err error) {
	starting, died := context.WithCancelCause(ctx)
	defer died(nil)
	var ended []<-chan struct{}
	wait = func() {
		for _, one := range ended {
			<-one
		}
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(binaries, name)); err != nil {
			return wait, fmt.Errorf("%w: build it with: go run ./hack/cluster build", err)
		}
	}
	run := func(name string, args ...string) error {
		end, err := start(ctx, died, dir, name, args...)
		if err == nil {
			ended = append(ended, end)
		}
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return wait, err
	}
	cluster.etcd = etcd(fmt.Sprintf("http://%s:%d", ownAddress, ports[0]))
	peer := fmt.Sprintf("http://%s:%d", ownAddress, ports[1])
	err = run("etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls="+string(cluster.etcd), "--advertise-client-urls="+string(cluster.etcd),
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
	if err != nil {
		return wait, err
	}
	if err := writeKeys(dir); err != nil {
		return wait, err
	}
	err = run("kube-apiserver", apiserverArgs(dir, ports[2])...)
	if err != nil {
		return wait, err
	}
	cluster.config = &rest.Config{
		Host: fmt.Sprintf("https://%s:%d", ownAddress, ports[2]), BearerToken: bearer, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "server.crt")},
	}
	if err := installEnvelopes(starting); err != nil {
		return wait, fmt.Errorf("%w\n%s", err, lastWords(dir, "kube-apiserver"))
	}
	return wait, nil
}

func start(ctx context.Context, died func(error), dir, name string, args ...string) (<-chan struct{}, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	// A test that panics or times out ends nothing by itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		died(fmt.Errorf("%s ended: %w", name, cmd.Wait())) // which is of interest at the start only
	}()
	return ended, nil
}

func lastWords(dir, name string) string {
	text, _ := os.ReadFile(filepath.Join(dir, name+".log"))
	return string(text[max(0, len(text)-2000):])
}

// writeKeys writes the server's certificate, the key of service accounts and the administrator's token.
func writeKeys(dir string) error {
	certificate, key, err := cert.GenerateSelfSignedCertKey("localhost", []net.IP{net.ParseIP(ownAddress), net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		return err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(accounts)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"server.crt": certificate, "server.key": key,
		"accounts.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		"tokens.csv":   []byte(bearer + `,admin,1,"system:masters"` + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// apiserverArgs leave everything as it is by default, but what writes to etcd by itself: the suite counts versions.
func apiserverArgs(dir string, port int) []string {
	return []string{
		"--etcd-servers=" + string(cluster.etcd), "--etcd-compaction-interval=0",
		// Otherwise it notices what the tests compact only after 15 s. Until Kubernetes 1.34 this was the default.
		"--feature-gates=ListFromCacheSnapshot=false",
		"--bind-address=" + ownAddress,
		"--secure-port=" + strconv.Itoa(port), "--authorization-mode=RBAC", "--token-auth-file=" + filepath.Join(dir, "tokens.csv"),
		"--tls-cert-file=" + filepath.Join(dir, "server.crt"), "--tls-private-key-file=" + filepath.Join(dir, "server.key"),
		"--service-account-issuer=https://test", "--service-account-key-file=" + filepath.Join(dir, "accounts.key"),
		"--service-account-signing-key-file=" + filepath.Join(dir, "accounts.key"), "--service-cluster-ip-range=198.18.0.0/24",
		"--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none", "--feature-gates=APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false",
	}
}

// installEnvelopes applies artifacts/deploy/storage, and an envelope for each of the suite's kinds.
func installEnvelopes(ctx context.Context) error {
	config := rest.CopyConfig(cluster.config)
	config.NegotiatedSerializer = kubescheme.Codecs.WithoutConversion()
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return err
	}
	err = await(ctx, "kube-apiserver", func() error { return client.Get().AbsPath("/readyz").Do(ctx).Error() })
	if err != nil {
		return err
	}
	if err := post(ctx, client, "/api/v1/namespaces", fmt.Appendf(nil, `{"metadata":{"name":%q}}`, agentv1.Namespace)); err != nil {
		return err
	}
	manifest, err := os.ReadFile("../../artifacts/deploy/storage/envelopes.yaml")
	if err != nil {
		return err
	}
	captures, _, _ := strings.Cut(string(manifest), "\n---\n")
	for document := range strings.SplitSeq(string(manifest)+"\n---\n"+suiteKind(captures), "\n---\n") {
		body, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			return err
		}
		if err := post(ctx, client, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body); err != nil {
			return err
		}
	}
	for _, resource := range []string{"storedcaptures", "storedclustercaptures", "storednetworktelemetries", suiteResource} {
		path := fmt.Sprintf("/apis/%s/namespaces/%s/%s", envelopeGroupVersion, agentv1.Namespace, resource)
		if err := await(ctx, resource, func() error { return client.Get().AbsPath(path).Do(ctx).Error() }); err != nil {
			return err
		}
	}
	return cluster.etcd.settle(ctx)
}

// suiteResource is the custom resource for the suite's pods, which is that for captures by another name.
const suiteResource = "storedpods"

func suiteKind(manifest string) string {
	return strings.NewReplacer("storedcapture", "storedpod", "StoredCapture", "StoredPod").Replace(manifest)
}

func post(ctx context.Context, client rest.Interface, path string, body []byte) error {
	err := client.Post().AbsPath(path).Param("fieldValidation", "Strict").SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("posting to %s: %w", path, err)
	}
	return nil
}

// await calls check until it returns nil.
func await(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w", what, context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		listener, err := net.Listen("tcp", ownAddress+":0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// An etcd is asked through its JSON gateway, by its URL.
type etcd string

func (e etcd) call(ctx context.Context, method string, request map[string]any, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, string(e)+"/v3/kv/"+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Close = true
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd: %s: %s", response.Status, content)
	}
	return json.Unmarshal(content, answer)
}

type etcdAnswer struct {
	Header struct {
		Revision int64 `json:"revision,string"`
	} `json:"header"`
	Values []struct {
		Value []byte `json:"value"`
	} `json:"kvs"`
}

func encoded(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// put writes a key, which raises the revision by one.
func (e etcd) put(ctx context.Context, key, value string) (int64, error) {
	var answer etcdAnswer
	err := e.call(ctx, "put", map[string]any{"key": encoded(key), "value": encoded(value)}, &answer)
	return answer.Header.Revision, err
}

// compact forgets what was before the revision, and leaves word of it, as kube-apiserver does.
func (e etcd) compact(ctx context.Context, revision string) error {
	if _, err := e.put(ctx, "compact_rev_key", revision); err != nil {
		return err
	}
	return e.call(ctx, "compaction", map[string]any{"revision": revision, "physical": true}, &etcdAnswer{})
}

func (e etcd) revision(ctx context.Context) (int64, error) {
	var answer etcdAnswer
	err := e.call(ctx, "range", map[string]any{"key": encoded("none")}, &answer)
	return answer.Header.Revision, err
}

// settle returns when nothing was written for a while: what kube-apiserver sets up at its start is there.
func (e etcd) settle(ctx context.Context) error {
	last, since := int64(0), time.Now()
	return await(ctx, "etcd to settle", func() error {
		now, err := e.revision(ctx)
		if err != nil {
			return err
		}
		if now != last {
			last, since = now, time.Now()
		}
		if quiet := time.Since(since); quiet < time.Second {
			return fmt.Errorf("written to %v ago", quiet)
		}
		return nil
	})
}
