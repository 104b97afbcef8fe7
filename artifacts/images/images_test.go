package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The images of the product are those that the Dockerfiles build.
func TestDockerfilesAgree(t *testing.T) {
	for name, binary := range map[string]string{
		"apiserver": "networkobservability-apiserver",
		"nodeagent": "networkobservability-nodeagent",
	} {
		content, err := os.ReadFile(filepath.Join(name, "Dockerfile"))
		if err != nil {
			t.Fatal(err)
		}
		_, final, found := strings.Cut(string(content), "\nFROM scratch\n")
		if !found {
			t.Errorf("%s: the last stage is not from scratch", name)
		}
		image := recipes[name]("bin")
		if want := "localhost/" + binary + ":dev"; image.Reference != want {
			t.Errorf("%s: reference %s, want %s", name, image.Reference, want)
		}
		for _, line := range []string{
			"USER " + image.Config.User,
			"WORKDIR " + image.Config.WorkingDir,
			fmt.Sprintf("ENTRYPOINT [%q]", image.Config.Entrypoint[0]),
		} {
			if !strings.Contains(final, line+"\n") {
				t.Errorf("%s: the Dockerfile does not say %q", name, line)
			}
		}
		if want := "-o /out/" + binary + " ./" + name; !strings.Contains(string(content), want) {
			t.Errorf("%s: the Dockerfile does not build with %q", name, want)
		}
	}
}

func TestWriteAll(t *testing.T) {
	bin, out := t.TempDir(), filepath.Join(t.TempDir(), "images")
	for _, name := range []string{"networkobservability-apiserver", "networkobservability-nodeagent"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeAll(bin, out, []string{"apiserver", "nodeagent"}); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(found, " "), filepath.Join(out, "apiserver.tar")+" "+filepath.Join(out, "nodeagent.tar"); got != want {
		t.Errorf("wrote %s, want %s", got, want)
	}
}

// What cannot be written leaves what was there.
func TestWriteAllRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		wanted []string
		want   string
	}{
		{"nothing", nil, "no image named"},
		{"an unknown image", []string{"kitchen"}, `no image is called "kitchen"`},
		{"a program that is not built", []string{"apiserver"}, "making image apiserver"},
	} {
		out := t.TempDir()
		before := filepath.Join(out, "apiserver.tar")
		if err := os.WriteFile(before, []byte("before"), 0o644); err != nil {
			t.Fatal(err)
		}
		err := writeAll(t.TempDir(), out, test.wanted)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
		entries, _ := os.ReadDir(out)
		if content, _ := os.ReadFile(before); string(content) != "before" || len(entries) != 1 {
			t.Errorf("%s: the folder has changed", test.name)
		}
	}
}
