package agents

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the transcripts in testdata from what the code does")

// epoch is when every transcript begins.
var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// transcript plays testdata/name: lines that begin with "> " are commands, those below what do must answer to
// them. Empty lines and comments are kept. Run the test with -rewrite to accept what the code does.
func transcript(t *testing.T, name string, do func(t *testing.T, words []string) string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(text)) {
		command, isCommand := strings.CutPrefix(line, "> ")
		switch {
		case isCommand:
			got.WriteString(line)
			if answer := do(t, strings.Fields(command)); answer != "" {
				got.WriteString(answer + "\n")
			}
		case strings.HasPrefix(line, "#"), strings.TrimSpace(line) == "":
			got.WriteString(line)
		}
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != string(text) {
		t.Errorf("%s differs; go test ./apiserver/agents -rewrite accepts this:\n%s", path, got.String())
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
