package drops

import (
	"fmt"
	"slices"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/drops"
)

func TestReason(t *testing.T) {
	names := map[uint32]string{2: "NOT_SPECIFIED", 12: "NETFILTER_DROP", 15: "IP_INHDR", 33: "TCP_OLD_DATA"}
	for _, test := range []struct {
		code  bpf.Code
		name  string
		class v1alpha1.Drop_Class
	}{
		{2, "NOT_SPECIFIED", other},
		{12, "NETFILTER_DROP", policy},
		{15, "IP_INHDR", malformed},
		{15 | 0xf000, "IP_INHDR", ttl},
		{2 | 0xe000, "NOT_SPECIFIED", benign},
		{33, "TCP_OLD_DATA", benign},
		{77, "REASON_77", other}, // of a later kernel, had it no name
		{1<<12 | 3, "MAC80211_UNUSABLE_3", other},
		{2<<12 | 1, "OPENVSWITCH_1", other},
		{9<<12 | 4, "REASON_589828", other},
	} {
		if name, class := reasonOf(names, test.code); name != test.name || class != test.class {
			t.Errorf("%#x is %s of %v, want %s of %v", test.code, name, class, test.name, test.class)
		}
	}
}

// Every reason of the running kernel has been judged. Whoever finds this skipped adds a line to classes, or to what stays
// other: a later kernel has brought a reason.
func TestEveryReasonIsJudged(t *testing.T) {
	kernel, err := bpf.Look()
	if err != nil {
		t.Skipf("the kernel does not say: %v", err)
	}
	stay := append([]string{
		"NOT_SPECIFIED", "SOCKET_CLOSE", "DEV_READY", "SKB_GSO_SEG", "SKB_UCOPY_FAULT", "BRIDGE_INGRESS_STP_STATE", "MAC_IEEE_MAC_CONTROL", "MAX",
	}, leftOut...)
	known := map[string]bool{}
	var unjudged []string
	for number, name := range kernel.Reasons {
		known[name] = true
		if _, judged := classes[name]; !judged && !slices.Contains(stay, name) {
			unjudged = append(unjudged, fmt.Sprintf("%s (%d)", name, number))
		}
	}
	for _, name := range []string{"NETFILTER_DROP", "NO_SOCKET", "IP_INHDR"} {
		if !known[name] {
			t.Errorf("the kernel has no %s: its reasons were read wrongly", name)
		}
	}
	if len(unjudged) > 0 {
		t.Skipf("counted as other: %v", unjudged)
	}
}

func TestSettings(t *testing.T) {
	s := settings(map[uint32]string{1: "SKB_CONSUMED", 2: "NOT_SPECIFIED", 13: "OTHERHOST", 15: "IP_INHDR", 106: "PACKET_SOCK_ERROR", 12: "NETFILTER_DROP", 4000: "OTHERHOST"}, true)
	want := bpf.SettingsOf{Flows: 1}
	want.Verdicts[1], want.Verdicts[106] = bpf.LeftOut, bpf.LeftOut
	want.Verdicts[13], want.Verdicts[15] = bpf.Benign, bpf.Expires
	want.Verdicts[2] = bpf.Strays
	if s != want {
		t.Errorf("settings %v, want %v", s, want)
	}
}

// FuzzReason: whatever a map holds has a name and a class, and two codes of one name and class are one reason.
func FuzzReason(f *testing.F) {
	for _, code := range []uint16{0, 2, 12, 15, 15 | 0xf000, 2 | 0xe000, 0x1003, 0x2001, 0xffff} {
		f.Add(code)
	}
	names := map[uint32]string{2: "NOT_SPECIFIED", 12: "NETFILTER_DROP", 15: "IP_INHDR"}
	f.Fuzz(func(t *testing.T, code uint16) {
		name, class := reasonOf(names, bpf.Code(code))
		if name == "" || len(name) > 40 || class == v1alpha1.Drop_CLASS_UNSPECIFIED {
			t.Errorf("%#x: %q of %v", code, name, class)
		}
	})
}

func TestFold(t *testing.T) {
	total := func(rows []*v1alpha1.Drop) (packets int64) {
		for _, row := range rows {
			packets += row.Packets
		}
		return packets
	}
	for _, test := range []struct {
		name           string
		rows, reasons  int
		kept, unsorted bool
	}{
		{"none", 0, 1, true, false},
		{"as many as fit", most, 3, true, false},
		{"one more", most + 1, 3, false, false},
		{"many", 768, 3, false, false},
		{"as many reasons as rows", 300, 300, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var rows []*v1alpha1.Drop
			for i := range test.rows {
				rows = append(rows, &v1alpha1.Drop{
					Reason: fmt.Sprint("R", i%test.reasons), Direction: receive, Protocol: udp, Port: int32(i + 1), Packets: int64(i*i%997 + 1),
				})
			}
			want := total(rows)
			folded, unsorted := fold(slices.Clone(rows))
			if len(folded) > most || total(folded)+unsorted != want || (unsorted > 0) != test.unsorted {
				t.Errorf("%d rows with %d packets and %d unsorted, want %d packets", len(folded), total(folded), unsorted, want)
			}
			if test.kept && len(folded) != len(rows) {
				t.Errorf("%d rows became %d", len(rows), len(folded))
			}
			if !slices.IsSortedFunc(folded, compare) {
				t.Error("the largest are not first")
			}
			if len(folded) > 0 && !test.kept && !test.unsorted && len(folded) < most-test.reasons {
				t.Errorf("only %d rows", len(folded))
			}
		})
	}
}
