package capture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/outputs"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// Config is what New needs.
type Config struct {
	Options Options
	// Node is the name of this node.
	Node string
	// Dir is the folder for captures. It is made, and nothing else may be in it.
	Dir  string
	Pods Pods
	// Uplinks are the names of the node's uplinks.
	Uplinks func() ([]string, error)
	// Outputs copies captures that have ended; nil where that is not possible.
	Outputs *outputs.Uploader
	// Failed is told what goes wrong beside any call. It must not block.
	Failed func(error)
}

// Manager has all captures of this node. Its methods are safe for concurrent use, and answer with errors that wrap
// ErrInvalid, ErrNotFound, ErrPrecondition, ErrExhausted, ErrLost or ErrEnding.
type Manager struct {
	config Config
	root   *os.Root
	folder *os.File // for statfs
	disk   disk
	// durable has what ended captures hold on disk before it is said to be there; false only in tests.
	durable bool
	// find finds where a target is, nil when it is not here; links lists the interfaces of the current thread's network
	// namespace, and open opens a ring in it. They are others in tests.
	find    func(*v1alpha1.CaptureTarget) place
	links   func() ([]link, error)
	open    func(request *v1alpha1.EnsureCaptureRequest, name string, bytes int64) (source, error)
	readers chan struct{} // a token for each reader
	hashing chan struct{} // a token while recorded packets are hashed

	changed chan struct{} // holds one when pods or their interfaces have changed

	rings      sync.Mutex
	ringMemory int64 // what is left of it

	mu       sync.Mutex
	captures map[string]*capture
	deleted  map[string]time.Time
	leaving  map[*capture]struct{} // deleted, and not ended yet
	past     Totals                // of those that were deleted
	ctx      context.Context       // that of Run; nil before
	closed   bool
	running  sync.WaitGroup
}

// New opens the folder, and finds what captures it holds. Run goes on with those that had not ended.
func New(config Config) (*Manager, error) {
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder for captures: %w", err)
	}
	root, err := os.OpenRoot(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the folder for captures: %w", err)
	}
	folder, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("opening the folder for captures: %w", err)
	}
	m := &Manager{
		config: config, root: root, folder: folder, durable: true,
		find: places{pods: config.Pods, uplinks: config.Uplinks}.find, links: listLinks, open: openRing,
		readers: make(chan struct{}, maxReaders), hashing: make(chan struct{}, 1),
		changed:    make(chan struct{}, 1),
		ringMemory: config.Options.RingMemory.Value(),
		captures:   map[string]*capture{}, deleted: map[string]time.Time{}, leaving: map[*capture]struct{}{},
	}
	m.disk.quota, m.disk.minFree, m.disk.statfs = config.Options.Quota.Value(), -1, statfsOf(folder)
	if free := config.Options.MinFree; free != nil {
		m.disk.minFree = free.Value()
	}
	if err := m.recover(); err != nil {
		folder.Close()
		root.Close()
		return nil, err
	}
	m.startTotals()
	return m, nil
}

// Run has captures recorded until the context ends, and then suspends them: a manager made later goes on. It is called
// once, when Pods knows the pods.
func (m *Manager) Run(ctx context.Context) {
	m.mu.Lock()
	m.ctx = ctx
	for _, c := range m.captures {
		m.launch(c)
	}
	m.mu.Unlock()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-m.changed:
			m.poke()
		}
	}
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.running.Wait()
}

// poke has captures look for their targets again.
func (m *Manager) poke() {
	for _, c := range m.asked(nil) {
		select {
		case c.poke <- struct{}{}:
		default:
		}
	}
}

// Close lets go of the folder. Run has returned, or was never called.
func (m *Manager) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var problems []error
	for _, c := range m.captures {
		problems = append(problems, c.root.Close())
	}
	return errors.Join(append(problems, m.folder.Close(), m.root.Close())...)
}

// launch begins the life of a capture, or finishes what is left of one that has ended; the caller holds mu.
func (m *Manager) launch(c *capture) {
	m.running.Go(func() {
		defer close(c.ended)
		if c.running() {
			c.run(m.ctx)
		}
		if !c.running() {
			c.seal(m.ctx)
		}
	})
}

// Follow has captures look for their targets again, soon: it does not block.
func (m *Manager) Follow([]*podmap.Pod) {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Ensure has a capture recorded as the request says.
func (m *Manager) Ensure(_ context.Context, request *v1alpha1.EnsureCaptureRequest) (*v1alpha1.CaptureState, error) {
	if err := validateEnsure(request); err != nil {
		return nil, err
	}
	c, err := m.findOrMake(request)
	if err != nil {
		return nil, err
	}
	return c.ensure(request)
}

func (m *Manager) findOrMake(request *v1alpha1.EnsureCaptureRequest) (*capture, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	uid := request.GetUid()
	if c := m.captures[uid]; c != nil {
		return c, nil
	}
	if err := m.mayMake(request); err != nil {
		return nil, err
	}
	c := newCapture(m, request)
	if err := c.begin(); err != nil {
		return nil, errors.Join(err, m.root.RemoveAll(uid))
	}
	m.captures[uid] = c
	m.launch(c)
	return c, nil
}

// deletedFor is how long a request for a capture that was deleted is taken for one that was late.
const deletedFor = time.Hour

func (m *Manager) mayMake(request *v1alpha1.EnsureCaptureRequest) error {
	for uid, at := range m.deleted {
		if time.Since(at) > deletedFor {
			delete(m.deleted, uid)
		}
	}
	if m.closed || m.ctx == nil {
		return ErrEnding
	}
	if _, was := m.deleted[request.GetUid()]; was {
		return fmt.Errorf("%w: the capture was deleted", ErrPrecondition)
	}
	if request.GetDurationNano() == 0 {
		return invalid("duration_nano", "the first request needs it")
	}
	running := 0
	for _, c := range m.captures {
		if c.running() {
			running++
		}
	}
	if most := m.config.Options.MaxRunning; running >= most {
		return fmt.Errorf("%w: %d captures run on this node, the most that its agent's configuration allows (captures.maxRunning)", ErrExhausted, running)
	}
	if len(m.captures) >= maxKept {
		return fmt.Errorf("%w: %d captures are kept on this node", ErrExhausted, len(m.captures))
	}
	return nil
}

func (m *Manager) known(uid string) (*capture, error) {
	if err := validateUID(uid); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil {
		return nil, ErrEnding // or rather beginning; neither lasts
	}
	if c := m.captures[uid]; c != nil {
		return c, nil
	}
	return nil, ErrNotFound
}

// Stop ends a capture, and answers when everything is written.
func (m *Manager) Stop(ctx context.Context, request *v1alpha1.StopCaptureRequest) (*v1alpha1.CaptureState, error) {
	c, err := m.known(request.GetUid())
	if err != nil {
		return nil, err
	}
	if err := c.supersedes(request.GetRevision()); err != nil {
		return nil, err
	}
	c.end(v1alpha1.CaptureState_REASON_STOPPED, "")
	if err := c.await(ctx, c.done); err != nil {
		return nil, err
	}
	return c.state(), nil
}

// supersedes refuses what comes from a controller that no longer leads.
func (c *capture) supersedes(revision int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.request.GetRevision(); revision < known {
		return fmt.Errorf("%w: a request of revision %d came before this one of %d", ErrPrecondition, known, revision)
	}
	return nil
}

// await waits for a channel to be closed.
func (c *capture) await(ctx context.Context, what <-chan struct{}) error {
	select {
	case <-what:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.gone:
		return ErrNotFound
	case <-c.manager.ctx.Done():
		select {
		case <-what:
			return nil
		default:
			return ErrEnding
		}
	}
}

// Delete ends a capture and removes everything of it.
func (m *Manager) Delete(_ context.Context, request *v1alpha1.DeleteCaptureRequest) error {
	if err := validateUID(request.GetUid()); err != nil {
		return err
	}
	c, err := m.forget(request.GetUid())
	if c == nil || err != nil {
		return err
	}
	close(c.gone)
	c.end(v1alpha1.CaptureState_REASON_STOPPED, "deleted")
	<-c.ended
	m.left(c)
	if m.config.Outputs != nil {
		m.config.Outputs.Forget(c.uid)
	}
	return c.remove()
}

// forget takes a capture out of those that are known; nil when there is none.
func (m *Manager) forget(uid string) (*capture, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.ctx == nil {
		return nil, ErrEnding
	}
	c := m.captures[uid]
	delete(m.captures, uid)
	if c != nil {
		m.leaving[c] = struct{}{}
	}
	if len(m.deleted) >= 10*maxKept {
		clear(m.deleted)
	}
	m.deleted[uid] = time.Now()
	return c, nil
}

// List tells the state of captures; of all when none are named.
func (m *Manager) List(request *v1alpha1.ListCapturesRequest, send func(*v1alpha1.CaptureState) error) error {
	if n := len(request.GetUids()); n > v1alpha1.MaxCaptureUIDs {
		return invalid("uids", "%d captures, at most %d may be asked for", n, v1alpha1.MaxCaptureUIDs)
	}
	for _, c := range m.asked(request.GetUids()) {
		if err := send(c.state()); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) asked(uids []string) (found []*capture) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(uids) == 0 {
		uids = slices.Sorted(maps.Keys(m.captures))
	}
	for _, uid := range uids {
		if c := m.captures[uid]; c != nil {
			found = append(found, c)
		}
	}
	return found
}

const (
	// smallestRing is what a ring has when there is little memory left: two blocks of the smallest size.
	smallestRing = 256 << 10
	// ringShare of what is left is what one ring may take.
	ringShare = 16
)

// takeRingMemory decides how large a ring is: the more there are, the smaller the next one.
func (m *Manager) takeRingMemory(snap uint32) (int64, error) {
	least := int64(smallestRing)
	if snap > smallestRing/4 {
		least = 4 * smallestRing // two blocks that the largest packet fits into
	}
	m.rings.Lock()
	defer m.rings.Unlock()
	size := max(least, min(m.config.Options.RingBytes.Value(), m.ringMemory/ringShare))
	if size &^= smallestRing - 1; size > m.ringMemory {
		return 0, fmt.Errorf("rings take all of the memory that the agent's configuration gives them (captures.ringMemory)")
	}
	m.ringMemory -= size
	return size, nil
}

func (m *Manager) returnRingMemory(size int64) {
	m.rings.Lock()
	defer m.rings.Unlock()
	m.ringMemory += size
}

// joined is one text of several.
func joined(texts []string) string { return strings.Join(texts, "; ") }

// bootClock is the time since the machine was started, and which start that was.
func bootClock() (boot string, nanoseconds int64) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var now unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return "", 0
	}
	return strings.TrimSpace(string(id)), now.Nano()
}
