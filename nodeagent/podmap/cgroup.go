package podmap

import (
	"bytes"
	"strings"
)

// A tree knows which cgroups hold the pods of this node. Nodes of a local cluster share one kernel and see each
// other's processes, so "it looks like a pod" is not enough.
type tree struct {
	// prefixes holds, by hierarchy number as in /proc/PID/cgroup, the cgroup below which the kubelet of this node
	// keeps its pods: the ancestor that the agent's own pod shares with all of them.
	prefixes map[string][]string
	kind     treeKind
}

type treeKind int

const (
	// everyPod: the agent runs in no pod, and pods of any prefix are taken.
	everyPod treeKind = iota
	// belowPrefix: the agent's own cgroup names its pod.
	belowPrefix
	// relative: the agent sees only its own cgroup namespace, where paths of other pods begin with "/..".
	relative
)

// newTree derives the tree from the agent's own /proc/self/cgroup and the key of its pod, empty outside a pod.
func newTree(self []byte, ownKey string) tree {
	if ownKey == "" {
		return tree{kind: everyPod}
	}
	prefixes := map[string][]string{}
	for id, path := range hierarchies(self) {
		components := split(path)
		for i, component := range components {
			if key, ok := podKey(component); !ok || key != ownKey {
				continue
			}
			if i > 0 && isQOS(components[i-1]) {
				i--
			}
			prefixes[id] = components[:i]
			break
		}
	}
	if len(prefixes) == 0 {
		return tree{kind: relative}
	}
	return tree{kind: belowPrefix, prefixes: prefixes}
}

// pod says whose process it is, given its /proc/PID/cgroup. unified is the path of the pod's cgroup of version 2,
// empty where it has none. The outermost component that names a pod decides: what a container makes below its own
// cgroup cannot pass for another pod.
func (t tree) pod(cgroup []byte) (key, unified string, ok bool) {
	for id, path := range hierarchies(cgroup) {
		found, at, isPod := t.find(id, path)
		if !isPod || (ok && found != key) {
			continue
		}
		key, ok = found, true
		if id == "0" && t.kind != relative {
			unified = at
		}
	}
	return key, unified, ok
}

func (t tree) find(id, path string) (key, at string, ok bool) {
	components := split(path)
	start := 0
	switch t.kind {
	case everyPod:
		return outermost(components)
	case relative:
		for start < len(components) && components[start] == ".." {
			start++
		}
		if start == 0 {
			return "", "", false
		}
	case belowPrefix:
		prefix, known := t.prefixes[id]
		if !known || len(components) <= len(prefix) {
			return "", "", false
		}
		for i := range prefix {
			if components[i] != prefix[i] {
				return "", "", false
			}
		}
		start = len(prefix)
	}
	if start < len(components) && isQOS(components[start]) {
		start++
	}
	if start >= len(components) {
		return "", "", false
	}
	key, ok = podKey(components[start])
	return key, "/" + strings.Join(components[:start+1], "/"), ok
}

func outermost(components []string) (key, at string, ok bool) {
	for i, component := range components {
		if key, ok := podKey(component); ok {
			return key, "/" + strings.Join(components[:i+1], "/"), true
		}
	}
	return "", "", false
}

// hierarchies yields number and path of each line of a /proc/PID/cgroup. The kernel refuses newlines in names.
func hierarchies(cgroup []byte) func(yield func(id, path string) bool) {
	return func(yield func(id, path string) bool) {
		for line := range bytes.Lines(cgroup) {
			id, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
			_, path, ok := strings.Cut(rest, ":")
			if ok && strings.HasPrefix(path, "/") && !yield(id, path) {
				return
			}
		}
	}
}

func split(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// isQOS tells the cgroup that the kubelet puts between its root and pods of a lower quality of service.
func isQOS(component string) bool {
	component = strings.TrimSuffix(component, ".slice")
	for _, class := range []string{"burstable", "besteffort"} {
		if component == class || strings.HasSuffix(component, "-"+class) {
			return true
		}
	}
	return false
}

// podKey reads the name of a pod's cgroup: "pod" and the key, or with systemd
// "kubepods-burstable-pod" and the key, its dashes written as underscores, and ".slice".
func podKey(component string) (string, bool) {
	if name, isSlice := strings.CutSuffix(component, ".slice"); isSlice {
		dash := strings.LastIndexByte(name, '-')
		component = strings.ReplaceAll(name[dash+1:], "_", "-")
	}
	key, ok := strings.CutPrefix(component, "pod")
	if !ok || !isKey(key) {
		return "", false
	}
	return key, true
}

// isKey accepts a UUID as the API server writes it, and the 32 digits of a static pod's hash. Keys become file
// names, so nothing else may pass.
func isKey(key string) bool {
	switch len(key) {
	case 32:
		return isHex(key)
	case 36:
		return key[8] == '-' && key[13] == '-' && key[18] == '-' && key[23] == '-' &&
			isHex(strings.ReplaceAll(key, "-", "")) && strings.Count(key, "-") == 4
	}
	return false
}

func isHex(text string) bool {
	return strings.Trim(text, "0123456789abcdef") == ""
}
