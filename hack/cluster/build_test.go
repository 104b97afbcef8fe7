package main

import (
	"encoding/json"
	"os/exec"
	"path"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/util/version"
)

// Go names what it builds after folders when one call builds several programs, and does not ask.
func TestProgramsOfABatchAreNamedAfterTheirFolders(t *testing.T) {
	for _, b := range append(thirdParty(), ours()) {
		if len(b.programs) == 1 {
			continue
		}
		for _, p := range b.programs {
			if path.Base(p.pkg) != p.name {
				t.Errorf("go build would call %s %s, not %s", p.pkg, path.Base(p.pkg), p.name)
			}
		}
	}
}

// More than half of what the programs import we import, too. It is compiled once as long as the versions are the same, and
// everything that imports a module of another version is compiled twice.
func TestProgramsTakeOurVersions(t *testing.T) {
	root := filepath.Join("..", "..")
	ours := requirements(t, root)
	for _, b := range thirdParty() {
		for module, theirs := range requirements(t, filepath.Join(root, b.module)) {
			wanted, shared := ours[module]
			if shared && version.MustParseSemantic(theirs).LessThan(version.MustParseSemantic(wanted)) {
				t.Errorf("%s requires %s %s, and we %s: run go get %s@%s && go mod tidy there", b.module, module, theirs, wanted, module, wanted)
			}
		}
	}
}

// requirements are the versions of the modules that a module requires.
func requirements(t *testing.T, folder string) map[string]string {
	t.Helper()
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = folder
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	type module struct{ Path, Version string }
	var file struct {
		Require []module
		Replace []struct{ Old, New module }
	}
	if err := json.Unmarshal(out, &file); err != nil {
		t.Fatal(err)
	}
	versions := make(map[string]string)
	for _, r := range file.Require {
		versions[r.Path] = r.Version
	}
	for _, r := range file.Replace {
		versions[r.Old.Path] = r.New.Version
	}
	return versions
}
