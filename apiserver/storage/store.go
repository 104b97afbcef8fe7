package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	apistorage "k8s.io/apiserver/pkg/storage"
)

// A store keeps objects of one kind in envelopes, and nothing in memory but their sizes. An object's resourceVersion is
// its envelope's. It may be used concurrently.
type store struct {
	host      *host
	codec     runtime.Codec
	versioner apistorage.APIObjectVersioner
	// prefix begins every key, as "/captures".
	prefix string
	// newFunc and newList make empty objects.
	newFunc, newList func() runtime.Object
	sizes            sizes
}

var _ apistorage.Interface = (*store)(nil)

// A state is an object as it was read, or as a caller suggests that it is.
type state struct {
	object runtime.Object
	// encoded is the object as it is stored; empty for one that is not there.
	encoded []byte
	// version is 0 for one that is not there.
	version uint64
	// current is false for a suggestion.
	current bool
}

var errTTL = errors.New("objects cannot be stored with a time to live")

func (s *store) Versioner() apistorage.Versioner { return s.versioner }

// envelopeOf returns the full key, and the envelope's name and namespace, or ok false when no object can be there.
func (s *store) envelopeOf(key string) (full, name, namespace string, ok bool, err error) {
	full, err = apistorage.PrepareKey(s.prefix, key, false)
	if err != nil {
		return "", "", "", false, err
	}
	name, namespace, ok = s.host.kind.names.envelope(s.relative(full))
	return full, name, namespace, ok, nil
}

func (s *store) relative(full string) string {
	return strings.TrimPrefix(strings.TrimPrefix(full, s.prefix), "/")
}

func (s *store) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	key, name, namespace, ok, err := s.envelopeOf(key)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("invalid key: %q is not one of an object", key)
	}
	if ttl != 0 {
		return errTTL
	}
	if version, err := s.versioner.ObjectResourceVersion(obj); err == nil && version != 0 {
		return apistorage.ErrResourceVersionSetOnCreate
	}
	encoded, labels, err := s.encode(obj)
	if err != nil {
		return err
	}
	created, err := s.host.create(ctx, s.host.envelope(name, namespace, labels, encoded))
	if err != nil {
		return translate(err, key)
	}
	if out == nil {
		s.sizes.set(name, len(encoded))
		return nil
	}
	return s.decodeInto(created, out)
}

func (s *store) Get(ctx context.Context, key string, opts apistorage.GetOptions, out runtime.Object) error {
	key, name, _, ok, err := s.envelopeOf(key)
	if err != nil {
		return err
	}
	err = apistorage.NewKeyNotFoundError(key, 0)
	var got *envelope
	if ok {
		got, err = s.host.get(ctx, name)
		err = translate(err, key)
	}
	switch {
	case apistorage.IsNotFound(err) && opts.IgnoreNotFound:
		if err := s.notNewerThan(ctx, opts.ResourceVersion); err != nil {
			return err
		}
		return runtime.SetZeroValue(out)
	case err != nil:
		return err
	}
	if err := s.decodeInto(got, out); err != nil {
		return err
	}
	if version, err := s.versioner.ParseResourceVersion(opts.ResourceVersion); err == nil && version <= versionOf(got) {
		return nil
	}
	return s.notNewerThan(ctx, opts.ResourceVersion)
}

// notNewerThan answers an error when the storage has not reached the version that a reader asks for.
func (s *store) notNewerThan(ctx context.Context, version string) error {
	asked, err := s.parse(version)
	if err != nil || asked == 0 {
		return err
	}
	current, err := s.GetCurrentResourceVersion(ctx)
	if err != nil {
		return err
	}
	if asked > current {
		return apistorage.NewTooLargeResourceVersionError(asked, current, 0)
	}
	return nil
}

func (s *store) Delete(ctx context.Context, key string, out runtime.Object, preconditions *apistorage.Preconditions,
	validate apistorage.ValidateObjectFunc, cached runtime.Object, _ apistorage.DeleteOptions) error {
	key, name, _, ok, err := s.envelopeOf(key)
	if err != nil {
		return err
	}
	if !ok {
		return apistorage.NewKeyNotFoundError(key, 0)
	}
	last, err := s.begin(ctx, key, name, out, false, cached)
	if err != nil {
		return err
	}
	for {
		err := preconditions.Check(key, last.object)
		if err == nil {
			err = validate(ctx, last.object)
		}
		if err != nil {
			if last, err = s.unlessStale(ctx, key, name, out, false, last, err); err != nil {
				return err
			}
			continue
		}
		err = translate(s.host.delete(ctx, name, version(last.version)), key)
		if err == nil {
			break
		}
		if !apistorage.IsConflict(err) {
			return err
		}
		if last, err = s.read(ctx, key, name, out, false); err != nil {
			return err
		}
	}
	s.sizes.remove(name)
	return s.decode(last.encoded, out, s.versionOfDeletion(ctx, last.version))
}

// versionOfDeletion is a version at which the object is gone. The host does not tell the deletion's own; when it cannot
// be asked, the object's last one has to do, since the deletion has happened.
func (s *store) versionOfDeletion(ctx context.Context, last uint64) uint64 {
	current, err := s.GetCurrentResourceVersion(ctx)
	if err != nil {
		return last
	}
	return current
}

func (s *store) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *apistorage.Preconditions, tryUpdate apistorage.UpdateFunc, cached runtime.Object) error {
	key, name, namespace, ok, err := s.envelopeOf(key)
	if err != nil {
		return err
	}
	if !ok {
		return apistorage.NewKeyNotFoundError(key, 0)
	}
	last, err := s.begin(ctx, key, name, out, ignoreNotFound, cached)
	if err != nil {
		return err
	}
	for {
		updated, labels, err := s.tryUpdate(key, last, preconditions, tryUpdate)
		if err != nil {
			if last, err = s.unlessStale(ctx, key, name, out, ignoreNotFound, last, err); err != nil {
				return err
			}
			continue
		}
		if bytes.Equal(updated, last.encoded) {
			if last.current {
				return s.decode(last.encoded, out, last.version)
			}
			// Nothing is to be written, if the suggestion is what is stored.
			if last, err = s.read(ctx, key, name, out, ignoreNotFound); err != nil {
				return err
			}
			continue
		}
		written, err := s.write(ctx, s.host.envelope(name, namespace, labels, updated), last.version)
		if err == nil {
			return s.decodeInto(written, out)
		}
		err = translate(err, key)
		if !apistorage.IsConflict(err) && !apistorage.IsExist(err) && !apistorage.IsNotFound(err) {
			return err
		}
		if last, err = s.read(ctx, key, name, out, ignoreNotFound); err != nil {
			return err
		}
	}
}

// tryUpdate returns the object as the caller would have it.
func (s *store) tryUpdate(key string, last *state, preconditions *apistorage.Preconditions, try apistorage.UpdateFunc) ([]byte, map[string]string, error) {
	if err := preconditions.Check(key, last.object); err != nil {
		return nil, nil, err
	}
	updated, ttl, err := try(last.object, apistorage.ResponseMeta{ResourceVersion: last.version})
	if err != nil {
		return nil, nil, err
	}
	if ttl != nil && *ttl != 0 {
		return nil, nil, errTTL
	}
	return s.encode(updated)
}

func (s *store) write(ctx context.Context, e *envelope, last uint64) (*envelope, error) {
	if last == 0 {
		return s.host.create(ctx, e)
	}
	e.ResourceVersion = version(last)
	return s.host.update(ctx, e)
}

// begin returns what is suggested, or else what is stored.
func (s *store) begin(ctx context.Context, key, name string, like runtime.Object, ignoreNotFound bool, suggested runtime.Object) (*state, error) {
	if suggested == nil {
		return s.read(ctx, key, name, like, ignoreNotFound)
	}
	version, err := s.versioner.ObjectResourceVersion(suggested)
	if err != nil {
		return nil, fmt.Errorf("reading the resource version of the suggested object: %w", err)
	}
	encoded, _, err := s.encode(suggested)
	if err != nil {
		return nil, err
	}
	return &state{object: suggested, encoded: encoded, version: version}, s.versioner.UpdateObject(suggested, version)
}

// unlessStale is what to go on with after a check failed: what is stored, if it is not what was checked.
func (s *store) unlessStale(ctx context.Context, key, name string, like runtime.Object, ignoreNotFound bool, last *state, failure error) (*state, error) {
	if last.current {
		return nil, failure
	}
	read, err := s.read(ctx, key, name, like, ignoreNotFound)
	if err != nil {
		return nil, err
	}
	if read.version == last.version {
		return nil, failure
	}
	return read, nil
}

// read returns what is stored, in an object of the type of like.
func (s *store) read(ctx context.Context, key, name string, like runtime.Object, ignoreNotFound bool) (*state, error) {
	v, err := conversion.EnforcePtr(like)
	if err != nil {
		return nil, fmt.Errorf("reading into %T: %w", like, err)
	}
	object := reflect.New(v.Type()).Interface().(runtime.Object)
	got, err := s.host.get(ctx, name)
	if err = translate(err, key); err != nil {
		if apistorage.IsNotFound(err) && ignoreNotFound {
			return &state{object: object, current: true}, nil
		}
		return nil, err
	}
	if err := s.decodeInto(got, object); err != nil {
		return nil, err
	}
	return &state{object: object, encoded: []byte(got.Spec.Object), version: versionOf(got), current: true}, nil
}

// encode returns the object as it is stored, without its resourceVersion, and its labels.
func (s *store) encode(object runtime.Object) ([]byte, map[string]string, error) {
	if err := s.versioner.PrepareObjectForStorage(object); err != nil {
		return nil, nil, fmt.Errorf("preparing the object: %w", err)
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the object's labels: %w", err)
	}
	encoded, err := runtime.Encode(s.codec, object)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the object: %w", err)
	}
	return encoded, accessor.GetLabels(), nil
}

func (s *store) decodeInto(e *envelope, out runtime.Object) error {
	s.sizes.set(e.Name, len(e.Spec.Object))
	return s.decode([]byte(e.Spec.Object), out, versionOf(e))
}

func (s *store) decode(encoded []byte, out runtime.Object, version uint64) error {
	if _, err := conversion.EnforcePtr(out); err != nil {
		return fmt.Errorf("decoding into %T: %w", out, err)
	}
	if _, _, err := s.codec.Decode(encoded, nil, out); err != nil {
		return apistorage.NewInternalError(fmt.Errorf("decoding what is stored: %w", err))
	}
	return s.versioner.UpdateObject(out, version)
}

func (s *store) parse(version string) (uint64, error) {
	return s.versioner.ParseResourceVersion(version)
}

// versionOf is an envelope's version. That of an envelope that the host sent is a number.
func versionOf(e *envelope) uint64 {
	version, _ := strconv.ParseUint(e.ResourceVersion, 10, 64)
	return version
}

func version(v uint64) string { return strconv.FormatUint(v, 10) }
