package outputs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const gcsEndpoint = "https://storage.googleapis.com"

// gcsStore speaks Google Cloud Storage's JSON protocol: an upload is a session that knows how many bytes it has. The MD5 of
// the whole object is compared at the end.
type gcsStore struct {
	client *client
	base   *url.URL
	bucket string
	token  func(ctx context.Context) (string, error)
	// known: the session has what was sent to it by this store, and need not be asked.
	known bool
}

func newGCS(o *v1alpha1.GCSOutput, c *client, token func(context.Context) (string, error)) (*gcsStore, error) {
	base, err := parseEndpoint(gcsBase(o))
	if err != nil {
		return nil, lasting("endpoint %s", err)
	}
	return &gcsStore{client: c, base: base, bucket: o.Bucket, token: token}, nil
}

func gcsBase(o *v1alpha1.GCSOutput) string {
	if o.Endpoint == "" {
		return gcsEndpoint
	}
	return o.Endpoint
}

func (s *gcsStore) close() { s.client.close() }

func (s *gcsStore) whole(ctx context.Context, key string, p *part) error {
	id, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	tag, err := s.part(ctx, key, id, p)
	if err != nil {
		return err
	}
	return gcsCheck(tag, int64(len(p.data)), p.md5[:])
}

// begin answers with the session's URL, which by itself is the right to write to it.
func (s *gcsStore) begin(ctx context.Context, key string) (string, error) {
	const what = "beginning the object"
	target := s.base.JoinPath("upload/storage/v1/b", s.bucket, "o")
	target.RawQuery = url.Values{"uploadType": {"resumable"}, "name": {key}}.Encode()
	description, err := json.Marshal(map[string]string{"name": key, "contentType": contentType(key)})
	if err != nil {
		return "", lasting("%s: it cannot be described", what)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), nil)
	if err != nil {
		return "", lasting("%s: the endpoint, bucket or key cannot be made a URL", what)
	}
	token, err := s.token(ctx)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json; charset=UTF-8")
	request.Header.Set("X-Upload-Content-Type", contentType(key))
	said, err := s.client.do(request, description)
	if err != nil {
		return "", err
	}
	if said.status/100 != 2 {
		return "", refusal(what, said.status, gcsCode(said.body))
	}
	s.known = true
	return s.session(said.header.Get("Location"))
}

// session checks where the session is said to be. Another host would be a redirect.
func (s *gcsStore) session(location string) (string, error) {
	u, err := url.Parse(location)
	if err != nil || location == "" || len(location) > 8192 {
		return "", passing("beginning the object: the store's answer cannot be read")
	}
	if u.Scheme != s.base.Scheme || u.Host != s.base.Host || u.User != nil {
		return "", lasting("beginning the object: the store leads to another host, which is not followed")
	}
	return location, nil
}

// gcsCode is the reason that a refusal gives.
func gcsCode(body []byte) string {
	var said struct {
		Error struct {
			Errors []struct {
				Reason string `json:"reason"`
			} `json:"errors"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &said) != nil || len(said.Error.Errors) == 0 {
		return ""
	}
	return said.Error.Errors[0].Reason
}

// send sends bytes to a session. Its answer is how many bytes the session has, and, when it has all, what it made of them.
func (s *gcsStore) send(ctx context.Context, what, session, place string, data []byte) (has int64, made string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, session, nil)
	if err != nil {
		return 0, "", lasting("%s: the session cannot be reached", what)
	}
	request.Header.Set("Content-Range", place)
	if data == nil {
		data = []byte{}
	}
	said, err := s.client.do(request, data)
	if err != nil {
		return 0, "", err
	}
	switch said.status {
	case http.StatusOK, http.StatusCreated:
		made := string(said.body)
		return 0, made, nil
	case http.StatusPermanentRedirect: // here it means: go on
		has, err := gcsHas(said.header.Get("Range"))
		return has, "", err
	case http.StatusNotFound, http.StatusGone:
		return 0, "", fmt.Errorf("%w: %w", errAnew, refusal(what, said.status, gcsCode(said.body)))
	default:
		return 0, "", refusal(what, said.status, gcsCode(said.body))
	}
}

// gcsHas reads "bytes=0-N".
func gcsHas(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	last, found := strings.CutPrefix(text, "bytes=0-")
	n, err := strconv.ParseInt(last, 10, 62)
	if !found || err != nil || n < 0 {
		return 0, passing("the store's answer about what it has cannot be read")
	}
	return n + 1, nil
}

// part sends what the session does not have of a part. The answer is what was made of the object, after its last part.
func (s *gcsStore) part(ctx context.Context, _, session string, p *part) (string, error) {
	what := "storing part " + strconv.Itoa(p.number+1)
	has, end := p.offset, p.offset+int64(len(p.data))
	if !s.known {
		var made string
		var err error
		if has, made, err = s.send(ctx, "asking what the store has", session, "bytes */*", nil); err != nil || made != "" {
			return made, err
		}
	}
	s.known = false
	for first := true; first || has < end; first = false {
		if has < p.offset || has > end {
			return "", fmt.Errorf("%w: %w", errAnew, passing("%s: the store has %d bytes, and not those that it was sent", what, has))
		}
		if has == end && !p.last {
			break
		}
		now, made, err := s.send(ctx, what, session, gcsPlace(has, end, p.last), p.data[has-p.offset:])
		if err != nil || made != "" {
			return made, err
		}
		if now <= has {
			return "", passing("%s: the store took none of it", what)
		}
		has = now
	}
	if p.last {
		return "", passing("%s: the store waits for more", what)
	}
	s.known = true
	return "", nil
}

func gcsPlace(from, end int64, last bool) string {
	total := "*"
	if last {
		total = strconv.FormatInt(end, 10)
	}
	if from == end {
		return "bytes */" + total
	}
	return fmt.Sprintf("bytes %d-%d/%s", from, end-1, total)
}

func (s *gcsStore) finish(_ context.Context, _, _ string, o *object) error {
	if err := gcsCheck(o.parts[len(o.parts)-1].tag, o.bytes, o.md5.Sum(nil)); err != nil {
		return fmt.Errorf("%w: %w", errAnew, err)
	}
	return nil
}

// gcsCheck compares what the store says that it made with what it was sent.
func gcsCheck(made string, size int64, md5 []byte) error {
	var object struct {
		Size string `json:"size"`
		MD5  string `json:"md5Hash"`
	}
	if err := json.Unmarshal([]byte(made), &object); err != nil {
		return passing("finishing the object: the store's answer cannot be read")
	}
	if object.Size != "" && object.Size != strconv.FormatInt(size, 10) || object.MD5 != "" && object.MD5 != base64.StdEncoding.EncodeToString(md5) {
		return errOtherBytes
	}
	return nil
}

func (s *gcsStore) abort(ctx context.Context, _, session string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodDelete, session, nil)
	if err != nil {
		return lasting("giving the object up: the session cannot be reached")
	}
	_, err = s.client.do(request, nil) // 499 says that it is given up
	return err
}
