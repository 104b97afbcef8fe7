package pcapfile

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// MaxAddresses is how many addresses of a file have names: the lowest of those that all nodes know.
	MaxAddresses = 10_000
	// maxNamesPerAddress and maxNameBlock (bytes) keep single records and blocks small.
	maxNamesPerAddress = 8
	maxNameBlock       = 32 << 10
)

// Names gathers what addresses are called from all nodes of a capture. The zero value is empty. At most 2*MaxAddresses are
// held at a time.
type Names struct {
	names []pcapng.Name
}

// Add adds what one node was sealed with. Records without a valid address or name are left out.
func (n *Names) Add(names []*agentv1.CaptureName) {
	for _, name := range names {
		address, ok := netip.AddrFromSlice(name.GetAddress())
		if !ok || len(name.Names) == 0 {
			continue
		}
		one := pcapng.Name{Address: address}
		for _, text := range name.Names[:min(len(name.Names), maxNamesPerAddress)] {
			if text != "" {
				one.Names = append(one.Names, escapeName(text))
			}
		}
		if n.names = append(n.names, one); len(n.names) >= 2*MaxAddresses {
			n.names = n.Sorted()
		}
	}
}

// Merge adds what another has.
func (n *Names) Merge(other *Names) {
	if n.names = append(n.names, other.Sorted()...); len(n.names) >= 2*MaxAddresses {
		n.names = n.Sorted()
	}
}

// Sorted are the names by address, each address once.
func (n *Names) Sorted() []pcapng.Name {
	if n == nil {
		return nil
	}
	all := slices.Clone(n.names)
	slices.SortStableFunc(all, func(a, b pcapng.Name) int {
		return cmp.Or(cmp.Compare(a.Address.BitLen(), b.Address.BitLen()), a.Address.Compare(b.Address))
	})
	var merged []pcapng.Name
	for _, name := range all {
		if last := len(merged) - 1; last >= 0 && merged[last].Address == name.Address {
			merged[last].Names = append(slices.Clone(merged[last].Names), name.Names...)
		} else {
			merged = append(merged, name)
		}
	}
	for i := range merged {
		names := slices.Clone(merged[i].Names)
		slices.Sort(names)
		names = slices.Compact(names)
		merged[i].Names = names[:min(len(names), maxNamesPerAddress)]
	}
	merged = slices.DeleteFunc(merged, func(name pcapng.Name) bool { return len(name.Names) == 0 })
	return merged[:min(len(merged), MaxAddresses)]
}

// AppendNames appends Name Resolution Blocks, as many as it takes.
func AppendNames(b []byte, names []pcapng.Name) []byte {
	for len(names) > 0 {
		b, names = appendNames(b, names)
	}
	return b
}

// appendNames appends one block with the first names, of which there must be one, and returns those that are left.
func appendNames(b []byte, names []pcapng.Name) (block []byte, left []pcapng.Name) {
	count, size := 0, 0
	for count < len(names) && (count == 0 || size < maxNameBlock) {
		for _, text := range names[count].Names {
			size += len(text) + 1
		}
		size += 20
		count++
	}
	return pcapng.AppendNames(b, names[:count]), names[count:]
}

// escapeName is escape for names of addresses, in which slashes are common.
func escapeName(text string) string {
	parts := strings.Split(text[:min(len(text), maxText)], "/")
	for i := range parts {
		parts[i] = escape(parts[i])
	}
	return strings.Join(parts, "/")
}
