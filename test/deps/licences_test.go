package deps

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Phrases by which the licences that we accept are told. All of them allow use in Apache-2.0 programs.
var licences = map[string]*regexp.Regexp{
	"Apache-2.0": regexp.MustCompile(`(?i)Apache License,?\s+Version 2\.0`),
	"MIT":        regexp.MustCompile(`(?is)Permission is hereby granted, free of charge.*without\s+restriction`),
	"BSD":        regexp.MustCompile(`(?is)Redistribution and use in source and binary forms.*are\s+permitted`),
	"ISC":        regexp.MustCompile(`(?is)Permission to use, copy, modify, and(/or)? distribute this software for any`),
	"MPL-2.0":    regexp.MustCompile(`(?i)Mozilla Public License,?\s+(Version|v\.) 2\.0`),
}

// Every module that is linked into a program of ours has a licence that we know and accept.
func TestLicences(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", `{{with .Module}}{{.Path}}{{"\t"}}{{.Dir}}{{"\t"}}{{.Main}}{{end}}`, "./apiserver", "./nodeagent")
	cmd.Dir = "../.."
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(output)), "\n") {
		fields := strings.Split(line, "\t")
		if len(fields) != 3 || fields[2] == "true" || seen[fields[0]] {
			continue
		}
		seen[fields[0]] = true
		if name := licenceIn(t, fields[1]); name == "" {
			t.Errorf("%s: no licence that we know of in its folder", fields[0])
		}
	}
	if len(seen) < 20 {
		t.Fatalf("only %d modules were looked at", len(seen))
	}
}

func licenceIn(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "[LlC][IiO][CcP][EeY][NnI]*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for name, phrase := range licences {
			if phrase.Match(text) {
				return name
			}
		}
	}
	return ""
}

// Every direct dependency has its line in docs/dependencies.md, and the page names none that is gone.
func TestDependenciesAreDocumented(t *testing.T) {
	documented, required := documentedModules(t), map[string]bool{}
	for _, folder := range []string{"../..", "../../hack/tools", "../../hack/tools/kubernetes", "../../hack/tools/etcd", "../../hack/tools/coredns", "../outputs", "../collector", "../monitoring", "../helm"} {
		for _, path := range directModules(t, folder) {
			if path+"/" == module {
				continue
			}
			required[path] = true
			if !documented[path] {
				t.Errorf("docs/dependencies.md has no line for %s (required in %s)", path, folder)
			}
		}
	}
	for path := range documented {
		if !required[path] {
			t.Errorf("docs/dependencies.md names %s, which nothing requires any more", path)
		}
	}
}

func directModules(t *testing.T, folder string) []string {
	t.Helper()
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = folder
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Tool []struct{ Path string }
	}
	if err := json.Unmarshal(output, &file); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range file.Require {
		tool := false
		for _, used := range file.Tool {
			tool = tool || below(used.Path, r.Path)
		}
		if !r.Indirect || tool {
			direct = append(direct, r.Path)
		}
	}
	return direct
}

func documentedModules(t *testing.T) map[string]bool {
	t.Helper()
	file, err := os.Open("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	row := regexp.MustCompile("^\\| `([^`]+)` \\|")
	found := map[string]bool{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if match := row.FindStringSubmatch(lines.Text()); match != nil {
			found[match[1]] = true
		}
	}
	return found
}
