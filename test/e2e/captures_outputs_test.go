package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// Canaries: nothing that we log, or show to those who may not read packets or Secrets, may hold them.
	payloadCanary = "canary-of-payload-0123456789abcdef"
	storeKeyID    = "CANARYACCESSKEYID"
	storeKey      = "canary/secret+key/of/forty/characters/00"

	storeBucket  = "captures"
	storeSecret  = "archive"
	volumeName   = "archive"
	sentPayloads = 20
	// storeDeadline is for a copy to be made while agents and server pause between tries.
	storeDeadline = 90 * time.Second
)

// A store is a gateway that speaks S3 in front of a folder and checks signatures and checksums as Amazon does. It runs beside the
// cluster, at the machine's address in the network of its nodes.
type store struct {
	program string
	folder  string
	address string
}

// newStore builds a store that does not run yet.
func newStore(t *testing.T, c *cluster) *store {
	t.Helper()
	s := &store{program: filepath.Join(t.TempDir(), "store"), folder: t.TempDir(), address: freeAddress(t, c)}
	for _, folder := range []string{"meta", "data/" + storeBucket} {
		if err := os.MkdirAll(filepath.Join(s.folder, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// The module's tests are its stand-ins, too. What they are made of is in no go.mod of ours, so they are built where they are.
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-race", "-o", s.program, ".")
	build.Dir = "../outputs"
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the store: %v: %s", err, out)
	}
	return s
}

// freeAddress is one at which nobody listens, and which nodes reach.
func freeAddress(t *testing.T, c *cluster) string {
	t.Helper()
	server, err := url.Parse(c.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	towards, err := net.Dial("udp", server.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer towards.Close()
	host, _, _ := net.SplitHostPort(towards.LocalAddr().String())
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (s *store) endpoint() string { return "http://" + s.address }

// start runs the store until the test ends, and returns when it takes connections.
func (s *store) start(t *testing.T) {
	t.Helper()
	command := exec.Command(s.program)
	command.Env = append(os.Environ(), "STANDIN_VERSITYGW="+s.folder, "STANDIN_ADDRESS="+s.address)
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // It was killed.
		if t.Failed() {
			t.Logf("the store said: %.2000s", said.String())
		}
	})
	eventually(t, captureDeadline, "the store to listen", func(context.Context) error {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// configure has the operator allow the store and a folder of this machine as a volume, and everything of ours log whatever it can,
// until the test ends.
func (c *cluster) configure(t *testing.T, config, folder string) {
	t.Helper()
	const name, deployment, daemonset = "e2e-outputs", "networkobservability-apiserver", "networkobservability-nodeagent"
	server, err := c.kube.AppsV1().Deployments(agentv1.Namespace).Get(t.Context(), deployment, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	maps := c.kube.CoreV1().ConfigMaps(agentv1.Namespace)
	now, err := maps.Get(t.Context(), server.Spec.Template.Spec.Volumes[0].ConfigMap.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	changed := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: now.Data}
	changed.Data["config.yaml"] = config
	if _, err := maps.Create(t.Context(), changed, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	undo := sync.OnceFunc(func() {
		// The test's context is over.
		for _, arguments := range [][]string{
			{"rollout", "undo", "deployment/" + deployment}, {"rollout", "undo", "daemonset/" + daemonset},
			{"rollout", "status", "deployment/" + deployment, "--timeout=" + podDeadline.String()},
			{"rollout", "status", "daemonset/" + daemonset, "--timeout=" + podDeadline.String()},
			{"delete", "configmap", name},
		} {
			if out, err := c.kubectlCommand(context.Background(), append(arguments, "--namespace", agentv1.Namespace)...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v: %s", arguments, err, out)
			}
		}
	})
	t.Cleanup(undo)
	const template, container = "/spec/template/spec", "/spec/template/spec/containers/0"
	loud := `{"op": "add", "path": "` + container + `/args/-", "value": "-v=10"}`
	patch := `[` + loud + `, {"op": "replace", "path": "` + template + `/volumes/0/configMap/name", "value": "` + name + `"}]`
	if _, err := c.kube.AppsV1().Deployments(agentv1.Namespace).Patch(t.Context(), deployment, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	patch = `[` + loud + `,
		{"op": "add", "path": "` + template + `/volumes/-", "value": {"name": "archive", "hostPath": {"path": "` + folder + `", "type": "Directory"}}},
		{"op": "add", "path": "` + container + `/volumeMounts/-", "value": {"name": "archive", "mountPath": "/var/lib/networkobservability-volumes/` + volumeName + `"}}]`
	if _, err := c.kube.AppsV1().DaemonSets(agentv1.Namespace).Patch(t.Context(), daemonset, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"deployment/" + deployment, "daemonset/" + daemonset} {
		c.kubectl(t, "rollout", "status", what, "--namespace", agentv1.Namespace, "--timeout="+podDeadline.String())
	}
	c.waitHealthy(t)
	// One that is ending may still lead, and decides by what it knows.
	eventually(t, podDeadline, "the servers without this configuration to go", func(ctx context.Context) error {
		list, err := c.kube.CoreV1().Pods(agentv1.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=apiserver"})
		if err == nil && len(list.Items) != int(*server.Spec.Replicas) {
			err = fmt.Errorf("%d are there", len(list.Items))
		}
		return err
	})
}

// An archive is a namespace with somebody who may have captures of it copied.
type archive struct {
	*cluster
	namespace string
	targets   []*corev1.Pod
	store     *store
	volume    string
	as        *cluster
}

// TestCaptureOutputs has captures copied to a store of S3 and to a volume, in the name of somebody with exactly the rights for it. It
// replaces all of our programs by such that log everything, so it runs alone.
func TestCaptureOutputs(t *testing.T) {
	c := newCluster(t)
	a := &archive{cluster: c, store: newStore(t, c), volume: t.TempDir()}
	host, _, _ := net.SplitHostPort(a.store.address)
	c.configure(t, fmt.Sprintf(`captures:
  outputs:
    - s3: {endpoint: "%s", buckets: [%s], networks: [%s/32]}
    - s3: {endpoint: "http://%[3]s:1", buckets: ["*"]}
  volumes: [%s]
`, a.store.endpoint(), storeBucket, host, volumeName), a.volume)
	a.namespace = c.namespace(t)
	nodes := c.nodes(t)
	a.targets = c.start(t, a.namespace, sink("first", nodes[0]), sink("second", nodes[1]))
	const user = "archivist"
	a.as = c.user(t, a.namespace, user)
	c.allow(t, a.namespace, user, may("create", "captures"), may("get", "captures", "captures/pcap", "captures/headers", "captures/attach"), may("patch", "captures"),
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}})
	a.secret(t, storeSecret, storeKey)
	a.secret(t, "wrong", strings.ToUpper(storeKey))

	t.Run("refused", a.refused)
	t.Run("hindered", a.hindered)
	a.store.start(t)
	t.Run("stored", a.stored)
	t.Run("forbidden", a.forbidden)
	t.Run("canaries", a.canaries)
}

func (a *archive) secret(t *testing.T, name, key string) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"accessKeyID": storeKeyID, "secretAccessKey": key}}
	if _, err := a.kube.CoreV1().Secrets(a.namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func s3Output(name, endpoint, secret string) v1alpha1.CaptureOutput {
	return v1alpha1.CaptureOutput{Name: name, S3: &v1alpha1.CaptureOutputS3{
		Bucket: storeBucket, Endpoint: endpoint, Region: "us-east-1", Prefix: "below/it", SecretName: secret,
	}}
}

func (a *archive) newCapture(name string, outputs ...v1alpha1.CaptureOutput) *v1alpha1.Capture {
	capture := newCapture(name, "udp dst port "+sinkPort)
	capture.Spec.Outputs = outputs
	return capture
}

// refused asks for what may not be.
func (a *archive) refused(t *testing.T) {
	without := a.user(t, a.namespace, "without")
	a.allow(t, a.namespace, "without", may("create", "captures"), may("get", "captures/pcap"))
	allowed := s3Output("s3", a.store.endpoint(), storeSecret)
	bucket := s3Output("s3", a.store.endpoint(), storeSecret)
	bucket.S3.Bucket = "others"
	user := s3Output("s3", "http://somebody:hunter2@"+a.store.address, storeSecret)
	climbing := s3Output("s3", a.store.endpoint(), storeSecret)
	climbing.S3.Prefix = "a/../../b"
	for _, test := range []struct {
		name   string
		as     *cluster
		output v1alpha1.CaptureOutput
		is     func(error) bool
		said   string
	}{
		{"an endpoint that is not allowed", a.as, s3Output("s3", "http://169.254.169.254", storeSecret), apierrors.IsInvalid, "the operator of the cluster allows only " + a.store.endpoint()},
		{"a bucket that is not allowed", a.as, bucket, apierrors.IsInvalid, "the operator of the cluster allows only " + a.store.endpoint()},
		{"a volume that is not allowed", a.as, v1alpha1.CaptureOutput{Name: "v", Volume: &v1alpha1.CaptureOutputVolume{Volume: "other"}}, apierrors.IsInvalid, "the operator of the cluster allows only " + volumeName},
		{"without a Secret", a.as, s3Output("s3", a.store.endpoint(), ""), apierrors.IsInvalid, "give secretName"},
		{"somebody who may not get the Secret", without, allowed, apierrors.IsForbidden, "this needs the right to get secrets " + storeSecret},
		{"credentials in the URL", a.as, user, apierrors.IsInvalid, "spec.outputs[0].s3.endpoint"},
		{"a prefix that climbs", a.as, climbing, apierrors.IsInvalid, "spec.outputs[0].s3.prefix"},
	} {
		t.Run(test.name, func(t *testing.T) {
			eventually(t, captureDeadline, "to be refused for the right reason", func(ctx context.Context) error {
				_, err := test.as.stats.NetworkobservabilityV1alpha1().Captures(a.namespace).Create(ctx, a.newCapture("refused", test.output), metav1.CreateOptions{})
				if !test.is(err) || !strings.Contains(err.Error(), test.said) || strings.Contains(err.Error(), "hunter2") {
					return fmt.Errorf("answered %w", err) // A right that is new takes a while to be seen.
				}
				return nil
			})
		})
	}
}

// record creates a capture as the archivist, sends datagrams to all targets, and stops it.
func (a *archive) record(t *testing.T, capture *v1alpha1.Capture) {
	t.Helper()
	a.as.capture(t, a.namespace, capture, len(a.targets))
	for _, pod := range a.targets {
		conn, err := net.Dial("udp", target(t, pod, "ipv4"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range sentPayloads {
			if _, err := io.WriteString(conn, payloadCanary); err != nil {
				t.Fatal(err)
			}
		}
	}
	a.captureUntil(t, a.namespace, capture.Name, "all packets", func(s *v1alpha1.CaptureStatus) bool {
		return s.Totals.Packets == int64(sentPayloads*len(a.targets))
	})
	if r := a.as.plugin(t, "network", "capture", "stop", capture.Name, "-n", a.namespace); r.err != nil {
		t.Fatalf("stopping: %v: %s", r.err, r.stderr)
	}
}

// storedUntil waits until the condition Stored is so, for a reason and with words that say why.
func (a *archive) storedUntil(t *testing.T, name string, want metav1.ConditionStatus, reason, said string) *v1alpha1.Capture {
	t.Helper()
	var last *v1alpha1.Capture
	took := eventually(t, storeDeadline, fmt.Sprintf("Stored to be %s, %s: %s", want, reason, said), func(ctx context.Context) (err error) {
		if last, err = a.stats.NetworkobservabilityV1alpha1().Captures(a.namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		for _, condition := range last.Status.Conditions {
			everything := condition.Message + fmt.Sprint(last.Status.Outputs)
			if condition.Type == v1alpha1.CaptureStored && condition.Status == want && condition.Reason == reason && strings.Contains(everything, said) {
				return nil
			}
		}
		return fmt.Errorf("it has %+v, and outputs %+v", last.Status.Conditions, last.Status.Outputs)
	})
	t.Logf("%s: %s after %v", reason, said, took.Round(time.Millisecond))
	return last
}

// kept is the name of the capture that is copied in the end.
const kept = "kept"

// hindered ends a capture that is to be copied while everything that can be missing is: the server's right to the Secret, then the store.
func (a *archive) hindered(t *testing.T) {
	capture := a.newCapture(kept, s3Output("s3", a.store.endpoint(), storeSecret),
		v1alpha1.CaptureOutput{Name: "disk", Volume: &v1alpha1.CaptureOutputVolume{Volume: volumeName, Path: "below/it"}})
	capture.Spec.NetworkSnapshot = true
	a.record(t, capture)
	a.storedUntil(t, kept, metav1.ConditionFalse, "Uploading", "bind the ClusterRole networkobservability-secret-reader")
	a.kubectl(t, "create", "rolebinding", "capture-secrets", "--namespace", a.namespace, "--clusterrole", "networkobservability-secret-reader",
		"--serviceaccount", agentv1.Namespace+":networkobservability-apiserver")
	waiting := a.storedUntil(t, kept, metav1.ConditionFalse, "Uploading", "connection refused")
	if conditionIs(&waiting.Status, v1alpha1.CaptureComplete) {
		t.Error("it is complete, and not everything was copied")
	}
	a.checkReadable(t, kept)
}

// stored waits for the copies of both kinds, now that nothing is missing, and compares them.
func (a *archive) stored(t *testing.T) {
	done := a.storedUntil(t, kept, metav1.ConditionTrue, "Stored", "")
	for _, subresource := range []string{"attach", "headers"} { // For what the server logs of them; pcap was read before.
		if err := a.as.read(t.Context(), a.namespace, kept, subresource); err != nil {
			t.Errorf("reading %s: %v", subresource, err)
		}
	}
	if !conditionIs(&done.Status, v1alpha1.CaptureComplete) {
		t.Errorf("everything was copied, and it is not complete: %+v", done.Status.Conditions)
	}
	objects := map[string]int{}
	for _, output := range done.Status.Outputs {
		if output.Phase != v1alpha1.CaptureOutputStored || len(output.Objects) != 2 {
			t.Errorf("output %+v", output)
		}
		for _, object := range output.Objects {
			objects[output.Name]++
			a.checkObject(t, done, output, object)
		}
	}
	if objects["s3"] != 2*len(a.targets) || objects["disk"] != objects["s3"] {
		t.Errorf("objects %v", objects)
	}
}

// checkReadable demands that the file on the nodes can be read.
func (a *archive) checkReadable(t *testing.T, name string) {
	t.Helper()
	if count := strings.Count(judge(t, "tcpdump", "-nr", a.fileOf(t, a.namespace, name)), "\n"); count != sentPayloads*len(a.targets) {
		t.Errorf("tcpdump reads %d packets from the nodes", count)
	}
}

// checkObject compares an object with what the status says, and has it judged.
func (a *archive) checkObject(t *testing.T, capture *v1alpha1.Capture, output v1alpha1.CaptureOutputStatus, object v1alpha1.CaptureObject) {
	t.Helper()
	folder := map[string]string{"s3": filepath.Join(a.store.folder, "data", storeBucket), "disk": a.volume}[output.Name]
	want := strings.Join([]string{"below/it", a.namespace, capture.Name, string(capture.UID), output.Node}, "/")
	file := filepath.Join(folder, object.Key)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Errorf("%s: %v", output.Name, err)
		return
	}
	if digest := sha256.Sum256(content); object.SHA256 != hex.EncodeToString(digest[:]) || object.Bytes != int64(len(content)) {
		t.Errorf("%s: the status says %+v, and it has %d bytes with digest %x", output.Name, object, len(content), digest)
	}
	switch object.Key {
	case want + ".pcapng":
		payloads := judge(t, "tshark", "-r", file, "-T", "fields", "-e", "data.data")
		if n := strings.Count(payloads, hex.EncodeToString([]byte(payloadCanary))+"\n"); n != sentPayloads {
			t.Errorf("%s: tshark reads %d packets, want %d: %.300s", output.Name, n, sentPayloads, payloads)
		}
	case want + "-network.json":
		if !json.Valid(content) || !bytes.Contains(content, []byte(output.Node)) {
			t.Errorf("%s: the snapshot is %.200s", output.Name, content)
		}
	default:
		t.Errorf("%s: an object is called %s, want %s.pcapng or -network.json", output.Name, object.Key, want)
	}
}

// forbidden shows the store a wrong key, and names a store in a network that the operator did not allow: both fail loudly, and
// what was recorded stays.
func (a *archive) forbidden(t *testing.T) {
	host, _, _ := net.SplitHostPort(a.store.address)
	for name, test := range map[string]struct {
		output v1alpha1.CaptureOutput
		said   string
	}{
		"wrong-key":     {s3Output("s3", a.store.endpoint(), "wrong"), "403"},
		"wrong-network": {s3Output("s3", "http://"+net.JoinHostPort(host, "1"), storeSecret), "not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			a.record(t, a.newCapture(name, test.output))
			failed := a.storedUntil(t, name, metav1.ConditionFalse, "UploadFailed", test.said)
			if !conditionIs(&failed.Status, v1alpha1.CaptureFailed) || conditionIs(&failed.Status, v1alpha1.CaptureComplete) {
				t.Errorf("it is not failed: %+v", failed.Status.Conditions)
			}
			if row := a.kubectl(t, "get", "capture", name, "--namespace", a.namespace); !strings.Contains(row, "UploadFailed") {
				t.Errorf("kubectl says nothing of it: %s", row)
			}
			if events := a.kubectl(t, "get", "events", "--namespace", a.namespace, "--field-selector", "involvedObject.name="+name); !strings.Contains(events, "UploadFailed") {
				t.Errorf("no event says it: %s", events)
			}
			a.checkReadable(t, name)
		})
	}
}

// canaries looks for what is secret in everything that is said while all programs log whatever they can.
func (a *archive) canaries(t *testing.T) {
	said := map[string]string{
		"captures": a.kubectl(t, "get", "captures", "--namespace", a.namespace, "-o", "yaml", "--show-managed-fields"),
		"stored":   a.kubectl(t, "get", "storedcaptures.storage.network-observability.io", "--namespace", agentv1.Namespace, "-o", "yaml"),
		"describe": a.kubectl(t, "describe", "captures", "--namespace", a.namespace),
		"events":   a.kubectl(t, "get", "events", "--all-namespaces", "-o", "yaml"),
	}
	for _, component := range []string{"apiserver", "nodeagent"} {
		for _, pod := range a.running(t, component) {
			said[pod.Name] = a.logOf(t, &pod)
		}
	}
	secrets := map[string][]string{
		"payload": disguises(payloadCanary), "the key": disguises(storeKey), "the other key": disguises(strings.ToUpper(storeKey)), "the key's name": disguises(storeKeyID),
	}
	ca, err := a.kube.CoreV1().Secrets(agentv1.Namespace).Get(t.Context(), agentv1.CAConfigMapName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range ca.Data {
		if strings.HasSuffix(name, ".key") {
			secrets[name] = disguises(strings.Split(string(value), "\n")[1])
		}
	}
	if len(secrets) < 5 {
		t.Errorf("the Secret of our authority has no keys")
	}
	for where, text := range said {
		t.Logf("%s: %d bytes", where, len(text))
		for canary, forms := range secrets {
			for _, form := range forms {
				if i := strings.Index(text, form); i >= 0 {
					t.Errorf("%s hold %s: %.300s", where, canary, text[max(0, i-150):])
					break
				}
			}
		}
	}
}

// logOf is all that a pod of ours has logged, from the nodes' files: so much is logged that the kubelet may have begun new ones.
func (c *cluster) logOf(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.output, "log", "*", "pods", pod.Namespace+"_"+pod.Name+"_*", "*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no log of %s: %v", pod.Name, err)
	}
	var all strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err == nil && strings.HasSuffix(file, ".gz") {
			var zipped *gzip.Reader
			if zipped, err = gzip.NewReader(bytes.NewReader(content)); err == nil {
				content, err = io.ReadAll(zipped)
			}
		}
		if err != nil {
			t.Fatalf("reading a log: %v", err)
		}
		all.Write(content)
	}
	return all.String()
}

// disguises are the forms in which logs show bytes: as they are, in hexadecimal digits, dumped, and in base64 wherever they begin.
func disguises(secret string) []string {
	forms := []string{secret, hex.EncodeToString([]byte(secret))}
	const group = 8
	for i := range group {
		forms = append(forms, fmt.Sprintf("% x", secret[i:i+group]))
	}
	for before := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + secret))
		forms = append(forms, encoded[4*((before+2)/3):len(encoded)-4])
	}
	return forms
}
