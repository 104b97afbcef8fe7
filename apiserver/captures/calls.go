package captures

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/capturefile"
	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// lookEvery is how often agents are asked how far captures are, sweepEvery how often what has no object is looked for.
	lookEvery, sweepEvery = time.Second, time.Minute
	// lists is how many agents are asked for a list at a time.
	lists = 64
	// deleteTries is how often a deletion is tried before it is left to the sweep.
	deleteTries = 5
	// maxNameBytes bounds the names that a node is sealed with, so that they fit into a request.
	maxNameBytes = 3 << 20
)

// compile makes the filter's program, with the addresses that its names had when the capture started. It is refused where the requester
// may not get what is named.
func (t *term) compile(ctx context.Context, s *subject, known []v1alpha1.CaptureControlName) (*Program, []v1alpha1.CaptureControlName, *refusal, error) {
	l := &lookups{term: t, ctx: ctx, subject: s, names: slices.Clone(known)}
	var program *Program
	text, err := filtertext.Text(s.settings, l.resolve)
	if err == nil {
		program, err = t.cfg.Compile(s.meta.Namespace, text, l.resolve)
	}
	if l.refused != nil {
		return nil, nil, l.refused, nil // Compilers keep the text of an error alone.
	}
	if err != nil {
		return nil, nil, nil, err
	}
	return program, l.names, nil, nil
}

// lookups resolve the names in a capture's filter and match.
type lookups struct {
	*term
	ctx     context.Context
	subject *subject
	// names are those that are known, from when the capture started.
	names   []v1alpha1.CaptureControlName
	refused *refusal
}

// resolve gives what a name stood for when the capture started: what it stands for now, when that is not known, for a requester who may
// get it now. A capture may start long after it was created.
func (l *lookups) resolve(kind filtertext.Kind, namespace, name string) ([]netip.Addr, error) {
	for _, known := range l.names {
		if known.Kind == string(kind) && known.Namespace == namespace && known.Name == name {
			return parse(known.Addresses), nil
		}
	}
	if l.refused = l.allow(kind, namespace, name); l.refused != nil {
		return nil, errors.New(l.refused.message)
	}
	addresses, err := l.cluster.resolve(kind, namespace, name)
	if err != nil {
		return nil, err
	}
	one := v1alpha1.CaptureControlName{Kind: string(kind), Namespace: namespace, Name: name}
	for _, address := range addresses {
		one.Addresses = append(one.Addresses, address.String())
	}
	l.names = append(l.names, one)
	return addresses, nil
}

func (l *lookups) allow(kind filtertext.Kind, namespace, name string) *refusal {
	if l.refused != nil {
		return l.refused // One is enough, and nothing else is asked for it.
	}
	for _, resource := range kind.Resources() {
		allowed, err := l.rights.mayGet(l.ctx, l.subject.settings.Requester, resource, namespace, name)
		if err != nil {
			return &refusal{err.Error(), false}
		}
		if !allowed {
			return &refusal{fmt.Sprintf("this needs the right to get %s %s in namespace %s", resource, name, namespace), true}
		}
	}
	return nil
}

// call makes the call that is pending, or the deletion of what is gone.
func (t *term) call(ctx context.Context, k callKey) {
	e := t.entry(k.key)
	if e == nil || e.uid != k.uid {
		t.delete(ctx, k)
		return
	}
	if k.node == "" {
		t.assemble(ctx, e)
		return
	}
	e.mu.Lock()
	c := e.pending[k.node]
	delete(e.pending, k.node)
	e.mu.Unlock()
	if c == nil {
		return
	}
	state, err := t.make(ctx, e, c)
	t.landed(e, c, state, err)
	t.enqueue(e)
}

// make makes a call. state is nil without an error when there was nothing to do after all.
func (t *term) make(ctx context.Context, e *entry, c *call) (*agentv1.CaptureState, error) {
	switch {
	case c.ensure != nil:
		return t.cfg.Agents.Ensure(ctx, c.node, c.ensure)
	case c.stop != nil:
		return t.cfg.Agents.Stop(ctx, c.node, c.stop)
	case c.seal:
		return t.seal(ctx, e, c.node)
	}
	return t.store(ctx, e, c.node)
}

// landed takes over how a call ended.
func (t *term) landed(e *entry, c *call, state *agentv1.CaptureState, err error) {
	now := t.cfg.Clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil && state != nil {
		err = t.check(e.m.subject, c.node, state)
	}
	switch {
	case err != nil:
		e.m.failed(c.node, kindOf(err), err, now)
	case state != nil:
		e.m.answer(c.node, state, now)
		if c.seal && !state.Sealed {
			e.m.member(c.node).retryAt = now.Add(time.Second) // The agent still reads what it recorded.
		}
	}
	e.m.noteTrouble(c, err, now)
	e.m.done(c.node, now)
	if e.gone {
		t.slow.Add(callKey{e.key, e.uid, c.node})
	}
}

// check fails when an agent tells of pods that it cannot have recorded for this capture.
func (c *Controller) check(s *subject, node string, state *agentv1.CaptureState) error {
	for _, part := range state.Parts {
		switch {
		case !s.cluster && part.Namespace != s.meta.Namespace:
			return aViolation(node, "a pod of another namespace")
		case part.PodUid != "" && c.cluster.elsewhere(types.UID(part.PodUid), node):
			return aViolation(node, "a pod of another node")
		}
	}
	return nil
}

// delete removes a capture that is gone from a node. After some tries it is left to the sweep.
func (t *term) delete(ctx context.Context, k callKey) {
	if k.node == "" {
		return
	}
	err := t.cfg.Agents.Delete(ctx, k.node, string(k.uid))
	if err == nil || errors.Is(err, ErrNoAgent) || t.slow.NumRequeues(k) >= deleteTries {
		t.slow.Forget(k)
		return
	}
	t.slow.AddRateLimited(k)
}

// seal gives a node the names of the addresses that it saw, which makes what it recorded final.
func (t *term) seal(ctx context.Context, e *entry, node string) (*agentv1.CaptureState, error) {
	var addresses [][]byte
	err := t.cfg.Agents.Describe(ctx, node, string(e.uid), func(batch *agentv1.DescribeCaptureResponse) error {
		addresses = append(addresses, batch.Addresses...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	request := &agentv1.SealCaptureRequest{Uid: string(e.uid), Names: t.names(addresses)}
	return t.cfg.Agents.Seal(ctx, node, request)
}

// names are what addresses are called, as far as that is known and fits.
func (t *term) names(addresses [][]byte) []*agentv1.CaptureName {
	var names []*agentv1.CaptureName
	left := maxNameBytes
	for _, bytes := range addresses[:min(len(addresses), agentv1.MaxCaptureNames)] {
		address, ok := netip.AddrFromSlice(bytes)
		if !ok {
			continue
		}
		of := t.cfg.Names(address.Unmap())
		of = of[:min(len(of), agentv1.MaxNamesPerAddress)]
		for _, name := range of {
			left -= len(name) + 4
		}
		if left -= len(bytes) + 8; left < 0 {
			break
		}
		if len(of) > 0 {
			names = append(names, &agentv1.CaptureName{Address: bytes, Names: of})
		}
	}
	return names
}

// assemble finds out what file the nodes recorded together.
func (t *term) assemble(ctx context.Context, e *entry) {
	e.mu.Lock()
	s := e.m.subject
	states := map[string]*agentv1.CaptureState{}
	for node, mem := range e.m.members {
		if mem.sealed() && !mem.lost {
			states[node] = mem.state
		}
	}
	e.mu.Unlock()
	file, err := t.layOut(ctx, s, states)
	e.mu.Lock()
	e.assembling = false
	var silent *silentError
	switch {
	case ctx.Err() != nil:
	case errors.As(err, &silent):
		// It answers again, or is given up: the members' states are looked at as ever.
		e.m.notLaidOut(silent.node, kindOf(silent.err), silent.err, t.cfg.Clock.Now())
		t.captures.AddAfter(e.key, time.Second)
	default:
		e.m.assembled(file, err)
	}
	e.mu.Unlock()
	if err == nil {
		t.captures.Add(e.key)
	} else if ctx.Err() == nil {
		t.captures.AddAfter(e.key, time.Second)
	}
}

// silentError is of a node that did not describe what it recorded.
type silentError struct {
	node string
	err  error
}

func (e *silentError) Error() string { return e.err.Error() }

// layOut gives the digest and the size of the file.
func (t *term) layOut(ctx context.Context, s *subject, states map[string]*agentv1.CaptureState) (*v1alpha1.CaptureFile, error) {
	var names pcapfile.Names
	var nodes []pcapfile.Node
	for _, node := range slices.Sorted(maps.Keys(states)) {
		if len(states[node].Parts) == 0 {
			continue
		}
		err := t.cfg.Agents.Describe(ctx, node, string(s.uid()), func(batch *agentv1.DescribeCaptureResponse) error {
			names.Add(batch.Names)
			return nil
		})
		if err != nil {
			return nil, &silentError{node, err}
		}
		nodes = append(nodes, pcapfile.Node{Name: node, State: states[node]})
	}
	header, err := capturefile.HeaderOf(s.object)
	if err != nil {
		return nil, fmt.Errorf("laying out the file: %w", err)
	}
	file, err := pcapfile.New(header, nodes, &names)
	if err != nil {
		return nil, fmt.Errorf("laying out the file: %w", err)
	}
	size, _ := file.Size()
	return &v1alpha1.CaptureFile{Digest: file.Digest(), Bytes: size}, nil
}

// look asks agents how far captures are, one list a node, until ctx ends.
func (t *term) look(ctx context.Context) {
	places := make(chan struct{}, lists)
	var asking sync.WaitGroup
	defer asking.Wait()
	ticker := t.cfg.Clock.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		byNode := t.whereToLook()
		for _, node := range slices.Sorted(maps.Keys(byNode)) {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			asking.Go(func() {
				t.lookAt(ctx, node, byNode[node])
				<-places
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// whereToLook are the captures to ask for, by node, without nodes that are being asked.
func (t *term) whereToLook() map[string][]*entry {
	now := t.cfg.Clock.Now()
	byNode, byPhase := map[string][]*entry{}, map[string]int{}
	pace := max(checkpointEvery, time.Duration(t.open.Load())*time.Second/checkpoints)
	for _, e := range t.all() {
		e.mu.Lock()
		e.m.checkpoint = pace
		for _, node := range e.m.looks(now) {
			byNode[node] = append(byNode[node], e)
		}
		byPhase[e.m.phase()]++
		e.mu.Unlock()
	}
	t.metrics.count(byPhase)
	t.open.Store(int64(byPhase["recording"] + byPhase["ending"]))
	t.mu.Lock()
	defer t.mu.Unlock()
	for node := range byNode {
		if t.looking[node] {
			delete(byNode, node)
		} else {
			t.looking[node] = true
		}
	}
	return byNode
}

// lookAt asks a node for a list and takes it over. Until then the node is asked for no other: two lists that are older than the
// call that began a capture would make it lost.
func (t *term) lookAt(ctx context.Context, node string, entries []*entry) {
	uids := make([]string, len(entries))
	for i, e := range entries {
		uids[i] = string(e.uid)
	}
	states, err := t.cfg.Agents.List(ctx, node, uids)
	if ctx.Err() != nil {
		return
	}
	for _, e := range entries {
		t.looked(e, node, states[string(e.uid)], err)
		t.enqueue(e)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.looking, node)
}

// looked takes over what a list says, unless a call is under way that will say more.
func (t *term) looked(e *entry, node string, state *agentv1.CaptureState, err error) {
	now := t.cfg.Clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil && state != nil {
		err = t.check(e.m.subject, node, state)
	}
	switch {
	case err != nil:
		e.m.notListed(node, kindOf(err), err, now)
	case state != nil || !e.m.member(node).busy:
		e.m.answer(node, state, now)
	}
}

// sweep deletes from nodes what has no object, from time to time until ctx ends.
func (t *term) sweep(ctx context.Context) {
	ticker := t.cfg.Clock.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		var sweeping sync.WaitGroup
		places := make(chan struct{}, lists)
		for _, node := range t.cfg.Agents.Nodes() {
			places <- struct{}{}
			sweeping.Go(func() {
				t.sweepNode(ctx, node)
				<-places
			})
		}
		sweeping.Wait()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

func (t *term) sweepNode(ctx context.Context, node string) {
	states, err := t.cfg.Agents.List(ctx, node, nil)
	if err != nil {
		return // It is swept when it answers.
	}
	for uid, state := range states {
		if e := t.entryOf(state); e != nil {
			t.remind(e, node, state)
			continue
		}
		if t.known(types.UID(uid)) || !t.isGone(ctx, state) {
			continue
		}
		if err := t.cfg.Agents.Delete(ctx, node, uid); err == nil {
			t.metrics.swept.Inc()
			klog.FromContext(ctx).Info("Deleted from a node what was recorded for a capture that is gone", "node", node,
				"uid", uid, "capture", key{state.Namespace == "", state.Namespace, state.Name}.String())
		}
	}
}

// remind takes over what a node says of a capture that it is not known to record.
func (t *term) remind(e *entry, node string, state *agentv1.CaptureState) {
	e.mu.Lock()
	mem := e.m.members[node]
	news := !e.m.quiet() && (mem == nil || mem.state == nil)
	e.mu.Unlock()
	if news {
		t.looked(e, node, state, nil)
		t.enqueue(e)
	}
}

// entryOf is the entry of an agent's state, nil when there is none.
func (t *term) entryOf(state *agentv1.CaptureState) *entry {
	e := t.entry(key{state.Namespace == "", state.Namespace, state.Name})
	if e == nil || string(e.uid) != state.Uid {
		return nil
	}
	return e
}

// isGone asks the store itself. An agent that does not say whose a capture is keeps it.
func (t *term) isGone(ctx context.Context, state *agentv1.CaptureState) bool {
	if state.Name == "" {
		return false
	}
	object, err := t.get(ctx, key{state.Namespace == "", state.Namespace, state.Name})
	if err != nil {
		return apierrors.IsNotFound(err)
	}
	s, err := subjectOf(object)
	return err == nil && string(s.uid()) != state.Uid
}

// phase is what metrics call it.
func (m *machine) phase() string {
	switch {
	case isComplete(m.status):
		return "complete"
	case m.finished():
		return "failed"
	case m.ending != "":
		return "ending"
	case m.status.StartTime == nil:
		return "scheduled"
	}
	return "recording"
}
