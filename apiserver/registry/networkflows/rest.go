package networkflows

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	serverwarning "k8s.io/apiserver/pkg/warning"
	"k8s.io/component-base/metrics"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

const (
	// maxPage is the longest page, whatever a client asks for.
	maxPage = 10_000
	// pageTime is after how long a page is sent with what there is.
	pageTime = 5 * time.Second
	// maxListed bounds the flows of all lists that are under way: read, and not yet encoded and sent. One takes about
	// 1.5 KiB.
	maxListed = 150_000
	// awaitRoom is how long a list waits for others to be sent.
	awaitRoom = time.Second
)

// Config says what a REST stands on.
type Config struct {
	Source Source
	Names  Names
	// Clock is the real one unless a test sets another.
	Clock clock.WithTicker
	// Register takes the metrics; by default legacyregistry.Register, which the generic server shows.
	Register func(metrics.Registerable) error
}

// REST serves networkflows.
type REST struct {
	source   Source
	names    Names
	clock    clock.WithTicker
	metrics  *flowMetrics
	versions *counter
	room     *semaphore.Weighted
	hub      *hub
}

var (
	_ rest.Storage              = &REST{}
	_ rest.Scoper               = &REST{}
	_ rest.SingularNameProvider = &REST{}
	_ rest.ShortNamesProvider   = &REST{}
	_ rest.CategoriesProvider   = &REST{}
	_ rest.Getter               = &REST{}
	_ rest.Lister               = &REST{}
	_ rest.TableConvertor       = &REST{}
)

// NewREST makes a REST.
func NewREST(config Config) (*REST, error) {
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	m, err := newMetrics(config.Register)
	if err != nil {
		return nil, err
	}
	r := &REST{
		source: config.Source, names: config.Names, clock: config.Clock, metrics: m,
		versions: &counter{clock: config.Clock}, room: semaphore.NewWeighted(maxListed),
	}
	r.hub = newHub(r)
	return r, nil
}

// Synced fails until the cluster's objects are known.
func (r *REST) Synced() error { return r.names.Synced() }

// Run follows nodes for watches, until ctx ends. Without it there are no watches.
func (r *REST) Run(ctx context.Context) { r.hub.run(ctx) }

// New is part of rest.Storage.
func (r *REST) New() runtime.Object { return &v1alpha1.NetworkFlow{} }

// Destroy has nothing to do.
func (r *REST) Destroy() {}

// NamespaceScoped is part of rest.Scoper.
func (r *REST) NamespaceScoped() bool { return true }

// GetSingularName is part of rest.SingularNameProvider.
func (r *REST) GetSingularName() string { return "networkflow" }

// ShortNames is part of rest.ShortNamesProvider.
func (r *REST) ShortNames() []string { return []string{"nf"} }

// Categories leaves "all" out, as for the other live resources.
func (r *REST) Categories() []string { return []string{"networkobservability"} }

// NewList is part of rest.Lister.
func (r *REST) NewList() runtime.Object { return &v1alpha1.NetworkFlowList{} }

// Get reads one flow from its node.
func (r *REST) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if err := r.names.Synced(); err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	notFound := apierrors.NewNotFound(v1alpha1.Resource("networkflows"), name)
	hash, instance, position, ok := parseName(name)
	if !ok {
		return nil, notFound
	}
	all := &selection{namespace: genericapirequest.NamespaceValue(ctx), labels: labels.Everything()}
	for node, request := range all.queries(r.names) {
		if nodeHash(node) != hash {
			continue
		}
		request.AfterPosition, request.Instance, request.Limit = position-1, instance, 1
		object, err := r.getFrom(ctx, place{node, instance, position}, request, judge{r.names, all, r.metrics})
		if object != nil || err != nil {
			return object, err
		}
	}
	return nil, notFound
}

// getFrom returns nil when the flow is not on the node, or is not for the caller.
func (r *REST) getFrom(ctx context.Context, at place, request *agentv1.ReadFlowsRequest, judge judge) (runtime.Object, error) {
	var object *v1alpha1.NetworkFlow
	err := r.source.Read(ctx, at.node, request, func(batch *agentv1.ReadFlowsResponse) error {
		for _, flow := range batch.Flows {
			if batch.Instance == at.instance && flow.Position == at.position {
				object, _, _ = judge.take(at.node, at.instance, flow)
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, ErrGone):
		return nil, nil
	case err != nil:
		return nil, live.Unavailable(ctx, err)
	case object == nil:
		return nil, nil
	}
	object.ResourceVersion = format(r.versions.next(1))
	return object, nil
}

// List reads a page: the flows that began first, behind those of the pages before.
func (r *REST) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	if options == nil {
		options = &metainternalversion.ListOptions{}
	}
	selection, err := newSelection(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := r.names.Synced(); err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	page, err := r.begin(options, selection)
	if err != nil {
		return nil, err
	}
	if err := r.takeRoom(ctx, page.limit); err != nil {
		return nil, err
	}
	defer r.hub.reads()()
	m := newMerge(ctx, r.source, judge{r.names, selection, r.metrics}, page.queries, page.cursors, page.limit, time.Now().Add(pageTime))
	list := &v1alpha1.NetworkFlowList{ListMeta: metav1.ListMeta{ResourceVersion: format(page.version)}}
	var told []place
	var pods []*live.Record
	for len(list.Items) < page.limit {
		row, ok := m.next(ctx)
		if !ok {
			break
		}
		told, pods = append(told, row.place), append(pods, row.pod)
		row.object.ResourceVersion = list.ResourceVersion
		list.Items = append(list.Items, *row.object)
	}
	if err := r.judgeErrors(ctx, m); err != nil {
		return nil, err
	}
	r.hub.listed(page, options.Continue == "", m, told, pods)
	warnOfUnknown(ctx, m.found.unknown)
	list.Continue = page.token(m.cursors())
	if options.Limit == 0 && list.Continue != "" {
		serverwarning.AddWarning(ctx, "", fmt.Sprintf("the first %d flows: there are more, behind metadata.continue", len(list.Items)))
	}
	return list, nil
}

// A page is what one request of a list reads.
type page struct {
	version uint64
	// relabelled is how often pods' labels had changed before it was found out which to ask for.
	relabelled uint64
	limit      int
	queries    map[string]*agentv1.ReadFlowsRequest
	cursors    map[string]cursor
	// since and until are passed on to the next pages.
	since, until time.Time
}

// begin finds out what a page is about: everything, or what is behind a token.
func (r *REST) begin(options *metainternalversion.ListOptions, selection *selection) (*page, error) {
	p := &page{limit: maxPage, cursors: map[string]cursor{}, relabelled: r.names.Relabelled()}
	if options.Limit > 0 && options.Limit < maxPage {
		p.limit = int(options.Limit)
	}
	if options.Continue == "" {
		if options.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
			return nil, apierrors.NewResourceExpired("states of the past are not kept: resourceVersionMatch=Exact cannot be served, use NotOlderThan")
		}
		v, err := parseVersion(options.ResourceVersion)
		if err == nil {
			err = r.versions.adopt(v)
		}
		p.version, p.since, p.until = r.versions.next(1), selection.since, selection.until
		p.queries = selection.queries(r.names)
		return p, err
	}
	if options.ResourceVersion != "" && options.ResourceVersion != "0" {
		return nil, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	t, err := parseToken(options.Continue)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("continue key is not valid: %v", err))
	}
	if !selection.since.IsZero() && !t.since.IsZero() {
		selection.since = t.since
	}
	if !selection.until.IsZero() && !t.until.IsZero() {
		selection.until = t.until
	}
	p.version, p.since, p.until = t.version, selection.since, selection.until
	p.queries = selection.queries(r.names)
	for node := range p.queries {
		if at, ok := t.cursors[idOf(node)]; ok {
			p.cursors[node] = at
		} else {
			delete(p.queries, node)
		}
	}
	return p, nil
}

// token is where the next page begins; empty when there is none.
func (p *page) token(cursors map[string]cursor) string {
	if len(cursors) == 0 {
		return ""
	}
	t := token{version: p.version, since: p.since, until: p.until, cursors: map[nodeID]cursor{}}
	for node, at := range cursors {
		t.cursors[idOf(node)] = at
	}
	return t.encode()
}

// takeRoom takes the memory of a page until the request ends: it is encoded after List returns. What ends just now frees its own a
// moment later, for which it waits.
func (r *REST) takeRoom(ctx context.Context, limit int) error {
	weight := int64(limit + 2*(limit+firstChunk))
	waiting, cancel := context.WithTimeout(ctx, awaitRoom)
	defer cancel()
	if r.room.Acquire(waiting, weight) != nil {
		return apierrors.NewTooManyRequests("too many flows are being sent to others", 1)
	}
	context.AfterFunc(ctx, func() { r.room.Release(weight) })
	return nil
}

// judgeErrors makes a Warning of the nodes that gave no answer, and an error when there is nothing else.
func (r *REST) judgeErrors(ctx context.Context, m *merge) error {
	silent := m.silent()
	if ctx.Err() != nil {
		return live.Unavailable(ctx, ctx.Err())
	}
	for _, err := range silent {
		if errors.Is(err, ErrGone) {
			return apierrors.NewResourceExpired(fmt.Sprintf("the list cannot go on, since an agent began a new history: %v", err))
		}
	}
	if len(silent) == 0 {
		return nil
	}
	if len(silent) == len(m.nodes) {
		return live.Unavailable(ctx, silent[0])
	}
	serverwarning.AddWarning(ctx, "", live.Warning(silent, len(m.nodes)))
	return nil
}

func warnOfUnknown(ctx context.Context, flows int) {
	if flows > 0 {
		serverwarning.AddWarning(ctx, "", fmt.Sprintf("%d flows of pods that this server does not know are left out", flows))
	}
}
