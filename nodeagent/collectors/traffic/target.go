package traffic

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/bpf/headers"
	bpf "github.com/networkobservability/networkobservability/bpf/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/rates"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

const (
	// mostInterfaces is how many interfaces of one pod are counted on, and mostListed how many are looked at. A pod that has
	// CAP_NET_ADMIN can make any number, and each has programs, for which all other pods would wait.
	mostInterfaces = 64
	mostListed     = 4096
)

// A target is one pod whose packets are counted.
type target struct {
	mu     sync.Mutex
	pod    *podmap.Pod
	ledger *ledger
	notes  bpf.Notes
	// pins is the folder of its links.
	pins       string
	interfaces map[int]*counted // by index
	window     rates.Window[bpf.Totals]
	// bypassed never falls: reading it races with the packets.
	bypassed int64
	// problem is why counting does not work or not everywhere; retry is when to try again.
	problem error
	retry   time.Time
}

// counted is an interface with our programs on it.
type counted struct {
	name string
	kind bpf.Hook
	// unit is true when the driver counts transmitted socket buffers, as the programs do, and not segments.
	unit bool
	// transmitted is how many buffers it had sent when last looked at.
	transmitted int64
}

func (t *target) close() {
	if t.ledger != nil {
		t.ledger.close()
	}
}

// attach brings the programs onto all that belongs to the pod.
func (c *Collector) attach(t *target, pod *podmap.Pod) error {
	if !pod.HostNetwork {
		t.pins = c.namespacePins(pod.NetnsCookie) // whatever goes wrong, what a former agent attached stays
	}
	if t.ledger == nil {
		ledger, err := c.openLedger(pod.Key)
		if err != nil {
			return err
		}
		t.ledger = ledger
		if t.notes, err = bpf.ReadNotes(ledger.totals); err != nil {
			return err
		}
	}
	if pod.HostNetwork {
		return c.attachToCgroup(t, pod)
	}
	return c.attachToInterfaces(t, pod)
}

func (c *Collector) attachToCgroup(t *target, pod *podmap.Pod) error {
	path := filepath.Join(c.config.CgroupRoot, pod.Cgroup)
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return fmt.Errorf("looking at cgroup %s: %w", path, err)
	}
	t.pins = c.cgroupPins(stat.Ino)
	return c.withPrograms(t, bpf.Cgroup, func(programs [2]*ebpf.Program) error {
		return attachCgroup(path, t.pins, programs)
	})
}

func (c *Collector) attachToInterfaces(t *target, pod *podmap.Pod) error {
	return pod.Enter(func() error {
		links, err := listInterfaces()
		if err != nil {
			return fmt.Errorf("listing interfaces: %w", err)
		}
		found := map[int]bool{}
		var problems []error
		chosen, leftOut := t.choose(leadingOut(links))
		if leftOut > 0 {
			problems = append(problems, fmt.Errorf("%d of %d interfaces are left out", leftOut, leftOut+len(chosen)))
		}
		for _, iface := range chosen {
			attrs := iface.Attrs()
			found[attrs.Index] = true
			kind := hookFor(iface, links)
			known := t.interfaces[attrs.Index]
			if known != nil && !c.isAttached(iface, c.interfacePins(pod.NetnsCookie, attrs.Index)) {
				t.forgetOne(attrs.Index) // another interface has its number
				known = nil
			}
			if known != nil && known.kind == kind {
				known.name = attrs.Name
				continue
			}
			if err := c.attachToInterface(t, pod, iface, kind); err != nil {
				problems = append(problems, fmt.Errorf("attaching to %q: %w", attrs.Name, err))
			}
		}
		t.forget(found)
		if len(found) == 0 {
			problems = append(problems, fmt.Errorf("none of %d interfaces leads out of the pod", len(links)))
		}
		return errors.Join(append(problems, bpf.WriteNotes(t.ledger.totals, t.notes))...)
	})
}

// listInterfaces lists those of the calling thread's network namespace, as many as mostListed. What is beyond takes no memory.
func listInterfaces() (links []netlink.Link, err error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	var malformed error
	err = request.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWLINK, func(message []byte) bool {
		iface, err := netlink.LinkDeserialize(nil, message)
		if err != nil {
			malformed = err
			return false
		}
		links = append(links, iface)
		return len(links) < mostListed
	})
	return links, errors.Join(err, malformed)
}

// choose takes as many interfaces as are counted on: those that are already, and then the ones that were made first.
func (t *target) choose(out []netlink.Link) (chosen []netlink.Link, leftOut int) {
	rank := func(iface netlink.Link) int {
		if t.interfaces[iface.Attrs().Index] != nil {
			return 0
		}
		return 1
	}
	slices.SortFunc(out, func(a, b netlink.Link) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Attrs().Index, b.Attrs().Index))
	})
	chosen = out[:min(len(out), mostInterfaces)]
	return chosen, len(out) - len(chosen)
}

func (c *Collector) attachToInterface(t *target, pod *podmap.Pod, iface netlink.Link, kind bpf.Hook) error {
	attrs := iface.Attrs()
	return c.withPrograms(t, kind, func(programs [2]*ebpf.Program) error {
		before, err := t.ledger.read()
		if err != nil {
			return err
		}
		fresh, err := c.attachBest(iface, c.interfacePins(pod.NetnsCookie, attrs.Index), programs)
		if err != nil {
			return err
		}
		after, err := t.ledger.read()
		if err != nil {
			return err
		}
		sent, err := transmitted(attrs.Index)
		if err != nil {
			return err
		}
		if fresh {
			t.notes.TransmitBase += sent
			// What was counted meanwhile is no part of the base; with other interfaces it might be theirs.
			if len(t.interfaces) == 0 {
				t.notes.TransmitBase -= int64(buffersSent(&after) - buffersSent(&before))
			}
		}
		t.interfaces[attrs.Index] = &counted{name: attrs.Name, kind: kind, unit: countsBuffers(iface.Type()), transmitted: sent}
		return nil
	})
}

// hookFor chooses the programs. Frames for others are the pod's only where the interface hands frames on inside the
// pod: as the port of a bridge, or to an interface that lies upon it.
func hookFor(iface netlink.Link, links []netlink.Link) bpf.Hook {
	attrs := iface.Attrs()
	if attrs.EncapType != "ether" {
		return bpf.Raw
	}
	if attrs.MasterIndex != 0 {
		return bpf.EtherAny
	}
	for _, other := range links {
		o := other.Attrs()
		if o.ParentIndex == attrs.Index && o.NetNsID < 0 && other.Type() != "veth" {
			return bpf.EtherAny
		}
	}
	return bpf.Ether
}

// withPrograms loads the programs of both directions for the time of do; what they are attached to keeps them.
func (c *Collector) withPrograms(t *target, kind bpf.Hook, do func([2]*ebpf.Program) error) error {
	var programs [2]*ebpf.Program
	for _, direction := range directions {
		program, err := c.load(t, kind, direction)
		if err != nil {
			return err
		}
		defer program.Close()
		programs[direction] = program
	}
	return do(programs)
}

// load loads a program that does all that is wanted, or as much of it as this kernel lets it.
func (c *Collector) load(t *target, kind bpf.Hook, direction bpf.Direction) (*ebpf.Program, error) {
	for {
		c.mu.Lock()
		beyond := c.beyond
		c.mu.Unlock()
		beyond.Pod = headers.PodNumber(t.pod.Key)
		program, err := bpf.NewProgram(t.ledger.totals, kind, direction, beyond)
		if err == nil || beyond.Shared == nil || !isRefused(err) {
			return program, err
		}
		c.reduce(beyond, err)
	}
}

// isRefused tells what the kernel will never load from what it has no memory for now.
func isRefused(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.E2BIG)
}

// reduce asks less of programs than what was refused, once.
func (c *Collector) reduce(refused bpf.Beyond, reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.beyond.Shared != nil && refused.WithoutInspection:
		c.beyond = bpf.Beyond{}
		c.reduced = fmt.Errorf("packets are in no flow and are not handed on for inspection: %w", reason)
	case c.beyond.Shared != nil && !c.beyond.WithoutInspection:
		c.beyond.WithoutInspection = true
		c.reduced = fmt.Errorf("packets are not handed on for inspection: %w", reason)
	}
}

// forget drops interfaces that are gone; what they had sent stays in the reckoning of what bypassed the hooks.
func (t *target) forget(found map[int]bool) {
	for index := range t.interfaces {
		if !found[index] {
			t.forgetOne(index)
		}
	}
}

func (t *target) forgetOne(index int) {
	t.notes.TransmitBase -= t.interfaces[index].transmitted
	delete(t.interfaces, index)
}

// transmitted is how many packets an interface of the calling thread's namespace has sent or dropped on the way.
func transmitted(ifindex int) (int64, error) {
	iface, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return 0, fmt.Errorf("reading statistics: %w", err)
	}
	statistics := iface.Attrs().Statistics
	if statistics == nil {
		return 0, errors.New("reading statistics: the kernel gave none")
	}
	return int64(statistics.TxPackets + statistics.TxDropped), nil
}

// countsBuffers tells drivers that count a buffer as one packet, so that a difference from our count means something.
func countsBuffers(kind string) bool {
	switch kind {
	case "veth", "macvlan", "ipvlan", "netkit":
		return true
	}
	return false
}

// leadingOut chooses the interfaces that lead out of the pod. Others, such as a bridge or tunnel that a pod has made
// for itself, carry the same packets again. Where none seems to lead out, all but loopback do.
func leadingOut(links []netlink.Link) []netlink.Link {
	var all, out []netlink.Link
	for _, iface := range links {
		attrs := iface.Attrs()
		if attrs.Flags&net.FlagLoopback != 0 || isFallback(attrs) {
			continue
		}
		all = append(all, iface)
		if leadsOut(iface, links) {
			out = append(out, iface)
		}
	}
	if len(out) == 0 {
		return all
	}
	return out
}

// isFallback tells the tunnel devices that the kernel puts into every namespace, unused.
func isFallback(attrs *netlink.LinkAttrs) bool {
	if attrs.Flags&net.FlagUp != 0 {
		return false
	}
	switch attrs.Name {
	case "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0":
		return true
	}
	return false
}

func leadsOut(iface netlink.Link, links []netlink.Link) bool {
	attrs := iface.Attrs()
	switch iface.Type() {
	case "device": // hardware
		return true
	case "veth", "netkit", "macvlan", "macvtap", "ipvlan", "ipvtap", "vlan":
		// The other end, or the interface beneath, is in another namespace.
		return attrs.NetNsID >= 0 && !isNested(attrs, links)
	}
	return false
}

// isNested tells the near end of a container inside the pod, on a bridge that the pod made beside its own interface.
// A bridge with hardware or the pod's own veth on it (as virtual machines use) has ports to one outer namespace only.
func isNested(attrs *netlink.LinkAttrs, links []netlink.Link) bool {
	if attrs.MasterIndex == 0 {
		return false
	}
	for _, other := range links {
		o := other.Attrs()
		if o.Index != attrs.Index && o.MasterIndex == 0 && o.NetNsID >= 0 && o.NetNsID != attrs.NetNsID {
			return true
		}
	}
	return false
}

// readBypassed is how many buffers the interfaces sent that the programs did not see. The caller reads the interfaces
// first and the totals after: then a packet on its way can hide one that bypassed, for a moment, but never be taken
// for one. ok is false where the drivers count in another unit.
func (t *target) readBypassed(devices []byte, totals *bpf.Totals) (bypassed int64, ok bool) {
	if len(t.interfaces) == 0 {
		return 0, false
	}
	sent := -t.notes.TransmitBase
	for _, iface := range t.interfaces {
		now, found := sentBy(devices, iface.name)
		if !iface.unit || !found {
			return 0, false
		}
		iface.transmitted = now
		sent += now
	}
	sent -= int64(buffersSent(totals))
	t.bypassed = max(t.bypassed, sent)
	return t.bypassed, true
}

func buffersSent(totals *bpf.Totals) (sum uint64) {
	for _, cell := range totals.Cells[bpf.Transmit] {
		sum += cell.Buffers
	}
	return sum
}

// sentBy finds the packets that an interface has sent or dropped in /proc/net/dev: the tenth and twelfth number.
func sentBy(devices []byte, name string) (sent int64, ok bool) {
	for line := range bytes.Lines(devices) {
		// A name may hold a colon, the numbers do not.
		colon := bytes.LastIndexByte(line, ':')
		if colon < 0 || string(bytes.TrimSpace(line[:colon])) != name {
			continue
		}
		i := 0
		for field := range bytes.FieldsSeq(line[colon+1:]) {
			if i == 9 || i == 11 {
				number, err := strconv.ParseInt(string(field), 10, 64)
				if err != nil {
					return 0, false
				}
				sent += number
			}
			i++
		}
		return sent, i >= 12
	}
	return 0, false
}
