package outputs

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/oauth2/jwt"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Without credentials of the request, the agent's own identity is used: the one that the cloud gave to the agents' service
// account, as environment and a projected token. Nothing else is looked for: no files in home folders, and not the identity
// of the machine, which its metadata service would give to anybody who can reach it and which is not the agents'.
const (
	awsRole         = "AWS_ROLE_ARN"
	awsTokenFile    = "AWS_WEB_IDENTITY_TOKEN_FILE"
	awsPodURL       = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	awsPodTokenFile = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
	awsRegion       = "AWS_REGION"
	awsSTS          = "AWS_ENDPOINT_URL_STS"

	azureClient    = "AZURE_CLIENT_ID"
	azureTenant    = "AZURE_TENANT_ID"
	azureTokenFile = "AZURE_FEDERATED_TOKEN_FILE"
	azureAuthority = "AZURE_AUTHORITY_HOST"

	googleFile = "GOOGLE_APPLICATION_CREDENTIALS"
)

var (
	podIdentity = []netip.AddrPort{netip.MustParseAddrPort("169.254.170.23:80"), netip.MustParseAddrPort("[fd00:ec2::23]:80")}
	// Whoever gets a token can use it, other than a signature: it goes to the clouds' own hosts only.
	tokenHosts = []string{".blob.core.windows.net", ".blob.core.usgovcloudapi.net", ".blob.core.chinacloudapi.cn", "storage.googleapis.com", ".storage.googleapis.com"}
)

// renewBefore is how long before their end credentials are not used any more.
const renewBefore = 5 * time.Minute

func noIdentity(cloud, key string) error {
	return lasting("the node agents have no identity of %s: name a Secret in %s, or have the operator give their service account one", cloud, key)
}

func mayCarryToken(u *url.URL, hosts []string) error {
	for _, end := range hosts {
		if u.Scheme == "https" && (u.Hostname() == end || strings.HasPrefix(end, ".") && strings.HasSuffix(u.Hostname(), end)) {
			return nil
		}
	}
	return lasting("the node agents' identity is not shown to an endpoint that is not the cloud's own: name a Secret in secretName")
}

// tokenFrom reads a projected token. They are renewed in place.
func tokenFrom(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil || len(content) > 64<<10 {
		return "", lasting("the token of the node agents' identity cannot be read")
	}
	return strings.TrimSpace(string(content)), nil
}

// awsCredentials are those of the request, or those of the agent's identity.
func awsCredentials(o *v1alpha1.S3Output, c *client, config Config) func(context.Context) (aws.Credentials, error) {
	if o.AccessKeyId != "" {
		given := aws.Credentials{AccessKeyID: o.AccessKeyId, SecretAccessKey: o.SecretAccessKey, SessionToken: o.SessionToken}
		return func(context.Context) (aws.Credentials, error) { return given, nil }
	}
	var have aws.Credentials
	return func(ctx context.Context) (aws.Credentials, error) {
		if have.HasKeys() && time.Until(have.Expires) > renewBefore {
			return have, nil
		}
		var err error
		switch {
		case os.Getenv(awsRole) != "" && os.Getenv(awsTokenFile) != "":
			have, err = awsWebIdentity(ctx, c, o.Region)
		case os.Getenv(awsPodURL) != "" && os.Getenv(awsPodTokenFile) != "":
			have, err = awsPodIdentity(ctx, config)
		default:
			err = noIdentity("Amazon", "secretName")
		}
		return have, err
	}
}

const askingIdentity = "asking for the node agents' identity"

// awsWebIdentity exchanges the projected token for credentials of the role (IAM roles for service accounts).
func awsWebIdentity(ctx context.Context, c *client, region string) (aws.Credentials, error) {
	token, err := tokenFrom(os.Getenv(awsTokenFile))
	if err != nil {
		return aws.Credentials{}, err
	}
	said, err := postForm(ctx, c, awsSTSEndpoint(region), url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {os.Getenv(awsRole)},
		"RoleSessionName": {"networkobservability-nodeagent"}, "WebIdentityToken": {token},
	})
	if err != nil {
		return aws.Credentials{}, err
	}
	var answer struct {
		Credentials struct {
			AccessKeyID     string `xml:"AccessKeyId"`
			SecretAccessKey string
			SessionToken    string
			Expiration      time.Time
		} `xml:"AssumeRoleWithWebIdentityResult>Credentials"`
	}
	if err := xml.Unmarshal(said.body, &answer); err != nil || answer.Credentials.AccessKeyID == "" {
		return aws.Credentials{}, passing("%s: the answer cannot be read", askingIdentity)
	}
	got := answer.Credentials
	return aws.Credentials{AccessKeyID: got.AccessKeyID, SecretAccessKey: got.SecretAccessKey, SessionToken: got.SessionToken, CanExpire: true, Expires: got.Expiration}, nil
}

func awsSTSEndpoint(region string) string {
	if given := os.Getenv(awsSTS); given != "" {
		return given
	}
	if own := os.Getenv(awsRegion); own != "" {
		region = own
	}
	if region == "" {
		region = s3DefaultRegion
	}
	if strings.HasPrefix(region, "cn-") {
		return "https://sts." + region + ".amazonaws.com.cn/"
	}
	return "https://sts." + region + ".amazonaws.com/"
}

// awsPodIdentity asks the service that gives out pod identities on each node (EKS Pod Identity), and can reach nothing but
// that: what is at other link-local addresses is not ours.
func awsPodIdentity(ctx context.Context, config Config) (aws.Credentials, error) {
	token, err := tokenFrom(os.Getenv(awsPodTokenFile))
	if err != nil {
		return aws.Credentials{}, err
	}
	c := newClient(config, &egress{only: config.podIdentity})
	defer c.close()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv(awsPodURL), nil)
	if err != nil {
		return aws.Credentials{}, lasting("%s: %s is not a URL", askingIdentity, awsPodURL)
	}
	request.Header.Set("Authorization", token)
	said, err := c.do(request, nil)
	if err != nil {
		return aws.Credentials{}, err
	}
	if said.status != http.StatusOK {
		return aws.Credentials{}, refusal(askingIdentity, said.status, "")
	}
	var got struct {
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
		Expiration      time.Time
	}
	if err := json.Unmarshal(said.body, &got); err != nil || got.AccessKeyID == "" {
		return aws.Credentials{}, passing("%s: the answer cannot be read", askingIdentity)
	}
	return aws.Credentials{AccessKeyID: got.AccessKeyID, SecretAccessKey: got.SecretAccessKey, SessionToken: got.Token, CanExpire: true, Expires: got.Expiration}, nil
}

func postForm(ctx context.Context, c *client, target string, form url.Values) (*answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
	if err != nil {
		return nil, lasting("%s: where to ask is not a URL", askingIdentity)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	said, err := c.do(request, []byte(form.Encode()))
	if err != nil {
		return nil, err
	}
	if said.status != http.StatusOK {
		return nil, refusal(askingIdentity, said.status, "")
	}
	return said, nil
}

// azureAuthorize signs requests with what was given, or with the agent's identity.
func azureAuthorize(o *v1alpha1.AzureBlobOutput, base *url.URL, c *client, config Config) (func(context.Context, *http.Request) error, error) {
	switch {
	case o.AccountKey != "":
		key, err := base64.StdEncoding.DecodeString(o.AccountKey)
		if err != nil {
			return nil, lasting("the account key is not in base64")
		}
		return azureShared(o.Account, key), nil
	case o.SasToken != "":
		return azureSAS(o.SasToken)
	case os.Getenv(azureClient) == "" || os.Getenv(azureTenant) == "" || os.Getenv(azureTokenFile) == "":
		return nil, noIdentity("Azure", "secretName")
	}
	if err := mayCarryToken(base, config.tokenHosts); err != nil {
		return nil, err
	}
	return azureIdentity(c), nil
}

// azureIdentity exchanges the projected token for one of the storage service (Microsoft Entra Workload ID).
func azureIdentity(c *client) func(context.Context, *http.Request) error {
	var have oauth2.Token
	return func(ctx context.Context, r *http.Request) error {
		if have.AccessToken == "" || time.Until(have.Expiry) < renewBefore {
			token, err := azureToken(ctx, c)
			if err != nil {
				return err
			}
			have = *token
		}
		r.Header.Set("Authorization", "Bearer "+have.AccessToken)
		return nil
	}
}

func azureToken(ctx context.Context, c *client) (*oauth2.Token, error) {
	assertion, err := tokenFrom(os.Getenv(azureTokenFile))
	if err != nil {
		return nil, err
	}
	authority := os.Getenv(azureAuthority)
	if authority == "" {
		authority = "https://login.microsoftonline.com/"
	}
	said, err := postForm(ctx, c, strings.TrimSuffix(authority, "/")+"/"+url.PathEscape(os.Getenv(azureTenant))+"/oauth2/v2.0/token", url.Values{
		"client_id": {os.Getenv(azureClient)}, "grant_type": {"client_credentials"}, "scope": {"https://storage.azure.com/.default"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
	})
	if err != nil {
		return nil, err
	}
	var got struct {
		Token   string `json:"access_token"`
		Seconds int64  `json:"expires_in"`
	}
	if err := json.Unmarshal(said.body, &got); err != nil || got.Token == "" {
		return nil, passing("%s: the answer cannot be read", askingIdentity)
	}
	return &oauth2.Token{AccessToken: got.Token, Expiry: time.Now().Add(time.Duration(got.Seconds) * time.Second)}, nil
}

const googleScope = "https://www.googleapis.com/auth/devstorage.read_write"

// googleToken answers with tokens of the key that was given, or of the agent's identity (Workload Identity Federation: the
// metadata service of a cluster at Google does not serve pods in the node's network, which the agents are).
func googleToken(ctx context.Context, o *v1alpha1.GCSOutput, c *client, config Config) (func(context.Context) (string, error), error) {
	way := &remembering{RoundTripper: c.http.Transport}
	exchanging := &http.Client{Transport: way, CheckRedirect: c.http.CheckRedirect, Timeout: 2 * c.patience}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, exchanging)
	if o.ServiceAccountKey != "" {
		key, err := parseGoogleKey(o)
		if err != nil {
			return nil, lasting("serviceAccountKey: %s", err)
		}
		return tokensOf(key.TokenSource(ctx), way), nil
	}
	file := os.Getenv(googleFile)
	if file == "" {
		return nil, noIdentity("Google", "secretName")
	}
	if base, err := parseEndpoint(gcsBase(o)); err != nil {
		return nil, lasting("endpoint %s", err)
	} else if err := mayCarryToken(base, config.tokenHosts); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, lasting("the file of the node agents' identity (%s) cannot be read", googleFile)
	}
	identity, err := google.CredentialsFromJSONWithType(ctx, content, google.ExternalAccount, googleScope)
	if err != nil {
		return nil, lasting("the file of the node agents' identity (%s) is not of the type external_account", googleFile)
	}
	return tokensOf(identity.TokenSource, way), nil
}

func tokensOf(source oauth2.TokenSource, way *remembering) func(context.Context) (string, error) {
	source = oauth2.ReuseTokenSourceWithExpiry(nil, source, renewBefore)
	return func(context.Context) (string, error) {
		token, err := source.Token()
		switch {
		case err == nil:
			return token.AccessToken, nil
		case way.err != nil:
			return "", explain(way.err)
		case way.status != http.StatusOK:
			return "", refusal("asking for a token", way.status, "")
		default:
			return "", lasting("asking for a token: the answer cannot be read, or the key cannot be used")
		}
	}
}

// remembering remembers what came of the last request: what the libraries make of it may hold what was answered.
type remembering struct {
	http.RoundTripper
	status int
	err    error
}

// RoundTrip implements http.RoundTripper.
func (r *remembering) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.RoundTripper.RoundTrip(request)
	r.err, r.status = err, http.StatusOK
	if err == nil {
		r.status = response.StatusCode
	}
	return response, err
}

// googleTokenURLs are where keys of service accounts are exchanged for tokens. What else a key names is believed only when
// it is at the endpoint that the operator has allowed.
var googleTokenURLs = map[string]bool{
	"https://oauth2.googleapis.com/token": true, "https://accounts.google.com/o/oauth2/token": true, "https://www.googleapis.com/oauth2/v4/token": true,
}

func parseGoogleKey(o *v1alpha1.GCSOutput) (*jwt.Config, error) {
	var key struct {
		Type     string `json:"type"`
		Email    string `json:"client_email"`
		Key      string `json:"private_key"`
		KeyID    string `json:"private_key_id"`
		TokenURL string `json:"token_uri"`
	}
	if len(o.ServiceAccountKey) > 64<<10 || json.Unmarshal([]byte(o.ServiceAccountKey), &key) != nil {
		return nil, errors.New("is not the JSON of a key")
	}
	if key.Type != "service_account" {
		return nil, errors.New("is not of the type service_account")
	}
	if key.TokenURL == "" {
		key.TokenURL = "https://oauth2.googleapis.com/token"
	}
	if !googleTokenURLs[key.TokenURL] && !sameHost(key.TokenURL, gcsBase(o)) {
		return nil, errors.New("names a token_uri that is neither Google's nor at the endpoint")
	}
	block, _ := pem.Decode([]byte(key.Key))
	if block == nil {
		return nil, errors.New("holds no private key in PEM")
	}
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		if _, err := x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
			return nil, errors.New("holds a private key that cannot be read")
		}
	}
	return &jwt.Config{Email: key.Email, PrivateKey: []byte(key.Key), PrivateKeyID: key.KeyID, TokenURL: key.TokenURL, Scopes: []string{googleScope}}, nil
}

func sameHost(a, b string) bool {
	first, err1 := parseEndpoint(a)
	second, err2 := parseEndpoint(b)
	return err1 == nil && err2 == nil && first.Scheme == second.Scheme && first.Host == second.Host
}

func networksOf(o *v1alpha1.CaptureOutput) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range o.AllowedNetworks {
		if network, err := netip.ParsePrefix(text); err == nil { // it was validated
			all = append(all, network.Masked())
		}
	}
	return all
}
