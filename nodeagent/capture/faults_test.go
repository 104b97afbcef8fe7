package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// fill pushes packets until the capture has ended.
func fill(e *engine, f *fakes, uid string) *v1alpha1.CaptureState {
	data := packetAt(0, 1400)
	for n := int64(1); e.state(uid).Phase == v1alpha1.CaptureState_PHASE_RUNNING; n += 1000 {
		var block []ring.Packet
		for i := range int64(1000) {
			data.Time = n + i
			block = append(block, data)
		}
		f.source(0).pushUnlessStopped(block)
	}
	return e.state(uid)
}

func storageFull(t *testing.T, e *engine, f *fakes, most int64) {
	t.Helper()
	r := fakeRequest(fakepod.UID(), "a")
	e.ensure(r)
	state := fill(e, f, r.Uid)
	if state.Reason != v1alpha1.CaptureState_REASON_STORAGE_FULL || state.Parts[0].Counts.DiskDrops == 0 || state.Message == "" {
		t.Errorf("ended as %v", state)
	}
	s := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid})
	consistent(t, state, s)
	if size := int64(len(s.blocks)); size > most || size < most/2 {
		t.Errorf("%d bytes were kept, the most is %d", size, most)
	}
	if used := e.disk.used.Load(); used > most {
		t.Errorf("%d bytes count towards the quota", used)
	}
	e.delete(r.Uid)
	again := fakeRequest(fakepod.UID(), "a")
	e.ensure(again)
	f.source(len(f.sources) - 1).push(packetAt(1, 100))
	e.waitFor(again.Uid, 1)
}

func TestQuota(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1, func(c *Config) { c.Options.Quota = parseBytes("40Mi") })
	storageFull(t, e, f, 40<<20)
}

// tmpfs mounts a small file system.
func tmpfs(t *testing.T) string {
	t.Helper()
	fakepod.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatalf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

func TestDiskFull(t *testing.T) {
	for _, free := range []string{"0", "20Mi"} {
		t.Run("with "+free+" to stay free", func(t *testing.T) {
			leave := parseBytes(free)
			e, f := fake(t, tmpfs(t), 1, func(c *Config) {
				c.Options.MinFree = &leave
				c.Failed = func(err error) { t.Log(err) } // what describes the capture may find no room either
			})
			storageFull(t, e, f, 64<<20-leave.Value())
		})
	}
}

// A write that fails midway leaves nothing of it.
func TestWriteFails(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	e.ensure(r)
	f.source(0).push(packetAt(1, 100))
	e.waitFor(r.Uid, 1)
	p := e.captures[r.Uid].parts[0]
	if err := p.writer.file.Close(); err != nil { // the goroutine waits for packets
		t.Fatal(err)
	}
	f.source(0).push(packetAt(2, 100))
	fakepod.Eventually(t, "the end", func() bool { return e.state(r.Uid).Phase == v1alpha1.CaptureState_PHASE_ENDED })
	state := e.state(r.Uid)
	if state.Reason != v1alpha1.CaptureState_REASON_FAILED || state.Parts[0].Counts.DiskDrops != 1 || state.Parts[0].Counts.Packets != 1 {
		t.Errorf("ended as %v", state)
	}
	consistent(t, state, e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}))
}

// A capture that cannot be written down is not begun, and leaves nothing open: its controller asks again and again.
func TestBeginFails(t *testing.T) {
	e, _ := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	r.Name = "\xff" // of which no JSON can be made
	c := newCapture(e.Manager, r)
	if err := c.begin(); err == nil {
		t.Fatal("it is begun")
	}
	if _, err := c.root.Stat("."); !errors.Is(err, os.ErrClosed) {
		t.Errorf("its folder is open: %v", err)
	}
}

// noRoom has the files that describe a capture and its first part not be written, until what it returns is called.
func noRoom(t *testing.T, folder string) func() {
	t.Helper()
	var all []string
	for _, name := range []string{metaFile, partName(0)} {
		all = append(all, filepath.Join(folder, name+".new"))
		if err := os.Mkdir(all[len(all)-1], 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, one := range all {
			if err := os.Remove(one); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What could not be written down is written down when that is possible again, or an agent that is started anew would go on
// with what has ended, and with a lease that was given back.
func TestSavedLater(t *testing.T) {
	var told atomic.Int32
	e, f := fake(t, t.TempDir(), 1, func(c *Config) { c.Failed = func(error) { told.Add(1) } })
	r := fakeRequest(fakepod.UID(), "a")
	r.PacketsLease = proto.Int64(100)
	e.ensure(r)
	f.source(0).push(packetAt(1, 100))
	e.waitFor(r.Uid, 1)
	again := noRoom(t, filepath.Join(e.dir, r.Uid))
	next := proto.CloneOf(r)
	next.Revision, next.PacketsLease = 2, proto.Int64(10)
	if _, err := e.Ensure(context.Background(), next); err == nil {
		t.Error("what was not written down is said to be in force")
	}
	again()
	e.ensure(next)
	root := e.captures[r.Uid].root
	var capture meta
	var request v1alpha1.EnsureCaptureRequest
	if err := errors.Join(readJSON(root, metaFile, &capture), protojson.Unmarshal(capture.Request, &request)); err != nil || request.GetPacketsLease() != 10 {
		t.Errorf("the lease of revision %d is %d: %v", request.GetRevision(), request.GetPacketsLease(), err)
	}

	again = noRoom(t, filepath.Join(e.dir, r.Uid))
	e.end(r.Uid)
	if told.Load() < 2 {
		t.Errorf("told %d times", told.Load())
	}
	again()
	fakepod.Eventually(t, "the end to be written down", func() bool {
		var part partState
		err := errors.Join(readJSON(root, metaFile, &capture), readJSON(root, partName(0), &part))
		return err == nil && capture.Phase == v1alpha1.CaptureState_PHASE_ENDED && part.Phase == v1alpha1.CaptureState_PHASE_ENDED
	})
}

func TestManyAtOnce(t *testing.T) {
	const most, asked = 20, 1000
	e, _ := fake(t, t.TempDir(), 1, func(c *Config) { c.Options.MaxRunning = most })
	var begun, refused atomic.Int32
	var all sync.WaitGroup
	for range asked {
		all.Go(func() {
			switch _, err := e.Ensure(context.Background(), fakeRequest(fakepod.UID(), "a")); {
			case err == nil:
				begun.Add(1)
			case errors.Is(err, ErrExhausted):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if begun.Load() != most || refused.Load() != asked-most {
		t.Errorf("%d began and %d were refused, want %d and the others", begun.Load(), refused.Load(), most)
	}
}

func TestRevisions(t *testing.T) {
	e, _ := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a", "b")
	r.Revision = 5
	e.ensure(r)
	old := fakeRequest(r.Uid, "a")
	old.Revision = 4
	if _, err := e.Ensure(context.Background(), old); !errors.Is(err, ErrPrecondition) {
		t.Errorf("an older request: %v", err)
	}
	if _, err := e.Stop(context.Background(), &v1alpha1.StopCaptureRequest{Uid: r.Uid, Revision: 4}); !errors.Is(err, ErrPrecondition) {
		t.Errorf("an older request to stop: %v", err)
	}
	if state := e.ensure(r); len(state.Parts) != 2 {
		t.Errorf("the same request again: %v", state)
	}
	next := fakeRequest(r.Uid, "b")
	next.Revision = 6
	e.ensure(next)
	fakepod.Eventually(t, "the part that is no longer asked for to end", func() bool {
		return e.state(r.Uid).Parts[0].Phase == v1alpha1.CaptureState_PHASE_ENDED
	})
	if state := e.state(r.Uid); state.Parts[0].Reason != v1alpha1.CaptureState_REASON_NO_LONGER_TARGET || state.Parts[1].Phase != v1alpha1.CaptureState_PHASE_RUNNING {
		t.Errorf("%v", state)
	}
}

// A target that is asked for again, while what was recorded of it is still being written, is recorded again.
func TestTargetComesBack(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a", "b")
	e.ensure(r)
	c := e.captures[r.Uid]
	c.addresses.mu.Lock() // the part waits for it with what it was given
	f.source(1).push(packetAt(10, 100))
	for revision, pods := range [][]string{{"a"}, {"a", "b"}} {
		next := fakeRequest(r.Uid, pods...)
		next.Revision = int64(revision) + 2
		e.ensure(next)
	}
	c.addresses.mu.Unlock()
	fakepod.Eventually(t, "the part to end", func() bool { return e.state(r.Uid).Parts[1].Phase == v1alpha1.CaptureState_PHASE_ENDED })
	state := e.state(r.Uid)
	if len(state.Parts) != 3 || state.Parts[2].Key != "b" || state.Parts[2].Phase != v1alpha1.CaptureState_PHASE_RUNNING || state.Parts[1].Counts.Packets != 1 {
		t.Errorf("%v", state)
	}
}

func TestInvalidRequests(t *testing.T) {
	e, _ := fake(t, t.TempDir(), 1)
	for field, change := range map[string]func(*v1alpha1.EnsureCaptureRequest){
		"uid":                      func(r *v1alpha1.EnsureCaptureRequest) { r.Uid = "../../etc" },
		"namespace":                func(r *v1alpha1.EnsureCaptureRequest) { r.Namespace = strings.Repeat("x", 64) },
		"name":                     func(r *v1alpha1.EnsureCaptureRequest) { r.Name = "a\x00b" },
		"snap_length":              func(r *v1alpha1.EnsureCaptureRequest) { r.SnapLength = 63 },
		"duration_nano":            func(r *v1alpha1.EnsureCaptureRequest) { r.DurationNano = 0 },
		"renew_within_nano":        func(r *v1alpha1.EnsureCaptureRequest) { r.RenewWithinNano = 1 },
		"packets_limit":            func(r *v1alpha1.EnsureCaptureRequest) { r.PacketsLimit = -1 },
		"ring_files":               func(r *v1alpha1.EnsureCaptureRequest) { r.RingFiles = 1 },
		"ring_file_bytes":          func(r *v1alpha1.EnsureCaptureRequest) { r.RingFiles = 2 },
		"targets[1].key":           func(r *v1alpha1.EnsureCaptureRequest) { r.Targets = append(r.Targets, r.Targets[0]) },
		"targets[0].interfaces[0]": func(r *v1alpha1.EnsureCaptureRequest) { r.Targets[0].Interfaces = []string{""} },
		"peers[0]":                 func(r *v1alpha1.EnsureCaptureRequest) { r.Peers = [][]byte{{1}} },
		"filter_text":              func(r *v1alpha1.EnsureCaptureRequest) { r.FilterText = strings.Repeat("x", 64<<10+1) },
		"ethernet_filter":          func(r *v1alpha1.EnsureCaptureRequest) { r.EthernetFilter = make([]uint64, 4097) },
	} {
		r := fakeRequest(fakepod.UID(), "a")
		change(r)
		if _, err := e.Ensure(context.Background(), r); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), field+": ") {
			t.Errorf("%s: %v", field, err)
		}
	}
	entries, err := os.ReadDir(e.dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("%d folders are left (%v)", len(entries), err)
	}
}

// A filter is as long as the API server takes one, and is written into every file.
func TestLongFilterText(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	r.FilterText = "port 1" + strings.Repeat(" or port 1", 64<<10/10-1)
	e.ensure(r)
	f.source(0).push(packetAt(10, 100))
	e.waitFor(r.Uid, 1)
	consistent(t, e.end(r.Uid), e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}))
}

func TestNoCapture(t *testing.T) {
	e, _ := fake(t, t.TempDir(), 1)
	ctx, uid := context.Background(), fakepod.UID()
	_, stop := e.Stop(ctx, &v1alpha1.StopCaptureRequest{Uid: uid})
	_, seal := e.Seal(ctx, &v1alpha1.SealCaptureRequest{Uid: uid})
	_, store := e.Store(ctx, &v1alpha1.StoreCaptureRequest{Uid: uid})
	read := e.Read(ctx, &v1alpha1.ReadCaptureRequest{Uid: uid}, nil)
	for what, err := range map[string]error{"stop": stop, "seal": seal, "store": store, "read": read} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r := fakeRequest(uid, "a")
	e.ensure(r)
	if _, err := e.Seal(ctx, &v1alpha1.SealCaptureRequest{Uid: uid}); !errors.Is(err, ErrPrecondition) {
		t.Errorf("sealing while it runs: %v", err)
	}
	if _, err := e.Store(ctx, &v1alpha1.StoreCaptureRequest{Uid: uid}); !errors.Is(err, ErrPrecondition) {
		t.Errorf("storing while it runs: %v", err)
	}
}

// The rings of many interfaces get smaller, and then there are none.
func TestRingMemory(t *testing.T) {
	e, _ := fake(t, t.TempDir(), 200)
	r := fakeRequest(fakepod.UID(), "a")
	r.SnapLength = 128
	state := e.ensure(r)
	if len(state.Parts) < 70 || len(state.Parts) > 150 || len(state.Missing) != 1 || !strings.Contains(state.Missing[0].Reason, "captures.ringMemory") {
		t.Errorf("%d parts, missing %v", len(state.Parts), state.Missing)
	}
	e.delete(r.Uid)
	if left := e.ringMemory; left != e.config.Options.RingMemory.Value() {
		t.Errorf("%d bytes are left", left)
	}
}

// What follows has real pods.

func TestPodGoes(t *testing.T) {
	e := start(t, t.TempDir())
	c := connect(t, 2)
	r := request(c.pod)
	e.recording(r, 1)
	c.send(t, 2, 10, 100, "before")
	fakepod.Eventually(t, "packets", func() bool { return e.state(r.Uid).Parts[0].Counts.Packets >= 10 })
	c.pod.End()
	begun := time.Now()
	fakepod.Eventually(t, "the part to end", func() bool { return e.state(r.Uid).Parts[0].Phase == v1alpha1.CaptureState_PHASE_ENDED })
	t.Logf("it ended after %v", time.Since(begun))
	state := e.state(r.Uid)
	if state.Parts[0].Reason != v1alpha1.CaptureState_REASON_TARGET_GONE || state.Phase != v1alpha1.CaptureState_PHASE_RUNNING {
		t.Errorf("%v", state)
	}
	fakepod.Eventually(t, "the namespace to go, and with it the other end of its cable", func() bool {
		return c.peer.Command("ip", "link", "show", "dev", "peer0").Run() != nil
	})
	state = e.end(r.Uid)
	consistent(t, state, e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}))
}

// An address that another pod gets says nothing about whose packets these are.
func TestAddressUsedAgain(t *testing.T) {
	e := start(t, t.TempDir())
	first := connect(t, 3)
	r := request(first.pod)
	e.recording(r, 1)
	first.send(t, 3, 5, 100, "first")
	fakepod.Eventually(t, "packets", func() bool { return e.state(r.Uid).Parts[0].Counts.Packets >= 5 })
	first.pod.End()
	second := connect(t, 3) // the same addresses
	for range 20 {
		second.send(t, 3, 50, 100, "second")
	}
	e.end(r.Uid)
	if blocks := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}).blocks; bytes.Contains(blocks, []byte("second")) || !bytes.Contains(blocks, []byte("first")) {
		t.Error("packets of another pod were recorded")
	}
}

// Pods and interfaces that appear while a capture runs join it.
func TestJoin(t *testing.T) {
	e := start(t, t.TempDir())
	c := connect(t, 4)
	r := request(c.pod)
	absent := request(&fakepod.Pod{UID: fakepod.UID()})
	r.Targets = append(r.Targets, absent.Targets...)
	fakepod.Eventually(t, "one part", func() bool { return len(e.ensure(r).Parts) == 1 })
	if state := e.state(r.Uid); len(state.Missing) != 1 || state.Missing[0].Target.Key != absent.Targets[0].Key {
		t.Errorf("%v", state)
	}
	fakepod.Connect(c.pod.Namespace, c.peer, "net1", "peer1", 5)
	fakepod.Eventually(t, "the interface to join", func() bool { return len(e.state(r.Uid).Parts) == 2 })
	c.pod.Run("ip", "link", "del", "net1")
	fakepod.Eventually(t, "its part to end", func() bool {
		return e.state(r.Uid).Parts[1].Reason == v1alpha1.CaptureState_REASON_TARGET_GONE
	}, func() string { return e.state(r.Uid).String() })
	if state := e.state(r.Uid); state.Parts[0].Phase != v1alpha1.CaptureState_PHASE_RUNNING {
		t.Errorf("%v", state)
	}
}

// An interface that is set down and up at once is recorded again.
func TestInterfaceFlaps(t *testing.T) {
	e := start(t, t.TempDir())
	c := connect(t, 13)
	r := request(c.pod)
	e.recording(r, 1)
	for parts := 2; parts <= 4; parts++ {
		c.pod.RunInput("link set dev eth0 down\nlink set dev eth0 up\n", "ip", "-batch", "-")
		fakepod.Eventually(t, "it to be recorded again", func() bool {
			state := e.state(r.Uid)
			return len(state.Parts) == parts && state.Parts[parts-1].Phase == v1alpha1.CaptureState_PHASE_RUNNING &&
				state.Parts[parts-2].Reason == v1alpha1.CaptureState_REASON_TARGET_GONE
		}, func() string { return e.state(r.Uid).String() })
	}
}

func TestNamedInterfaces(t *testing.T) {
	e := start(t, t.TempDir())
	c := connect(t, 6)
	r := request(c.pod)
	r.Targets[0].Interfaces = []string{"lo", "eth9"}
	fakepod.Eventually(t, "loopback to be recorded", func() bool { return len(e.ensure(r).Parts) == 1 })
	state := e.state(r.Uid)
	if state.Parts[0].Interface != "lo" || len(state.Missing) != 1 || !strings.Contains(state.Missing[0].Reason, "there is no interface eth9") {
		t.Errorf("%v", state)
	}
	c.pod.Do(func() {
		conn, err := net.Dial("udp", "127.0.0.1:9")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("once"))
	})
	fakepod.Eventually(t, "the packet and the answer to it", func() bool { return e.state(r.Uid).Parts[0].Counts.Packets >= 2 })
	e.end(r.Uid)
	if got := bytes.Count(e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}).blocks, []byte("once")); got != 2 { // and in the ICMP error
		t.Errorf("the packet is there %d times", got)
	}
}

// The node's own namespace stands for a node, and for pods in it.
func TestNode(t *testing.T) {
	e := start(t, t.TempDir(), func(c *Config) { c.Uplinks = func() ([]string, error) { return []string{"lo"}, nil } })
	r := request()
	r.Targets = []*v1alpha1.CaptureTarget{{}}
	state := e.ensure(r)
	if len(state.Parts) != 1 || state.Parts[0].Interface != "lo" || state.Parts[0].Pod != "" {
		t.Fatalf("%v", state)
	}
	conn, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("of the node"))
	fakepod.Eventually(t, "packets", func() bool { return e.state(r.Uid).Parts[0].Counts.Packets > 0 })
	e.end(r.Uid)
}

func TestBadFilterOfKernel(t *testing.T) {
	e := start(t, t.TempDir())
	c := connect(t, 7)
	r := request(c.pod)
	r.EthernetFilter = []uint64{word(0xff, 0, 0, 0)}
	fakepod.Eventually(t, "the reason", func() bool {
		state := e.ensure(r)
		return len(state.Missing) == 1 && strings.Contains(state.Missing[0].Reason, "attaching a filter")
	}, func() string { return e.state(r.Uid).String() })
}

// Two captures of several interfaces, counted by nftables on the same devices.
func TestAgainstNftables(t *testing.T) {
	e := start(t, t.TempDir())
	c := connect(t, 8)
	fakepod.Connect(c.pod.Namespace, c.peer, "net1", "peer1", 9)
	rules := "table netdev count {\n"
	for _, device := range []string{"eth0", "net1"} {
		rules += fmt.Sprintf("chain in_%s { type filter hook ingress device %s priority 0; udp dport 9 ip version 4 counter; }\n", device, device)
	}
	c.pod.RunInput(rules+"}\n", "nft", "-f", "-")
	small, whole := request(c.pod), request(c.pod)
	small.SnapLength, small.EthernetFilter, whole.EthernetFilter = 64, udp, udp
	e.recording(small, 2)
	e.recording(whole, 2)
	var all sync.WaitGroup
	for _, subnet := range []int{8, 9} {
		for range 2 {
			all.Go(func() { c.send(t, subnet, 20_000, 300, "x") })
		}
	}
	all.Wait()
	var counted [2]int64
	fakepod.Eventually(t, "packets to arrive", func() bool {
		text := c.pod.Run("nft", "list", "ruleset")
		fields := strings.Fields(text)
		n := 0
		for i, field := range fields {
			if field == "packets" && n < 2 {
				_, _ = fmt.Sscan(fields[i+1], &counted[n])
				n++
			}
		}
		return counted[0] >= 39_000 && counted[1] >= 39_000
	}, func() string { return c.pod.Run("nft", "list", "ruleset") })
	for _, r := range []*v1alpha1.EnsureCaptureRequest{small, whole} {
		state := e.end(r.Uid)
		consistent(t, state, e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}))
		for i, part := range state.Parts {
			if part.Counts.Matched != counted[i] {
				t.Errorf("%s: %v, nftables counted %d", part.Interface, part.Counts, counted[i])
			}
		}
	}
}

// Every segment is a file that others read.
func TestOthersReadSegments(t *testing.T) {
	for _, program := range []string{"tcpdump", "capinfos"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	r.RingFiles, r.RingFileBytes = 1000, 1<<20
	e.ensure(r)
	for n := range int64(30) {
		var block []ring.Packet
		for i := range int64(100) {
			block = append(block, packetAt(1e18+n*100+i, 1000))
		}
		f.source(0).push(block...)
	}
	e.waitFor(r.Uid, 3000)
	segments, err := filepath.Glob(filepath.Join(e.dir, r.Uid, "*.pcapng"))
	if err != nil || len(segments) != 3 {
		t.Fatalf("%d segments (%v)", len(segments), err)
	}
	packets := 0
	for _, segment := range segments {
		out, err := exec.Command("tcpdump", "-nr", segment).Output()
		if err != nil {
			t.Errorf("tcpdump: %v", err)
		}
		packets += bytes.Count(out, []byte("\n"))
		if out, err := exec.Command("capinfos", segment).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("node-1/shop/a/eth0")) {
			t.Errorf("capinfos: %s (%v)", out, err)
		}
	}
	if packets != 3000 {
		t.Errorf("tcpdump reads %d packets", packets)
	}
}

// Nothing of captures is left open.
func TestNothingIsLeftOpen(t *testing.T) {
	e := start(t, t.TempDir())
	c := connect(t, 10)
	one := func() {
		r := request(c.pod)
		e.recording(r, 1)
		c.send(t, 10, 10, 100, "x")
		e.end(r.Uid)
		e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid})
		e.delete(r.Uid)
	}
	one()
	before := openFiles(t)
	for range 10 {
		one()
	}
	fakepod.Eventually(t, "as few open files as before", func() bool { return openFiles(t) <= before }, func() string {
		return fmt.Sprintf("%d files were open, now %d", before, openFiles(t))
	})
}

// openFiles is how many files this process has open, but for those by which pods are known: other tests have pods, too.
func openFiles(t testing.TB) (count int) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range open {
		if to, _ := os.Readlink(filepath.Join("/proc/self/fd", file.Name())); !strings.HasPrefix(to, "/proc/") {
			count++
		}
	}
	return count
}

// What passes between two recorded pods is kept at one of them, and counted at both.
func TestOncePerFlow(t *testing.T) {
	e := start(t, t.TempDir())
	a, b := fakepod.New(t, fakepod.Prefix()), fakepod.New(t, fakepod.Prefix())
	fakepod.Connect(a.Namespace, b.Namespace, "eth0", "eth0", 11)
	r := request(a, b)
	r.OncePerFlow, r.Peers, r.EthernetFilter = true, [][]byte{{10, 99, 11, 1}, {10, 99, 11, 2}}, udp
	e.recording(r, 2)
	cable{a, b.Namespace}.send(t, 11, 200, 50, "x") // from b, whose port is the higher one
	fakepod.Eventually(t, "packets at both", func() bool {
		parts := e.state(r.Uid).Parts
		return parts[0].Counts.Matched == 200 && parts[1].Counts.Matched == 200
	}, func() string { return e.state(r.Uid).String() })
	state := e.end(r.Uid)
	consistent(t, state, e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}))
	if at := state.Parts[0].Counts; at.OtherVantage != 200 || state.Parts[1].Counts.Packets != 200 {
		t.Errorf("%v", state.Parts)
	}
}

// Headers never carry what follows them, live or later.
func TestCanary(t *testing.T) {
	e := start(t, t.TempDir())
	c := connect(t, 12)
	r := request(c.pod)
	e.recording(r, 1)
	live, followed := &stream{}, make(chan error, 1)
	go func() {
		followed <- e.Read(context.Background(), &v1alpha1.ReadCaptureRequest{Uid: r.Uid, Follow: true, HeadersOnly: true}, func(b *v1alpha1.ReadCaptureResponse) error {
			live.take(proto.CloneOf(b))
			return nil
		})
	}()
	c.send(t, 12, 100, 200, canary)
	fakepod.Eventually(t, "packets", func() bool { return e.state(r.Uid).Parts[0].Counts.Packets >= 100 })
	e.end(r.Uid)
	if err := <-followed; err != nil {
		t.Fatal(err)
	}
	whole, later := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}), e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid, HeadersOnly: true})
	if !bytes.Contains(whole.blocks, []byte(canary)) || len(later.packets(t)) != len(whole.packets(t)) || len(live.packets(t)) != len(whole.packets(t)) {
		t.Errorf("%d packets, %d with headers only, %d live", len(whole.packets(t)), len(later.packets(t)), len(live.packets(t)))
	}
	for name, blocks := range map[string][]byte{"live": live.blocks, "later": later.blocks} {
		if bytes.Contains(blocks, []byte(canary[:6])) {
			t.Errorf("%s: payload in headers", name)
		}
	}
}
