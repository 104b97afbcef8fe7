package dns

import (
	"cmp"
	"slices"
	"strings"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// longest is the length of the longest name in text. Escapes can make a name longer: it is cut then.
const longest = 255

// nameText turns a name as on the wire, which points nowhere, into text in small letters, without the last dot. Bytes
// that are not printable are escaped as \DDD, dots and backslashes in labels by a backslash (RFC 1035, 5.1).
func nameText(wire []byte) (string, bool) {
	var text strings.Builder
	full := false
	write := func(piece string) {
		full = full || text.Len()+len(piece) > longest
		if !full {
			text.WriteString(piece)
		}
	}
	for read := 0; ; {
		if read >= len(wire) || wire[read] > 63 {
			return "", false
		}
		length := int(wire[read])
		read++
		if length == 0 {
			break
		}
		if read+length > len(wire) || read+length >= longest {
			return "", false
		}
		if text.Len() > 0 {
			write(".")
		}
		for _, b := range wire[read : read+length] {
			write(escaped(b))
		}
		read += length
	}
	if text.Len() == 0 {
		return ".", true
	}
	return text.String(), true
}

func escaped(b byte) string {
	switch {
	case b == '.' || b == '\\':
		return string([]byte{'\\', b})
	case b <= ' ' || b > '~':
		return string([]byte{'\\', '0' + b/100, '0' + b/10%10, '0' + b%10})
	case b >= 'A' && b <= 'Z':
		return string([]byte{b + 'a' - 'A'})
	}
	return string([]byte{b})
}

// A ranking finds the names that are most frequent among any number of names, in fixed memory (Metwally, Agrawal, El
// Abbadi: Space-Saving): a name that has no place takes that of the least frequent one, and begins with its count. No
// name that is more frequent than the total divided by the places is missing, and no count is too low.
type ranking struct {
	places  int
	entries []ranked
	index   map[string]int
}

type ranked struct {
	name                 string
	count, error, failed int64
}

// newRanking has enough places for the first names to be right.
func newRanking(shown int) *ranking {
	return &ranking{places: max(64, 3*shown), index: map[string]int{}}
}

func (r *ranking) add(name string, failed bool) {
	i, ok := r.index[name]
	switch {
	case ok:
	case len(r.entries) < r.places:
		i = len(r.entries)
		r.entries = append(r.entries, ranked{name: name})
		r.index[name] = i
	default:
		i = r.least()
		delete(r.index, r.entries[i].name)
		r.entries[i] = ranked{name: name, count: r.entries[i].count, error: r.entries[i].count}
		r.index[name] = i
	}
	r.entries[i].count++
	if failed {
		r.entries[i].failed++
	}
}

func (r *ranking) least() int {
	least := 0
	for i := range r.entries {
		if r.entries[i].count < r.entries[least].count {
			least = i
		}
	}
	return least
}

// first are the most frequent names.
func (r *ranking) first(n int) []*v1alpha1.DNSNameCount {
	sorted := slices.Clone(r.entries)
	slices.SortFunc(sorted, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.error, b.error), cmp.Compare(a.name, b.name))
	})
	var rows []*v1alpha1.DNSNameCount
	for _, e := range sorted[:min(n, len(sorted))] {
		rows = append(rows, &v1alpha1.DNSNameCount{Name: e.name, Count: e.count, Error: e.error, Failed: e.failed})
	}
	return rows
}
