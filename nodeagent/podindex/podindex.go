// Package podindex tells programs in the kernel which pod a network namespace, a cgroup or an address belongs to:
// it keeps the maps of bpf/headers/pods.h as podmap finds pods. Other nodes' pods on the same kernel stay out. An address that
// several have is whose it was first, and the node's above all.
package podindex

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// mostAddresses is how many addresses of one pod are in the index. A pod that has CAP_NET_ADMIN could fill the table, which
// is one for all pods, with addresses of its own.
const mostAddresses = 64

// Index keeps the maps. Calls of Follow must not overlap.
type Index struct {
	netns, cgroup, address *ebpf.Map
	cgroupRoot             string

	// What has been read of each pod, by key.
	known map[string]entry
	mu    sync.Mutex
	// owners are the pods that have an address now.
	owners map[headers.Address]uint64
}

type entry struct {
	cookie, revision uint64
	addresses        []headers.Address
}

// New takes over the shared maps. What a former agent left in them stays until the first Follow. cgroupRoot is where cgroup version 2 is mounted, or empty.
func New(shared map[string]*ebpf.Map, cgroupRoot string) *Index {
	return &Index{
		netns: shared["pods_by_netns"], cgroup: shared["pods_by_cgroup"], address: shared["pods_by_address"],
		cgroupRoot: cgroupRoot, known: map[string]entry{}, owners: ownersIn(shared["pods_by_address"]),
	}
}

// ownersIn is what a former agent knew; nothing where it cannot be read.
func ownersIn(m *ebpf.Map) map[headers.Address]uint64 {
	owners := map[headers.Address]uint64{}
	var address headers.Address
	var number uint64
	for entries := m.Iterate(); entries.Next(&address, &number); {
		owners[address] = number
	}
	return owners
}

// Follow brings the maps up to date with the pods. The node itself is always in them.
func (x *Index) Follow(pods []*podmap.Pod) error {
	var problems []error
	netns, cgroups := map[uint64]uint64{}, map[uint64]uint64{}
	owners := map[headers.Address]uint64{}
	known := map[string]entry{}

	own, addresses, err := ownNamespace()
	problems = append(problems, err)
	netns[own] = headers.Node
	for _, address := range addresses {
		owners[address] = headers.Node
	}
	claims := map[uint64][]headers.Address{}
	for _, pod := range pods {
		number := headers.PodNumber(pod.Key)
		if pod.HostNetwork {
			if id, ok := x.cgroupID(pod); ok {
				cgroups[id] = number
			}
			continue
		}
		netns[pod.NetnsCookie] = number
		e, ok := x.known[pod.Key]
		if !ok || e.cookie != pod.NetnsCookie || e.revision != pod.Revision {
			e = entry{cookie: pod.NetnsCookie, revision: pod.Revision}
			err := pod.Enter(func() (err error) {
				e.addresses, err = addressesHere(mostAddresses)
				return err
			})
			if err != nil {
				e.revision-- // read again next time
				if !errors.Is(err, podmap.ErrGone) {
					problems = append(problems, fmt.Errorf("reading the addresses of pod %s: %w", pod.Key, err))
				}
			}
		}
		known[pod.Key] = e
		claims[number] = e.addresses
	}
	x.known = known
	x.settle(claims, owners)
	x.mu.Lock()
	x.owners = owners
	x.mu.Unlock()
	return errors.Join(append(problems, replaceAll(x.netns, netns), replaceAll(x.cgroup, cgroups), replaceAll(x.address, owners))...)
}

// settle adds the addresses that pods have to owners. One that several have stays with whose it is already, above all with
// the node: a pod can give itself any address, and would have the numbers of others.
func (x *Index) settle(claims map[uint64][]headers.Address, owners map[headers.Address]uint64) {
	for _, before := range []bool{true, false} {
		for number, addresses := range claims {
			for _, address := range addresses {
				if _, taken := owners[address]; !taken && (!before || x.owners[address] == number) {
					owners[address] = number
				}
			}
		}
	}
}

// OwnerOf is the number of the pod that has an address now, or headers.Node. It is safe for concurrent use.
func (x *Index) OwnerOf(address netip.Addr) (uint64, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	number, ok := x.owners[headers.AddressOf(address)]
	return number, ok
}

func (x *Index) cgroupID(pod *podmap.Pod) (uint64, bool) {
	if pod.Cgroup == "" || x.cgroupRoot == "" {
		return 0, false
	}
	info, err := os.Stat(filepath.Join(x.cgroupRoot, pod.Cgroup))
	if err != nil {
		return 0, false // it ends, and the pod with it
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Ino, true
}

// replaceAll makes a map hold exactly what it should.
func replaceAll[K comparable](m *ebpf.Map, want map[K]uint64) error {
	var stale []K
	have := map[K]uint64{}
	var key K
	var value uint64
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		have[key] = value
		if _, ok := want[key]; !ok {
			stale = append(stale, key)
		}
	}
	problems := []error{entries.Err()}
	for _, key := range stale {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			problems = append(problems, err)
		}
	}
	for key, value := range want {
		if old, ok := have[key]; !ok || old != value {
			if err := m.Put(key, value); err != nil {
				problems = append(problems, err)
			}
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("keeping the index of pods: %w", err)
	}
	return nil
}

func ownNamespace() (cookie uint64, addresses []headers.Address, err error) {
	if cookie, err = podmap.Cookie(); err != nil {
		return 0, nil, err
	}
	addresses, err = addressesHere(math.MaxInt)
	return cookie, addresses, err
}

// addressesHere are those of the calling thread's namespace, but for loopback's and those of links only, as many as most.
func addressesHere(most int) ([]headers.Address, error) {
	var addresses []headers.Address
	request := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	var malformed error
	// One after the other, so that what is left out takes no memory.
	err := request.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWADDR, func(message []byte) bool {
		address, err := parseAddress(message)
		if err != nil {
			malformed = err
			return false
		}
		if address.IsValid() && !address.IsLoopback() && !address.IsLinkLocalUnicast() {
			addresses = append(addresses, headers.AddressOf(address))
		}
		return len(addresses) < most
	})
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil // what changed meanwhile is announced
	}
	if err := errors.Join(err, malformed); err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	return addresses, nil
}

// parseAddress reads a message of type RTM_NEWADDR. The address is not valid when there is none.
func parseAddress(message []byte) (address netip.Addr, err error) {
	if len(message) < unix.SizeofIfAddrmsg {
		return address, errors.New("a message is too short")
	}
	attributes, err := nl.ParseRouteAttr(message[unix.SizeofIfAddrmsg:])
	if err != nil {
		return address, err
	}
	for _, attribute := range attributes {
		// IFA_ADDRESS is the other end of a link that has one, and else the own address.
		if kind := attribute.Attr.Type; kind == unix.IFA_LOCAL || (kind == unix.IFA_ADDRESS && !address.IsValid()) {
			address, _ = netip.AddrFromSlice(attribute.Value)
		}
	}
	return address, nil
}
