package conntrack

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Of Linux 4.19 with two CPUs, and of Linux 6.18 with one.
const (
	old = `entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
0000002a  00000000 00000000 00000000 00000010 000f4240 00000000 00000000 00000000 00000001 00000002 00000003 00000000  00000000 00000000 00000000 00000000
0000002a  00000000 00000000 00000000 ffffffff 000f4240 00000000 00000000 00000000 0000000a 0000000b 0000000c 00000000  00000000 00000000 00000000 00000000
`
	recent = `entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
00000000  00000000 00000000 00000000 00000004 00000000 00000000 00000007 00000000 00000001 00000002 00000003 00000009  00000000 00000000 00000000 00000000
`
)

func proc(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestNode(t *testing.T) {
	table := map[string]string{count: "42\n", limit: "262144\n"}
	with := func(text string) map[string]string {
		all := maps.Clone(table)
		all[statistics] = text
		return all
	}
	for _, test := range []struct {
		name, message string
		files         map[string]string
		want          *v1alpha1.Conntrack
	}{
		{"Linux 4.19", "", with(old), &v1alpha1.Conntrack{Entries: 42, Limit: 262144, InsertFailed: 11, Dropped: 13, EarlyDropped: 15, Invalid: 0x1000f + 0xfffeffff + 1}},
		{"Linux 6.18", "", with(recent), &v1alpha1.Conntrack{Entries: 42, Limit: 262144, InsertFailed: 1, Dropped: 2, EarlyDropped: 3, Invalid: 4}},
		{"no statistics", "the kernel does not show statistics of connection tracking", table, &v1alpha1.Conntrack{Entries: 42, Limit: 262144}},
		{"no connection tracking", "the node does not track connections", nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, node := New(proc(t, test.files)), &v1alpha1.NodeStats{}
			if err := c.ReadNode(node); err != nil || !proto.Equal(node.Conntrack, test.want) {
				t.Errorf("got %v (%v), want %v", node.Conntrack, err, test.want)
			}
			if state, message := c.State(); state != v1alpha1.Collector_STATE_RUNNING || message != test.message {
				t.Errorf("%v: %q, want %q", state, message, test.message)
			}
		})
	}
}

func TestDamagedFiles(t *testing.T) {
	good := map[string]string{count: "42\n", limit: "262144\n", statistics: recent}
	for name, damages := range map[string][]string{
		count:      {"", "x", "-1"},
		limit:      {"", "99999999999999999999"},
		statistics: {"", "\n", "drop\n1 2\n", "drop\nx\n", "drop\n100000000\n", "drop early_drop\n1"},
	} {
		for _, damage := range damages {
			files := maps.Clone(good)
			files[name] = damage
			node := &v1alpha1.NodeStats{}
			if err := New(proc(t, files)).ReadNode(node); err == nil || node.Conntrack != nil {
				t.Errorf("%q in %s gave %v and %v", damage, name, node.Conntrack, err)
			}
		}
	}
}

// The kernel's own files of this machine can be read, if there are any.
func TestThisNode(t *testing.T) {
	node := &v1alpha1.NodeStats{}
	if err := New("/proc").ReadNode(node); err != nil {
		t.Fatal(err)
	}
	if node.Conntrack == nil {
		t.Skip("this machine does not track connections")
	}
	if node.Conntrack.Limit == 0 {
		t.Errorf("got %v", node.Conntrack)
	}
}

func FuzzStatistics(f *testing.F) {
	f.Add(old)
	f.Add(recent)
	f.Add("drop drop\n1 ffffffff\n")
	f.Fuzz(func(t *testing.T, text string) {
		row := &v1alpha1.Conntrack{}
		if err := addStatistics(text, row); err == nil && min(row.Dropped, row.EarlyDropped, row.InsertFailed, row.Invalid) < 0 {
			t.Errorf("a number below zero: %v", row)
		}
	})
}
