package outputs

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	s3Parts         = 10_000 // what the protocol allows
	s3DefaultRegion = "us-east-1"
)

// s3Store speaks the protocol of Amazon S3. Every part carries its SHA-256, which the store checks; what the store says of
// its checksums is compared too, so that a store that ignores them cannot keep other bytes unnoticed.
type s3Store struct {
	client      *client
	base        *url.URL // of the bucket
	region      string
	credentials func(ctx context.Context) (aws.Credentials, error)
	signer      *v4.Signer
}

func newS3(o *v1alpha1.S3Output, c *client, credentials func(context.Context) (aws.Credentials, error)) (*s3Store, error) {
	base, err := s3Base(o)
	if err != nil {
		return nil, err
	}
	region := o.Region
	if region == "" {
		region = s3DefaultRegion
	}
	return &s3Store{client: c, base: base, region: region, credentials: credentials, signer: v4.NewSigner(func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = true
	})}, nil
}

// s3Base is the bucket's URL: below the endpoint's, or a host of its own at Amazon.
func s3Base(o *v1alpha1.S3Output) (*url.URL, error) {
	if o.Endpoint != "" {
		base, err := parseEndpoint(o.Endpoint)
		if err != nil {
			return nil, lasting("endpoint %s", err)
		}
		return base.JoinPath(o.Bucket), nil
	}
	region, domain := o.Region, "amazonaws.com"
	if region == "" {
		region = s3DefaultRegion
	}
	if strings.HasPrefix(region, "cn-") {
		domain = "amazonaws.com.cn"
	}
	base := &url.URL{Scheme: "https", Host: o.Bucket + ".s3." + region + "." + domain}
	if strings.Contains(o.Bucket, ".") { // no certificate is for two levels
		base.Host = "s3." + region + "." + domain
		base.Path = "/" + o.Bucket
	}
	return base, nil
}

func (s *s3Store) close() { s.client.close() }

// request makes one request of an object. what is how the request is called in failures.
func (s *s3Store) request(ctx context.Context, what, method, key string, query url.Values, header http.Header, data []byte) (*answer, error) {
	target := *s.base
	target.Path += "/" + key
	target.RawPath = strings.ReplaceAll(target.Path, "=", "%3D") // the only character of ours that a signature escapes
	target.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	request, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, lasting("%s: the endpoint, bucket or key cannot be made a URL", what)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	digest := sha256.Sum256(data)
	hexDigest := hex.EncodeToString(digest[:])
	request.Header.Set("X-Amz-Content-Sha256", hexDigest)
	if len(data) > 0 {
		request.ContentLength = int64(len(data)) // it is signed
	}
	credentials, err := s.credentials(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.signer.SignHTTP(ctx, credentials, request, hexDigest, "s3", s.region, time.Now().UTC()); err != nil {
		return nil, lasting("%s: the request could not be signed", what)
	}
	response, err := s.client.do(request, data)
	if err != nil {
		return nil, err
	}
	if response.status/100 != 2 {
		return response, refusal(what, response.status, s3Code(response.body))
	}
	return response, nil
}

// s3Error is the body of a refusal.
type s3Error struct {
	XMLName xml.Name `xml:"Error"`
	Code    string   `xml:"Code"`
}

func s3Code(body []byte) string {
	var said s3Error
	if xml.Unmarshal(body, &said) != nil {
		return ""
	}
	return said.Code
}

func s3Checksums(p *part) http.Header {
	return http.Header{
		"Content-Md5":           {base64.StdEncoding.EncodeToString(p.md5[:])},
		"X-Amz-Checksum-Sha256": {base64.StdEncoding.EncodeToString(p.sha256[:])},
	}
}

func (s *s3Store) whole(ctx context.Context, key string, p *part) error {
	header := s3Checksums(p)
	header.Set("Content-Type", contentType(key))
	said, err := s.request(ctx, "storing the object", http.MethodPut, key, nil, header, p.data)
	if err != nil {
		return err
	}
	if err := s3Check(said.header, p); err != nil {
		return err
	}
	return s.look(ctx, key, int64(len(p.data)), base64.StdEncoding.EncodeToString(p.sha256[:]))
}

func (s *s3Store) begin(ctx context.Context, key string) (string, error) {
	header := http.Header{"X-Amz-Checksum-Algorithm": {"SHA256"}, "Content-Type": {contentType(key)}}
	said, err := s.request(ctx, "beginning the object", http.MethodPost, key, url.Values{"uploads": {""}}, header, nil)
	if err != nil {
		return "", err
	}
	var begun struct {
		UploadID string `xml:"UploadId"`
	}
	if err := xml.Unmarshal(said.body, &begun); err != nil || begun.UploadID == "" || len(begun.UploadID) > 4096 {
		return "", passing("beginning the object: the store's answer cannot be read")
	}
	return begun.UploadID, nil
}

func (s *s3Store) part(ctx context.Context, key, id string, p *part) (string, error) {
	if p.number >= s3Parts {
		return "", lasting("the object is larger than %d parts of %d MiB", s3Parts, partBytes>>20)
	}
	query := url.Values{"partNumber": {strconv.Itoa(p.number + 1)}, "uploadId": {id}}
	said, err := s.request(ctx, "storing part "+strconv.Itoa(p.number+1), http.MethodPut, key, query, s3Checksums(p), p.data)
	if gone(err) {
		return "", fmt.Errorf("%w: %w", errAnew, err)
	}
	if err != nil {
		return "", err
	}
	tag := said.header.Get("Etag")
	if tag == "" || len(tag) > 1024 {
		return "", passing("storing part %d: the store answered without a tag", p.number+1)
	}
	return tag, s3Check(said.header, p)
}

// gone tells of an upload that the store does not know (any more).
func gone(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.code == "NoSuchUpload"
}

var errOtherBytes = &failure{reason: "the store keeps other bytes than it was sent"}

// s3Check compares what a store says that it got with what it was sent. Tags are MD5 digests at most stores, but not where
// a key encrypts; stores that do so answer with checksums.
func s3Check(header http.Header, p *part) error {
	if sum := header.Get("X-Amz-Checksum-Sha256"); sum != "" {
		if sum != base64.StdEncoding.EncodeToString(p.sha256[:]) {
			return errOtherBytes
		}
		return nil
	}
	return s3CheckTag(header.Get("Etag"), hex.EncodeToString(p.md5[:]), header)
}

func s3CheckTag(tag, expected string, header http.Header) error {
	tag = strings.ToLower(strings.Trim(tag, `"`))
	digest, suffix, _ := strings.Cut(tag, "-")
	_, wanted, _ := strings.Cut(expected, "-")
	_, err := hex.DecodeString(digest)
	isMD5 := err == nil && len(digest) == 2*md5.Size && suffix == wanted && header.Get("X-Amz-Server-Side-Encryption") == "" &&
		header.Get("X-Amz-Server-Side-Encryption-Customer-Algorithm") == ""
	if isMD5 && tag != expected {
		return errOtherBytes
	}
	return nil
}

type s3Complete struct {
	XMLName xml.Name         `xml:"CompleteMultipartUpload"`
	Parts   []s3CompletePart `xml:"Part"`
}

type s3CompletePart struct {
	PartNumber     int
	ETag           string
	ChecksumSHA256 string
}

type s3Completed struct {
	XMLName        xml.Name
	ETag           string
	ChecksumSHA256 string
	Code           string
}

func (s *s3Store) finish(ctx context.Context, key, id string, o *object) error {
	list, sums, tags := s3Complete{}, sha256.New(), md5.New()
	for i, p := range o.parts {
		list.Parts = append(list.Parts, s3CompletePart{PartNumber: i + 1, ETag: p.tag, ChecksumSHA256: base64.StdEncoding.EncodeToString(p.sha256[:])})
		sums.Write(p.sha256[:])
		tags.Write(p.md5[:])
	}
	count := "-" + strconv.Itoa(len(o.parts))
	sum, tag := base64.StdEncoding.EncodeToString(sums.Sum(nil))+count, hex.EncodeToString(tags.Sum(nil))+count
	body, err := xml.Marshal(list)
	if err != nil {
		return lasting("finishing the object: its parts cannot be listed")
	}
	said, err := s.request(ctx, "finishing the object", http.MethodPost, key, url.Values{"uploadId": {id}}, nil, body)
	if gone(err) {
		// An earlier try may have got there, and its answer been lost.
		if s.mustLook(ctx, key, o.bytes, sum) == nil {
			return nil
		}
		return fmt.Errorf("%w: %w", errAnew, err)
	}
	if err != nil {
		return err
	}
	if err := s3CheckCompleted(said, sum, tag); err != nil {
		return err
	}
	if err := s.look(ctx, key, o.bytes, sum); err != nil {
		return fmt.Errorf("%w: %w", errAnew, err)
	}
	return nil
}

// s3CheckCompleted reads an answer that may be a refusal although its status is 200.
func s3CheckCompleted(said *answer, sum, tag string) error {
	var completed s3Completed
	if err := xml.NewDecoder(bytes.NewReader(said.body)).Decode(&completed); err != nil {
		if errors.Is(err, io.EOF) {
			return passing("finishing the object: the store's answer is empty")
		}
		return passing("finishing the object: the store's answer cannot be read")
	}
	if completed.XMLName.Local == "Error" {
		f := refusal("finishing the object", 500, completed.Code)
		if completed.Code == "NoSuchUpload" {
			return fmt.Errorf("%w: %w", errAnew, f)
		}
		return f
	}
	if completed.ChecksumSHA256 != "" && completed.ChecksumSHA256 != sum {
		return fmt.Errorf("%w: %w", errAnew, errOtherBytes)
	}
	if completed.ChecksumSHA256 == "" {
		if err := s3CheckTag(completed.ETag, tag, said.header); err != nil {
			return fmt.Errorf("%w: %w", errAnew, err)
		}
	}
	return nil
}

// look compares the stored object's size and checksum, where the credentials allow to look.
func (s *s3Store) look(ctx context.Context, key string, size int64, sum string) error {
	err := s.mustLook(ctx, key, size, sum)
	var f *failure
	if errors.As(err, &f) && (f.status == http.StatusForbidden || f.status == http.StatusMethodNotAllowed || f.status == http.StatusNotImplemented) {
		return nil // it may write and not read
	}
	return err
}

func (s *s3Store) mustLook(ctx context.Context, key string, size int64, sum string) error {
	said, err := s.request(ctx, "looking at the object", http.MethodHead, key, nil, http.Header{"X-Amz-Checksum-Mode": {"ENABLED"}}, nil)
	if err != nil {
		return err
	}
	if length := said.header.Get("Content-Length"); length != "" && length != strconv.FormatInt(size, 10) {
		return errOtherBytes
	}
	// Another kind of checksum, over the whole object, has no count of parts.
	if got := said.header.Get("X-Amz-Checksum-Sha256"); got != "" && strings.Contains(got, "-") == strings.Contains(sum, "-") && got != sum {
		return errOtherBytes
	}
	return nil
}

func (s *s3Store) abort(ctx context.Context, key, id string) error {
	_, err := s.request(ctx, "giving the object up", http.MethodDelete, key, url.Values{"uploadId": {id}}, nil, nil)
	if gone(err) {
		return nil
	}
	return err
}

func contentType(key string) string {
	if strings.HasSuffix(key, ".json") {
		return "application/json"
	}
	return "application/vnd.tcpdump.pcap"
}
