package interfaces

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// attributeOf makes an attribute of netlink.
func attributeOf(kind uint16, value ...byte) []byte {
	head := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	head = binary.NativeEndian.AppendUint16(head, kind)
	whole := append(head, value...)
	return append(whole, make([]byte, -len(whole)&3)...)
}

func number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func routeTo(length, table, kind byte, attributes ...[]byte) []byte {
	return append([]byte{unix.AF_INET, length, 0, 0, table, 0, 0, kind, 0, 0, 0, 0}, slices.Concat(attributes...)...)
}

func TestDefaultRoutes(t *testing.T) {
	out := attributeOf(unix.RTA_OIF, number(7)...)
	hop := func(index uint32) []byte { return append([]byte{8, 0, 0, 0}, number(index)...) }
	for name, test := range map[string]struct {
		message []byte
		want    []int
	}{
		"default":         {routeTo(0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, attributeOf(unix.RTA_PRIORITY, 1, 0, 0, 0), out), []int{7}},
		"of two paths":    {routeTo(0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, attributeOf(unix.RTA_MULTIPATH, slices.Concat(hop(3), hop(4))...)), []int{3, 4}},
		"a hop cut off":   {routeTo(0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, attributeOf(unix.RTA_MULTIPATH, slices.Concat(hop(3), hop(4)[:5])...)), []int{3}},
		"to a network":    {routeTo(24, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, out), nil},
		"another table's": {routeTo(0, unix.RT_TABLE_LOCAL, unix.RTN_UNICAST, out), nil},
		"unreachable":     {routeTo(0, unix.RT_TABLE_MAIN, unix.RTN_UNREACHABLE, out), nil},
		"short":           {routeTo(0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST)[:11], nil},
	} {
		t.Run(name, func(t *testing.T) {
			found := map[int]bool{}
			if addDefault(test.message, found); !slices.Equal(slices.Sorted(maps.Keys(found)), test.want) {
				t.Errorf("%v, want %v", found, test.want)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	head := append([]byte{unix.AF_INET, 32, 0, 0}, number(5)...)
	for name, test := range map[string]struct {
		attributes []byte
		want       string
	}{
		"own":                       {attributeOf(unix.IFA_ADDRESS, 192, 0, 2, 1), "192.0.2.1"},
		"with another at the end":   {append(attributeOf(unix.IFA_ADDRESS, 192, 0, 2, 9), attributeOf(unix.IFA_LOCAL, 192, 0, 2, 1)...), "192.0.2.1"},
		"IPv6":                      {attributeOf(unix.IFA_ADDRESS, netip.MustParseAddr("fd00::1").AsSlice()...), "fd00::1"},
		"none":                      {attributeOf(unix.IFA_LABEL, 'x', 0), "invalid IP"},
		"of a length that is wrong": {attributeOf(unix.IFA_LOCAL, 192, 0, 2), "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			if index, address := parseAddress(append(head, test.attributes...)); index != 5 || address.String() != test.want {
				t.Errorf("%v of %d", address, index)
			}
		})
	}
}

// message makes one of netlink.
func message(kind, flags uint16, text ...byte) []byte {
	head := binary.NativeEndian.AppendUint32(nil, uint32(16+len(text)))
	head = binary.NativeEndian.AppendUint16(head, kind)
	head = binary.NativeEndian.AppendUint16(head, flags)
	whole := slices.Concat(head, make([]byte, 8), text)
	return append(whole, make([]byte, -len(whole)&3)...)
}

func TestAnswers(t *testing.T) {
	const reply = unix.RTM_NEWLINK
	link := message(reply, 0, 'a', 'b', 'c')
	for name, test := range map[string]struct {
		answer      []byte
		want        int
		done        bool
		interrupted bool
		failed      bool
	}{
		"more comes":    {slices.Concat(link, link), 2, false, false, false},
		"the end":       {slices.Concat(link, message(unix.NLMSG_DONE, 0, number(0)...)), 1, true, false, false},
		"others":        {slices.Concat(message(reply+1, 0), link), 1, false, false, false},
		"interrupted":   {message(reply, unix.NLM_F_DUMP_INTR, 'a', 'b', 'c'), 1, false, true, false},
		"refused":       {message(unix.NLMSG_ERROR, 0, number(^uint32(unix.EPERM)+1)...), 0, true, false, true},
		"cut off":       {link[:18], 0, false, false, true},
		"less than one": {link[:15], 0, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, interrupted := 0, false
			done, err := each(test.answer, reply, &interrupted, func(text []byte) error {
				if string(text) != "abc" {
					t.Errorf("%q", text)
				}
				got++
				return nil
			})
			if got != test.want || done != test.done || interrupted != test.interrupted || (err != nil) != test.failed {
				t.Errorf("%d messages, done %v, interrupted %v: %v", got, done, interrupted, err)
			}
		})
	}
	if err := problem(number(^uint32(unix.EPERM) + 1)); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
}

// FuzzAnswers: whatever the bytes are, nothing is read beyond them.
func FuzzAnswers(f *testing.F) {
	route := routeTo(0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, attributeOf(unix.RTA_OIF, 7, 0, 0, 0), attributeOf(unix.RTA_MULTIPATH, 8, 0, 0, 0, 1, 0, 0, 0))
	f.Add(slices.Concat(message(unix.RTM_NEWROUTE, 0, route...), message(unix.NLMSG_DONE, 0)))
	f.Add(message(unix.RTM_NEWROUTE, 0, append([]byte{unix.AF_INET, 32, 0, 0, 5, 0, 0, 0}, attributeOf(unix.IFA_LOCAL, 1, 2, 3, 4)...)...))
	f.Fuzz(func(t *testing.T, answer []byte) {
		interrupted := false
		_, _ = each(answer, unix.RTM_NEWROUTE, &interrupted, func(text []byte) error {
			addDefault(text, map[int]bool{})
			parseAddress(text)
			if len(text) >= unix.SizeofIfInfomsg {
				if kept := wanted(text); len(kept) > len(text)+3 || len(kept)%4 != 0 {
					t.Errorf("%d bytes of %d", len(kept), len(text))
				}
			}
			return nil
		})
	})
}

// BenchmarkReadNode reads a node with the ends of 110 pods' interfaces, and a route to each.
func BenchmarkReadNode(b *testing.B) {
	fakepod.NeedRoot(b)
	node := fakepod.NewNamespace(b)
	for i := range 110 {
		name := "pod" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		node.Run("ip", "link", "add", name, "type", "veth", "peer", "name", "x"+name)
		node.Run("ip", "addr", "add", netip.AddrFrom4([4]byte{10, 88, byte(i), 1}).String()+"/24", "dev", name)
		node.Run("ip", "link", "set", name, "up")
	}
	c := New([]netip.Addr{netip.MustParseAddr("10.88.0.1")})
	b.ReportAllocs()
	node.Do(func() {
		for b.Loop() {
			if err := c.ReadNode(&v1alpha1.NodeStats{Measurement: &v1alpha1.Measurement{}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
