package outputs

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	azureVersion = "2023-11-03"
	azureParts   = 50_000 // blocks that a blob may have
)

// azureStore speaks the REST protocol of Azure Blob Storage. Every block carries its MD5, which the service checks. Blocks
// that no list names are removed by the service after a week; there is no way to remove them before.
type azureStore struct {
	client *client
	base   *url.URL // of the container
	// authorize signs a request, which is complete but for that.
	authorize func(ctx context.Context, request *http.Request) error
}

func newAzure(o *v1alpha1.AzureBlobOutput, c *client, config Config) (*azureStore, error) {
	endpoint := o.Endpoint
	if endpoint == "" {
		endpoint = "https://" + o.Account + ".blob.core.windows.net"
	}
	base, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, lasting("endpoint %s", err)
	}
	authorize, err := azureAuthorize(o, base, c, config)
	if err != nil {
		return nil, err
	}
	return &azureStore{client: c, base: base.JoinPath(o.Container), authorize: authorize}, nil
}

func (s *azureStore) close() { s.client.close() }

func (s *azureStore) request(ctx context.Context, what, method, key string, query url.Values, header http.Header, data []byte) (*answer, error) {
	target := s.base.JoinPath(key)
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, lasting("%s: the endpoint, container or key cannot be made a URL", what)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("X-Ms-Version", azureVersion)
	request.Header.Set("X-Ms-Date", time.Now().UTC().Format(http.TimeFormat))
	request.ContentLength = int64(len(data))
	if err := s.authorize(ctx, request); err != nil {
		return nil, err
	}
	response, err := s.client.do(request, data)
	if err != nil {
		return nil, err
	}
	if response.status/100 != 2 {
		return response, refusal(what, response.status, response.header.Get("X-Ms-Error-Code"))
	}
	return response, nil
}

func (s *azureStore) whole(ctx context.Context, key string, p *part) error {
	said, err := s.request(ctx, "storing the blob", http.MethodPut, key, nil, http.Header{
		"X-Ms-Blob-Type":   {"BlockBlob"},
		"Content-Type":     {contentType(key)},
		"Content-Md5":      {base64.StdEncoding.EncodeToString(p.md5[:])},
		"X-Ms-Meta-Sha256": {hex.EncodeToString(p.sha256[:])},
	}, p.data)
	if err != nil {
		return err
	}
	if err := azureCheck(said, p); err != nil {
		return err
	}
	return s.look(ctx, key, int64(len(p.data)), hex.EncodeToString(p.sha256[:]))
}

// azureCheck compares what the service says that it got with what it was sent.
func azureCheck(said *answer, p *part) error {
	if sum := said.header.Get("Content-Md5"); sum != "" && sum != base64.StdEncoding.EncodeToString(p.md5[:]) {
		return errOtherBytes
	}
	return nil
}

// begin makes a name for the blocks of this try, so that those of another one are never taken for them.
func (s *azureStore) begin(context.Context, string) (string, error) {
	var random [12]byte
	_, _ = rand.Read(random[:])
	return hex.EncodeToString(random[:]), nil
}

func azureBlock(id string, number int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%05d", id, number)) // all of one length, as they have to be
}

func (s *azureStore) part(ctx context.Context, key, id string, p *part) (string, error) {
	if p.number >= azureParts {
		return "", lasting("the blob is larger than %d blocks of %d MiB", azureParts, partBytes>>20)
	}
	block := azureBlock(id, p.number)
	said, err := s.request(ctx, "storing block "+strconv.Itoa(p.number+1), http.MethodPut, key,
		url.Values{"comp": {"block"}, "blockid": {block}},
		http.Header{"Content-Md5": {base64.StdEncoding.EncodeToString(p.md5[:])}}, p.data)
	if err != nil {
		return "", err
	}
	return block, azureCheck(said, p)
}

type azureList struct {
	XMLName xml.Name `xml:"BlockList"`
	Latest  []string `xml:"Latest"`
}

func (s *azureStore) finish(ctx context.Context, key, _ string, o *object) error {
	var list azureList
	for _, p := range o.parts {
		list.Latest = append(list.Latest, p.tag)
	}
	body, err := xml.Marshal(list)
	if err != nil {
		return lasting("finishing the blob: its blocks cannot be listed")
	}
	digest := hex.EncodeToString(o.sha256.Sum(nil))
	_, err = s.request(ctx, "finishing the blob", http.MethodPut, key, url.Values{"comp": {"blocklist"}}, http.Header{
		"Content-Type":           {"application/xml"},
		"X-Ms-Blob-Content-Type": {contentType(key)},
		"X-Ms-Blob-Content-Md5":  {base64.StdEncoding.EncodeToString(o.md5.Sum(nil))},
		"X-Ms-Meta-Sha256":       {digest},
	}, append([]byte(xml.Header), body...))
	var f *failure
	if errors.As(err, &f) && (f.code == "InvalidBlockList" || f.code == "InvalidBlobOrBlock") {
		return fmt.Errorf("%w: %w", errAnew, err) // blocks are gone
	}
	if err != nil {
		return err
	}
	if err := s.look(ctx, key, o.bytes, digest); err != nil {
		return fmt.Errorf("%w: %w", errAnew, err)
	}
	return nil
}

// look compares the stored blob's size and digest, where the credentials allow to look.
func (s *azureStore) look(ctx context.Context, key string, size int64, digest string) error {
	said, err := s.request(ctx, "looking at the blob", http.MethodHead, key, nil, nil, nil)
	if err != nil {
		var f *failure
		if errors.As(err, &f) && f.status == http.StatusForbidden {
			return nil // it may write and not read
		}
		return err
	}
	if said.header.Get("Content-Length") != strconv.FormatInt(size, 10) || said.header.Get("X-Ms-Meta-Sha256") != digest {
		return errOtherBytes
	}
	return nil
}

func (s *azureStore) abort(context.Context, string, string) error { return nil }

// azureShared signs with an account's key, as "Authorize with Shared Key" of the service's REST reference says.
func azureShared(account string, key []byte) func(context.Context, *http.Request) error {
	return func(_ context.Context, r *http.Request) error {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(azureToSign(account, r)))
		r.Header.Set("Authorization", "SharedKey "+account+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		return nil
	}
}

func azureToSign(account string, r *http.Request) string {
	length := ""
	if r.ContentLength > 0 {
		length = strconv.FormatInt(r.ContentLength, 10)
	}
	lines := []string{
		r.Method, r.Header.Get("Content-Encoding"), r.Header.Get("Content-Language"), length, r.Header.Get("Content-Md5"),
		r.Header.Get("Content-Type"), "" /* Date: x-ms-date is there */, r.Header.Get("If-Modified-Since"), r.Header.Get("If-Match"),
		r.Header.Get("If-None-Match"), r.Header.Get("If-Unmodified-Since"), r.Header.Get("Range"),
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-ms-") {
			lines = append(lines, lower+":"+strings.Join(r.Header[name], ","))
		}
	}
	resource := "/" + account + r.URL.EscapedPath()
	query := r.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		resource += "\n" + strings.ToLower(name) + ":" + strings.Join(query[name], ",")
	}
	return strings.Join(append(lines, resource), "\n")
}

// azureSAS adds a shared access signature to the query.
func azureSAS(token string) (func(context.Context, *http.Request) error, error) {
	values, err := url.ParseQuery(strings.TrimPrefix(token, "?"))
	if err != nil || !values.Has("sig") {
		return nil, lasting("the SAS token cannot be read")
	}
	return func(_ context.Context, r *http.Request) error {
		query := r.URL.Query()
		maps.Copy(query, values)
		r.URL.RawQuery = query.Encode()
		return nil
	}, nil
}
