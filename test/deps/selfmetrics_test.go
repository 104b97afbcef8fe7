package deps

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every metric that the API server makes of itself has its line in docs/self-metrics.md, and the page promises no other.
func TestMetricsOfTheAPIServerAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/self-metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	page := map[string]bool{}
	for _, match := range regexp.MustCompile("(?m)^\\| `networkobservability_apiserver_([a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		page[match[1]] = true
	}
	made := regexp.MustCompile(`Name: "([a-z_]+)", StabilityLevel`)
	err = filepath.WalkDir("../../apiserver", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range made.FindAllStringSubmatch(string(source), -1) {
			if !page[match[1]] {
				t.Errorf("docs/self-metrics.md has no line for networkobservability_apiserver_%s (%s)", match[1], path)
			}
			delete(page, match[1])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range page {
		t.Errorf("docs/self-metrics.md promises networkobservability_apiserver_%s, which is not made", name)
	}
}
