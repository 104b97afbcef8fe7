package outputs

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func s3To(endpoint string) *v1alpha1.CaptureOutput {
	return &v1alpha1.CaptureOutput{Name: "archive", AllowedNetworks: []string{"127.0.0.0/8"}, To: &v1alpha1.CaptureOutput_S3{S3: &v1alpha1.S3Output{
		Endpoint: endpoint, Bucket: "captures", AccessKeyId: "canaryid", SecretAccessKey: "canarykey",
	}}}
}

func TestRefusesBadInput(t *testing.T) {
	good := fileOf(name, nil)
	change := func(do func(o *v1alpha1.CaptureOutput)) *v1alpha1.CaptureOutput {
		o := s3To("https://s3.example.com")
		do(o)
		return o
	}
	azure := func(do func(o *v1alpha1.AzureBlobOutput)) *v1alpha1.CaptureOutput {
		o := &v1alpha1.AzureBlobOutput{Account: "account", Container: "captures", AccountKey: "Y2FuYXJ5"}
		do(o)
		return &v1alpha1.CaptureOutput{Name: "archive", To: &v1alpha1.CaptureOutput_AzureBlob{AzureBlob: o}}
	}
	google := func(key string) *v1alpha1.CaptureOutput {
		return &v1alpha1.CaptureOutput{Name: "archive", To: &v1alpha1.CaptureOutput_Gcs{Gcs: &v1alpha1.GCSOutput{Bucket: "captures", ServiceAccountKey: key}}}
	}
	named := func(text string) File { f := good; f.Name = text; return f }
	u := New(quick())
	defer u.Close()
	for _, one := range []struct {
		uid    string
		output *v1alpha1.CaptureOutput
		file   File
		field  string
	}{
		{"../x", toVolume("archive", ""), good, "uid"},
		{uid, toVolume("..", ""), good, "outputs[0].volume.name"},
		{uid, toVolume("a/b", ""), good, "outputs[0].volume.name"},
		{uid, toVolume("archive\x00", ""), good, "outputs[0].volume.name"},
		{uid, toVolume("archive", "../up"), good, "outputs[0].prefix"},
		{uid, toVolume("archive", "a/../up"), good, "outputs[0].prefix"},
		{uid, toVolume("archive", "/etc"), good, "outputs[0].prefix"},
		{uid, toVolume("archive", "a//b"), good, "outputs[0].prefix"},
		{uid, toVolume("archive", "%2e%2e"), good, "outputs[0].prefix"},
		{uid, toVolume("archive", "nul\x00"), good, "outputs[0].prefix"},
		{uid, toVolume("archive", strings.Repeat("a/", 300)+"a"), good, "outputs[0].prefix"},
		{uid, toVolume("archive", ""), named("shop/web/another/node.pcapng"), "files[0].name"},
		{uid, toVolume("archive", ""), named("shop/../" + uid + "/node.pcapng"), "files[0].name"},
		{uid, toVolume("archive", ""), named(uid), "files[0].name"},
		{uid, toVolume("archive", ""), File{Name: name}, "files[0].open"},
		{uid, &v1alpha1.CaptureOutput{Name: "archive"}, good, "outputs[0].to"},
		{uid, nil, good, "outputs[0].name"},
		{uid, change(func(o *v1alpha1.CaptureOutput) { o.Name = "Not a label" }), good, "outputs[0].name"},
		{uid, change(func(o *v1alpha1.CaptureOutput) { o.AllowedNetworks = []string{"10.0.0.0"} }), good, "outputs[0].allowed_networks[0]"},
		{uid, change(func(o *v1alpha1.CaptureOutput) { o.GetS3().Endpoint = "https://canary:canary@s3.example.com" }), good, "outputs[0].s3.endpoint"},
		{uid, change(func(o *v1alpha1.CaptureOutput) { o.GetS3().Endpoint = "https://s3.example.com/?canary" }), good, "outputs[0].s3.endpoint"},
		{uid, change(func(o *v1alpha1.CaptureOutput) { o.GetS3().Bucket = "a/../b" }), good, "outputs[0].s3.bucket"},
		{uid, change(func(o *v1alpha1.CaptureOutput) { o.GetS3().Region = "x.evil.example/" }), good, "outputs[0].s3.region"},
		{uid, change(func(o *v1alpha1.CaptureOutput) { o.GetS3().SecretAccessKey = "canary\r\nX-Evil: 1" }), good, "outputs[0].s3.secret_access_key"},
		{uid, change(func(o *v1alpha1.CaptureOutput) { o.GetS3().SecretAccessKey = "" }), good, "outputs[0].s3.secret_access_key"},
		{uid, change(func(o *v1alpha1.CaptureOutput) { o.GetS3().SessionToken = strings.Repeat("canary", 3000) }), good, "outputs[0].s3.session_token"},
		{uid, azure(func(o *v1alpha1.AzureBlobOutput) { o.Account = "evil.example/" }), good, "outputs[0].azure_blob.account"},
		{uid, azure(func(o *v1alpha1.AzureBlobOutput) { o.Container = "UP" }), good, "outputs[0].azure_blob.container"},
		{uid, azure(func(o *v1alpha1.AzureBlobOutput) { o.AccountKey = "canary!" }), good, "outputs[0].azure_blob.account_key"},
		{uid, azure(func(o *v1alpha1.AzureBlobOutput) { o.SasToken = "sv=canary" }), good, "outputs[0].azure_blob.sas_token"},
		{uid, azure(func(o *v1alpha1.AzureBlobOutput) { o.SasToken = "sig=canary" }), good, "outputs[0].azure_blob.sas_token"},
		{uid, google("canary"), good, "outputs[0].gcs.service_account_key"},
		{uid, google(`{"type": "external_account", "credential_source": {"executable": {"command": "/bin/canary"}}}`), good, "outputs[0].gcs.service_account_key"},
		{uid, google(`{"type": "service_account", "token_uri": "http://169.254.169.254/canary"}`), good, "outputs[0].gcs.service_account_key"},
		{uid, google(`{"type": "service_account", "private_key": "canary"}`), good, "outputs[0].gcs.service_account_key"},
	} {
		err := u.Ensure(one.uid, []*v1alpha1.CaptureOutput{one.output}, []File{one.file})
		if err == nil || !strings.HasPrefix(err.Error(), one.field+": ") || strings.Contains(err.Error(), "canary") && !strings.Contains(one.field, "executable") {
			t.Errorf("%s: %v", one.field, err)
		}
		if len(u.State(one.uid)) != 0 {
			t.Errorf("%s: something was begun", one.field)
		}
	}
}

// Nothing is added to a capture that is being forgotten: nobody would end it.
func TestAddedWhileForgotten(t *testing.T) {
	config := quick()
	config.VolumesDir, _ = volumes(t)
	u := New(config)
	t.Cleanup(u.Close)
	opened, release := make(chan struct{}), make(chan struct{})
	slow := fileOf(name, nil)
	slow.Open = func(int64) (io.ReadCloser, error) {
		close(opened)
		<-release
		return nil, errors.New("it is gone")
	}
	if err := u.Ensure(uid, []*v1alpha1.CaptureOutput{toVolume("archive", "")}, []File{slow}); err != nil {
		t.Fatal(err)
	}
	<-opened
	u.mu.Lock()
	first := u.captures[uid]["archive"]
	u.mu.Unlock()
	forgotten := make(chan struct{})
	go func() { u.Forget(uid); close(forgotten) }()
	<-first.ctx.Done()
	other := toVolume("archive", "other")
	other.Name = "other"
	if err := u.Ensure(uid, []*v1alpha1.CaptureOutput{other}, []File{fileOf(name, []byte("content"))}); !errors.Is(err, ErrClosed) {
		t.Errorf("it is added: %v", err)
	}
	close(release)
	<-forgotten
	if states := u.State(uid); len(states) != 0 {
		t.Errorf("%v is remembered", states)
	}
}

func TestPatience(t *testing.T) {
	begin := time.Unix(1000, 0)
	p := patience{config: Config{RetryAfter: time.Second, RetryAtMost: 4 * time.Second, RetryFor: time.Minute}}
	soft, hard := &failure{}, &failure{lasting: true}
	for i, most := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second} {
		if wait, again := p.failed(soft, begin.Add(time.Duration(i)*time.Second)); !again || wait > most || wait < most/2 {
			t.Errorf("after failure %d: %v %v", i+1, wait, again)
		}
	}
	if _, again := p.failed(soft, begin.Add(time.Minute)); again {
		t.Error("it goes on for ever")
	}
	p.progressed()
	if wait, again := p.failed(soft, begin.Add(2*time.Minute)); !again || wait > time.Second {
		t.Errorf("after progress: %v %v", wait, again)
	}
	p.progressed()
	tries := 1
	for ; ; tries++ {
		if _, again := p.failed(hard, begin); !again {
			break
		}
	}
	if tries != lastingTries {
		t.Errorf("what will not go well is tried %d times", tries)
	}
}

func TestRefusals(t *testing.T) {
	for _, one := range []struct {
		status  int
		code    string
		lasting bool
		reason  string
	}{
		{403, "AccessDenied", true, "x: the store answered 403 AccessDenied"},
		{404, "NoSuchBucket", true, "x: the store answered 404 NoSuchBucket"},
		{400, "BadDigest", false, "x: the store answered 400 BadDigest"},
		{400, "InvalidRequest", true, "x: the store answered 400 InvalidRequest"},
		{503, "SlowDown", false, "x: the store answered 503 SlowDown"},
		{501, "", true, "x: the store answered 501"},
		{429, "", false, "x: the store answered 429"},
		{500, "see https://canary", false, "x: the store answered 500"},
		{500, "\x1b[31m", false, "x: the store answered 500"},
	} {
		if f := refusal("x", one.status, one.code); f.lasting != one.lasting || f.reason != one.reason {
			t.Errorf("%+v instead of %+v", f, one)
		}
	}
	if f := refusal("x", 307, ""); !f.lasting || !strings.Contains(f.reason, "redirects are not followed") {
		t.Errorf("%+v", f)
	}
}

func TestTags(t *testing.T) {
	const sum, other = "5d41402abc4b2a76b9719d911017c592", "7d793037a0760186574b0282f2f435e7"
	encrypted := http.Header{"X-Amz-Server-Side-Encryption": {"aws:kms"}}
	for _, one := range []struct {
		tag, expected string
		header        http.Header
		good          bool
	}{
		{`"` + sum + `"`, sum, nil, true}, {strings.ToUpper(sum), sum, nil, true}, {other, sum, nil, false}, {other, sum, encrypted, true},
		{sum + "-3", sum + "-3", nil, true}, {other + "-3", sum + "-3", nil, false}, {other, sum + "-3", nil, true}, {"anything", sum, nil, true}, {"", sum, nil, true},
	} {
		if err := s3CheckTag(one.tag, one.expected, one.header); (err == nil) != one.good {
			t.Errorf("%s for %s: %v", one.tag, one.expected, err)
		}
	}
}

func TestBases(t *testing.T) {
	for _, one := range []struct {
		output *v1alpha1.S3Output
		want   string
	}{
		{&v1alpha1.S3Output{Bucket: "captures"}, "https://captures.s3.us-east-1.amazonaws.com"},
		{&v1alpha1.S3Output{Bucket: "captures", Region: "eu-central-1"}, "https://captures.s3.eu-central-1.amazonaws.com"},
		{&v1alpha1.S3Output{Bucket: "cap.tures", Region: "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn/cap.tures"},
		{&v1alpha1.S3Output{Bucket: "captures", Endpoint: "http://store:9000/s3/"}, "http://store:9000/s3/captures"},
	} {
		if got, err := s3Base(one.output); err != nil || got.String() != one.want {
			t.Errorf("%v %v instead of %s", got, err, one.want)
		}
	}
}

// What a store sends as the place of a session is not followed elsewhere.
func TestSessionsStayAtTheirHost(t *testing.T) {
	s, err := newGCS(&v1alpha1.GCSOutput{Bucket: "captures"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for location, good := range map[string]bool{
		"https://storage.googleapis.com/upload/storage/v1/b/x/o?upload_id=1": true,
		"https://evil.example/upload":                                        false, "http://storage.googleapis.com/upload": false, "https://a@storage.googleapis.com/": false, "": false, "/upload": false,
	} {
		if _, err := s.session(location); (err == nil) != good {
			t.Errorf("%s: %v", location, err)
		}
	}
}

func TestSessionBytes(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "bytes=0-0": 1, "bytes=0-8388607": 8 << 20, "bytes=1-2": -1, "0-1": -1, "bytes=0--1": -1, "bytes=0-x": -1, "bytes=0-99999999999999999999": -1} {
		if got, err := gcsHas(text); (err == nil) != (want >= 0) || err == nil && got != want {
			t.Errorf("%q: %d %v", text, got, err)
		}
	}
}

// No more outputs than there are workers are copied to at a time, and volumes do not hold up stores.
func TestWorkers(t *testing.T) {
	dir, _ := volumes(t)
	config := quick()
	config.VolumesDir, config.Workers = dir, 2
	u := New(config)
	defer u.Close()
	release := make(chan struct{})
	begun := make(chan string, 20)
	waiting := func(kind string) []File {
		return []File{{Name: name, Size: -1, Open: func(int64) (io.ReadCloser, error) {
			begun <- kind
			<-release
			return nil, os.ErrNotExist
		}}}
	}
	for kind, make := range map[string]func() *v1alpha1.CaptureOutput{
		"volume": func() *v1alpha1.CaptureOutput { return toVolume("archive", "") },
		"store":  func() *v1alpha1.CaptureOutput { return s3To("http://127.0.0.1:1") },
	} {
		for _, letter := range []string{"a", "b", "c", "d"} {
			o := make()
			o.Name = kind + letter
			if err := u.Ensure(uid, []*v1alpha1.CaptureOutput{o}, waiting(kind)); err != nil {
				t.Fatal(err)
			}
		}
	}
	counts := map[string]int{}
	for range 3 {
		counts[<-begun]++
	}
	if counts["volume"] != 1 || counts["store"] != 2 || len(begun) != 0 || len(u.stores) != 2 || len(u.volumes) != 1 {
		t.Errorf("%v are copied to at a time", counts)
	}
	close(release)
	u.Forget(uid)
}

func TestClosed(t *testing.T) {
	u := New(quick())
	u.Close()
	if err := u.Ensure(uid, []*v1alpha1.CaptureOutput{toVolume("archive", "")}, []File{fileOf(name, nil)}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	u.Forget(uid)
	u.Close()
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`<Error><Code>NoSuchUpload</Code></Error>`), "bytes=0-12")
	f.Add([]byte(`<?xml version="1.0"?><CompleteMultipartUploadResult><ETag>"x-1"</ETag></CompleteMultipartUploadResult>`), "")
	f.Add([]byte(`{"size": "3", "md5Hash": "x"}`), "bytes=0-")
	f.Add([]byte(`{"error": {"errors": [{"reason": "x"}]}}`), "x")
	f.Fuzz(func(t *testing.T, body []byte, text string) {
		for _, code := range []string{s3Code(body), gcsCode(body)} {
			if said := refusal("x", 500, code).reason; len(said) > 100 || strings.ContainsAny(said, "/\x1b\n") {
				t.Errorf("%q is said", said)
			}
		}
		if err := s3CheckCompleted(&answer{body: body}, "sum", "tag-1"); err != nil && len(err.Error()) > 200 {
			t.Error(err)
		}
		_ = gcsCheck(string(body), 3, nil)
		if n, err := gcsHas(text); err == nil && n < 0 {
			t.Errorf("%q: %d", text, n)
		}
		if u, err := parseEndpoint(text); err == nil && (u.User != nil || u.RawQuery != "" || u.Host == "") {
			t.Errorf("%q: %v", text, u)
		}
	})
}
