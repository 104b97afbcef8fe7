package storage

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	apistorage "k8s.io/apiserver/pkg/storage"
)

func TestKeys(t *testing.T) {
	for _, test := range []struct {
		names    names
		key      string
		envelope string // empty: no object can be at the key
	}{
		{namespacedNames{}, "ns/name", "ns.name"},
		{namespacedNames{}, "ns/name.with.dots", "ns.name.with.dots"},
		{namespacedNames{}, "name", ""},
		{namespacedNames{}, "", ""},
		{namespacedNames{}, "ns/", ""},
		{namespacedNames{}, "/name", ""},
		{namespacedNames{}, "ns/name/more", ""},
		{namespacedNames{}, "n.s/name", ""},
		{clusterNames{}, "name", "name"},
		{clusterNames{}, "name.with.dots", "name.with.dots"},
		{clusterNames{}, "", ""},
		{clusterNames{}, "ns/name", ""},
	} {
		got, _, ok := test.names.envelope(test.key)
		if ok != (test.envelope != "") || ok && got != test.envelope {
			t.Errorf("%T %q: envelope %q %v, want %q", test.names, test.key, got, ok, test.envelope)
		}
		if ok && test.names.key(got) != test.key {
			t.Errorf("%T %q: comes back as %q", test.names, test.key, test.names.key(got))
		}
	}
}

// FuzzContinue has clients make up continue tokens: what the host is asked for is never outside their namespace.
func FuzzContinue(f *testing.F) {
	for _, key := range []string{"/captures/ns/name\x00", "/captures/ns/"} {
		if token, err := apistorage.EncodeContinue(key, "/captures/ns/", 7); err == nil {
			f.Add(token)
		}
	}
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":-1,"start":"../other/name"}`)))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":1,"start":".x"}`)))
	f.Fuzz(func(t *testing.T, token string) {
		l := &listing{
			store: &store{host: &host{kind: kinds["captures"]}, prefix: "/captures"}, prefix: "/captures/ns/",
			opts: apistorage.ListOptions{Recursive: true, Predicate: apistorage.SelectionPredicate{Continue: token}},
		}
		if token == "" {
			return
		}
		if _, err := l.begin(); err != nil {
			return
		}
		if l.query.FieldSelector != "spec.namespace=ns" {
			t.Errorf("selects %q", l.query.FieldSelector)
		}
		decoded, err := base64.RawURLEncoding.DecodeString(l.query.Continue)
		if err != nil {
			t.Fatal(err)
		}
		var host struct {
			Start string `json:"start"`
		}
		if err := json.Unmarshal(decoded, &host); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(host.Start, "ns.") {
			t.Errorf("begins at %q", host.Start)
		}
	})
}
