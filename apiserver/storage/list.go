package storage

import (
	"context"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	apistorage "k8s.io/apiserver/pkg/storage"
)

const (
	// pageSize is how many envelopes are asked for at a time, at most. An envelope is some kilobytes.
	pageSize = 500
	// namespaceField is the selectable field of envelopes.
	namespaceField = "spec.namespace"
)

// A listing is one GetList under way.
type listing struct {
	store  *store
	prefix string
	opts   apistorage.ListOptions
	// items is the list's slice.
	items reflect.Value
	query metav1.ListOptions
	// version is that of the list; 0 before the first page.
	version string
	// lastKey and lastName are of the last envelope that was looked at.
	lastKey, lastName string
	remaining         *int64
	more              bool
}

// GetList reads from the host, always as new as the host is, unless an exact version is asked for. The host answers from
// its own cache.
func (s *store) GetList(ctx context.Context, key string, opts apistorage.ListOptions, listObj runtime.Object) error {
	prefix, err := apistorage.PrepareKey(s.prefix, key, opts.Recursive)
	if err != nil {
		return err
	}
	items, err := itemsOf(listObj)
	if err != nil {
		return err
	}
	l := &listing{store: s, prefix: prefix, opts: opts, items: items}
	known, err := l.begin()
	if err != nil {
		return err
	}
	if !known {
		current, err := s.GetCurrentResourceVersion(ctx)
		if err != nil {
			return err
		}
		return s.versioner.UpdateList(listObj, current, "", nil)
	}
	if err := l.run(ctx); err != nil {
		return err
	}
	return l.finish(ctx, listObj)
}

func itemsOf(listObj runtime.Object) (reflect.Value, error) {
	pointer, err := meta.GetItemsPtr(listObj)
	if err != nil {
		return reflect.Value{}, err
	}
	items, err := conversion.EnforcePtr(pointer)
	if err != nil || items.Kind() != reflect.Slice {
		return reflect.Value{}, fmt.Errorf("listing into %T: need a pointer to a slice", listObj)
	}
	items.Set(reflect.MakeSlice(items.Type(), 0, 0))
	return items, nil
}

// begin sets the first query. It answers false when no object can be at the key.
func (l *listing) begin() (bool, error) {
	version, continueKey, err := apistorage.ValidateListOptions(l.prefix, l.store.versioner, l.opts)
	if err != nil {
		return false, err
	}
	if version > 0 {
		l.query.ResourceVersion = fmt.Sprint(version)
		l.query.ResourceVersionMatch = metav1.ResourceVersionMatchExact
	}
	if label := l.opts.Predicate.Label; label != nil && !label.Empty() {
		l.query.LabelSelector = label.String()
	}
	known := l.scope()
	if continueKey != "" && known {
		return true, l.resume(continueKey, version)
	}
	return known, nil
}

// scope limits the query to what the key is about.
func (l *listing) scope() bool {
	names := l.store.host.kind.names
	if !l.opts.Recursive {
		name, _, ok := names.envelope(l.store.relative(l.prefix))
		l.query.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		return ok
	}
	namespace, ok := names.namespace(l.store.relative(l.prefix))
	if ok && namespace != "" {
		l.query.FieldSelector = fields.OneTermEqualSelector(namespaceField, namespace).String()
	}
	return ok
}

// resume begins at a key of one of our continue tokens, which is the last key that was looked at with a zero byte.
func (l *listing) resume(continueKey string, version int64) error {
	if version == 0 {
		version = -1
	}
	l.lastKey = continueKey
	token, err := continueAt(l.store.host.kind.names.start(l.store.relative(continueKey)), version)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
	}
	l.query.Continue, l.query.ResourceVersion, l.query.ResourceVersionMatch = token, "", ""
	return nil
}

// run reads pages until there are enough objects or no more.
func (l *listing) run(ctx context.Context) error {
	limit := l.limit()
	size := int64(pageSize)
	if limit > 0 {
		size = min(size, limit)
	}
	for {
		l.query.Limit = size
		if l.opts.Predicate.Empty() && limit > 0 {
			l.query.Limit = min(size, limit-int64(l.items.Len())) // so that remaining is exact
		}
		page, err := l.store.host.list(ctx, l.query)
		if err != nil {
			return l.translate(err)
		}
		if l.version == "" {
			l.version = page.ResourceVersion
			if err := l.checkVersion(); err != nil {
				return err
			}
		}
		if err := l.take(page, limit); err != nil {
			return err
		}
		l.remaining = page.RemainingItemCount
		l.more = l.more || page.Continue != ""
		if page.Continue == "" || limit > 0 && int64(l.items.Len()) >= limit {
			return nil
		}
		l.more = false
		l.query.Continue, l.query.ResourceVersion, l.query.ResourceVersionMatch = page.Continue, "", ""
		// Few match: read more at a time.
		size = min(2*size, pageSize)
	}
}

func (l *listing) limit() int64 {
	if !l.opts.Recursive {
		return 0
	}
	return l.opts.Predicate.Limit
}

// take adds the objects of a page that match, until there are enough.
func (l *listing) take(page *envelopeList, limit int64) error {
	for i := range page.Items {
		if limit > 0 && int64(l.items.Len()) >= limit {
			l.more = true
			return nil
		}
		e := &page.Items[i]
		l.lastKey, l.lastName = l.store.prefixed(l.store.host.kind.names.key(e.Name)), e.Name
		object := reflect.New(l.items.Type().Elem())
		if err := l.store.decodeInto(e, object.Interface().(runtime.Object)); err != nil {
			return err
		}
		if matches, err := l.opts.Predicate.Matches(object.Interface().(runtime.Object)); err == nil && matches {
			l.items.Set(reflect.Append(l.items, object.Elem()))
		}
	}
	return nil
}

// checkVersion keeps the promise that a list is not older than was asked for.
func (l *listing) checkVersion() error {
	asked, err := l.store.parse(l.opts.ResourceVersion)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	current, err := l.store.parse(l.version)
	if err != nil {
		return err
	}
	if l.opts.Predicate.Continue == "" && asked > current {
		return apistorage.NewTooLargeResourceVersionError(asked, current, 0)
	}
	return nil
}

func (l *listing) translate(err error) error {
	if (apierrors.IsResourceExpired(err) || apierrors.IsGone(err)) && l.query.Continue != "" {
		start := l.lastKey
		if l.lastName != "" {
			start += "\x00"
		}
		return expiredPage(start, l.prefix)
	}
	return translate(err, l.prefix)
}

// finish sets the list's version and, if there is more, its continue token.
func (l *listing) finish(ctx context.Context, listObj runtime.Object) error {
	version, err := l.store.parse(l.version)
	if err != nil {
		return err
	}
	if l.more {
		if err := l.countRest(ctx, int64(version)); err != nil {
			return err
		}
	}
	if !l.more {
		return l.store.versioner.UpdateList(listObj, version, "", nil)
	}
	token, err := apistorage.EncodeContinue(l.lastKey+"\x00", l.prefix, int64(version))
	if err != nil {
		return err
	}
	if !l.opts.Predicate.Empty() {
		l.remaining = nil // how many of these match is not known
	}
	return l.store.versioner.UpdateList(listObj, version, token, l.remaining)
}

// countRest finds out what is left of a namespace. The host counts only over everything, so that is the difference
// between what is behind the page and what is behind the namespace. The host may also see more where only other
// namespaces have.
func (l *listing) countRest(ctx context.Context, version int64) error {
	namespace, _ := l.store.host.kind.names.namespace(l.store.relative(l.prefix))
	if namespace == "" {
		return nil
	}
	behindPage, err := l.store.countFrom(ctx, l.lastName+"\x00", version)
	if err != nil {
		return err
	}
	rest, err := l.store.countFrom(ctx, namespace+behindNamespace, version)
	if err != nil {
		return err
	}
	count := behindPage - rest
	l.remaining, l.more = &count, count > 0
	return nil
}

// countFrom counts the envelopes from a name on, which need not be there.
func (s *store) countFrom(ctx context.Context, name string, version int64) (int64, error) {
	token, err := continueAt(name, version)
	if err != nil {
		return 0, err
	}
	return s.count(ctx, token)
}

// count counts the envelopes from a continue token of the host on, or all.
func (s *store) count(ctx context.Context, token string) (int64, error) {
	page, err := s.host.list(ctx, metav1.ListOptions{Limit: 1, Continue: token})
	if err != nil {
		return 0, translate(err, s.prefix)
	}
	count := int64(len(page.Items))
	if page.RemainingItemCount != nil {
		count += *page.RemainingItemCount
	}
	return count, nil
}

// GetCurrentResourceVersion is the host's version now.
func (s *store) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	page, err := s.host.list(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, translate(err, s.prefix)
	}
	return s.parse(page.ResourceVersion)
}

func (s *store) prefixed(relative string) string {
	if len(s.prefix) > 0 && s.prefix[len(s.prefix)-1] == '/' {
		return s.prefix + relative
	}
	return s.prefix + "/" + relative
}
