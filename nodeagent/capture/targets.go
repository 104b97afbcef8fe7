package capture

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// A device is an interface in a network namespace. Numbers of namespaces are not used twice between two boots.
type device struct {
	Namespace uint64 `json:"namespace"`
	Index     int    `json:"index"`
	Name      string `json:"name"`
}

// A link is an interface as listed.
type link struct {
	name         string
	index        int
	up, loopback bool
}

// A place is where a target's interfaces are.
type place interface {
	// Enter runs do on a thread in the network namespace.
	Enter(do func() error) error
	// Alive is false when the pod's process is gone.
	Alive() bool
	// Namespace is the number of the network namespace.
	Namespace() uint64
	// Revision changes when interfaces may have come or gone.
	Revision() uint64
	// Uplinks are the interfaces of the node that stand for those of the place; nil where it has its own.
	Uplinks() ([]string, error)
}

// places finds where targets are.
type places struct {
	pods    Pods
	uplinks func() ([]string, error)
}

// Pods finds pods of this node; a podmap.Map does.
type Pods interface {
	Lookup(key string) (*podmap.Pod, bool)
}

// find looks for a target's place; nil when no process of the pod is there.
func (p places) find(target *v1alpha1.CaptureTarget) place {
	if target.GetKey() == "" {
		return nodePlace{p.uplinks}
	}
	pod, ok := p.pods.Lookup(target.GetKey())
	if !ok {
		return nil
	}
	if pod.HostNetwork {
		return hostPlace{podPlace{pod}, nodePlace{p.uplinks}}
	}
	return podPlace{pod}
}

type podPlace struct{ pod *podmap.Pod }

// Enter makes sure that the process has not moved since it was found.
func (p podPlace) Enter(do func() error) error {
	return p.pod.Enter(func() error {
		cookie, err := podmap.Cookie()
		if err != nil {
			return err
		}
		if cookie != p.pod.NetnsCookie {
			return errors.New("the pod's process has changed its network namespace")
		}
		return do()
	})
}

func (p podPlace) Alive() bool              { return p.pod.Alive() }
func (p podPlace) Namespace() uint64        { return p.pod.NetnsCookie }
func (p podPlace) Revision() uint64         { return p.pod.Revision }
func (podPlace) Uplinks() ([]string, error) { return nil, nil }

// nodePlace is the agent's own network namespace.
type nodePlace struct{ uplinks func() ([]string, error) }

// Enter runs do at once: every thread is there, but for those on a visit.
func (nodePlace) Enter(do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return do()
}

func (nodePlace) Alive() bool       { return true }
func (nodePlace) Namespace() uint64 { return 0 }
func (nodePlace) Revision() uint64  { return 0 }

// Uplinks is not nil, even when there is none.
func (n nodePlace) Uplinks() ([]string, error) {
	names, err := n.uplinks()
	return append([]string{}, names...), err
}

// hostPlace is that of a pod in the node's network.
type hostPlace struct {
	podPlace
	node nodePlace
}

func (h hostPlace) Enter(do func() error) error { return h.node.Enter(do) }
func (h hostPlace) Namespace() uint64           { return 0 }
func (h hostPlace) Uplinks() ([]string, error)  { return h.node.Uplinks() }

// listLinks lists the interfaces of the current thread's network namespace.
func listLinks() ([]link, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var links []link
	for _, i := range all {
		links = append(links, link{
			name: i.Name, index: i.Index, up: i.Flags&net.FlagUp != 0, loopback: i.Flags&net.FlagLoopback != 0,
		})
	}
	return links, nil
}

// wanted are the links that a target asks for. absent says which of those that it names are not there.
func wanted(target *v1alpha1.CaptureTarget, links []link, uplinks []string) (found []link, absent []string) {
	names := target.GetInterfaces()
	if len(names) == 0 && uplinks == nil {
		for _, l := range links {
			if l.up && !l.loopback {
				found = append(found, l)
			}
		}
		if len(found) == 0 {
			absent = append(absent, "no interface but loopback is up")
		}
		return found, absent
	}
	if len(names) == 0 {
		names = uplinks
		if len(names) == 0 {
			absent = append(absent, "the node has no uplink")
		}
	}
	for _, name := range names {
		at := slices.IndexFunc(links, func(l link) bool { return l.name == name })
		switch {
		case at < 0:
			absent = append(absent, fmt.Sprintf("there is no interface %s", printable(name, 64)))
		case !links[at].up:
			absent = append(absent, fmt.Sprintf("interface %s is down", printable(name, 64)))
		default:
			found = append(found, links[at])
		}
	}
	return found, absent
}

// openRing opens a ring in the current thread's network namespace.
func openRing(request *v1alpha1.EnsureCaptureRequest, name string, bytes int64) (source, error) {
	opened, err := ring.Open(ring.Config{
		Interface: name, SnapLength: int(request.GetSnapLength()), Bytes: int(bytes),
		EthernetFilter: instructions(request.GetEthernetFilter()), RawFilter: instructions(request.GetRawFilter()),
	})
	if err != nil {
		return nil, err
	}
	return ringSource{opened}, nil
}

// ringSource hands out blocks as the interface that tests implement, too.
type ringSource struct{ *ring.Ring }

func (r ringSource) Run(take func(block) error) error {
	return r.Ring.Run(func(b *ring.Block) error { return take(b) })
}

func instructions(program []uint64) []unix.SockFilter {
	filter := make([]unix.SockFilter, len(program))
	for i, word := range program {
		filter[i] = unix.SockFilter{Code: uint16(word >> 48), Jt: uint8(word >> 40), Jf: uint8(word >> 32), K: uint32(word)}
	}
	return filter
}

// whyNot is what is said of an interface that could not be opened.
func whyNot(err error) string {
	if errors.Is(err, unix.ENODEV) {
		return "the interface went"
	}
	return err.Error()
}
