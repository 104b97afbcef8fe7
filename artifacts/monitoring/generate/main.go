// Command generate writes what artifacts/monitoring derives: Grafana's boards from boards.go, and the PrometheusRule of
// prometheus-operator/ from rules/. Run it in the repository's root: go run ./artifacts/monitoring/generate
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
		files["dashboards/"+strings.TrimPrefix(b.uid, "netobs-")+".json"] = text.Bytes()
	}
	var err error
	files["prometheus-operator/prometheusrule.yaml"], err = prometheusRule(folder)
	return files, err
}

// prometheusRule is the rules of all files as one object of Prometheus Operator.
func prometheusRule(folder string) ([]byte, error) {
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
	rule, err := yaml.Marshal(object{
		"apiVersion": "monitoring.coreos.com/v1",
		"kind":       "PrometheusRule",
		"metadata":   object{"name": "networkobservability", "namespace": "network-observability"},
		"spec":       object{"groups": groups},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the PrometheusRule: %w", err)
	}
	return append([]byte("# Written by artifacts/monitoring/generate from artifacts/monitoring/rules. Do not edit.\n"), rule...), nil
}

func write(folder string, files map[string][]byte) error {
	for path, text := range files {
		if err := os.WriteFile(filepath.Join(folder, path), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
