package main

import (
	"errors"
	"fmt"
	"os"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/nodeagent/capture"
	"github.com/networkobservability/networkobservability/nodeagent/collectors"
)

// configuration is the file that docs/configuration.md describes. The fields of collectors are at its top.
type configuration struct {
	collectors.Options
	Captures capture.Options `json:"captures"`
}

// readConfig reads the file at path; without one everything has its default.
func readConfig(path string) (configuration, error) {
	if path == "" {
		return parseConfig(nil)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return configuration{}, fmt.Errorf("--config: %w", err)
	}
	parsed, err := parseConfig(text)
	if err != nil {
		return configuration{}, fmt.Errorf("--config: %s: %w", path, err)
	}
	return parsed, nil
}

// parseConfig reads YAML or JSON. Fields that it lacks have their defaults; every problem is named with the field that
// has it.
func parseConfig(text []byte) (configuration, error) {
	parsed := configuration{Options: collectors.Defaults(), Captures: capture.DefaultOptions()}
	object, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return parsed, err
	}
	problems, err := json.UnmarshalStrict(object, &parsed)
	if err != nil {
		return parsed, err
	}
	problems = append(problems, parsed.Options.Validate()...)
	problems = append(problems, parsed.Captures.Validate("captures")...)
	return parsed, errors.Join(problems...)
}
