package storage

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apistorage "k8s.io/apiserver/pkg/storage"
)

// TestTranslate: each error of the host becomes the one that the Store knows, and names nothing of the host's.
func TestTranslate(t *testing.T) {
	envelopes := schema.GroupResource{Group: envelopeGroupVersion.Group, Resource: "storedcaptures"}
	const name = "ns.name"
	for what, test := range map[string]struct {
		err error
		is  func(error) bool
	}{
		"no such object":     {apierrors.NewNotFound(envelopes, name), apistorage.IsNotFound},
		"no such resource":   {apierrors.NewGenericServerResponse(http.StatusNotFound, "get", envelopes, "", "404 page not found", 0, true), tells(errNotInstalled)},
		"no such namespace":  {apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "network-observability"), tells(errNotInstalled)},
		"already there":      {apierrors.NewAlreadyExists(envelopes, name), apistorage.IsExist},
		"conflict":           {apierrors.NewConflict(envelopes, name, errors.New("changed")), apistorage.IsConflict},
		"expired":            {apierrors.NewResourceExpired("compacted"), apierrors.IsResourceExpired},
		"too large":          {apierrors.NewRequestEntityTooLargeError("limit is 3145728"), apierrors.IsRequestEntityTooLargeError},
		"too large for etcd": {apierrors.NewInternalError(errors.New("etcdserver: request is too large")), apierrors.IsRequestEntityTooLargeError},
		"busy":               {apierrors.NewTooManyRequests("storedcaptures", 3), apierrors.IsTooManyRequests},
		"no connection":      {&url.Error{Op: "Get", URL: "https://host/storedcaptures", Err: syscall.ECONNREFUSED}, apistorage.IsUnreachable},
		"no answer":          {context.DeadlineExceeded, apistorage.IsUnreachable},
		"timeout":            {apierrors.NewTimeoutError(name, 1), apistorage.IsUnreachable},
		"a version to come":  {apistorage.NewTooLargeResourceVersionError(9, 8, 1), apistorage.IsTooLargeResourceVersion},
		"no right":           {apierrors.NewForbidden(envelopes, name, errors.New("no")), tells(errForbidden)},
		"refused":            {apierrors.NewInvalid(schema.GroupKind{Kind: "StoredCapture"}, name, nil), tells(errRefused)},
		"unknown":            {errors.New("decoding " + name), apistorage.IsInternalError},
		"caller went":        {context.Canceled, func(err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		got := translate(test.err, "/captures/ns/name")
		if !test.is(got) {
			t.Errorf("%s: became %T: %v", what, got, got)
		}
		if got != nil && (strings.Contains(got.Error(), "storedcaptures") || strings.Contains(got.Error(), name)) {
			t.Errorf("%s: tells of envelopes: %v", what, got)
		}
	}
	if err := translate(nil, ""); err != nil {
		t.Error(err)
	}
}

func tells(want error) func(error) bool {
	return func(err error) bool { return apistorage.IsInternalError(err) && errors.Is(err, want) }
}

// TestExpiredPage: the answer has a token to go on with.
func TestExpiredPage(t *testing.T) {
	var status apierrors.APIStatus
	err := expiredPage("/captures/ns/name\x00", "/captures/")
	if !apierrors.IsResourceExpired(err) || !errors.As(err, &status) {
		t.Fatalf("%T: %v", err, err)
	}
	key, version, err := apistorage.DecodeContinue(status.Status().ListMeta.Continue, "/captures/")
	if err != nil || key != "/captures/ns/name\x00" || version != -1 {
		t.Errorf("goes on at %q of %d: %v", key, version, err)
	}
}

func TestOptionsValidate(t *testing.T) {
	for _, test := range []struct {
		change func(*Options)
		want   string
	}{
		{func(*Options) {}, ""},
		{func(o *Options) { o.etcd.StorageConfig.Transport.ServerList = []string{"http://127.0.0.1:2379"} }, ""},
		{func(o *Options) { o.etcd.StorageConfig.Transport.TrustedCAFile = "ca.crt" }, "--etcd-servers"},
		{func(o *Options) {
			o.etcd.StorageConfig.Transport.ServerList = []string{"https://127.0.0.1:2379"}
			o.etcd.StorageConfig.Transport.CertFile = "client.crt"
		}, "--etcd-keyfile"},
	} {
		o := NewOptions(nil)
		test.change(o)
		errs := o.Validate()
		if (len(errs) > 0) != (test.want != "") || len(errs) > 0 && !strings.Contains(errs[0].Error(), test.want) {
			t.Errorf("%v, want one about %q", errs, test.want)
		}
	}
}
