package live

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A Record is what is kept of one object of the host: enough to name it, select it and find its counters. It
// does not change once it is in a Store, so it may be shared.
type Record struct {
	// Namespace is empty for objects of cluster scope.
	Namespace, Name string
	// HostUID is the UID of the host's object.
	HostUID types.UID
	Created metav1.Time
	Labels  map[string]string
	// Node is where the object is measured; empty while that is not decided.
	Node string
	// PodKey is the name by which the agent knows the pod; empty for a node.
	PodKey string
	// IPs are the addresses of the pod or node.
	IPs         []string
	HostNetwork bool
	// OwnerKind and OwnerName name the controller of a pod; empty for a pod of its own.
	OwnerKind, OwnerName string
	// Ended is true for a pod whose containers have all ended for good.
	Ended bool
}

// uidSpace is the name space (RFC 9562, section 6.6) of our UIDs, a random number chosen once and for ever.
var uidSpace = [16]byte{0x5c, 0x0e, 0x1f, 0x53, 0x3a, 0x2e, 0x4b, 0x6d, 0x9d, 0x1b, 0x7a, 0x64, 0x0c, 0xf2, 0x88, 0x31}

// uid derives the UID of our object from its host's: the same on every replica, and never the host's own, by
// which a garbage collector would take the two for one. It is of version 8 (RFC 9562, section 5.8), a SHA-256 cut to
// length, since version 5 needs SHA-1, which FIPS 140 forbids.
func (r *Record) uid() types.UID {
	sum := sha256.Sum256(append(uidSpace[:], r.HostUID...))
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
}

// Meta is the metadata of the API object, which owns it: nothing in it is shared with the record.
func (r *Record) Meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:              r.Name,
		Namespace:         r.Namespace,
		UID:               r.uid(),
		Labels:            maps.Clone(r.Labels),
		CreationTimestamp: r.Created,
	}
}

// GetObjectMeta lets client-go's reflector keep records in place of the host's objects while it fills its first
// store (metav1.ObjectMetaAccessor).
func (r *Record) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: r.Namespace, Name: r.Name}
}

func (r *Record) same(other *Record) bool {
	return r.HostUID == other.HostUID && r.Node == other.Node && r.PodKey == other.PodKey &&
		r.HostNetwork == other.HostNetwork && r.Ended == other.Ended &&
		r.OwnerKind == other.OwnerKind && r.OwnerName == other.OwnerName &&
		slices.Equal(r.IPs, other.IPs) && maps.Equal(r.Labels, other.Labels)
}

// intern shares the texts that many records have in common: namespaces, nodes, labels.
func (r *Record) intern() {
	r.Namespace = unique.Make(r.Namespace).Value()
	r.Node = unique.Make(r.Node).Value()
	r.OwnerKind = unique.Make(r.OwnerKind).Value()
	r.OwnerName = unique.Make(r.OwnerName).Value()
	if len(r.Labels) == 0 {
		r.Labels = nil
		return
	}
	labels := make(map[string]string, len(r.Labels))
	for k, v := range r.Labels {
		labels[unique.Make(k).Value()] = unique.Make(v).Value()
	}
	r.Labels = labels
}

// A key orders records: by namespace, then by name.
type key struct{ namespace, name string }

func (r *Record) key() key { return key{r.Namespace, r.Name} }

func compareKeys(a, b key) int {
	return cmp.Or(strings.Compare(a.namespace, b.namespace), strings.Compare(a.name, b.name))
}
