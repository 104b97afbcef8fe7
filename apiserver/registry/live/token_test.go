package live

import (
	"encoding/base64"
	"testing"
)

func TestParseToken(t *testing.T) {
	encoded := token{Version: "10000000042", Namespace: "ns", Name: "pod"}.encode()
	got, v, err := parseToken(encoded)
	if err != nil || got != (token{"10000000042", "ns", "pod"}) || v != (version{100, 42}) {
		t.Errorf("got %+v, %v, %v", got, v, err)
	}
	for _, text := range []string{
		"", "?", "eyJ2", `{"v":"1","n":"a"`, `{"v":"1"}`, `{"n":"a"}`, `{"v":"-1","n":"a"}`, `{"v":"1","n":"a","x":1}`,
		`{"v":"1","n":"a"}{}`, `[]`, `null`, `{"v":1,"n":"a"}`,
	} {
		if got, _, err := parseToken(base64.RawURLEncoding.EncodeToString([]byte(text))); err == nil {
			t.Errorf("%s: got %+v, want an error", text, got)
		}
	}
	if _, _, err := parseToken(string(make([]byte, 2000))); err == nil {
		t.Error("2,000 bytes were read")
	}
}

// FuzzToken: whatever comes, a token that is read has a key and a version, and survives being written.
func FuzzToken(f *testing.F) {
	f.Add(token{Version: "10000000042", Namespace: "ns", Name: "pod"}.encode())
	f.Add("e30")
	f.Fuzz(func(t *testing.T, text string) {
		got, v, err := parseToken(text)
		if err != nil {
			return
		}
		if got.Name == "" || v.String() != got.Version {
			t.Errorf("%q was read as %+v, %v", text, got, v)
		}
		again, _, err := parseToken(got.encode())
		if err != nil && len(got.encode()) <= maxToken {
			t.Errorf("%+v was written and not read again: %v", got, err)
		}
		if err == nil && again != got {
			t.Errorf("%+v was read again as %+v", got, again)
		}
	})
}
