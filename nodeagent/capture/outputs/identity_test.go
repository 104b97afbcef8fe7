package outputs

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// bare takes from the environment whatever identity the machine of the test may have.
func bare(t *testing.T) {
	t.Helper()
	for _, name := range []string{awsRole, awsTokenFile, awsPodURL, awsPodTokenFile, awsRegion, awsSTS, azureClient, azureTenant, azureTokenFile, azureAuthority, googleFile} {
		t.Setenv(name, "")
	}
}

func tokenFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("projected-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func loopback(t *testing.T) *client {
	t.Helper()
	c := newClient(quick(), &egress{allowed: prefixes("127.0.0.0/8")})
	t.Cleanup(c.close)
	return c
}

func TestNoIdentity(t *testing.T) {
	bare(t)
	c := loopback(t)
	_, err := awsCredentials(&v1alpha1.S3Output{}, c, quick())(t.Context())
	_, azureErr := azureAuthorize(&v1alpha1.AzureBlobOutput{}, nil, c, quick())
	_, googleErr := googleToken(t.Context(), &v1alpha1.GCSOutput{}, c, quick())
	for _, err := range []error{err, azureErr, googleErr} {
		if err == nil || !strings.Contains(err.Error(), "have no identity") {
			t.Error(err)
		}
	}
}

func TestAmazonWebIdentity(t *testing.T) {
	bare(t)
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.ParseForm() != nil || r.Form.Get("WebIdentityToken") != "projected-token" || r.Form.Get("RoleArn") != "arn:role" || r.Form.Get("Action") != "AssumeRoleWithWebIdentity" {
			http.Error(w, "canary", http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
			<AccessKeyId>id</AccessKeyId><SecretAccessKey>key</SecretAccessKey><SessionToken>token</SessionToken><Expiration>%s</Expiration>
			</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer server.Close()
	t.Setenv(awsRole, "arn:role")
	t.Setenv(awsTokenFile, tokenFile(t))
	t.Setenv(awsSTS, server.URL)
	credentials := awsCredentials(&v1alpha1.S3Output{Region: "eu-central-1"}, loopback(t), quick())
	for range 3 {
		got, err := credentials(t.Context())
		if err != nil || got.AccessKeyID != "id" || got.SecretAccessKey != "key" || got.SessionToken != "token" {
			t.Fatalf("%+v %v", got, err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	t.Setenv(awsRole, "arn:other")
	_, err := awsCredentials(&v1alpha1.S3Output{}, loopback(t), quick())(t.Context())
	if err == nil || !strings.Contains(err.Error(), "403") || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "projected") {
		t.Error(err)
	}
}

func TestAmazonEndpoints(t *testing.T) {
	bare(t)
	if got := awsSTSEndpoint("cn-north-1"); got != "https://sts.cn-north-1.amazonaws.com.cn/" {
		t.Error(got)
	}
	t.Setenv(awsRegion, "eu-west-1")
	if got := awsSTSEndpoint(""); got != "https://sts.eu-west-1.amazonaws.com/" {
		t.Error(got)
	}
}

// The service of pod identities is the only link-local address that is reached, and only to ask for credentials.
func TestAmazonPodIdentity(t *testing.T) {
	bare(t)
	var elsewhere atomic.Int32
	internal := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer internal.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "projected-token" {
			http.Error(w, "canary", http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, internal.URL, http.StatusFound)
			return
		}
		fmt.Fprintf(w, `{"AccessKeyId": "id", "SecretAccessKey": "key", "Token": "token", "Expiration": %q}`, time.Now().Add(time.Hour).Format(time.RFC3339))
	}))
	defer server.Close()
	config := quick()
	config.podIdentity = []netip.AddrPort{netip.MustParseAddrPort(server.Listener.Addr().String())}
	t.Setenv(awsPodTokenFile, tokenFile(t))
	t.Setenv(awsPodURL, server.URL+"/v1/credentials")
	got, err := awsCredentials(&v1alpha1.S3Output{}, nil, config)(t.Context())
	if err != nil || got.AccessKeyID != "id" || got.SessionToken != "token" {
		t.Errorf("%+v %v", got, err)
	}
	for _, address := range []string{internal.URL, "http://169.254.169.254/latest/meta-data/", server.URL + "/moved", "::"} {
		t.Setenv(awsPodURL, address)
		if _, err := awsCredentials(&v1alpha1.S3Output{}, nil, config)(t.Context()); err == nil || strings.Contains(err.Error(), "http") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if elsewhere.Load() != 0 {
		t.Error("another address was asked")
	}
}

func TestAzureIdentity(t *testing.T) {
	bare(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ParseForm() != nil || r.Form.Get("client_assertion") != "projected-token" || r.URL.Path != "/tenant/oauth2/v2.0/token" {
			http.Error(w, "canary", http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, `{"access_token": "storage-token", "expires_in": 3600}`)
	}))
	defer server.Close()
	t.Setenv(azureClient, "client")
	t.Setenv(azureTenant, "tenant")
	t.Setenv(azureTokenFile, tokenFile(t))
	t.Setenv(azureAuthority, server.URL+"/")
	s, err := newAzure(&v1alpha1.AzureBlobOutput{Account: "account", Container: "captures"}, loopback(t), quick())
	if err != nil {
		t.Fatal(err)
	}
	request := &http.Request{Header: http.Header{}, URL: &url.URL{}}
	if err := s.authorize(t.Context(), request); err != nil || request.Header.Get("Authorization") != "Bearer storage-token" {
		t.Errorf("%v %v", request.Header, err)
	}
	for _, endpoint := range []string{"https://blob.core.windows.net.evil.example", "http://account.blob.core.windows.net", "https://evil.example"} {
		_, err := newAzure(&v1alpha1.AzureBlobOutput{Account: "account", Container: "captures", Endpoint: endpoint}, loopback(t), quick())
		if err == nil || !strings.Contains(err.Error(), "not shown") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestGoogleIdentity(t *testing.T) {
	bare(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ParseForm() != nil || r.Form.Get("subject_token") != "projected-token" {
			http.Error(w, "canary", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token": "storage-token", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer", "expires_in": 3600}`)
	}))
	defer server.Close()
	identity := func(token string) string {
		content, err := json.Marshal(map[string]any{
			"type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster",
			"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": server.URL, "credential_source": map[string]string{"file": token},
		})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "identity.json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv(googleFile, identity(tokenFile(t)))
	token, err := googleToken(t.Context(), &v1alpha1.GCSOutput{}, loopback(t), quick())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := token(t.Context()); err != nil || got != "storage-token" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := googleToken(t.Context(), &v1alpha1.GCSOutput{Endpoint: "https://evil.example"}, loopback(t), quick()); err == nil || !strings.Contains(err.Error(), "not shown") {
		t.Error(err)
	}
	t.Setenv(googleFile, identity("/nothing/here"))
	token, err = googleToken(t.Context(), &v1alpha1.GCSOutput{}, loopback(t), quick())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token(t.Context()); err == nil || strings.Contains(err.Error(), "nothing") {
		t.Error(err)
	}
}

func googleKey(t *testing.T, tokenURL string) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "a@example.com", "private_key_id": "id", "token_uri": tokenURL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// A key cannot send the agent anywhere, and what is answered is not repeated.
func TestGoogleKey(t *testing.T) {
	bare(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "canary", http.StatusForbidden) }))
	defer server.Close()
	for _, elsewhere := range []string{server.URL, "http://169.254.169.254/token", "https://oauth2.googleapis.com.evil.example/token"} {
		if _, err := parseGoogleKey(&v1alpha1.GCSOutput{ServiceAccountKey: googleKey(t, elsewhere)}); err == nil || !strings.Contains(err.Error(), "token_uri") {
			t.Errorf("%s: %v", elsewhere, err)
		}
	}
	if key, err := parseGoogleKey(&v1alpha1.GCSOutput{ServiceAccountKey: googleKey(t, "")}); err != nil || key.TokenURL != "https://oauth2.googleapis.com/token" {
		t.Errorf("%v %v", key, err)
	}
	output := &v1alpha1.GCSOutput{Endpoint: server.URL, ServiceAccountKey: googleKey(t, server.URL+"/token")}
	token, err := googleToken(t.Context(), output, loopback(t), quick())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token(t.Context()); err == nil || err.Error() != "asking for a token: the store answered 403" {
		t.Error(err)
	}
	server.Close() // which ends the connection, or refuses another one
	if _, err := token(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "refused") && err.Error() != "the store ended the connection" {
		t.Error(err)
	}
}

// The example of "Authorize with Shared Key" in the service's REST reference (Put Blob, version 2009-09-19 and later).
func TestAzureSignature(t *testing.T) {
	u, err := url.Parse("http://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20")
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{"X-Ms-Date": {"Fri, 26 Jun 2015 23:39:12 GMT"}, "X-Ms-Version": {"2015-02-21"}}}
	const want = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n" +
		"/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
	if got := azureToSign("myaccount", r); got != want {
		t.Errorf("%q instead of %q", got, want)
	}
}

func TestAzureSAS(t *testing.T) {
	authorize, err := azureSAS("?sv=2023-11-03&sig=a%2Bb%3D")
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{URL: &url.URL{RawQuery: "comp=block"}}
	if err := authorize(t.Context(), r); err != nil || r.URL.RawQuery != "comp=block&sig=a%2Bb%3D&sv=2023-11-03" {
		t.Errorf("%s %v", r.URL.RawQuery, err)
	}
}

// A store that stalls holds up a worker for no longer than patience, also when it takes nothing of what is sent.
func TestTakesNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // accepts nothing: the kernel takes what fits into its buffers
	config := quick()
	config.Patience = 100 * time.Millisecond
	c := newClient(config, &egress{allowed: prefixes("127.0.0.0/8")})
	defer c.close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+listener.Addr().String()+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.do(request, make([]byte, 64<<20)); err == nil || err.Error() != "the store did not go on for too long" {
		t.Error(err)
	}
}
