package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// example has every kind of entry, out of order.
func example(t *testing.T) Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("\x7fELF and so on"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Image{
		Reference:    "localhost/example:dev",
		Architecture: "amd64",
		Files: []File{
			{Path: "/tmp", Mode: 0o1777},
			{Path: "/bin/program", Mode: 0o755, Source: program},
			{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0::/:\n")},
			{Path: "/etc/empty", Mode: 0o600, Content: []byte{}},
			{Path: "/bin/alias", Mode: 0o777, Link: "program"},
		},
		Config: Config{User: "65532:65532", Entrypoint: []string{"/bin/program"}, Env: []string{"PATH=/bin"}},
	}
}

func write(t *testing.T, img Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := img.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// An entry is what a reader of an archive finds.
type entry struct {
	tar.Header
	content []byte
}

func read(t *testing.T, archive []byte) map[string]entry {
	t.Helper()
	found := map[string]entry{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[header.Name] = entry{*header, content}
	}
}

// The archive reads back as it was described, and every digest in it is right.
func TestRoundTrip(t *testing.T) {
	outer := read(t, write(t, example(t)))
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(t, outer["manifest.json"].content, &manifest)
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 {
		t.Fatalf("manifest %+v: want one image of one layer", manifest)
	}
	if got := strings.Join(manifest[0].RepoTags, " "); got != "localhost/example:dev" {
		t.Errorf("tags %q", got)
	}
	config, layer := outer[manifest[0].Config].content, outer[manifest[0].Layers[0]].content
	if want := digest(config) + ".json"; manifest[0].Config != want {
		t.Errorf("configuration is called %s, its digest is %s", manifest[0].Config, want)
	}
	var image struct {
		Architecture, OS string
		Config           Config
		Rootfs           struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(t, config, &image)
	if got, want := fmt.Sprint(image.Rootfs.DiffIDs), "[sha256:"+digest(layer)+"]"; got != want {
		t.Errorf("layers %s, want %s", got, want)
	}
	if image.Architecture != "amd64" || image.OS != "linux" || image.Config.User != "65532:65532" {
		t.Errorf("configuration %+v", image)
	}
	checkLayer(t, read(t, layer))
}

func checkLayer(t *testing.T, layer map[string]entry) {
	t.Helper()
	for _, test := range []struct {
		name    string
		kind    byte
		mode    int64
		link    string
		content string
	}{
		{"bin/", tar.TypeDir, 0o755, "", ""},
		{"bin/alias", tar.TypeSymlink, 0o777, "program", ""},
		{"bin/program", tar.TypeReg, 0o755, "", "\x7fELF and so on"},
		{"etc/", tar.TypeDir, 0o755, "", ""},
		{"etc/empty", tar.TypeReg, 0o600, "", ""},
		{"etc/passwd", tar.TypeReg, 0o644, "", "root:x:0:0::/:\n"},
		{"tmp/", tar.TypeDir, 0o1777, "", ""},
	} {
		got, found := layer[test.name]
		if !found {
			t.Errorf("%s is not in the layer", test.name)
			continue
		}
		if got.Typeflag != test.kind || got.Mode != test.mode || got.Linkname != test.link || string(got.content) != test.content {
			t.Errorf("%s: %+v", test.name, got)
		}
		if got.Uid != 0 || got.Gid != 0 || !got.ModTime.Equal(epoch) {
			t.Errorf("%s: owner %d:%d, time %s; want root and the epoch", test.name, got.Uid, got.Gid, got.ModTime)
		}
		delete(layer, test.name)
	}
	for name := range layer {
		t.Errorf("%s is in the layer and should not be", name)
	}
}

// Neither the order of the description nor the times of the files show in the archive.
func TestReproducible(t *testing.T) {
	img := example(t)
	first := write(t, img)
	for i, j := 0, len(img.Files)-1; i < j; i, j = i+1, j-1 {
		img.Files[i], img.Files[j] = img.Files[j], img.Files[i]
	}
	for _, f := range img.Files {
		if f.Source == "" {
			continue
		}
		if err := os.Chtimes(f.Source, time.Now(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first, write(t, img)) {
		t.Error("two archives of one description differ")
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []File
		want  string
	}{
		{"a relative path", []File{{Path: "bin/program", Content: []byte("x")}}, "no absolute path"},
		{"the root", []File{{Path: "/"}}, "no absolute path"},
		{"a path twice", []File{{Path: "/a", Content: []byte("x")}, {Path: "/b/../a", Content: []byte("y")}}, "there twice"},
		{"a file below a file", []File{{Path: "/a", Content: []byte("x")}, {Path: "/a/b", Content: []byte("y")}}, "no folder"},
		{"a source that is not there", []File{{Path: "/a", Source: "/nonexistent/program"}}, "no such file"},
	} {
		err := Image{Reference: "localhost/bad:dev", Files: test.files}.Write(io.Discard)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("decoding %q: %v", b, err)
	}
}

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
