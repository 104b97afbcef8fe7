package main

import (
	"archive/tar"
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestImageIDs(t *testing.T) {
	for _, test := range []struct {
		name    string
		entries map[string]string
		want    []string
		fails   bool
	}{
		{"ours", map[string]string{"manifest.json": `[{"Config":"0123.json","RepoTags":["localhost/a:dev"],"Layers":["l/layer.tar"]}]`}, []string{"0123"}, false},
		{"of a later docker", map[string]string{"manifest.json": `[{"Config":"blobs/sha256/4567"}]`}, []string{"4567"}, false},
		{"two", map[string]string{"manifest.json": `[{"Config":"01.json"},{"Config":"02.json"}]`}, []string{"01", "02"}, false},
		{"no manifest", map[string]string{"index.json": `{}`}, nil, true},
		{"no JSON", map[string]string{"manifest.json": `nonsense`}, nil, true},
	} {
		got, err := imageIDs(tarOf(t, test.entries))
		if !slices.Equal(got, test.want) || (err != nil) != test.fails {
			t.Errorf("%s: %v, error %v; want %v, error %t", test.name, got, err, test.want, test.fails)
		}
	}
}

func tarOf(t *testing.T, entries map[string]string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range entries {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestUnnamedImages(t *testing.T) {
	images := parseImages([]byte(`REF                   TYPE                DIGEST      SIZE    PLATFORMS   LABELS
localhost/pause:dev   application/vnd.d   sha256:aaa  1.4 MiB linux/amd64 io.cri-containerd.image=managed
sha256:11             application/vnd.d   sha256:aaa  1.4 MiB linux/amd64 io.cri-containerd.image=managed
sha256:22             application/vnd.d   sha256:bbb  1.4 MiB linux/amd64 io.cri-containerd.image=managed
`))
	if got := strings.Join(unnamed(images), " "); got != "sha256:22" {
		t.Errorf("%q, want the one whose digest has no name, sha256:22", got)
	}
	if got := unnamed(parseImages(nil)); len(got) != 0 {
		t.Errorf("%q of no images", got)
	}
}
