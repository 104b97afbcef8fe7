// Package archive writes container images of one layer as docker archives, without a container engine.
//
// The bytes depend on nothing but the description and the contents of the files that it names: entries are
// sorted, and every timestamp is the epoch. `docker load`, `podman load` and `ctr images import` read them.
package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// An Image describes a container image.
type Image struct {
	Reference    string // localhost/name:tag
	Architecture string // as Go spells it; amd64
	Files        []File
	Config       Config
}

// A File is one entry of the image's file system. Folders above it are made as needed, mode 0755. Files
// belong to root.
type File struct {
	Path string // absolute
	Mode int64  // permission bits, setuid, setgid and sticky

	// One of these says what it is; a folder when all are empty.
	Source  string // content is that of a file of the host
	Content []byte // content is this
	Link    string // symbolic link to this
}

// A Config is what the image says about running it, spelled as in the OCI image configuration.
type Config struct {
	User       string            `json:",omitempty"`
	Env        []string          `json:",omitempty"`
	Entrypoint []string          `json:",omitempty"`
	Cmd        []string          `json:",omitempty"`
	WorkingDir string            `json:",omitempty"`
	Labels     map[string]string `json:",omitempty"`
}

// epoch is when everything in an image was made.
var epoch = time.Unix(0, 0).UTC()

// Write writes the image as a docker archive. The files that it is made of are read twice and must not
// change meanwhile.
func (img Image) Write(w io.Writer) error {
	entries, err := img.entries()
	if err != nil {
		return err
	}
	digest, size, err := measureLayer(entries)
	if err != nil {
		return err
	}
	config, err := img.config(digest)
	if err != nil {
		return err
	}
	configName := hex.EncodeToString(sum(config)) + ".json"
	layerName := digest + "/layer.tar"
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": configName, "RepoTags": []string{img.Reference}, "Layers": []string{layerName},
	}})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	if err := writeContent(tw, "manifest.json", manifest); err != nil {
		return err
	}
	if err := writeContent(tw, configName, config); err != nil {
		return err
	}
	if err := writeHeader(tw, layerName, size); err != nil {
		return err
	}
	if err := writeLayer(tw, entries); err != nil {
		return err
	}
	return tw.Close()
}

// config is the OCI image configuration, whose digest is the image's identity.
func (img Image) config(layer string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"architecture": img.Architecture,
		"os":           "linux",
		"created":      epoch.Format(time.RFC3339),
		"config":       img.Config,
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + layer}},
		"history":      []any{map[string]any{"created": epoch.Format(time.RFC3339), "created_by": "archive " + img.Reference}},
	})
}

// entries are the files and the folders above them, sorted, each once.
func (img Image) entries() ([]File, error) {
	byPath := map[string]File{}
	for _, f := range img.Files {
		clean := path.Clean(f.Path)
		if !path.IsAbs(clean) || clean == "/" {
			return nil, fmt.Errorf("image %s: %q is no absolute path of a file", img.Reference, f.Path)
		}
		if _, twice := byPath[clean]; twice {
			return nil, fmt.Errorf("image %s: %s is there twice", img.Reference, clean)
		}
		f.Path = clean
		byPath[clean] = f
	}
	for _, f := range img.Files {
		for dir := path.Dir(path.Clean(f.Path)); dir != "/"; dir = path.Dir(dir) {
			above, exists := byPath[dir]
			if exists && !above.isDir() {
				return nil, fmt.Errorf("image %s: %s is below %s, which is no folder", img.Reference, f.Path, dir)
			}
			if !exists {
				byPath[dir] = File{Path: dir, Mode: 0o755}
			}
		}
	}
	var all []File
	for _, f := range byPath {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

func (f File) isDir() bool { return f.Source == "" && f.Content == nil && f.Link == "" }

// measureLayer returns the digest and the size that writeLayer's output has.
func measureLayer(entries []File) (digest string, size int64, err error) {
	m := &meter{hash: sha256.New()}
	if err := writeLayer(m, entries); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(m.hash.Sum(nil)), m.size, nil
}

// A meter measures what is written to it.
type meter struct {
	hash hash.Hash
	size int64
}

func (m *meter) Write(p []byte) (int, error) {
	m.size += int64(len(p))
	return m.hash.Write(p)
}

func writeLayer(w io.Writer, entries []File) error {
	tw := tar.NewWriter(w)
	for _, f := range entries {
		if err := f.write(tw); err != nil {
			return fmt.Errorf("writing %s: %w", f.Path, err)
		}
	}
	return tw.Close()
}

func (f File) write(tw *tar.Writer) error {
	header := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode, ModTime: epoch, Format: tar.FormatPAX}
	switch {
	case f.Link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
		return tw.WriteHeader(header)
	case f.Source != "":
		return writeSource(tw, header, f.Source)
	case f.Content != nil:
		header.Typeflag, header.Size = tar.TypeReg, int64(len(f.Content))
		if err := tw.WriteHeader(header); err != nil {
			return err
		}
		_, err := tw.Write(f.Content)
		return err
	}
	header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
	return tw.WriteHeader(header)
}

func writeSource(tw *tar.Writer, header *tar.Header, source string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header.Typeflag, header.Size = tar.TypeReg, info.Size()
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(tw, file)
	return err
}

func writeContent(tw *tar.Writer, name string, content []byte) error {
	if err := writeHeader(tw, name, int64(len(content))); err != nil {
		return err
	}
	_, err := io.Copy(tw, bytes.NewReader(content))
	return err
}

func writeHeader(tw *tar.Writer, name string, size int64) error {
	return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: epoch, Format: tar.FormatPAX})
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}
