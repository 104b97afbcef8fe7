// Command generate writes what artifacts/monitoring derives: Grafana's boards from boards.go, the PrometheusRule of
// prometheus-operator/ from rules/, and both once more for the chart, which can have nothing from outside its folder. Run it
// in the repository's root: go run ./artifacts/monitoring/generate
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

func main() {
	files, err := generate("artifacts/monitoring")
	if err == nil {
		err = write("artifacts/monitoring", files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// chart is where the chart keeps what it does not render as templates, below the folder artifacts/monitoring.
const chart = "../helm/networkobservability/files/"

// generate returns the derived files by their path below the folder artifacts/monitoring, whose rules it reads.
func generate(folder string) (map[string][]byte, error) {
	files := map[string][]byte{}
	all := boards()
	for _, b := range all {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(dashboard(b, all)); err != nil {
			return nil, fmt.Errorf("encoding board %s: %w", b.uid, err)
		}
		path := "dashboards/" + strings.TrimPrefix(b.uid, "netobs-") + ".json"
		files[path], files[chart+path] = text.Bytes(), text.Bytes()
	}
	groups, err := ruleGroups(folder)
	if err != nil {
		return nil, err
	}
	spec := object{"groups": groups}
	for path, content := range map[string]object{
		chart + "rules.yaml": spec,
		"prometheus-operator/prometheusrule.yaml": {
			"apiVersion": "monitoring.coreos.com/v1",
			"kind":       "PrometheusRule",
			"metadata":   object{"name": "networkobservability", "namespace": "network-observability"},
			"spec":       spec,
		},
	} {
		text, err := yaml.Marshal(content)
		if err != nil {
			return nil, fmt.Errorf("encoding the rules: %w", err)
		}
		files[path] = append([]byte("# Written by artifacts/monitoring/generate from artifacts/monitoring/rules. Do not edit.\n"), text...)
	}
	return files, nil
}

// ruleGroups are the groups of rules of all files.
func ruleGroups(folder string) ([]any, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "rules", "*.yaml"))
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	var groups []any
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var file struct {
			Groups []any `json:"groups"`
		}
		if err := yaml.UnmarshalStrict(text, &file); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		groups = append(groups, file.Groups...)
	}
	return groups, nil
}

func write(folder string, files map[string][]byte) error {
	for path, text := range files {
		if err := os.WriteFile(filepath.Join(folder, path), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
