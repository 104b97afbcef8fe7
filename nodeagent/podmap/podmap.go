package podmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// patience is how long after an interface appeared a process of its pod is looked for, and how old a process in
	// the node's network must be for its pod to be taken for one that uses it.
	patience = 2 * time.Second
	// retry is the pause between looks while something is expected; it bounds what many new pods cost.
	retry = 100 * time.Millisecond
	// lookEvery finds what no announcement led to: pods in the node's network, processes that ended.
	lookEvery = 5 * time.Second
	// forgetEvery is how often even old processes are read again: they can be moved to another cgroup.
	forgetEvery = time.Minute
)

// A Pod is a pod of this node that has a live process. It does not change; a change makes another Pod of the same key.
type Pod struct {
	// Key is the pod's UID, or for a static pod the hash of its configuration.
	Key string
	// HostNetwork is true for a pod in the node's network namespace.
	HostNetwork bool
	// Cgroup is the path of the pod's cgroup below the mount of cgroup version 2; empty where it has none.
	Cgroup string
	// NetnsCookie is the number of its network namespace, never used again until the next boot.
	NetnsCookie uint64
	// Revision changes whenever an interface in the pod's namespace, or an address of one, may have changed.
	Revision uint64

	process *process
	// namespace is the number of the network namespace in the agent's own, or noNamespace.
	namespace int
}

const noNamespace = -2

// Enter runs do on a thread in the pod's network namespace.
func (p *Pod) Enter(do func() error) error { return p.process.enter(do) }

// Alive is false when the pod's process has ended, or has left the network namespace in which it was found.
func (p *Pod) Alive() bool { return p.process.alive() }

// ReadFile reads a file of the pod's process, such as net/snmp, appending to buffer. The answer is ErrGone when the
// process has ended.
func (p *Pod) ReadFile(name string, buffer []byte) ([]byte, error) {
	return p.process.read(name, buffer)
}

// Config is what New needs.
type Config struct {
	// OwnKey is the key of the agent's own pod; empty when it runs in no pod, which makes it take every pod that it
	// sees for one of this node.
	OwnKey string
	// Changed is called with all pods whenever some came, went or may have other interfaces, and at least every five
	// seconds. Calls do not overlap.
	Changed func([]*Pod)
}

// Map knows the pods. Its methods are safe for concurrent use.
type Map struct {
	config Config
	// ownNetns is the inode of the node's network namespace, which is the agent's own.
	ownNetns uint64

	mu   sync.Mutex
	pods map[string]*Pod

	// What follows belongs to the loop.

	// missed is true after announcements were lost, until all pods are taken for changed, which they last were at reread.
	missed bool
	// deaf is true where nothing is announced of pods' own namespaces.
	deaf     bool
	reread   time.Time
	tree     tree
	seen     map[int]sighting
	revision uint64
	buffer   []byte
}

// A sighting remembers what a process is, so that its files need not be read at every look.
type sighting struct {
	since time.Time
	key   string
	// unified is the pod's cgroup of version 2.
	unified string
}

// New makes a map that knows nothing until Run.
func New(config Config) (*Map, error) {
	var stat unix.Stat_t
	// Not /proc/self, which is the first thread: that one may be on a visit.
	if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
		return nil, fmt.Errorf("looking at the own network namespace: %w", err)
	}
	return &Map{
		config: config, ownNetns: stat.Ino,
		pods: map[string]*Pod{}, seen: map[int]sighting{},
	}, nil
}

// Lookup finds a pod that has a live process here.
func (m *Map) Lookup(key string) (*Pod, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pod, ok := m.pods[key]
	return pod, ok
}

// Pods are all pods that have a live process here, in no order.
func (m *Map) Pods() []*Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.pods))
}

// Run looks until the context ends. It looks once before it calls ready.
func (m *Map) Run(ctx context.Context, ready func()) error {
	events, err := listen()
	if err != nil {
		return err
	}
	m.deaf = !events.everywhere
	heard := make(chan event, 64)
	ended := make(chan error, 1)
	go func() {
		ended <- events.run(func(e event) {
			select {
			case heard <- e:
			case <-ctx.Done():
			}
		})
	}()
	defer events.close()

	// The thread stays in the first process's cgroup namespace and is therefore never given back.
	runtime.LockOSThread()
	if err := m.findTree(); err != nil {
		return err
	}
	return m.loop(ctx, heard, ended, ready)
}

// findTree reads the agent's own cgroup as the node sees it. In a cgroup namespace of its own, the agent would see
// neither its own path nor those of others whole; where it may not leave it, relative paths must do.
func (m *Map) findTree() error {
	if namespace, err := unix.Open("/proc/1/ns/cgroup", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Setns(namespace, unix.CLONE_NEWCGROUP)
		unix.Close(namespace)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("reading the own cgroup: %w", err)
	}
	m.tree = newTree(self, m.config.OwnKey)
	return nil
}

func (m *Map) loop(ctx context.Context, heard <-chan event, ended <-chan error, ready func()) error {
	if err := m.look(true); err != nil {
		return err
	}
	ready()
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	expectUntil := time.Now().Add(patience)
	forget := time.Now().Add(forgetEvery)
	for {
		pause := lookEvery
		if time.Now().Before(expectUntil) {
			pause = retry
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			m.closeAll()
			return nil
		case err := <-ended:
			return err
		case first := <-heard:
			expect := func(e event) {
				m.note(e)
				if e.what == appeared {
					expectUntil = time.Now().Add(patience)
				}
			}
			expect(first)
			// Announcements come in bursts, and one look serves all of them.
			if err := gather(ctx, heard, expect); err != nil {
				continue
			}
		case <-timer.C:
		}
		full := time.Now().After(forget)
		if full {
			forget = time.Now().Add(forgetEvery)
		}
		if err := m.look(full); err != nil {
			return err
		}
	}
}

// gather takes announcements for the length of a retry.
func gather(ctx context.Context, heard <-chan event, note func(event)) error {
	timer := time.NewTimer(retry)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-heard:
			note(e)
		case <-timer.C:
			return nil
		}
	}
}

// note marks the pod in whose namespace something happened.
func (m *Map) note(e event) {
	if e.namespace == everyNamespace {
		m.missed = true
		return
	}
	m.revise(func(pod *Pod) bool { return pod.namespace == e.namespace })
}

// revise marks pods as changed.
func (m *Map) revise(which func(*Pod) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, pod := range m.pods {
		if which(pod) {
			changed := *pod
			m.revision++
			changed.Revision = m.revision
			m.pods[key] = &changed
		}
	}
}

// makeUp marks all pods after announcements were lost, or where there are none, but seldom: a pod that causes them without
// end would keep all others busy.
func (m *Map) makeUp(now time.Time) {
	if (m.missed || m.deaf) && now.Sub(m.reread) >= lookEvery {
		m.missed, m.reread = false, now
		m.revise(func(*Pod) bool { return true })
	}
}

// look goes through the processes, and reads those that are new or young; all if full.
func (m *Map) look(full bool) error {
	pids, err := processes()
	if err != nil {
		return err
	}
	now := time.Now()
	m.makeUp(now)
	found := m.sight(pids, now, full)

	pods := map[string]*Pod{}
	for key, candidates := range found {
		if pod := m.pod(key, candidates); pod != nil {
			pods[key] = pod
		}
	}
	m.addOwn(pods)
	m.replace(pods)
	m.config.Changed(slices.Collect(maps.Values(pods)))
	return nil
}

func processes() ([]int, error) {
	directory, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("opening the list of processes: %w", err)
	}
	defer directory.Close()
	names, err := directory.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// sight brings seen up to date and returns the processes of each pod.
func (m *Map) sight(pids []int, now time.Time, full bool) map[string][]int {
	seen := make(map[int]sighting, len(pids))
	found := map[string][]int{}
	for _, pid := range pids {
		old, known := m.seen[pid]
		if !known {
			old.since = now
		}
		// A process is moved into its pod's cgroup shortly after its birth.
		if !known || full || now.Sub(old.since) < 2*patience {
			old.key, old.unified = m.read(pid)
		}
		seen[pid] = old
		if old.key != "" {
			found[old.key] = append(found[old.key], pid)
		}
	}
	m.seen = seen
	return found
}

func (m *Map) read(pid int) (key, unified string) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/cgroup", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", ""
	}
	defer unix.Close(fd)
	m.buffer, err = readAll(fd, m.buffer[:0])
	if err != nil {
		return "", ""
	}
	key, unified, _ = m.tree.pod(m.buffer)
	return key, unified
}

// pod is the pod as known, if its process lives, or found anew through the oldest of its processes.
func (m *Map) pod(key string, pids []int) *Pod {
	if known, ok := m.Lookup(key); ok && known.process.alive() {
		return known
	}
	oldest := m.oldest(key, pids)
	if oldest == nil {
		return nil
	}
	pod := &Pod{Key: key, process: oldest, Cgroup: m.seen[oldest.pid].unified, HostNetwork: oldest.netns == m.ownNetns}
	if pod.HostNetwork && oldest.age() < patience {
		oldest.close() // it may still be on its way into the pod's namespace
		return nil
	}
	if err := m.identify(pod); err != nil {
		oldest.close()
		return nil
	}
	return pod
}

// oldest opens the process of the pod that started first. It closes all others.
func (m *Map) oldest(key string, pids []int) *process {
	var first *process
	for _, pid := range pids {
		candidate, err := openProcess(pid)
		if err != nil {
			continue
		}
		if !m.belongs(candidate, key) {
			candidate.close()
			continue
		}
		if first == nil || candidate.started < first.started {
			first, candidate = candidate, first
		}
		if candidate != nil {
			candidate.close()
		}
	}
	return first
}

// belongs is false for a process that got the number of one of the pod's since that was seen.
func (m *Map) belongs(p *process, key string) bool {
	var err error
	if m.buffer, err = p.read("cgroup", m.buffer[:0]); err != nil {
		return false
	}
	now, _, _ := m.tree.pod(m.buffer)
	return now == key
}

// identify asks for the namespace's cookie, and has the namespace numbered so that the listener hears of it.
func (m *Map) identify(pod *Pod) error {
	if err := pod.Enter(func() (err error) {
		pod.NetnsCookie, err = Cookie()
		return err
	}); err != nil {
		return err
	}
	m.revision++
	pod.Revision = m.revision
	pod.namespace = noNamespace
	if pod.HostNetwork {
		return nil
	}
	fd, err := pod.process.open("ns/net")
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if number, err := numberOf(fd); err == nil {
		pod.namespace = number
	}
	return nil
}

func numberOf(namespace int) (int, error) {
	number, err := netlink.GetNetNsIdByFd(namespace)
	if err != nil || number >= 0 {
		return number, err
	}
	// The kernel gives a namespace a number on its own, too, and agents may share one network: by now it may have one.
	if err := netlink.SetNetNsIdByFd(namespace, -1); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, err
	}
	return netlink.GetNetNsIdByFd(namespace)
}

// addOwn adds the agent's own pod where its cgroup does not name it. It is in the node's network.
func (m *Map) addOwn(pods map[string]*Pod) {
	if m.tree.kind != relative || pods[m.config.OwnKey] != nil {
		return
	}
	if known, ok := m.Lookup(m.config.OwnKey); ok {
		pods[known.Key] = known
		return
	}
	self, err := openProcess(os.Getpid())
	if err != nil {
		return
	}
	pods[m.config.OwnKey] = &Pod{Key: m.config.OwnKey, HostNetwork: true, process: self, namespace: noNamespace}
}

// replace makes pods the known ones, and lets go of the processes of those that are not among them.
func (m *Map) replace(pods map[string]*Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, old := range m.pods {
		if pod, ok := pods[key]; !ok || pod.process != old.process {
			old.process.close()
		}
	}
	m.pods = pods
}

func (m *Map) closeAll() { m.replace(map[string]*Pod{}) }
