package outputs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/outputs"
)

const (
	mebibyte = 1 << 20
	uid      = "5d0b1f3c-8f6e-4f1e-9f8b-2f0c6a1d7e55"
	// packetsBytes makes two whole parts and a piece.
	packetsBytes = 20*mebibyte + 12345
)

var packetsName, networkName = outputs.ObjectName("shop", "web", uid, "node-1.pcapng"), outputs.ObjectName("shop", "web", uid, "node-1-network.json")

// content is the same at every call.
func content(size int) []byte {
	made := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(made)
	return made
}

func fileOf(name string, content []byte, size int64) outputs.File {
	return outputs.File{Name: name, Size: size, Open: func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[offset:])), nil
	}}
}

// quick are pauses that a test can wait for.
func quick() outputs.Config {
	return outputs.Config{RetryAfter: 5 * time.Millisecond, RetryAtMost: 20 * time.Millisecond, RetryFor: time.Minute, Patience: 20 * time.Second}
}

// A trial is one uploader, one output behind a proxy, and two files.
type trial struct {
	t        *testing.T
	standin  *standin
	proxy    *proxy
	uploader *outputs.Uploader
	output   *v1alpha1.CaptureOutput
	packets  []byte
	network  []byte
}

func newTrial(t *testing.T, s *standin, config outputs.Config) *trial {
	tr := &trial{t: t, standin: s, proxy: newProxy(t, s), uploader: outputs.New(config), packets: content(packetsBytes), network: []byte(`{"links": []}`)}
	t.Cleanup(tr.uploader.Close)
	tr.output = &v1alpha1.CaptureOutput{Name: "archive", Prefix: prefix, AllowedNetworks: []string{"127.0.0.0/8"}}
	s.to(tr.output, tr.proxy.url)
	return tr
}

func (tr *trial) ensure() {
	tr.t.Helper()
	files := []outputs.File{fileOf(packetsName, tr.packets, int64(len(tr.packets))), fileOf(networkName, tr.network, -1)}
	if err := tr.uploader.Ensure(uid, []*v1alpha1.CaptureOutput{tr.output}, files); err != nil {
		tr.t.Fatal(err)
	}
}

// await waits for a state and checks what is said on the way.
func (tr *trial) await(what string, reached func(*v1alpha1.CaptureOutputState) bool) *v1alpha1.CaptureOutputState {
	tr.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		state := tr.uploader.State(uid)[0]
		tr.quiet(state)
		if reached(state) {
			return state
		}
		select {
		case <-deadline:
			tr.t.Fatalf("not %s: %v", what, state)
		case <-time.After(2 * time.Millisecond): // what is polled here is polled by those who use it too
		}
	}
}

func (tr *trial) phase(phase v1alpha1.CaptureOutputState_Phase) *v1alpha1.CaptureOutputState {
	tr.t.Helper()
	return tr.await(phase.String(), func(state *v1alpha1.CaptureOutputState) bool {
		ended := state.Phase == v1alpha1.CaptureOutputState_PHASE_FAILED || state.Phase == v1alpha1.CaptureOutputState_PHASE_STORED
		if ended && state.Phase != phase {
			tr.t.Fatalf("%v instead of %v", state, phase)
		}
		return state.Phase == phase
	})
}

// quiet checks that no secret, and no URL, is said.
func (tr *trial) quiet(state *v1alpha1.CaptureOutputState) {
	tr.t.Helper()
	text := fmt.Sprint(state) + fmt.Sprintf("%+v", tr.uploader.State(uid))
	for _, secret := range append([]string{"://", "canary", "CANARY"}, tr.standin.secrets...) {
		if strings.Contains(text, secret) {
			tr.t.Fatalf("%q is said: %s", secret, text)
		}
	}
}

// stored waits until everything is there, and compares it.
func (tr *trial) stored() *v1alpha1.CaptureOutputState {
	tr.t.Helper()
	state := tr.phase(v1alpha1.CaptureOutputState_PHASE_STORED)
	for i, want := range []struct {
		name    string
		content []byte
	}{{packetsName, tr.packets}, {networkName, tr.network}} {
		key := prefix + "/" + want.name
		got, found := tr.standin.read(tr.t, key)
		if !found || !bytes.Equal(got, want.content) {
			tr.t.Errorf("%s: there are %d bytes that are others than the %d that were recorded", want.name, len(got), len(want.content))
		}
		digest := sha256.Sum256(want.content)
		if o := state.Objects[i]; o.Key != key || o.Bytes != int64(len(want.content)) || o.Sha256 != hex.EncodeToString(digest[:]) {
			tr.t.Errorf("the state of %s is %v", key, o)
		}
	}
	return state
}

// sentOnce checks that no part was stored twice.
func (tr *trial) sentOnce() {
	tr.t.Helper()
	count := map[string]int{}
	for _, one := range tr.proxy.seen() {
		if one.kind == aPart && strings.Contains(one.key, "pcapng") {
			count[one.key+one.place]++
		}
	}
	if len(count) != 3 {
		tr.t.Errorf("%d parts were stored, and not 3", len(count))
	}
	for place, n := range count {
		if n != 1 {
			tr.t.Errorf("part %s was stored %d times", place, n)
		}
	}
}

func TestStores(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		tr := newTrial(t, s, quick())
		tr.ensure()
		if state := tr.stored(); state.Attempts != 1 {
			t.Errorf("%d attempts were needed", state.Attempts)
		}
		tr.sentOnce()
		seen := tr.proxy.seen()
		if last := seen[len(seen)-1]; !strings.HasSuffix(last.key, ".json") && !strings.Contains(last.place, "bytes") {
			t.Errorf("the last object was %v, and not the snapshot", last)
		}
		tr.ensure() // it is stored: nothing happens
		tr.phase(v1alpha1.CaptureOutputState_PHASE_STORED)
		if now := tr.proxy.seen(); len(now) != len(seen) {
			t.Errorf("what was stored was sent again: %v", now[len(seen):])
		}
	})
}

// Sizes at which something changes.
func TestSizes(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		for _, size := range []int{0, 1, 8*mebibyte - 1, 8 * mebibyte, 8*mebibyte + 1, 16 * mebibyte} {
			tr := newTrial(t, s, quick())
			tr.packets = content(size)
			tr.ensure()
			tr.stored()
		}
	})
}

func TestGoesOnAfterAFailedPart(t *testing.T) {
	for name, broken := range map[string]struct {
		part  int
		fault fault
	}{
		"the second part is refused":    {2, answers(http.StatusServiceUnavailable)},
		"the last part breaks off":      {3, breaksOff},
		"the first part is corrupted":   {1, corrupts},
		"too many requests at the last": {3, answers(http.StatusTooManyRequests)},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			standins(t, func(t *testing.T, s *standin) {
				corrupted := strings.Contains(name, "corrupted")
				tr := newTrial(t, s, quick())
				tr.proxy.breaks(nth(broken.part, broken.fault))
				tr.ensure()
				if state := tr.stored(); state.Attempts < 2 {
					t.Errorf("%d attempts were needed: nothing was broken", state.Attempts)
				}
				if !corrupted { // such a part may be found out when all have been sent
					tr.sentOnce()
				}
			})
		})
	}
}

// The store has everything, and the agent was not told.
func TestAnswerThatIsLost(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		tr := newTrial(t, s, quick())
		tr.proxy.breaks(losesTheEnd())
		tr.ensure()
		if state := tr.stored(); state.Attempts != 2 {
			t.Errorf("%d attempts were needed", state.Attempts)
		}
		tr.sentOnce()
	})
}

// An agent that was started anew knows nothing of what it stored, and stores the same again.
func TestStoresAgainAfterARestart(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		first := newTrial(t, s, quick())
		first.ensure()
		before := first.stored()
		first.uploader.Close()
		second := newTrial(t, s, quick())
		second.ensure()
		if after := second.stored(); fmt.Sprint(after.Objects) != fmt.Sprint(before.Objects) {
			t.Errorf("%v after %v", after, before)
		}
	})
}

func TestNeverStoresWhatIsCorrupted(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		config := quick()
		config.RetryFor = 200 * time.Millisecond
		tr := newTrial(t, s, config)
		tr.proxy.breaks(nth(0, corrupts))
		tr.ensure()
		tr.phase(v1alpha1.CaptureOutputState_PHASE_FAILED)
	})
}

func TestForbidden(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		tr := newTrial(t, s, quick())
		tr.proxy.breaks(answers(http.StatusForbidden))
		tr.ensure()
		state := tr.phase(v1alpha1.CaptureOutputState_PHASE_FAILED)
		if state.Attempts != 3 || !strings.Contains(state.Message, "403") && !strings.Contains(state.Message, "token") {
			t.Errorf("%v", state)
		}
		tr.proxy.breaks(nil) // somebody gave the right
		tr.ensure()
		tr.stored()
	})
}

func TestForbiddenAtTheLastPart(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		tr := newTrial(t, s, quick())
		var parts atomic.Int32
		tr.proxy.breaks(func(p *proxy, w http.ResponseWriter, r *http.Request) bool {
			return sends(p, r) && parts.Add(1) > 2 && answers(http.StatusForbidden)(p, w, r)
		})
		tr.ensure()
		state := tr.phase(v1alpha1.CaptureOutputState_PHASE_FAILED)
		if state.Attempts != 3 || !strings.Contains(state.Message, "part 3") && !strings.Contains(state.Message, "block 3") {
			t.Errorf("%v", state)
		}
		if s.aborts && tr.proxy.count(anAbort) != 1 {
			t.Error("what was begun was not given up")
		}
		tr.proxy.breaks(nil)
		tr.ensure()
		tr.stored()
	})
}

func TestStalls(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		config := quick()
		config.Patience, config.RetryFor = 300*time.Millisecond, time.Second
		tr := newTrial(t, s, config)
		tr.proxy.breaks(nth(0, stalls))
		tr.ensure()
		state := tr.phase(v1alpha1.CaptureOutputState_PHASE_FAILED)
		if !strings.Contains(state.Message, "too long") {
			t.Errorf("%v", state)
		}
	})
}

func TestRefused(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		config := quick()
		config.RetryFor = 300 * time.Millisecond
		tr := newTrial(t, s, config)
		good := tr.output
		tr.output = &v1alpha1.CaptureOutput{Name: good.Name, Prefix: prefix, AllowedNetworks: good.AllowedNetworks}
		s.to(tr.output, "http://"+freeAddress(t)+mustURL(t, tr.proxy.url).Path)
		tr.ensure()
		if state := tr.phase(v1alpha1.CaptureOutputState_PHASE_FAILED); !strings.Contains(state.Message, "refused") {
			t.Errorf("%v", state)
		}
		tr.output = good // it is there now
		tr.ensure()
		tr.stored()
	})
}

func TestFollowsNoRedirects(t *testing.T) {
	var visits atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	defer elsewhere.Close()
	standins(t, func(t *testing.T, s *standin) {
		tr := newTrial(t, s, quick())
		tr.proxy.breaks(func(_ *proxy, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", elsewhere.URL+r.URL.RequestURI())
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		})
		tr.ensure()
		tr.phase(v1alpha1.CaptureOutputState_PHASE_FAILED)
		if visits.Load() != 0 {
			t.Error("a redirect was followed")
		}
	})
}

// A store that is slow, and goes on, is waited for.
func TestSlow(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		config := quick()
		config.Patience = 5 * time.Second
		tr := newTrial(t, s, config)
		tr.packets = content(9 * mebibyte)
		tr.proxy.breaks(nth(1, func(p *proxy, w http.ResponseWriter, r *http.Request) bool {
			var got bytes.Buffer
			for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
				if _, err := io.CopyN(&got, r.Body, 64<<10); err != nil {
					break
				}
			}
			r.Body = io.NopCloser(&got)
			p.pass(w, r)
			return true
		}))
		tr.ensure()
		if state := tr.stored(); state.Attempts != 1 {
			t.Errorf("%d attempts were needed", state.Attempts)
		}
	})
}

// Forget ends what is under way at once, and gives up what was begun.
func TestForget(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		tr := newTrial(t, s, quick())
		reached := make(chan struct{})
		tr.proxy.breaks(nth(2, func(p *proxy, w http.ResponseWriter, r *http.Request) bool {
			close(reached)
			return stalls(p, w, r)
		}))
		tr.ensure()
		<-reached
		tr.uploader.Forget(uid)
		if len(tr.uploader.State(uid)) != 0 {
			t.Error("there still is a state")
		}
		if _, found := s.read(t, prefix+"/"+packetsName); found {
			t.Error("half an object was stored")
		}
		if s.aborts && tr.proxy.count(anAbort) != 1 {
			t.Error("the upload was not given up")
		}
	})
}

// Credentials that are wrong fail soon, and are not repeated; when they are mended, it goes on.
func TestWrongCredentials(t *testing.T) {
	standins(t, func(t *testing.T, s *standin) {
		tr := newTrial(t, s, quick())
		wrong := func(text string) string { return strings.ReplaceAll(text, "Y2FuYXJ5", "Y2FuYXJZ") }
		switch s.name {
		case "versitygw":
			tr.output.GetS3().SecretAccessKey = "canary" + strings.Repeat("x", 34)
		case "azurite":
			tr.output.GetAzureBlob().AccountKey = wrong(azureKey)
		default:
			t.Skip("the stand-in takes every signature")
		}
		tr.ensure()
		if state := tr.phase(v1alpha1.CaptureOutputState_PHASE_FAILED); state.Attempts != 3 || !strings.Contains(state.Message, "403") {
			t.Errorf("%v", state)
		}
		s.to(tr.output, tr.proxy.url)
		tr.ensure()
		tr.stored()
	})
}

// A shared access signature that may write and not read is enough.
func TestAzureSharedAccessSignature(t *testing.T) {
	s := startAzurite(t)
	credential, err := azblob.NewSharedKeyCredential(azureAccount, azureKey)
	if err != nil {
		t.Fatal(err)
	}
	token, err := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, ExpiryTime: time.Now().Add(time.Hour), ContainerName: bucket,
		Permissions: (&sas.ContainerPermissions{Create: true, Write: true}).String(),
	}.SignWithSharedKey(credential)
	if err != nil {
		t.Fatal(err)
	}
	s.secrets = append(s.secrets, token.Signature())
	tr := newTrial(t, s, quick())
	azure := tr.output.GetAzureBlob()
	azure.AccountKey, azure.SasToken = "", token.Encode()
	tr.ensure()
	tr.stored()
	tr.sentOnce()
}
