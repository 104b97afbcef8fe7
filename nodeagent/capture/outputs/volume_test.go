package outputs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const uid = "5d0b1f3c-8f6e-4f1e-9f8b-2f0c6a1d7e55"

var name = ObjectName("shop", "web", uid, "node-1.pcapng")

func fileOf(name string, content []byte) File {
	return File{Name: name, Size: int64(len(content)), Open: func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[offset:])), nil
	}}
}

func toVolume(volume, prefix string) *v1alpha1.CaptureOutput {
	return &v1alpha1.CaptureOutput{Name: "archive", Prefix: prefix, To: &v1alpha1.CaptureOutput_Volume{Volume: &v1alpha1.VolumeOutput{Name: volume}}}
}

// await waits until the only output is in one of the last phases.
func await(t *testing.T, u *Uploader) *v1alpha1.CaptureOutputState {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		state := u.State(uid)[0]
		if state.Phase == v1alpha1.CaptureOutputState_PHASE_STORED || state.Phase == v1alpha1.CaptureOutputState_PHASE_FAILED {
			return state
		}
		select {
		case <-deadline:
			t.Fatalf("%v", state)
		case <-time.After(time.Millisecond):
		}
	}
}

// copyTo copies files to a volume and answers with what became of it.
func copyTo(t *testing.T, dir string, output *v1alpha1.CaptureOutput, files ...File) *v1alpha1.CaptureOutputState {
	t.Helper()
	config := quick()
	config.VolumesDir = dir
	u := New(config)
	t.Cleanup(u.Close)
	if err := u.Ensure(uid, []*v1alpha1.CaptureOutput{output}, files); err != nil {
		t.Fatal(err)
	}
	return await(t, u)
}

func volumes(t *testing.T) (dir, archive string) {
	t.Helper()
	dir = t.TempDir()
	archive = filepath.Join(dir, "archive")
	if err := os.Mkdir(archive, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, archive
}

// paths are all files below a folder.
func paths(t *testing.T, folder string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestVolume(t *testing.T) {
	dir, archive := volumes(t)
	content := bytes.Repeat([]byte("packets."), 20<<17) // 20 MiB
	digest := sha256.Sum256(content)
	state := copyTo(t, dir, toVolume("archive", "below/here"), fileOf(name, content), fileOf(ObjectName("", "web", uid, "node-1-network.json"), nil))
	if state.Phase != v1alpha1.CaptureOutputState_PHASE_STORED || state.Attempts != 1 ||
		state.Objects[0].Sha256 != hex.EncodeToString(digest[:]) || state.Objects[0].Bytes != int64(len(content)) {
		t.Fatalf("%v", state)
	}
	path := filepath.Join(archive, "below/here", name)
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%v, %d bytes", err, len(got))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^0o640 != 0 { // less where the umask is strict
		t.Errorf("%v %v", info.Mode(), err)
	}
	if all := paths(t, archive); len(all) != 2 || !strings.HasSuffix(all[0], "/_cluster/web/"+uid+"/node-1-network.json") {
		t.Errorf("there is %v", all)
	}
}

func TestVolumeThatIsNotThere(t *testing.T) {
	dir, _ := volumes(t)
	for where, want := range map[string]string{dir: "the volume other is not mounted into the agent of this node", "": "this agent has no volumes"} {
		if state := copyTo(t, where, toVolume("other", ""), fileOf(name, nil)); state.Phase != v1alpha1.CaptureOutputState_PHASE_FAILED || state.Message != want {
			t.Errorf("%v", state)
		}
	}
}

// Links that lead out of the volume lead nowhere; those at our names are replaced and not written through.
func TestVolumeLinks(t *testing.T) {
	dir, archive := volumes(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	folder := filepath.Join(archive, filepath.Dir(name))
	for _, err := range []error{
		os.WriteFile(secret, []byte("untouched"), 0o600),
		os.Symlink(outside, filepath.Join(archive, "escape")),
		os.Symlink("../../"+filepath.Base(outside), filepath.Join(archive, "relative")),
		os.MkdirAll(folder, 0o700),
		os.Symlink(secret, filepath.Join(archive, name)),
		os.Symlink(secret, partial(filepath.Join(archive, name))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{"escape", "relative"} {
		state := copyTo(t, dir, toVolume("archive", prefix), fileOf(name, []byte("packets")))
		if state.Phase != v1alpha1.CaptureOutputState_PHASE_FAILED || strings.Contains(state.Message, "/") {
			t.Errorf("%v", state)
		}
	}
	if state := copyTo(t, dir, toVolume("archive", ""), fileOf(name, []byte("packets"))); state.Phase != v1alpha1.CaptureOutputState_PHASE_STORED {
		t.Errorf("%v", state)
	}
	if got, err := os.ReadFile(secret); err != nil || string(got) != "untouched" {
		t.Errorf("%q %v", got, err)
	}
	if info, err := os.Lstat(filepath.Join(archive, name)); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v %v", info, err)
	}
	if all := paths(t, outside); len(all) != 1 {
		t.Errorf("outside there is %v", all)
	}
}

func TestVolumeIsFull(t *testing.T) {
	dir, archive := volumes(t)
	if err := unix.Mount("tmpfs", archive, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(archive, unix.MNT_DETACH) })
	state := copyTo(t, dir, toVolume("archive", ""), fileOf(name, make([]byte, 80<<20)))
	if state.Phase != v1alpha1.CaptureOutputState_PHASE_FAILED || !strings.HasSuffix(state.Message, "the volume is full") || state.Attempts < 2 {
		t.Errorf("%v", state)
	}
	if all := paths(t, archive); len(all) != 0 {
		t.Errorf("there still is %v", all)
	}
	if state := copyTo(t, dir, toVolume("archive", ""), fileOf(name, make([]byte, 50<<20))); state.Phase != v1alpha1.CaptureOutputState_PHASE_STORED {
		t.Errorf("%v", state)
	}
}

// A recording that cannot be read, or is not what it was, is said to be so, without paths.
func TestRecordingThatCannotBeRead(t *testing.T) {
	dir, archive := volumes(t)
	broken := fileOf(name, []byte("packets"))
	broken.Open = func(int64) (io.ReadCloser, error) { return os.Open("/var/lib/nothing-here/" + uid) }
	other := fileOf(name, []byte("packets"))
	other.Size = 3
	more := fileOf(name, []byte("packets"))
	more.Size = 9
	secret := fileOf(name, nil)
	secret.Open = func(int64) (io.ReadCloser, error) { return nil, errors.New("odd \x1b[31m thing") }
	for _, file := range []File{broken, other, more, secret} {
		state := copyTo(t, dir, toVolume("archive", ""), file)
		if state.Phase != v1alpha1.CaptureOutputState_PHASE_FAILED || !strings.HasPrefix(state.Message, "reading what was recorded: ") || strings.ContainsAny(state.Message, "/\x1b") {
			t.Errorf("%v", state)
		}
	}
	if all := paths(t, archive); len(all) != 0 {
		t.Errorf("there is %v", all)
	}
}
