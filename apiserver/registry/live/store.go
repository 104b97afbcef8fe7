package live

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// A store holds the records of one kind in the order of their keys, follows the host through a reflector, and
// tells its listeners of every change in the order of the changes' versions.
type store struct {
	record func(runtime.Object) (*Record, error)
	// hurry, when set, asks the reflector to learn soon how far the host is.
	hurry func()
	// observer, when set, is told which records there are.
	observer Observer

	mu sync.RWMutex
	// records are ordered by key: 100,000 pointers move in 40 us when one is put in, and pages are cut by
	// binary search.
	records []*Record
	byNode  map[string]map[*Record]struct{}
	// memories are the last readings of watched objects.
	memories  map[key]memory
	listeners map[listener]struct{}
	history   history

	synced bool
	// current is the version of the last event or answer.
	current version
	// seen is the version up to which everything of the host is reflected. It runs ahead of current.host, which
	// names the last event that all replicas know of, when nothing happens to our objects.
	seen uint64
	// advanced is closed and replaced when seen rises.
	advanced chan struct{}
}

// A listener is told of changes under the store's lock: it must not block, nor call the store.
type listener interface {
	offer(batch)
	// wants is what has to be read for the listener; nil for nothing.
	wants() *selection
	// expire ends the listener because the host's versions went back.
	expire()
}

// An Observer learns which records there are, in the order of the host's events. It is told under the store's lock: it
// must not block, nor call the REST. Records are shared and must not be changed.
type Observer interface {
	// Changed tells of one record: it came (before is nil), changed, or went (after is nil).
	Changed(before, after *Record)
	// Replaced tells of all records there are. The slice is the store's.
	Replaced(records []*Record)
}

// A batch is what a listener is told at once.
type batch struct {
	changes []change
	// version is the last of the batch, and the current one of a batch without changes.
	version version
	// readings marks a batch of numbers, in the order of keys; complete says that every watched object was read for it.
	readings, complete bool
	// full has a watcher take unchanged readings for news.
	full bool
}

var (
	_ cache.ReflectorStore         = &store{}
	_ cache.ResourceVersionUpdater = &store{}
	_ cache.TransformingStore      = &store{}
)

func newStore(record func(runtime.Object) (*Record, error)) *store {
	return &store{
		record:    record,
		byNode:    map[string]map[*Record]struct{}{},
		memories:  map[key]memory{},
		listeners: map[listener]struct{}{},
		history:   history{limit: historyLength},
		advanced:  make(chan struct{}),
	}
}

// toRecord accepts what a reflector hands over: an object of the host, or the record that Transformer made of it.
func (s *store) toRecord(object any) (*Record, error) {
	switch object := object.(type) {
	case *Record:
		return object, nil
	case runtime.Object:
		record, err := s.record(object)
		if err != nil {
			return nil, err
		}
		record.intern()
		return record, nil
	}
	return nil, fmt.Errorf("a %T is no object", object)
}

// Transformer has the reflector keep records while it lists, and not whole objects.
func (s *store) Transformer() cache.TransformFunc {
	return func(object any) (any, error) { return s.toRecord(object) }
}

// Add is called by the reflector, as are the next five.
func (s *store) Add(object any) error { return s.put(object) }

func (s *store) Update(object any) error { return s.put(object) }

func (s *store) put(object any) error {
	record, host, err := s.read(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, at, found := s.find(record.key())
	switch {
	case !found:
		s.insert(at, record)
		s.happened(host, change{kind: watch.Added, record: record})
	case old.HostUID != record.HostUID:
		// The deletion was missed. Its event goes first, at a version before the new object's.
		s.send(change{kind: watch.Deleted, record: old, host: host})
		s.replace(at, record)
		s.happened(host, change{kind: watch.Added, record: record})
	case old.same(record):
		s.advanceTo(host)
	default:
		s.replace(at, record)
		s.happened(host, change{kind: watch.Modified, record: record, before: old})
	}
	return nil
}

// Delete is given the object at the version of its deletion.
func (s *store) Delete(object any) error {
	record, host, err := s.read(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, at, found := s.find(record.key())
	if !found {
		s.advanceTo(host)
		return nil
	}
	s.remove(at)
	s.happened(host, change{kind: watch.Deleted, record: old})
	return nil
}

func (s *store) read(object any) (*Record, uint64, error) {
	record, err := s.toRecord(object)
	if err != nil {
		return nil, 0, err
	}
	versioned, ok := object.(interface{ GetResourceVersion() string })
	if !ok {
		return nil, 0, fmt.Errorf("a %T has no resourceVersion", object)
	}
	host, err := parseHostVersion(versioned.GetResourceVersion())
	return record, host, err
}

// Replace takes a list of everything at a version of the host. Unlike single events, which come one by one, it
// shows only the difference of two states, so what it sends carries the version of the earlier state until all of
// it is sent: a watcher that stops in between is sent all of it again.
func (s *store) Replace(objects []any, hostVersion string) error {
	host, err := parseHostVersion(hostVersion)
	if err != nil {
		return err
	}
	records, err := s.toRecords(objects)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.synced:
		s.install(records)
		s.history.reset(host)
		s.synced = true
	case host < s.seen:
		// The host was restored from a backup. No version of ours means anything any more.
		s.install(records)
		s.history.reset(host)
		for listener := range s.listeners {
			listener.expire()
		}
		s.current, s.seen = version{}, 0
	default:
		s.sendDifference(records, host)
		s.history.addGap(s.seen, host)
	}
	s.advanceTo(host)
	return nil
}

func (s *store) toRecords(objects []any) ([]*Record, error) {
	records := make([]*Record, 0, len(objects))
	for _, object := range objects {
		record, err := s.toRecord(object)
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	slices.SortFunc(records, func(a, b *Record) int { return compareKeys(a.key(), b.key()) })
	return slices.CompactFunc(records, func(a, b *Record) bool { return a.key() == b.key() }), nil
}

// install puts records, which are in order, in place of all there are.
func (s *store) install(records []*Record) {
	s.records = records
	clear(s.byNode)
	clear(s.memories)
	for _, record := range records {
		s.index(record)
	}
	if s.observer != nil {
		s.observer.Replaced(records)
	}
}

// sendDifference goes through the old and the new records side by side.
func (s *store) sendDifference(records []*Record, host uint64) {
	old := s.records
	memories := s.memories
	s.memories = map[key]memory{}
	s.install(records)
	s.memories = memories
	for len(old) > 0 || len(records) > 0 {
		order := 0
		switch {
		case len(old) == 0:
			order = 1
		case len(records) == 0:
			order = -1
		default:
			order = compareKeys(old[0].key(), records[0].key())
		}
		switch {
		case order < 0:
			s.send(change{kind: watch.Deleted, record: old[0], host: host})
			old = old[1:]
		case order > 0:
			s.send(change{kind: watch.Added, record: records[0], host: host})
			records = records[1:]
		default:
			s.sendIfChanged(old[0], records[0], host)
			old, records = old[1:], records[1:]
		}
	}
}

func (s *store) sendIfChanged(before, after *Record, host uint64) {
	switch {
	case before.HostUID != after.HostUID:
		s.send(change{kind: watch.Deleted, record: before, host: host})
		s.send(change{kind: watch.Added, record: after, host: host})
	case !before.same(after):
		s.send(change{kind: watch.Modified, record: after, before: before, host: host})
	}
}

// Resync has nothing to do.
func (s *store) Resync() error { return nil }

// UpdateResourceVersion is called after each event and each bookmark. A bookmark is no event that the other
// replicas get too, so it raises only what is known to be reflected.
func (s *store) UpdateResourceVersion(hostVersion string) {
	host, err := parseHostVersion(hostVersion)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sawUpTo(host)
}

func (s *store) sawUpTo(host uint64) {
	if host > s.seen {
		s.seen = host
		close(s.advanced)
		s.advanced = make(chan struct{})
	}
}

// advanceTo moves the current version to an event of the host.
func (s *store) advanceTo(host uint64) {
	if host > s.current.host {
		s.current = version{host: host}
	}
	s.sawUpTo(host)
}

// happened sends a change that is the whole of one event of the host.
func (s *store) happened(host uint64, c change) {
	c.host = host
	if host > s.current.host {
		s.current = version{host: host}
		c.version = s.current
		s.deliver(c)
	} else {
		s.send(c)
	}
	s.sawUpTo(host)
}

// send sends a change at the next version that claims no more of the host than the last did.
func (s *store) send(c change) {
	s.current = s.current.next()
	c.version = s.current
	s.deliver(c)
}

func (s *store) deliver(c change) {
	if memory, ok := s.memories[c.record.key()]; ok {
		c.reading = memory.of(c.record)
	}
	if c.kind == watch.Deleted {
		delete(s.memories, c.record.key())
	}
	s.history.add(c)
	for listener := range s.listeners {
		listener.offer(batch{changes: []change{c}, version: c.version})
	}
}

// sendReadings tells of what the nodes said of records, and remembers it. Records that went or changed in the
// meantime are passed by or brought up to date.
func (s *store) sendReadings(records []*Record, readings []Reading, complete bool) {
	memories := rememberAll(records, readings)
	s.mu.Lock()
	defer s.mu.Unlock()
	changes := make([]change, 0, len(records))
	for i, record := range records {
		now, _, found := s.find(record.key())
		if !found || now.HostUID != record.HostUID || now.Node != record.Node {
			continue
		}
		last, known := s.memories[now.key()]
		unchanged := known && !last.untold && last.same(memories[i])
		if !unchanged {
			s.current = s.current.next()
		}
		s.memories[now.key()] = memories[i]
		changes = append(changes, change{kind: watch.Modified, record: now, reading: readings[i], version: s.current, unchanged: unchanged})
	}
	if complete {
		s.forgetOthers(changes)
	}
	for listener := range s.listeners {
		listener.offer(batch{changes: changes, version: s.current, readings: true, complete: complete})
	}
}

// forgetOthers drops the memories of objects that nobody watches any more.
func (s *store) forgetOthers(watched []change) {
	if len(s.memories) <= len(watched) {
		return
	}
	memories := make(map[key]memory, len(watched))
	for _, c := range watched {
		memories[c.record.key()] = s.memories[c.record.key()]
	}
	s.memories = memories
}

// rememberReadings keeps readings that were just sent as one watch's first events. To the other watches they are
// news still, which the next reading brings.
func (s *store) rememberReadings(records []*Record, readings []Reading) {
	memories := rememberAll(records, readings)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, record := range records {
		if now, _, found := s.find(record.key()); found && now.HostUID == record.HostUID {
			last, known := s.memories[now.key()]
			memories[i].untold = known && (last.untold || !last.same(memories[i]))
			s.memories[now.key()] = memories[i]
		}
	}
}

// forgetReadings drops all memories, when nobody watches.
func (s *store) forgetReadings() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.memories)
}

func (s *store) find(k key) (*Record, int, bool) {
	at, found := slices.BinarySearchFunc(s.records, k, func(r *Record, k key) int { return compareKeys(r.key(), k) })
	if !found {
		return nil, at, false
	}
	return s.records[at], at, true
}

func (s *store) insert(at int, record *Record) {
	s.records = slices.Insert(s.records, at, record)
	s.index(record)
	s.observe(nil, record)
}

func (s *store) replace(at int, record *Record) {
	old := s.records[at]
	s.unindex(old)
	s.records[at] = record
	s.index(record)
	s.observe(old, record)
}

func (s *store) remove(at int) {
	old := s.records[at]
	s.unindex(old)
	s.records = slices.Delete(s.records, at, at+1)
	s.observe(old, nil)
}

func (s *store) observe(before, after *Record) {
	if s.observer != nil {
		s.observer.Changed(before, after)
	}
}

func (s *store) index(record *Record) {
	if record.Node == "" {
		return
	}
	if s.byNode[record.Node] == nil {
		s.byNode[record.Node] = map[*Record]struct{}{}
	}
	s.byNode[record.Node][record] = struct{}{}
}

func (s *store) unindex(record *Record) {
	delete(s.byNode[record.Node], record)
	if len(s.byNode[record.Node]) == 0 {
		delete(s.byNode, record.Node)
	}
}

// get returns one record and the version of an answer with it.
func (s *store) get(k key) (*Record, version, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	record, _, found := s.find(k)
	s.current = s.current.next()
	return record, s.current, found
}

// A page is a run of records in the order of their keys.
type page struct {
	records []*Record
	// version is that of the answer: new for each page.
	version version
	// more says that records follow which match too; remaining counts those that follow, matching or not, in
	// the page's namespace.
	more      bool
	remaining int64
}

// list returns the first limit records after a key that the selection matches; limit 0 means all.
func (s *store) list(selection *selection, after key, limit int) page {
	s.mu.Lock()
	s.current = s.current.next()
	p := page{version: s.current}
	candidates := s.candidates(selection, after)
	total := len(candidates)
	if limit > 0 && !selection.selects() {
		// One more shows that there are more. A limit can be the highest number there is, to which nothing can be added.
		candidates = candidates[:min(total-1, limit)+1]
	}
	// Records do not change, so they are matched while others use the store: 100,000 take 100 ms, to copy them 0.2.
	candidates = slices.Clone(candidates)
	s.mu.Unlock()
	for i, record := range candidates {
		if !selection.matches(record) {
			continue
		}
		if limit > 0 && len(p.records) == limit {
			p.more, p.remaining = true, int64(total-i)
			break
		}
		p.records = append(p.records, record)
	}
	return p
}

// following are at most the first n records after a key that the selection matches, without a version of their own.
func (s *store) following(selection *selection, after key, n int) []*Record {
	s.mu.RLock()
	candidates := s.candidates(selection, after)
	if !selection.selects() {
		candidates = candidates[:min(len(candidates), n)]
	}
	candidates = slices.Clone(candidates)
	s.mu.RUnlock()
	var records []*Record
	for _, record := range candidates {
		if len(records) == n {
			break
		}
		if selection.matches(record) {
			records = append(records, record)
		}
	}
	return records
}

// candidates are the records after a key among which those of a selection are, in order.
func (s *store) candidates(selection *selection, after key) []*Record {
	if name, ok := selection.name(); ok && (selection.namespace != "" || !selection.namespaced) {
		if record, _, found := s.find(key{selection.namespace, name}); found && compareKeys(record.key(), after) > 0 {
			return []*Record{record}
		}
		return nil
	}
	if node, ok := selection.node(); ok {
		return s.onNode(node, after)
	}
	from, to := 0, len(s.records)
	if selection.namespace != "" {
		_, from, _ = s.find(key{namespace: selection.namespace})
		// No name sorts behind this: names hold no byte above 0x7f.
		_, to, _ = s.find(key{selection.namespace, "\xff"})
	}
	if after != (key{}) {
		_, at, found := s.find(after)
		if found {
			at++
		}
		from = max(from, min(at, to))
	}
	return s.records[from:to]
}

func (s *store) onNode(node string, after key) []*Record {
	var records []*Record
	for record := range s.byNode[node] {
		if compareKeys(record.key(), after) > 0 {
			records = append(records, record)
		}
	}
	slices.SortFunc(records, func(a, b *Record) int { return compareKeys(a.key(), b.key()) })
	return records
}

// watchedBy returns the records that any of the selections matches, each once.
func (s *store) watchedBy(selections []*selection) []*Record {
	chosen := map[*Record]struct{}{}
	var records []*Record
	for _, selection := range selections {
		s.mu.RLock()
		candidates := slices.Clone(s.candidates(selection, key{}))
		s.mu.RUnlock()
		for _, record := range candidates {
			if _, ok := chosen[record]; !ok && selection.matches(record) {
				chosen[record] = struct{}{}
				records = append(records, record)
			}
		}
	}
	slices.SortFunc(records, func(a, b *Record) int { return compareKeys(a.key(), b.key()) })
	// One that changed between two selections was chosen twice.
	return slices.CompactFunc(records, func(a, b *Record) bool { return a.key() == b.key() })
}

// watchedAmong returns those of the keys' records that any of the selections matches.
func (s *store) watchedAmong(keys map[key]struct{}, selections []*selection) []*Record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var records []*Record
	for k := range keys {
		record, _, found := s.find(k)
		if found && slices.ContainsFunc(selections, func(one *selection) bool { return one.matches(record) }) {
			records = append(records, record)
		}
	}
	slices.SortFunc(records, func(a, b *Record) int { return compareKeys(a.key(), b.key()) })
	return records
}

// listen adds a listener in the same moment in which it takes all that the selection matches.
func (s *store) listen(l listener, selection *selection) page {
	s.mu.Lock()
	s.listeners[l] = struct{}{}
	p := page{version: s.current}
	candidates := slices.Clone(s.candidates(selection, key{}))
	s.mu.Unlock()
	for _, record := range candidates {
		if selection.matches(record) {
			p.records = append(p.records, record)
		}
	}
	return p
}

// listenSince adds a listener in the same moment in which it takes what happened since a version; ok is false,
// and the listener not added, when that is not known.
func (s *store) listenSince(l listener, from version) (changes []change, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changes, ok = s.history.since(from.host)
	if !ok {
		return nil, false
	}
	s.listeners[l] = struct{}{}
	for i := range changes {
		// Another replica may be ahead of ours in sequences: what the client gets must not go back.
		if changes[i].version.less(from) {
			changes[i].version = from
		}
	}
	return changes, true
}

func (s *store) listenForever(l listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners[l] = struct{}{}
}

// selections are those of the listeners, each once.
func (s *store) selections() []*selection {
	s.mu.RLock()
	defer s.mu.RUnlock()
	distinct := map[string]*selection{}
	for listener := range s.listeners {
		if wanted := listener.wants(); wanted != nil {
			distinct[wanted.id] = wanted
		}
	}
	return slices.Collect(maps.Values(distinct))
}

func (s *store) forget(l listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *store) isSynced() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.synced
}

// errBehind is the cause when the host has not told us in time of what a client saw elsewhere.
var errBehind = errors.New("this replica is behind")

// reach waits until all of the host is reflected that a version names, and continues from that version. It fails
// with errBehind when ctx ends before.
func (s *store) reach(ctx context.Context, v version) error {
	hurried := false
	for {
		advanced, ok := s.adopt(v)
		if ok {
			return nil
		}
		if !hurried && s.hurry != nil {
			s.hurry()
			hurried = true
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return errBehind
		}
	}
}

// adopt makes the current version one that is not before v, if the store reflects what v claims.
func (s *store) adopt(v version) (advanced <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.host > s.seen {
		return s.advanced, false
	}
	v.sequence = min(v.sequence, maxAdopted)
	if s.current.less(v) {
		s.current = v
	}
	return nil, true
}

// versions are the current one and how far the host is known.
func (s *store) versions() (current version, seen uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.current, s.seen
}
