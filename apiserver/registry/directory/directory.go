package directory

import (
	"errors"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

const (
	// remember is for how long what went is known: the agents' history and five minutes more.
	remember = 35 * time.Minute
	// maxGone bounds how many that went are known.
	maxGone = 200_000
	// rememberLabels is for how long changes of pods' labels are known, twice as long as a watch can go back, and maxRelabelled how many.
	rememberLabels, maxRelabelled = 10 * time.Minute, 10_000
	// maxGoneLabels and maxRelabelledLabels bound the bytes of labels of both: a pod may have a megabyte of them.
	maxGoneLabels, maxRelabelledLabels = 128 << 20, 32 << 20
	// sweepEvery is how often what went long ago is forgotten.
	sweepEvery = time.Minute
)

// An Owner is who holds an address: a pod, a Service or a node. Exactly one field is set. What it points to is
// shared and must not be changed.
type Owner struct {
	Pod     *live.Record
	Service *Service
	Node    string
}

// A Service is what is known of one.
type Service struct {
	Namespace, Name string
	Ports           []ServicePort
}

// A ServicePort is a port of a Service. Protocol is as in the Kubernetes API: TCP, UDP or SCTP.
type ServicePort struct {
	Name, Protocol string
	Port           int32
}

// PortName is the name of a port; empty when it has none.
func (s *Service) PortName(protocol string, port int32) string {
	for _, one := range s.Ports {
		if one.Port == port && one.Protocol == protocol {
			return one.Name
		}
	}
	return ""
}

// Directory is safe for concurrent use.
type Directory struct {
	clock   clock.WithTicker
	sources sources
	maxGone int

	mu sync.RWMutex
	// pods are by the keys by which agents name them, Services by namespace/name, nodes by name.
	pods, services, nodes map[string]*holder
	byNamespace, byNode   map[string]map[*holder]struct{}
	// arrivals are numbers of the last arrivals of pods at nodes, of arrived in all.
	arrived   uint64
	arrivals  map[string]uint64
	addresses map[netip.Addr][]span
	// conventional are addresses that are a node's unless somebody is known to hold them, by node.
	conventional map[netip.Addr]string
	// gone are those that went, in this order, with so many bytes of labels.
	gone       []*holder
	goneLabels int
	podsListed bool
	// relabelled are the last of so many changes of pods' labels, oldest first, with so many bytes of labels.
	relabelled       []relabelling
	relabelledLabels int
	changes          uint64
}

// A relabelling is what a pod was before its labels, or what it belongs to, changed.
type relabelling struct {
	before *live.Record
	at     time.Time
}

// A holder is one that holds addresses, or held them.
type holder struct {
	table map[string]*holder
	key   string
	owner Owner
	// addresses are those it holds; held are all it ever held, which are those with spans of it.
	addresses, held []netip.Addr
	// node is where a pod was counted as an arrival.
	node string
	// gone is when it went; zero while it is there.
	gone time.Time
}

// Synced fails until all pods, Services and nodes are known.
func (d *Directory) Synced() error {
	d.mu.RLock()
	listed := d.podsListed
	d.mu.RUnlock()
	if !listed || !d.sources.synced() {
		return errors.New("the cluster's pods, Services and nodes are not listed yet")
	}
	return nil
}

// Pod is the pod that agents know by a key, also one that went.
func (d *Directory) Pod(key string) (*live.Record, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	h := d.pods[key]
	if h == nil {
		return nil, false
	}
	return h.owner.Pod, true
}

// Pods are the pods of a namespace, or of all when it is empty, with those that went, and whether they are there.
func (d *Directory) Pods(namespace string) iter.Seq2[*live.Record, bool] {
	return func(yield func(*live.Record, bool) bool) {
		for _, one := range d.known(namespace) {
			if !yield(one.pod, one.there) {
				return
			}
		}
	}
}

// PodsOn are the pods of a node, as Pods has them.
func (d *Directory) PodsOn(node string) iter.Seq2[*live.Record, bool] {
	return func(yield func(*live.Record, bool) bool) {
		for _, one := range d.knownOn(node) {
			if !yield(one.pod, one.there) {
				return
			}
		}
	}
}

// Arrivals is another number than before when a pod has come to a node.
func (d *Directory) Arrivals(node string) uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.arrivals[node]
}

// Relabelled is how often the labels of a pod, or what it belongs to, have changed.
func (d *Directory) Relabelled() uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.changes
}

// RelabelledAfter are the pods of the changes after the first so many, as they were before, oldest first, as far as they are known
// still. all says that these are all.
func (d *Directory) RelabelledAfter(changes uint64) (before []*live.Record, all bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	wanted, known := d.changes-min(changes, d.changes), uint64(len(d.relabelled))
	for _, one := range d.relabelled[known-min(wanted, known):] {
		before = append(before, one.before)
	}
	return before, wanted <= known
}

// RelabelledBy is Relabelled at a time, as far as that is known still.
func (d *Directory) RelabelledBy(at time.Time) uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	changes := d.changes
	for i := len(d.relabelled) - 1; i >= 0 && d.relabelled[i].at.After(at); i-- {
		changes--
	}
	return changes
}

func (d *Directory) noteLabels(before, after *live.Record) {
	if before.OwnerKind == after.OwnerKind && before.OwnerName == after.OwnerName && maps.Equal(before.Labels, after.Labels) {
		return
	}
	d.changes++
	d.relabelled = append(d.relabelled, relabelling{before, d.clock.Now()})
	d.relabelledLabels += labelBytes(before)
	for len(d.relabelled) > maxRelabelled || d.relabelledLabels > maxRelabelledLabels {
		d.forgetFirstLabels()
	}
}

func (d *Directory) forgetFirstLabels() {
	d.relabelledLabels -= labelBytes(d.relabelled[0].before)
	d.relabelled[0] = relabelling{} // Else the queue would keep it until it grows.
	d.relabelled = d.relabelled[1:]
}

// labelBytes is how long the labels of a pod are.
func labelBytes(pod *live.Record) (bytes int) {
	if pod != nil {
		for key, value := range pod.Labels {
			bytes += len(key) + len(value)
		}
	}
	return bytes
}

type known struct {
	pod   *live.Record
	there bool
}

// known is a copy, since whoever goes through it may take his time.
func (d *Directory) known(namespace string) []known {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if namespace != "" {
		return among(d.byNamespace[namespace])
	}
	all := make([]known, 0, len(d.pods))
	for _, h := range d.pods {
		all = append(all, known{h.owner.Pod, h.gone.IsZero()})
	}
	return all
}

func (d *Directory) knownOn(node string) []known {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return among(d.byNode[node])
}

func among(holders map[*holder]struct{}) []known {
	all := make([]known, 0, len(holders))
	for h := range holders {
		all = append(all, known{h.owner.Pod, h.gone.IsZero()})
	}
	return all
}

// Nodes are the names of the nodes that are there, in order.
func (d *Directory) Nodes() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	names := make([]string, 0, len(d.nodes))
	for name, h := range d.nodes {
		if h.gone.IsZero() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// hashLabel is put by a Deployment on its ReplicaSets' pods; its value ends the ReplicaSet's name.
const hashLabel = "pod-template-hash"

// Workload is what a pod belongs to: its controller, and the Deployment of a ReplicaSet that has one. Both are empty for
// a pod of its own.
func Workload(pod *live.Record) (kind, name string) {
	if hash := pod.Labels[hashLabel]; pod.OwnerKind == "ReplicaSet" && hash != "" {
		if deployment, ok := strings.CutSuffix(pod.OwnerName, "-"+hash); ok {
			return "Deployment", deployment
		}
	}
	return pod.OwnerKind, pod.OwnerName
}

// put makes a holder of the table hold these addresses and no others. since is when it can have begun to.
func (d *Directory) put(table map[string]*holder, key string, owner Owner, addresses []netip.Addr, since time.Time) {
	now := d.clock.Now()
	h := table[key]
	if h == nil || !h.gone.IsZero() {
		d.unindex(h)
		h = &holder{table: table, key: key}
		table[key] = h
	}
	d.unindex(h)
	h.owner = owner
	for _, address := range h.addresses {
		if !slices.Contains(addresses, address) {
			d.closeSpan(address, h, now)
		}
	}
	for _, address := range addresses {
		if !slices.Contains(h.addresses, address) {
			d.openSpan(address, h, since, now)
		}
	}
	h.addresses = addresses
	if owner.Pod != nil {
		d.index(h)
	}
}

func (d *Directory) index(h *holder) {
	put(d.byNamespace, h.owner.Pod.Namespace, h)
	if node := h.owner.Pod.Node; node != "" {
		put(d.byNode, node, h)
		if h.node != node {
			h.node = node
			d.arrived++
			d.arrivals[node] = d.arrived
		}
	}
}

func put(index map[string]map[*holder]struct{}, name string, h *holder) {
	if index[name] == nil {
		index[name] = map[*holder]struct{}{}
	}
	index[name][h] = struct{}{}
}

// unindex takes a holder, which may be nil, out of the indexes.
func (d *Directory) unindex(h *holder) {
	if h == nil || h.owner.Pod == nil {
		return
	}
	drop(d.byNamespace, h.owner.Pod.Namespace, h)
	drop(d.byNode, h.owner.Pod.Node, h)
}

func drop(index map[string]map[*holder]struct{}, name string, h *holder) {
	delete(index[name], h)
	if len(index[name]) == 0 {
		delete(index, name)
	}
}

// remove notes that one went.
func (d *Directory) remove(table map[string]*holder, key string) {
	h := table[key]
	if h == nil || !h.gone.IsZero() {
		return
	}
	h.gone = d.clock.Now()
	for _, address := range h.addresses {
		d.closeSpan(address, h, h.gone)
	}
	h.addresses = nil
	d.gone = append(d.gone, h)
	d.goneLabels += labelBytes(h.owner.Pod)
	for len(d.gone) > d.maxGone || d.goneLabels > maxGoneLabels {
		d.forgetFirst()
	}
}

// sweep forgets those that went long ago.
func (d *Directory) sweep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock.Now()
	for len(d.relabelled) > 0 && now.Sub(d.relabelled[0].at) > rememberLabels {
		d.forgetFirstLabels()
	}
	for len(d.gone) > 0 && now.Sub(d.gone[0].gone) > remember {
		d.forgetFirst()
	}
}

func (d *Directory) forgetFirst() {
	h := d.gone[0]
	d.goneLabels -= labelBytes(h.owner.Pod)
	d.gone[0] = nil // Else the queue would keep it until it grows.
	d.gone = d.gone[1:]
	if h.table[h.key] == h {
		delete(h.table, h.key)
	}
	d.unindex(h)
	if h.node != "" && d.byNode[h.node] == nil {
		delete(d.arrivals, h.node)
	}
	for _, address := range h.held {
		d.dropSpans(address, h)
	}
}
