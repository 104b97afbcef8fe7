package capture

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Options are what operators choose, in the section captures of the agents' configuration. docs/configuration.md
// describes them.
type Options struct {
	// Enabled is false where nothing is to be recorded, whoever asks.
	Enabled bool `json:"enabled"`
	// Quota is how many bytes all captures may hold on this node.
	Quota resource.Quantity `json:"quota"`
	// MinFree is how many bytes of the file system stay free. nil: a tenth of it, 1Gi at most.
	MinFree *resource.Quantity `json:"minFree"`
	// MaxRunning is how many captures may run at a time.
	MaxRunning int `json:"maxRunning"`
	// RingBytes is the memory of an interface's ring; less when many are recorded.
	RingBytes resource.Quantity `json:"ringBytes"`
	// RingMemory is the memory of all rings together.
	RingMemory resource.Quantity `json:"ringMemory"`
}

// DefaultOptions are those of an empty section.
func DefaultOptions() Options {
	return Options{
		Enabled: true, Quota: resource.MustParse("2Gi"), MaxRunning: 100,
		RingBytes: resource.MustParse("16Mi"), RingMemory: resource.MustParse("256Mi"),
	}
}

// Validate names every field, below a path, that is out of its range.
func (o *Options) Validate(path string) (problems []error) {
	for _, field := range []struct {
		name        string
		value       *resource.Quantity
		least, most string
	}{
		{"quota", &o.Quota, "16Mi", "16Ti"},
		{"minFree", o.MinFree, "0", "16Ti"},
		{"ringBytes", &o.RingBytes, "256Ki", "512Mi"},
		{"ringMemory", &o.RingMemory, "1Mi", "16Gi"},
	} {
		if v := field.value; v != nil && (v.Cmp(resource.MustParse(field.least)) < 0 || v.Cmp(resource.MustParse(field.most)) > 0) {
			problems = append(problems, fmt.Errorf("%s.%s: %s is not between %s and %s", path, field.name, v, field.least, field.most))
		}
	}
	if o.MaxRunning < 1 || o.MaxRunning > maxKept {
		problems = append(problems, fmt.Errorf("%s.maxRunning: %d is not between 1 and %d", path, o.MaxRunning, maxKept))
	}
	return problems
}
