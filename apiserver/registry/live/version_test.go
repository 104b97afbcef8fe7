package live

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]version{
		"1":                            {sequence: 1},
		"12345678":                     {sequence: 12345678},
		"100000000":                    {host: 1},
		"10000000042":                  {host: 100, sequence: 42},
		"1844674407370955161599999999": {host: 1<<64 - 1, sequence: 99999999},
	} {
		got, err := parseVersion(text)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "01", "-1", "+1", "1e9", "0x10", " 1", "1.0", "١", "1844674407370955161600000000", "99999999999999999999999999999"} {
		if got, err := parseVersion(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

// FuzzVersion: what is read is written the same, and texts compare as Kubernetes compares them.
func FuzzVersion(f *testing.F) {
	f.Add("10000000042", "99")
	f.Add("1844674407370955161599999999", "100000000")
	f.Add("0", "-1")
	f.Fuzz(func(t *testing.T, a, b string) {
		versionA, err := parseVersion(a)
		if err != nil {
			return
		}
		if written := versionA.String(); written != a {
			t.Errorf("%q was written %q", a, written)
		}
		if next := versionA.next(); next.less(versionA) || next.host != versionA.host {
			t.Errorf("behind %v comes %v", versionA, next)
		}
		versionB, err := parseVersion(b)
		if err != nil {
			return
		}
		order, err := resourceversion.CompareResourceVersion(a, b)
		if err != nil {
			t.Fatalf("Kubernetes does not read %q or %q: %v", a, b, err)
		}
		if versionA.less(versionB) != (order < 0) || versionB.less(versionA) != (order > 0) {
			t.Errorf("%q and %q compare %d", a, b, order)
		}
	})
}
