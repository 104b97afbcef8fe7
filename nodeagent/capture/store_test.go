package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/outputs"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// ended records packets of three interfaces and seals them.
func ended(t *testing.T, snapshot bool, change ...func(*Config)) (*engine, *v1alpha1.EnsureCaptureRequest) {
	t.Helper()
	e, f := fake(t, t.TempDir(), 3, change...)
	r := fakeRequest(fakepod.UID(), "a")
	r.NetworkSnapshot = snapshot
	e.ensure(r)
	for i := range 3 {
		var block []ring.Packet
		for n := range 300 {
			block = append(block, packetAt(int64(1e18+n*10+i), 100+n))
		}
		f.source(i).push(block...)
	}
	e.end(r.Uid)
	names := []*v1alpha1.CaptureName{{Address: []byte{10, 0, 0, 1}, Names: []string{"shop/web"}}}
	if state, err := e.Seal(context.Background(), &v1alpha1.SealCaptureRequest{Uid: r.Uid, Names: names}); err != nil || !state.Sealed {
		t.Fatalf("sealed as %v (%v)", state, err)
	}
	return e, r
}

func content1(t *testing.T, f outputs.File, offset int64) []byte {
	t.Helper()
	r, err := f.Open(offset)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The file of a node is one that others read, the same at every offset.
func TestFileOfNode(t *testing.T) {
	e, r := ended(t, false)
	files, err := e.captures[r.Uid].files()
	if err != nil || len(files) != 1 || files[0].Name != "shop/web/"+r.Uid+"/node-1.pcapng" {
		t.Fatalf("%v (%v)", files, err)
	}
	whole := content1(t, files[0], 0)
	if int64(len(whole)) != files[0].Size {
		t.Errorf("%d bytes, %d were said", len(whole), files[0].Size)
	}
	for _, offset := range []int{1, 100, 2000, len(whole) / 2, len(whole) - 1, len(whole)} {
		if rest := content1(t, files[0], int64(offset)); !bytes.Equal(rest, whole[offset:]) {
			t.Errorf("from %d there are %d bytes, want %d", offset, len(rest), len(whole)-offset)
		}
	}
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("tcpdump is not installed")
	}
	path := filepath.Join(t.TempDir(), "node.pcapng")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tcpdump", "-nr", path).Output(); err != nil || bytes.Count(out, []byte("\n")) != 900 {
		t.Errorf("tcpdump reads %d packets (%v)", bytes.Count(out, []byte("\n")), err)
	}
}

// What comes before the packets is read in pieces, however long it is: each interface has the text of the filter.
func TestFileOfManyInterfaces(t *testing.T) {
	const interfaces, filter, atOnce = 40, 60_000, 256 << 10
	e, f := fake(t, t.TempDir(), interfaces)
	r := fakeRequest(fakepod.UID(), "a")
	r.FilterText = strings.Repeat("x", filter)
	e.ensure(r)
	f.source(interfaces - 1).push(packetAt(1e18, 100))
	e.end(r.Uid)
	names := []*v1alpha1.CaptureName{{Address: []byte{10, 0, 0, 1}, Names: []string{"shop/web"}}}
	if _, err := e.Seal(context.Background(), &v1alpha1.SealCaptureRequest{Uid: r.Uid, Names: names}); err != nil {
		t.Fatal(err)
	}
	c := e.captures[r.Uid]
	<-c.sealed
	layout, err := c.layout()
	if err != nil {
		t.Fatal(err)
	}
	want, end := layout.AppendBegin(nil), layout.AppendEnd(nil)
	files, err := c.files()
	if err != nil {
		t.Fatal(err)
	}
	file := files[0]
	whole := content1(t, file, 0)
	if known, ok := layout.Size(); !ok || file.Size != known || file.Size != int64(len(whole)) || len(want) < interfaces*filter {
		t.Errorf("%d bytes, %d were said, want %d", len(whole), file.Size, known)
	}
	if !bytes.HasPrefix(whole, want) || !bytes.HasSuffix(whole, end) || len(whole) == len(want)+len(end) {
		t.Errorf("%d bytes are not what comes before the packets, packets, and what comes after them", len(whole))
	}
	for _, offset := range []int64{0, atOnce + 1, int64(len(want)) - 1} {
		in, err := file.Open(offset)
		if err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, len(want))
		if n, err := in.Read(buffer); err != nil || n == 0 || n > atOnce || !bytes.Equal(buffer[:n], whole[offset:][:n]) {
			t.Errorf("from %d, %d bytes are there at once (%v), want those of the file, at most %d", offset, n, err, atOnce)
		}
		if err := in.Close(); err != nil { // though more is there
			t.Error(err)
		}
	}
}

// The digest says everything that a node adds: whatever of it is other makes another one.
func TestDigest(t *testing.T) {
	e, r := ended(t, false)
	c := e.captures[r.Uid]
	parts, size, err := c.hashParts(context.Background())
	if err != nil || size != c.BlockBytes {
		t.Fatalf("%d of %d bytes (%v)", size, c.BlockBytes, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[string]string{string(c.Digest): "as it is"}
	if again := c.digest(parts); !bytes.Equal(again, c.Digest) {
		t.Error("the same again makes another digest")
	}
	for name, change := range map[string]func() (undo func()){
		"a name":        func() func() { old := c.names; c.names = nil; return func() { c.names = old } },
		"a count":       func() func() { parts[1].RingDrops++; return func() { parts[1].RingDrops-- } },
		"an end":        func() func() { parts[0].End++; return func() { parts[0].End-- } },
		"a part's name": func() func() { parts[2].Pod = "b"; return func() { parts[2].Pod = "a" } },
		"a packet":      func() func() { parts[2].sum[0]++; return func() { parts[2].sum[0]-- } },
	} {
		undo := change()
		digest := string(c.digest(parts))
		if other, ok := seen[digest]; ok {
			t.Errorf("%s makes the same digest as %s", name, other)
		}
		seen[digest] = name
		undo()
	}
}

// Who records pods of a namespace learns nothing of the node's own network, with which go the connections of all pods.
func TestSnapshots(t *testing.T) {
	e, r := ended(t, true)
	files, err := e.captures[r.Uid].files()
	if err != nil || len(files) != 2 {
		t.Fatalf("%v (%v)", files, err)
	}
	var all struct {
		Node    string
		Targets []networkOf
	}
	text := content1(t, files[1], 0)
	if err := json.Unmarshal(text, &all); err != nil || int64(len(text)) != files[1].Size {
		t.Fatalf("%s: %v", text, err)
	}
	if all.Node != "node-1" || len(all.Targets) != 1 || all.Targets[0].Pod != "a" || len(all.Targets[0].Network) == 0 {
		t.Errorf("%s", text)
	}
}

// A pod of a ClusterCapture that comes when the agent was started anew has a snapshot as others and the node have, and all of
// them count towards the quota.
func TestSnapshotsGoOn(t *testing.T) {
	dir := t.TempDir()
	e, f := fake(t, dir, 1)
	r := fakeRequest(fakepod.UID(), "a", "b")
	r.Namespace, r.NetworkSnapshot = "", true
	e.ensure(r)
	fakepod.Eventually(t, "snapshots", func() bool { return len(matching(t, dir, r.Uid, "network-*.json")) == 3 })
	e.stop()

	f.places["a"].gone.Store(true)
	next := launch(t, dir, f)
	again := fakeRequest(r.Uid, "c", "b")
	again.Namespace, again.Revision, again.NetworkSnapshot = "", 2, true
	next.ensure(again)
	next.end(r.Uid)
	network, err := next.captures[r.Uid].network()
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Targets []networkOf }
	if err := json.Unmarshal(content1(t, outputs.File{Open: network.open}, 0), &all); err != nil {
		t.Fatal(err)
	}
	var pods []string
	for _, one := range all.Targets {
		pods = append(pods, one.Pod)
	}
	slices.Sort(pods)
	if !slices.Equal(pods, []string{"", "a", "b", "c"}) {
		t.Errorf("there are snapshots of %q", pods)
	}
	size := int64(0)
	for _, file := range append(matching(t, dir, r.Uid, "network-*.json"), matching(t, dir, r.Uid, "*.pcapng")...) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if used := next.disk.used.Load(); used != size {
		t.Errorf("%d of %d bytes count towards the quota", used, size)
	}
	next.delete(r.Uid)
	if used := next.disk.used.Load(); used != 0 {
		t.Errorf("%d bytes count towards the quota, and nothing is there", used)
	}
}

func matching(t *testing.T, dir, uid, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, uid, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestStoreOnVolume(t *testing.T) {
	volumes := t.TempDir()
	if err := os.Mkdir(filepath.Join(volumes, "big"), 0o700); err != nil {
		t.Fatal(err)
	}
	uploads := outputs.New(outputs.Config{VolumesDir: volumes})
	t.Cleanup(uploads.Close)
	e, r := ended(t, false, func(c *Config) { c.Outputs = uploads })
	request := &v1alpha1.StoreCaptureRequest{Uid: r.Uid, Outputs: []*v1alpha1.CaptureOutput{
		{Name: "here", To: &v1alpha1.CaptureOutput_Volume{Volume: &v1alpha1.VolumeOutput{Name: "big"}}},
	}}
	if _, err := e.Store(context.Background(), request); err != nil {
		t.Fatal(err)
	}
	fakepod.Eventually(t, "the copy", func() bool {
		state := e.state(r.Uid)
		return len(state.Outputs) == 1 && state.Outputs[0].Phase == v1alpha1.CaptureOutputState_PHASE_STORED
	}, func() string { return e.state(r.Uid).String() })
	files, err := e.captures[r.Uid].files()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := os.ReadFile(filepath.Join(volumes, "big", files[0].Name))
	if err != nil || !bytes.Equal(stored, content1(t, files[0], 0)) {
		t.Errorf("%d bytes were stored (%v)", len(stored), err)
	}
	e.delete(r.Uid)
}

// Nothing is copied of a capture that is deleted at the same time.
func TestStoreOfDeleted(t *testing.T) {
	volumes := t.TempDir()
	uploads := outputs.New(outputs.Config{VolumesDir: volumes})
	t.Cleanup(uploads.Close)
	e, r := ended(t, false, func(c *Config) { c.Outputs = uploads })
	c := e.captures[r.Uid]
	e.delete(r.Uid)
	state, err := c.store(&v1alpha1.StoreCaptureRequest{Uid: r.Uid, Outputs: []*v1alpha1.CaptureOutput{
		{Name: "here", To: &v1alpha1.CaptureOutput_Volume{Volume: &v1alpha1.VolumeOutput{Name: "big"}}},
	}})
	if !errors.Is(err, ErrNotFound) || len(uploads.State(r.Uid)) != 0 {
		t.Errorf("%v (%v); %v is remembered", state, err, uploads.State(r.Uid))
	}
}
