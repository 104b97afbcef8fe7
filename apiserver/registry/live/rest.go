package live

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	serverwarning "k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// A Kind is what differs from one live resource to the next.
type Kind interface {
	rest.TableConvertor

	Resource() schema.GroupResource
	Singular() string
	ShortNames() []string
	NamespaceScoped() bool

	New() runtime.Object
	NewList() runtime.Object

	// Record keeps what is needed of an object of the host, without changing it.
	Record(host runtime.Object) (*Record, error)
	// Object is the API object of a record and what its node said.
	Object(record *Record, reading Reading) Object
	// List is the API list; each item has the list's resourceVersion.
	List(list metav1.ListMeta, records []*Record, readings []Reading) runtime.Object
}

// An Object is an API object.
type Object interface {
	runtime.Object
	metav1.Object
}

// Config says what a REST stands on.
type Config struct {
	Kind Kind
	// Host lists and watches the objects of the host that ours follow; HostType is an empty one of them.
	Host     cache.ListerWatcherWithContext
	HostType runtime.Object
	// HostGet reads one of these objects from the host's newest state. Without it, an object that the host has just
	// created is not found.
	HostGet func(ctx context.Context, namespace, name string) (runtime.Object, error)
	Reader  Reader
	// WatchInterval is how often watched objects are read.
	WatchInterval time.Duration
	// Clock is the real one unless a test sets another.
	Clock clock.WithTickerAndDelayedExecution
}

// REST serves one live resource. Run must run for it to answer.
type REST struct {
	kind      Kind
	store     *store
	host      *host
	hostGet   func(ctx context.Context, namespace, name string) (runtime.Object, error)
	reader    Reader
	interval  time.Duration
	clock     clock.WithTickerAndDelayedExecution
	newcomers *newcomers
	crowd     crowd
}

var (
	_ rest.Storage              = &REST{}
	_ rest.Scoper               = &REST{}
	_ rest.SingularNameProvider = &REST{}
	_ rest.ShortNamesProvider   = &REST{}
	_ rest.CategoriesProvider   = &REST{}
	_ rest.Getter               = &REST{}
	_ rest.Lister               = &REST{}
	_ rest.Watcher              = &REST{}
	_ rest.TableConvertor       = &REST{}
)

// New makes a REST. Nothing happens before Run.
func New(config Config) *REST {
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	r := &REST{
		kind:      config.Kind,
		store:     newStore(config.Kind.Record),
		hostGet:   config.HostGet,
		reader:    measure(config.Reader, config.Kind.Resource().Resource),
		interval:  config.WatchInterval,
		clock:     config.Clock,
		newcomers: newNewcomers(),
		crowd:     newCrowd(),
	}
	r.host = newHost(config, r.store)
	r.store.hurry = r.host.hurry
	return r
}

// Observe sets who is told which objects the host has. It is called before Run.
func (r *REST) Observe(observer Observer) { r.store.observer = observer }

// Run follows the host and reads for watchers, until ctx ends.
func (r *REST) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.host.run(ctx)
	}()
	r.readForWatchers(ctx)
	<-done
}

// Synced fails until the host's objects are known.
func (r *REST) Synced() error {
	if !r.store.isSynced() {
		return fmt.Errorf("%s: the cluster's objects are not listed yet", r.kind.Resource().Resource)
	}
	return nil
}

// New is part of rest.Storage.
func (r *REST) New() runtime.Object { return r.kind.New() }

// Destroy has nothing to do: what Run began ends with its context.
func (r *REST) Destroy() {}

// NamespaceScoped is part of rest.Scoper.
func (r *REST) NamespaceScoped() bool { return r.kind.NamespaceScoped() }

// GetSingularName is part of rest.SingularNameProvider.
func (r *REST) GetSingularName() string { return r.kind.Singular() }

// ShortNames is part of rest.ShortNamesProvider.
func (r *REST) ShortNames() []string { return r.kind.ShortNames() }

// Categories leaves "all" out: nobody who asks for all objects of a namespace wants its telemetry.
func (r *REST) Categories() []string { return []string{"networkobservability"} }

// NewList is part of rest.Lister.
func (r *REST) NewList() runtime.Object { return r.kind.NewList() }

// ConvertToTable is part of rest.TableConvertor.
func (r *REST) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.kind.ConvertToTable(ctx, object, options)
}

// Get reads one object. When its node is silent there is no answer, since an answer without counters would look
// like one to programs that do not look at the state.
func (r *REST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	if options == nil {
		options = &metav1.GetOptions{}
	}
	if err := r.catchUpText(ctx, options.ResourceVersion); err != nil {
		return nil, err
	}
	k := key{r.namespace(ctx), name}
	record, v, found := r.store.get(k)
	if !found {
		var err error
		if record, err = r.getFromHost(ctx, k); err != nil {
			return nil, err
		}
	}
	readings, _, _, err := read(ctx, r.reader, []*Record{record})
	if err == nil {
		err = readings[0].Err
	}
	if err != nil {
		return nil, Unavailable(ctx, err)
	}
	object := r.kind.Object(record, readings[0])
	object.SetResourceVersion(v.String())
	return object, nil
}

// maxHostGet is how long the host may take to say whether it has an object.
const maxHostGet = 2 * time.Second

// getFromHost asks the host for an object that it has not told us of: it may have come a moment ago. The answer with it
// carries a version from before it, so that a watch from there begins with it.
func (r *REST) getFromHost(ctx context.Context, k key) (*Record, error) {
	notFound := apierrors.NewNotFound(r.kind.Resource(), k.name)
	if r.hostGet == nil || len(content.IsPathSegmentName(k.name)) > 0 {
		return nil, notFound
	}
	ctx, cancel := context.WithTimeout(ctx, maxHostGet)
	defer cancel()
	object, err := r.hostGet(ctx, k.namespace, k.name)
	if apierrors.IsNotFound(err) {
		return nil, notFound
	}
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("asking the cluster for %s: %v", k.name, err))
	}
	record, err := r.kind.Record(object)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("reading %s of the cluster: %w", k.name, err))
	}
	return record, nil
}

func (r *REST) namespace(ctx context.Context) string {
	if !r.kind.NamespaceScoped() {
		return ""
	}
	return genericapirequest.NamespaceValue(ctx)
}

// List reads a page. Objects of silent nodes stay in it, without counters.
func (r *REST) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	if options == nil {
		options = &metainternalversion.ListOptions{}
	}
	selection, err := newSelection(ctx, r.kind.NamespaceScoped(), options)
	if err != nil {
		return nil, err
	}
	after, first, err := r.position(ctx, options)
	if err != nil {
		return nil, err
	}
	page := r.store.list(selection, after, int(options.Limit))
	if err := r.crowd.list(ctx, len(page.records)); err != nil {
		return nil, err
	}
	readings, silent, asked, err := readAhead(ctx, r.reader, page.records, r.nextPages(options, selection, page))
	if err != nil {
		return nil, Unavailable(ctx, err)
	}
	if len(silent) > 0 {
		serverwarning.AddWarning(ctx, "", Warning(silent, asked))
	}
	if first == (version{}) {
		first = page.version
	}
	return r.kind.List(listMeta(first, page, selection), page.records, readings), nil
}

func listMeta(first version, page page, selection *selection) metav1.ListMeta {
	list := metav1.ListMeta{ResourceVersion: first.String()}
	if !page.more {
		return list
	}
	last := page.records[len(page.records)-1].key()
	list.Continue = token{Version: first.String(), Namespace: last.namespace, Name: last.name}.encode()
	if !selection.selects() {
		list.RemainingItemCount = &page.remaining
	}
	return list
}

// position finds where a list begins: at the start, or behind a token's key with the version of its first page.
func (r *REST) position(ctx context.Context, options *metainternalversion.ListOptions) (after key, first version, err error) {
	if options.Continue == "" {
		if options.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
			return key{}, version{}, apierrors.NewResourceExpired(
				"counters of the past are not kept: resourceVersionMatch=Exact cannot be served, use NotOlderThan")
		}
		return key{}, version{}, r.catchUpText(ctx, options.ResourceVersion)
	}
	if options.ResourceVersion != "" && options.ResourceVersion != "0" {
		return key{}, version{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	t, first, err := parseToken(options.Continue)
	if err != nil {
		return key{}, version{}, apierrors.NewBadRequest(fmt.Sprintf("continue key is not valid: %v", err))
	}
	return key{t.Namespace, t.Name}, first, r.catchUp(ctx, first)
}

// maxCatchUp is how long a request waits for this replica to see what its client saw at another: as long as
// kube-apiserver's cache does.
const maxCatchUp = 3 * time.Second

func (r *REST) catchUpText(ctx context.Context, text string) error {
	if text == "" || text == "0" {
		return r.catchUp(ctx, version{})
	}
	v, err := r.parse(text)
	if err != nil {
		return err
	}
	return r.catchUp(ctx, v)
}

func (r *REST) parse(text string) (version, error) {
	v, err := parseVersion(text)
	if err != nil {
		return version{}, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	return v, nil
}

// catchUp makes sure that what is answered is not older than v.
func (r *REST) catchUp(ctx context.Context, v version) error {
	if err := r.Synced(); err != nil {
		return apierrors.NewServiceUnavailable(err.Error())
	}
	if _, ok := r.store.adopt(v); ok {
		return nil
	}
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := r.clock.AfterFunc(maxCatchUp, func() { cancel(errBehind) })
	defer timer.Stop()
	if err := r.store.reach(waiting, v); errors.Is(err, errBehind) {
		current, _ := r.store.versions()
		return tooLarge(v, current)
	}
	return nil
}

// tooLarge is the error by which clients know to try again or to start anew (the shape of
// k8s.io/apiserver/pkg/storage.NewTooLargeResourceVersionError, whose versions are of 64 bits).
func tooLarge(asked, current version) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %v, current: %v", asked, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}
