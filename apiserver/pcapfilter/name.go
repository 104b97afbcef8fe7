package pcapfilter

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Object says what a name is of.
type Object int

const (
	// AnyObject is for a name without a prefix: a Service, or if there is none a Pod.
	AnyObject Object = iota
	// Service is for svc/NAME.
	Service
	// Pod is for pod/NAME.
	Pod
)

// Name is a name in a filter where tcpdump takes that of a host.
type Name struct {
	Object Object
	// Namespace is what stands behind the last dot, empty if there is none: then the capture's own is meant.
	Namespace string
	Name      string
}

// maxAddresses bounds the addresses of all names of a filter together.
const maxAddresses = 512

// Names of Pods may have dots, and then the namespace has to be written.
var objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

const (
	maxObjectName = 253
	maxNamespace  = 63
)

// parseName reads web, web.shop, svc/web.shop and pod/web-0.shop, and \ip for what would be a keyword.
func parseName(t token) (Name, error) {
	text := strings.TrimPrefix(t.text, `\`)
	var n Name
	if prefix, rest, ok := strings.Cut(text, "/"); ok {
		text = rest
		n.Object = Service
		if prefix == "pod" {
			n.Object = Pod
		}
	}
	n.Name = text
	if dot := strings.LastIndexByte(text, '.'); dot >= 0 {
		n.Name, n.Namespace = text[:dot], text[dot+1:]
	}
	if !objectName.MatchString(text) || len(n.Name) > maxObjectName || len(n.Namespace) > maxNamespace {
		return Name{}, errorAt(t, "expected the name of a Service or Pod: lower-case letters, digits and hyphens, with the namespace behind a dot, as in web.shop%s", displayFilter(text))
	}
	return n, nil
}

// resolve asks the caller for a name's addresses, once per name.
func (g *generator) resolve(t token) ([]netip.Addr, error) {
	n, err := parseName(t)
	if err != nil {
		return nil, err
	}
	addresses, ok := g.resolved[n]
	if !ok {
		if g.options.Resolve == nil {
			return nil, errorAt(t, "names cannot be used here; write the address")
		}
		found, err := g.options.Resolve(n)
		if err != nil {
			return nil, errorAt(t, "%v", err)
		}
		for _, a := range found {
			if a.IsValid() {
				addresses = append(addresses, a.Unmap().WithZone(""))
			}
		}
		slices.SortFunc(addresses, netip.Addr.Compare) // so that the program does not depend on the answer's order
		addresses = slices.Compact(addresses)
		g.resolved[n] = addresses
	}
	if len(addresses) == 0 {
		return nil, errorAt(t, "this has no address now; write the address, or wait until it has one")
	}
	if g.addresses += len(addresses); g.addresses > maxAddresses {
		return nil, errorAt(t, "the names in this filter have more than %d addresses; write networks, as net 10.1.0.0/16", maxAddresses)
	}
	return addresses, nil
}
