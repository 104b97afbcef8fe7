package storage

import (
	"strings"

	apistorage "k8s.io/apiserver/pkg/storage"
)

// A kind is a custom resource of artifacts/deploy/storage, which holds the objects of one resource of ours.
type kind struct {
	resource, name string
	names          names
}

// The kinds of envelopes, by the resource that they hold. All are in our own namespace, also those of objects that have
// none: so one Role gives all rights that storing needs, and the objects go when the namespace does.
var kinds = map[string]kind{
	"captures":           {resource: "storedcaptures", name: "StoredCapture", names: namespacedNames{}},
	"clustercaptures":    {resource: "storedclustercaptures", name: "StoredClusterCapture", names: clusterNames{}},
	"networktelemetries": {resource: "storednetworktelemetries", name: "StoredNetworkTelemetry", names: clusterNames{}},
}

// names maps keys of objects, without the resource's prefix, to names of envelopes. The order of names is that of keys,
// since a namespace is a DNS label and has no character between "." and "/".
type names interface {
	// envelope is the name and the namespace for a key. No object is at keys that have none.
	envelope(key string) (name, namespace string, ok bool)
	// key is the inverse.
	key(envelope string) string
	// start is the name at which a list begins that is to begin at the key.
	start(key string) string
	// namespace is what a prefix of keys, "" or with "/" at the end, is about: all ("") or one namespace.
	namespace(prefix string) (namespace string, ok bool)
}

// namespacedNames: NAMESPACE/NAME is kept in NAMESPACE.NAME. A namespace has no dot, so no two keys share a name.
type namespacedNames struct{}

func (namespacedNames) envelope(key string) (string, string, bool) {
	namespace, name, ok := strings.Cut(key, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(namespace, ".") || strings.Contains(name, "/") {
		return "", "", false
	}
	return namespace + "." + name, namespace, true
}

func (namespacedNames) key(envelope string) string { return strings.Replace(envelope, ".", "/", 1) }

func (namespacedNames) start(key string) string { return strings.Replace(key, "/", ".", 1) }

func (namespacedNames) namespace(prefix string) (string, bool) {
	namespace := strings.TrimSuffix(prefix, "/")
	return namespace, !strings.ContainsAny(namespace, "/.")
}

// clusterNames: NAME is kept in NAME.
type clusterNames struct{}

func (clusterNames) envelope(key string) (string, string, bool) {
	return key, "", key != "" && !strings.Contains(key, "/")
}

func (clusterNames) key(envelope string) string { return envelope }

func (clusterNames) start(key string) string { return key }

func (clusterNames) namespace(prefix string) (string, bool) { return "", prefix == "" }

// behindNamespace is behind every envelope of a namespace, and before those of the next.
const behindNamespace = ".~"

// continueAt is a continue token of the host that begins at a name, which need not be there. Version -1 is the newest.
// The host's tokens have the form of ours, with names in place of keys.
func continueAt(name string, version int64) (string, error) {
	const root = "/"
	return apistorage.EncodeContinue(root+name, root, version)
}
