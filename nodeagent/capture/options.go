package capture

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Options are what operators choose, in the section captures of the agents' configuration. docs/configuration.md
// describes them.
type Options struct {
	// Enabled is false where nothing is to be recorded, whoever asks.
	Enabled bool `json:"enabled"`
	// Quota is how many bytes all captures may hold on this node.
	Quota Bytes `json:"quota"`
	// MinFree is how many bytes of the file system stay free. nil: a tenth of it, 1Gi at most.
	MinFree *Bytes `json:"minFree"`
	// MaxRunning is how many captures may run at a time.
	MaxRunning int `json:"maxRunning"`
	// RingBytes is the memory of an interface's ring; less when many are recorded.
	RingBytes Bytes `json:"ringBytes"`
	// RingMemory is the memory of all rings together.
	RingMemory Bytes `json:"ringMemory"`
}

// Bytes is a number of bytes, written as a quantity such as "16Mi".
type Bytes struct {
	value int64
	text  string
	wrong bool
}

// Value is the number.
func (b Bytes) Value() int64 { return b.value }

// UnmarshalJSON leaves it to Validate to refuse what is no quantity, and to name the field.
func (b *Bytes) UnmarshalJSON(text []byte) error {
	*b = parseBytes(strings.Trim(string(text), `"`))
	return nil
}

func parseBytes(text string) Bytes {
	quantity, err := resource.ParseQuantity(text)
	return Bytes{quantity.Value(), text, err != nil}
}

// DefaultOptions are those of an empty section.
func DefaultOptions() Options {
	return Options{
		Enabled: true, Quota: parseBytes("2Gi"), MaxRunning: 100,
		RingBytes: parseBytes("16Mi"), RingMemory: parseBytes("256Mi"),
	}
}

// Validate names every field, below a path, that is out of its range.
func (o *Options) Validate(path string) (problems []error) {
	for _, field := range []struct {
		name        string
		value       *Bytes
		least, most string
	}{
		{"quota", &o.Quota, "16Mi", "16Ti"},
		{"minFree", o.MinFree, "0", "16Ti"},
		{"ringBytes", &o.RingBytes, "256Ki", "512Mi"},
		{"ringMemory", &o.RingMemory, "1Mi", "16Gi"},
	} {
		switch v := field.value; {
		case v == nil:
		case v.wrong:
			problems = append(problems, fmt.Errorf("%s.%s: %q is not a number of bytes such as %s", path, field.name, v.text, field.most))
		case v.value < parseBytes(field.least).value || v.value > parseBytes(field.most).value:
			problems = append(problems, fmt.Errorf("%s.%s: %s is not between %s and %s", path, field.name, v.text, field.least, field.most))
		}
	}
	if o.MaxRunning < 1 || o.MaxRunning > maxKept {
		problems = append(problems, fmt.Errorf("%s.maxRunning: %d is not between 1 and %d", path, o.MaxRunning, maxKept))
	}
	return problems
}
