package outputs

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/fsouza/fake-gcs-server/fakestorage"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"go.uber.org/goleak"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	bucket = "captures"
	prefix = "below/date=today"
	// Canaries, which nothing that is said may hold.
	accessKey    = "CANARYACCESSKEYID"
	secretKey    = "canary/secret+key/of/forty/characters/00"
	azureAccount = "devstoreaccount1"
	azureKey     = "Y2FuYXJ5a2V5Y2FuYXJ5a2V5Y2FuYXJ5a2V5Y2FuYXJ5a2V5Y2FuYXJ5a2V5Y2FuYXJ5a2V5Y2FuYXJ5a2V5Y2FuYXJ5a2V5Y2FuYXJ5a2U="
	googleEmail  = "canary@example.iam.gserviceaccount.com"
)

// TestMain is also the gateway, which cannot be ended well within a process that goes on.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STANDIN_VERSITYGW"); dir != "" {
		serveVersity(dir, os.Getenv("STANDIN_ADDRESS"))
		return
	}
	// Libraries of the stand-in for Google start one when they are loaded.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}

// A standin is a store that runs here.
type standin struct {
	name string
	url  string
	// to makes an output whose endpoint is the given one.
	to func(o *v1alpha1.CaptureOutput, endpoint string)
	// read answers with an object that is stored, and whether there is one.
	read func(t *testing.T, key string) ([]byte, bool)
	// kind tells what a request does.
	kind func(r *http.Request) kind
	// sessions: the proxy has to know what a session has, because the stand-in does not.
	sessions bool
	// aborts: what was begun can be given up.
	aborts  bool
	secrets []string
}

type kind string

const (
	aPart   kind = "part"
	aFinish kind = "finish"
	anAbort kind = "abort"
	aWhole  kind = "whole"
	another kind = "another"
)

// standins starts all of them.
func standins(t *testing.T, do func(t *testing.T, s *standin)) {
	for name, start := range map[string]func(*testing.T) *standin{
		"gofakes3": startFakeS3, "versitygw": startVersity, "azurite": startAzurite, "fake-gcs-server": startFakeGCS,
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.name = name
			do(t, s)
		})
	}
}

func s3Output(o *v1alpha1.CaptureOutput, endpoint string) {
	o.To = &v1alpha1.CaptureOutput_S3{S3: &v1alpha1.S3Output{
		Endpoint: endpoint, Region: "us-east-1", Bucket: bucket, AccessKeyId: accessKey, SecretAccessKey: secretKey,
	}}
}

func s3Kind(r *http.Request) kind {
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodPut && query.Has("partNumber"):
		return aPart
	case r.Method == http.MethodPut:
		return aWhole
	case r.Method == http.MethodPost && query.Has("uploadId"):
		return aFinish
	case r.Method == http.MethodDelete:
		return anAbort
	}
	return another
}

func startFakeS3(t *testing.T) *standin {
	backend := s3mem.New()
	if err := backend.CreateBucket(bucket); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	return &standin{
		url: server.URL, to: s3Output, kind: s3Kind, aborts: true, secrets: []string{accessKey, secretKey},
		read: func(t *testing.T, key string) ([]byte, bool) {
			object, err := backend.GetObject(bucket, key, nil)
			if err != nil {
				return nil, false
			}
			defer object.Contents.Close()
			return readAll(t, object.Contents), true
		},
	}
}

func readAll(t *testing.T, from io.Reader) []byte {
	t.Helper()
	content, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// freeAddress is one to listen at. Nobody connects from it, so the kernel does not give its port away meanwhile.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// await waits until somebody listens.
func await(t *testing.T, address string, ended <-chan error, log *bytes.Buffer) {
	t.Helper()
	for {
		select {
		case err := <-ended:
			t.Fatalf("the stand-in ended: %v\n%s", err, log)
		case <-t.Context().Done():
			t.Fatal("the stand-in did not start")
		case <-time.After(20 * time.Millisecond):
		}
		if connection, err := net.Dial("tcp", address); err == nil {
			connection.Close()
			return
		}
	}
}

// run runs a program until the test ends.
func run(t *testing.T, address string, command *exec.Cmd) {
	t.Helper()
	var log bytes.Buffer
	command.Stdout, command.Stderr = &log, &log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	await(t, address, ended, &log)
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-ended
	})
}

func serveVersity(dir, address string) {
	store, err := meta.NewSideCar(filepath.Join(dir, "meta"))
	if err == nil {
		var backend *posix.Posix
		if backend, err = posix.New(filepath.Join(dir, "data"), store, posix.PosixOpts{SideCarDir: filepath.Join(dir, "meta")}); err == nil {
			err = embedgw.RunVersityGW(context.Background(), backend, &embedgw.Config{
				RootUserAccess: accessKey, RootUserSecret: secretKey, Ports: []string{address}, Quiet: true,
				MaxConnections: 100, MaxRequests: 100, MultipartMaxParts: 10_000,
			})
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// startVersity starts a gateway that checks signatures and checksums as Amazon does.
func startVersity(t *testing.T) *standin {
	dir, address := t.TempDir(), freeAddress(t)
	for _, folder := range []string{"meta", "data/" + bucket} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "STANDIN_VERSITYGW="+dir, "STANDIN_ADDRESS="+address)
	run(t, address, command)
	return &standin{
		url: "http://" + address, to: s3Output, kind: s3Kind, aborts: true, secrets: []string{accessKey, secretKey},
		read: func(_ *testing.T, key string) ([]byte, bool) {
			content, err := os.ReadFile(filepath.Join(dir, "data", bucket, key))
			return content, err == nil
		},
	}
}

// startAzurite starts Microsoft's stand-in, which hack/prerequisites.sh installs.
func startAzurite(t *testing.T) *standin {
	program, err := filepath.Abs("../../hack/tools/azurite/node_modules/azurite/dist/src/blob/main.js")
	if err != nil {
		t.Fatal(err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("azurite needs node, which is not installed")
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("azurite is not installed: run hack/prerequisites.sh, which needs npm")
	}
	address := freeAddress(t)
	host, port, _ := net.SplitHostPort(address)
	command := exec.Command(node, program, "--location", t.TempDir(), "--blobHost", host, "--blobPort", port,
		"--silent", "--disableTelemetry", "--skipApiVersionCheck")
	command.Env = append(os.Environ(), "AZURITE_ACCOUNTS="+azureAccount+":"+azureKey)
	run(t, address, command)
	s := &standin{
		url: "http://" + address + "/" + azureAccount, to: azureOutput, kind: azureKind, secrets: []string{azureKey},
	}
	credential, err := azblob.NewSharedKeyCredential(azureAccount, azureKey)
	if err != nil {
		t.Fatal(err)
	}
	client, err := azblob.NewClientWithSharedKeyCredential(s.url, credential, &azblob.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CreateContainer(t.Context(), bucket, nil); err != nil {
		t.Fatal(err)
	}
	s.read = func(t *testing.T, key string) ([]byte, bool) {
		answer, err := client.DownloadStream(t.Context(), bucket, key, nil)
		if err != nil {
			return nil, false
		}
		defer answer.Body.Close()
		return readAll(t, answer.Body), true
	}
	return s
}

func azureOutput(o *v1alpha1.CaptureOutput, endpoint string) {
	o.To = &v1alpha1.CaptureOutput_AzureBlob{AzureBlob: &v1alpha1.AzureBlobOutput{
		Endpoint: endpoint, Account: azureAccount, Container: bucket, AccountKey: azureKey,
	}}
}

func azureKind(r *http.Request) kind {
	switch comp := r.URL.Query().Get("comp"); {
	case r.Method == http.MethodPut && comp == "block":
		return aPart
	case r.Method == http.MethodPut && comp == "blocklist":
		return aFinish
	case r.Method == http.MethodPut:
		return aWhole
	}
	return another
}

const gcsSession = "upload_id"

func startFakeGCS(t *testing.T) *standin {
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, Writer: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
	key, pemKey := googleKey(t)
	mux := http.NewServeMux()
	mux.Handle("/", server.HTTPHandler())
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Form.Get("assertion") == "" {
			http.Error(w, "no assertion", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token": "canary-token", "token_type": "Bearer", "expires_in": 3600}`)
	})
	front := httptest.NewServer(mux)
	t.Cleanup(front.Close)
	return &standin{
		url: front.URL, sessions: true, aborts: true, secrets: []string{key, pemKey, "canary-token", gcsSession},
		to: func(o *v1alpha1.CaptureOutput, endpoint string) {
			o.To = &v1alpha1.CaptureOutput_Gcs{Gcs: &v1alpha1.GCSOutput{
				Endpoint: endpoint, Bucket: bucket, ServiceAccountKey: strings.ReplaceAll(pemKey, "TOKENURL", endpoint+"/token"),
			}}
		},
		kind: gcsKind,
		read: func(_ *testing.T, key string) ([]byte, bool) {
			object, err := server.GetObject(bucket, key)
			return object.Content, err == nil
		},
	}
}

func gcsKind(r *http.Request) kind {
	place := r.Header.Get("Content-Range")
	switch {
	case r.Method == http.MethodDelete:
		return anAbort
	case r.Method == http.MethodPut && strings.Contains(place, "*/*"):
		return another
	case r.Method == http.MethodPut && strings.HasPrefix(place, "bytes 0-") && !strings.HasSuffix(place, "/*"):
		return aWhole
	case r.Method == http.MethodPut:
		return aPart
	}
	return another
}

// googleKey makes a private key, and the file that Google would give out for it, but for its TOKENURL.
func googleKey(t *testing.T) (private, file string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
	content, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": googleEmail, "private_key": private, "private_key_id": "canary-id", "token_uri": "TOKENURL",
	})
	if err != nil {
		t.Fatal(err)
	}
	return private, string(content)
}

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
