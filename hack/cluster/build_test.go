package main

import (
	"path"
	"testing"
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
