package capture

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// recovered opens a folder as an agent does that was started anew, without going on.
func recovered(t testing.TB, dir string, failed func(error)) *Manager {
	t.Helper()
	m, err := New(Config{Options: DefaultOptions(), Node: "node-1", Dir: dir, Pods: noPods{}, Failed: failed})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// copyFolder copies a folder, once more when a file of it has taken another's place meanwhile, and its former name is gone.
func copyFolder(t testing.TB, from string) string {
	t.Helper()
	for {
		to := t.TempDir()
		err := os.CopyFS(to, os.DirFS(from))
		if err == nil {
			return to
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func lastSegment(t testing.TB, dir, uid string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, uid, "*.pcapng"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no segment: %v", err)
	}
	return files[len(files)-1]
}

// An agent may be killed within any write: what is found again is whole packets, and as many as are counted.
func TestCutAnywhere(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	e.ensure(r)
	f.source(0).push(packetAt(5, 100), packetAt(3, 101), packetAt(9, 90))
	fakepod.Eventually(t, "packets", func() bool { return e.state(r.Uid).Parts[0].Counts.Packets == 3 })
	whole, err := os.ReadFile(lastSegment(t, e.dir, r.Uid))
	if err != nil {
		t.Fatal(err)
	}
	header, err := headerSize(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	two := int(header) + pcapng.PacketSize(100) + pcapng.PacketSize(101)
	for size := range len(whole) + 1 {
		if size > 20 && size < two-3 && size%7 != 0 {
			continue
		}
		dir := copyFolder(t, e.dir)
		if err := os.Truncate(lastSegment(t, dir, r.Uid), int64(size)); err != nil {
			t.Fatal(err)
		}
		var told atomic.Int32
		m := recovered(t, dir, func(error) { told.Add(1) })
		c := m.captures[r.Uid]
		if c == nil {
			t.Fatalf("cut to %d bytes, the capture is gone", size)
		}
		state, want := c.state(), int64(0)
		for _, end := range []int{int(header) + pcapng.PacketSize(100), two, len(whole)} {
			if size >= end {
				want++
			}
		}
		if got := state.Parts[0].Counts.Packets; got != want || state.Interruptions != 1 {
			t.Errorf("cut to %d bytes: %d packets, want %d", size, got, want)
		}
		if cut := size < int(header); (told.Load() > 0) != cut {
			t.Errorf("cut to %d bytes: told %d times", size, told.Load())
		}
		if want > 0 && c.parts[0].Last != []int64{5, 5, 9}[want-1] {
			t.Errorf("cut to %d bytes: the newest packet is of %d", size, c.parts[0].Last)
		}
		if info, err := os.Stat(lastSegmentOrNone(dir, r.Uid)); err == nil && m.disk.used.Load() != info.Size() {
			t.Errorf("cut to %d bytes: %d of %d bytes count towards the quota", size, m.disk.used.Load(), info.Size())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func lastSegmentOrNone(dir, uid string) string {
	files, _ := filepath.Glob(filepath.Join(dir, uid, "*.pcapng"))
	if len(files) == 0 {
		return filepath.Join(dir, "none")
	}
	return files[len(files)-1]
}

// An agent that ends and starts goes on with the same part; what is read has one order.
func TestGoOn(t *testing.T) {
	dir := t.TempDir()
	e, f := fake(t, dir, 1)
	r := fakeRequest(fakepod.UID(), "a", "b")
	r.PacketsLimit = 100
	e.ensure(r)
	f.source(0).push(packetAt(10, 100), packetAt(20, 100), packetAt(15, 100))
	f.source(1).push(packetAt(12, 100))
	before := e.waitFor(r.Uid, 4)
	e.stop()

	f.places["b"].gone.Store(true)
	next := launch(t, dir, f)
	next.ensure(r)
	fakepod.Eventually(t, "the part whose pod is gone to end", func() bool {
		return next.state(r.Uid).Parts[1].Phase == v1alpha1.CaptureState_PHASE_ENDED
	}, func() string { return next.state(r.Uid).String() })
	fakepod.Eventually(t, "the other to go on", func() bool { return f.opened.Load() == 1 })
	f.source(len(f.sources)-1).push(packetAt(18, 100), packetAt(30, 100))
	after := next.waitFor(r.Uid, 6)
	if before.Interruptions != 0 || after.Interruptions != 1 || after.StartUnixNano != before.StartUnixNano || len(after.Parts) != 2 ||
		after.Parts[1].Reason != v1alpha1.CaptureState_REASON_INTERRUPTED {
		t.Errorf("%v became %v", before, after)
	}
	state := next.end(r.Uid)
	s := next.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid})
	consistent(t, state, s)
	var order []int64
	for _, packet := range s.packets(t) {
		order = append(order, packet.Time())
	}
	if want := []int64{10, 12, 20, 15, 18, 30}; !equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	sealed, err := next.Seal(context.Background(), &v1alpha1.SealCaptureRequest{Uid: r.Uid, Names: []*v1alpha1.CaptureName{{Address: []byte{10, 0, 0, 1}, Names: []string{"shop/web"}}}})
	if err != nil || !sealed.Sealed {
		t.Fatalf("sealed as %v (%v)", sealed, err)
	}
	next.stop()

	last := launch(t, dir, f)
	again, err := last.Seal(context.Background(), &v1alpha1.SealCaptureRequest{Uid: r.Uid})
	if err != nil || !bytes.Equal(again.Digest, sealed.Digest) || again.BlockBytes != sealed.BlockBytes || again.EndUnixNano != sealed.EndUnixNano {
		t.Errorf("sealed as %v, after a restart as %v (%v)", sealed, again, err)
	}
	if s := last.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}); len(s.packets(t)) != 6 {
		t.Errorf("%d packets after a restart", len(s.packets(t)))
	}
	if l := last.captures[r.Uid].limits; l.packets != 6 || last.disk.used.Load() == 0 {
		t.Errorf("limits %+v and quota %d after a restart", l, last.disk.used.Load())
	}
}

// A ring of files is found as it was: its files, however often it has gone round, and the places of its packets, which those
// that it let go have a say in.
func TestRingGoesOn(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	r.RingFiles, r.RingFileBytes = 4, 1<<20
	e.ensure(r)
	p := e.captures[r.Uid].parts[0]
	p.writer.next = 999_998 // as after a terabyte; the part's goroutine waits for packets
	for n := range int64(50) {
		var block []ring.Packet
		for i := range int64(100) {
			block = append(block, packetAt(1e18-n*100-i, 1000)) // a clock that steps back
		}
		f.source(0).push(block...)
	}
	e.waitFor(r.Uid, 5000)
	for _, what := range []string{"while it is recorded", "at its end"} {
		if what == "at its end" {
			e.end(r.Uid)
		}
		m := recovered(t, copyFolder(t, e.dir), func(err error) { t.Error(err) })
		before, after := p.view(), m.captures[r.Uid].parts[0].view()
		if !slices.Equal(after, before) || before[0].Index != 999_999 || before[0].Before != 1e18 {
			t.Errorf("%s: the files are %+v, and were %+v", what, after, before)
		}
		if next := m.captures[r.Uid].parts[0].writer.next; next != p.writer.next {
			t.Errorf("%s: the next file is %d, and was %d", what, next, p.writer.next)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A part that goes on after all is not ended by who found that it had not.
func TestOnlySuspendedAreInterrupted(t *testing.T) {
	e, _ := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	e.ensure(r)
	e.captures[r.Uid].parts[0].interrupt()
	if part := e.state(r.Uid).Parts[0]; part.Phase != v1alpha1.CaptureState_PHASE_RUNNING {
		t.Errorf("%v", part)
	}
}

func equal(a, b []int64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// waitFor waits until so many packets are kept in all.
func (e *engine) waitFor(uid string, packets int64) (state *v1alpha1.CaptureState) {
	e.t.Helper()
	fakepod.Eventually(e.t, "packets to be kept", func() bool {
		state = e.state(uid)
		sum := int64(0)
		for _, part := range state.Parts {
			sum += part.Counts.Packets
		}
		return sum == packets
	}, func() string { return e.state(uid).String() })
	return state
}

func TestDurationPassesWithoutAgent(t *testing.T) {
	dir := t.TempDir()
	e, f := fake(t, dir, 1)
	r := fakeRequest(fakepod.UID(), "a")
	e.ensure(r)
	f.source(0).push(packetAt(10, 100))
	e.waitFor(r.Uid, 1)
	e.stop()
	c := e.captures[r.Uid]
	root, err := os.OpenRoot(filepath.Join(dir, r.Uid))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	c.Began -= int64(time.Hour)
	if err := writeJSON(root, metaFile, c.meta, false); err != nil {
		t.Fatal(err)
	}
	next := launch(t, dir, f)
	fakepod.Eventually(t, "the end", func() bool { return next.state(r.Uid).Phase == v1alpha1.CaptureState_PHASE_ENDED })
	if state := next.state(r.Uid); state.Reason != v1alpha1.CaptureState_REASON_INTERRUPTED || state.Parts[0].Counts.Packets != 1 {
		t.Errorf("ended as %v", state)
	}
}

// What cannot be read is removed and told, and stops nobody.
func TestDamagedFolders(t *testing.T) {
	dir := t.TempDir()
	e, f := fake(t, dir, 1)
	good, meta, part := fakeRequest(fakepod.UID(), "a"), fakeRequest(fakepod.UID(), "a"), fakeRequest(fakepod.UID(), "a")
	for i, r := range []*v1alpha1.EnsureCaptureRequest{good, meta, part} {
		e.ensure(r)
		f.source(i).push(packetAt(10, 100))
		e.waitFor(r.Uid, 1)
	}
	e.stop()
	for name, content := range map[string]string{
		meta.Uid + "/" + metaFile: `{"format":1,"request":{"uid":"../../etc"}}`, part.Uid + "/" + partName(0): "{",
		"empty/x": "", "strange name/x": "", good.Uid + "/00007-000001.pcapng": "of no part",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var told []error
	m := recovered(t, dir, func(err error) { told = append(told, err) })
	defer m.Close()
	if len(m.captures) != 1 || m.captures[good.Uid] == nil || len(told) != 4 {
		t.Errorf("%d captures, told %v", len(m.captures), told)
	}
	for name, there := range map[string]bool{meta.Uid: false, part.Uid: false, "empty": false, "strange name": true, good.Uid + "/00007-000001.pcapng": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != there {
			t.Errorf("%s: there is %v (%v)", name, err == nil, err)
		}
	}
}

// A part is written down by whoever changes it: what is on disk is whole, and the newest.
func TestSavedByMany(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	e.ensure(r)
	f.source(0).push(packetAt(10, 100))
	e.waitFor(r.Uid, 1)
	p := e.captures[r.Uid].parts[0]
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				p.count(partCounts{LimitDrops: 1_000_001}) // numbers that get longer
				p.save()
			}
		})
	}
	all.Wait()
	var found partState
	if err := readJSON(p.capture.root, partName(0), &found); err != nil || found.LimitDrops != 4*200*1_000_001 {
		t.Errorf("%d packets beyond a limit are written down: %v", found.LimitDrops, err)
	}
}

const killed = "CAPTURE_TEST_KILLED"

// A process that records is killed: everything that it counted at some moment is there, and in order.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(killed); dir != "" {
		recordUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	process := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.timeout=60s")
	process.Env = append(os.Environ(), killed+"="+dir)
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	fakepod.Eventually(t, "some segments", func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "*", "*-000002.pcapng"))
		return len(files) > 0
	})
	_ = process.Process.Kill()
	_ = process.Wait()
	m := recovered(t, dir, func(err error) { t.Log(err) })
	defer m.Close()
	for _, c := range m.captures {
		merged := &mergeReader{}
		merged.merge.waiting = append(merged.merge.waiting, newCursor(c.parts[0], 1))
		blocks, err := io.ReadAll(merged)
		if err != nil {
			t.Fatal(err)
		}
		merged.Close()
		packets := uint32(0)
		for len(blocks) > 0 {
			packet, rest, err := pcapng.Next(blocks)
			if err != nil || packet.Original() != packets {
				t.Fatalf("packet %d is %d (%v)", packets, packet.Original(), err)
			}
			packets, blocks = packets+1, rest
		}
		if counts := c.state().Parts[0].Counts; counts.Packets != int64(packets) || packets == 0 {
			t.Errorf("%d packets are there, %v are counted", packets, counts)
		}
	}
}

func recordUntilKilled(t *testing.T, dir string) {
	e, f := fake(t, dir, 1)
	r := fakeRequest(fakepod.UID(), "a")
	r.RingFiles, r.RingFileBytes = 1000, 1<<20
	e.ensure(r)
	for n := uint32(0); ; n += 100 {
		var block []ring.Packet
		for i := range uint32(100) {
			p := packetAt(int64(n+i+1), 1000)
			p.Original = n + i
			block = append(block, p)
		}
		f.source(0).push(block...)
	}
}

// Whatever a file holds, what is found is whole packets at its beginning.
func FuzzScan(f *testing.F) {
	header := pcapfile.Header{UID: "u", SnapLength: 100}
	file := pcapfile.AppendInterface(pcapfile.AppendSection(nil, header), header, "n", &v1alpha1.CapturePart{})
	one := pcapng.AppendPacket(nil, 0, 5, []byte("abc"), 3, pcapng.Inbound)
	f.Add(append(bytes.Clone(file), one...))
	f.Add(append(append(bytes.Clone(file), one...), one[:20]...))
	f.Add(file[:50])
	f.Fuzz(func(t *testing.T, content []byte) {
		at, err := headerSize(bytes.NewReader(content))
		if err != nil {
			return
		}
		if at > int64(len(content)) {
			t.Fatalf("a header of %d bytes in a file of %d", at, len(content))
		}
		packets := int64(0)
		s, _, err := scan(bytes.NewReader(content), at, func(pcapng.Packet) { packets++ })
		if err != nil || s.Header != at || s.Header+s.Size > int64(len(content)) || s.Packets != packets {
			t.Fatalf("%+v of %d bytes, %d packets (%v)", s, len(content), packets, err)
		}
		again, _, err := scan(bytes.NewReader(content[:s.Header+s.Size]), at, nil)
		if err != nil || again != s {
			t.Errorf("%+v, the second time %+v (%v)", s, again, err)
		}
	})
}
