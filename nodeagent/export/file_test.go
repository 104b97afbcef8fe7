package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func openFile(t *testing.T, dir string, wanted *v1alpha1.FileDestination) *file {
	t.Helper()
	f, err := newFile(jsonEncoder{here}, dir, "flows", wanted)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func (f *file) sendFlows(t *testing.T, from, n int64) {
	t.Helper()
	if _, err := f.Send(t.Context(), Batch{Signal: FlowLogs, Payload: f.EncodeLogs(flows(from, n)), Items: n}); err != nil {
		t.Fatal(err)
	}
}

// numbersIn reads flow.id of every line, each of which has to be valid.
func numbersIn(t *testing.T, path string) (numbers []int64) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(content) {
		var record struct {
			Number int64 `json:"flow.id"`
		}
		if err := json.Unmarshal(line, &record); err != nil || line[len(line)-1] != '\n' {
			t.Fatalf("%s: %q: %v", path, line, err)
		}
		numbers = append(numbers, record.Number)
	}
	return numbers
}

func TestFileRotates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	line := int64(len(jsonEncoder{here}.EncodeLogs(flows(10, 1))))
	f := openFile(t, dir, &v1alpha1.FileDestination{MaxBytes: 10*line + 5, MaxFiles: 3})
	for i := range int64(9) {
		f.sendFlows(t, 10+5*i, 5)
	}
	path := filepath.Join(dir, "flows.log")
	for name, first := range map[string]int64{path: 50, path + ".1": 40, path + ".2": 30} {
		if got := numbersIn(t, name); got[0] != first || len(got) > 10 {
			t.Errorf("%s has %v", name, got)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("%v, %v", entries, err)
	}
	about, err := os.Stat(path)
	if err != nil || about.Mode().Perm()&0o137 != 0 {
		t.Errorf("mode %v, %v", about.Mode(), err)
	}
	// Fewer files are wanted, and larger ones go on.
	one := openFile(t, dir, &v1alpha1.FileDestination{MaxBytes: 5*line + 1, MaxFiles: 1})
	one.sendFlows(t, 60, 5)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Another program renames, removes or empties the file, or the whole folder.
func TestFileIsTakenAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	f := openFile(t, dir, nil)
	path := filepath.Join(dir, "flows.log")
	f.sendFlows(t, 0, 1)
	for i, take := range []func() error{
		func() error { return os.Rename(path, path+".old") },
		func() error { return os.Remove(path) },
		func() error { return os.Truncate(path, 0) },
	} {
		if err := take(); err != nil {
			t.Fatal(err)
		}
		f.sendFlows(t, int64(i+1), 1)
		if got := numbersIn(t, path); len(got) != 1 || got[0] != int64(i+1) {
			t.Errorf("%d: %v", i, got)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Send(t.Context(), Batch{Payload: f.EncodeLogs(flows(9, 1))}); err != nil { // the folder is missed, and made
		f.sendFlows(t, 9, 1)
	}
	if got := numbersIn(t, path); len(got) != 1 || got[0] != 9 {
		t.Errorf("%v", got)
	}
}

func TestFileTornByACrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "flows.log")
	whole := jsonEncoder{here}.EncodeLogs(flows(0, 2))
	if err := os.WriteFile(path, append(whole, whole[:100]...), 0o640); err != nil {
		t.Fatal(err)
	}
	openFile(t, dir, nil).sendFlows(t, 2, 1)
	if got := numbersIn(t, path); fmt.Sprint(got) != "[0 1 2]" {
		t.Errorf("%v", got)
	}
}

// Nothing that is named, linked or lying there makes the agent write elsewhere, or hang.
func TestFileStaysInItsFolder(t *testing.T) {
	for _, name := range []string{"", "..", "../x", "a/b", "a.b", "-a", "A", "a\x00", strings.Repeat("a", 64)} {
		if _, err := newFile(jsonEncoder{here}, t.TempDir(), name, nil); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
	if _, err := newFile(jsonEncoder{here}, "", "a", nil); err == nil {
		t.Error("no folder is taken for one")
	}
	outside := filepath.Join(t.TempDir(), "outside")
	for what, lay := range map[string]func(path string) error{
		"link outside":     func(path string) error { return os.Symlink(outside, path) },
		"relative link":    func(path string) error { return os.Symlink("../../outside", path) },
		"link inside":      func(path string) error { return os.Symlink("other", path) },
		"pipe":             func(path string) error { return unix.Mkfifo(path, 0o600) },
		"folder":           func(path string) error { return os.Mkdir(path, 0o700) },
		"file of a device": func(path string) error { return os.Symlink("/dev/full", path) },
	} {
		dir := t.TempDir()
		if err := lay(filepath.Join(dir, "flows.log")); err != nil {
			t.Fatal(err)
		}
		f := openFile(t, dir, nil)
		_, err := f.Send(t.Context(), Batch{Payload: f.EncodeLogs(flows(0, 1)), Items: 1})
		var retry *Retry
		if !errors.As(err, &retry) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(outside); err == nil {
			t.Errorf("%s: written outside", what)
		}
	}
}

// What a link leads to is left as it is: the line that it ends with is no torn one of ours.
func TestFileLeavesWhatALinkLeadsTo(t *testing.T) {
	dir := t.TempDir()
	const text = "somebody's list\nwithout a line feed at its end"
	if err := os.WriteFile(filepath.Join(dir, "list"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("list", filepath.Join(dir, "flows.log")); err != nil {
		t.Fatal(err)
	}
	f := openFile(t, dir, nil)
	if _, err := f.Send(t.Context(), Batch{Payload: f.EncodeLogs(flows(0, 1)), Items: 1}); err == nil {
		t.Error("written through a link")
	}
	if got, err := os.ReadFile(filepath.Join(dir, "list")); err != nil || string(got) != text {
		t.Errorf("%q is left (%v)", got, err)
	}
}

// A full disk costs nothing while the queue has room: lines are whole, and written when there is room again.
func TestFileOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 100)
	e := exporters(t, func(c *Config) {
		c.LogsDir = dir
		c.Failed = func(_ string, err error) { failed <- err }
	})
	e.Apply(configOf(&v1alpha1.TelemetryExporter{Name: "flows", FlowLogs: true, To: &v1alpha1.TelemetryExporter_File{File: &v1alpha1.FileDestination{}}}))
	for i := range int64(4) {
		e.Log(flows(10*i, 10))
	}
	if err := <-failed; !errors.Is(err, unix.ENOSPC) {
		t.Errorf("told %v", err)
	}
	if state := e.States()[0]; !state.Failing || !strings.Contains(state.Message, "no space left") {
		t.Errorf("%v", state)
	}
	func() {
		f := e.all()[0].run.exporter.(*file)
		f.mu.Lock() // it tries again, and what does not fit is there until it is cut off
		defer f.mu.Unlock()
		numbersIn(t, filepath.Join(dir, "flows.log"))
	}()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	c := e.settled(t, "flows", FlowLogs)
	if c.sent != 40 || c.droppedInAll() != 0 {
		t.Errorf("sent %d, dropped %v", c.sent, c.dropped)
	}
	if got := numbersIn(t, filepath.Join(dir, "flows.log")); len(got) != 40 || got[39] != 39 {
		t.Errorf("%v", got)
	}
	e.Apply(configOf())
	e.ending.Wait()
}

// Standard output that breaks is counted, and a line that was cut does not spoil the next.
func TestStdoutBreaks(t *testing.T) {
	var got bytes.Buffer
	limit := &limited{to: &got, room: 500}
	s := newStdout(jsonEncoder{here}, limit)
	var refused *Refused
	if _, err := s.Send(t.Context(), Batch{Payload: s.EncodeLogs(flows(0, 1)), Items: 1}); !errors.As(err, &refused) || reasonOf(err) != "write_failed" {
		t.Errorf("%v", err)
	}
	limit.room = 1 << 20
	if _, err := s.Send(t.Context(), Batch{Payload: s.EncodeLogs(flows(1, 1)), Items: 1}); err != nil {
		t.Error(err)
	}
	lines := strings.Split(got.String(), "\n")
	if len(lines) != 3 || !json.Valid([]byte(lines[1])) {
		t.Errorf("%q", lines)
	}
}

type limited struct {
	to   *bytes.Buffer
	room int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(l.room, len(b))
	l.room -= n
	l.to.Write(b[:n])
	if n < len(b) {
		return n, errors.New("broken")
	}
	return n, nil
}
