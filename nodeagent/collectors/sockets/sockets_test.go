package sockets

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Of Linux 6.18, and of Linux 3.10, which has no memory of fragments in sockstat6.
const (
	recent  = "sockets: used 16\nTCP: inuse 1 orphan 7 tw 3 alloc 1 mem 285\nUDP: inuse 0 mem 5\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 2 memory 4096\n"
	recent6 = "TCP6: inuse 900\nUDP6: inuse 901\nUDPLITE6: inuse 902\nRAW6: inuse 903\nFRAG6: inuse 904 memory 8192\n"
	old     = "sockets: used 16\nTCP: inuse 1 orphan 7 tw 3 alloc 1 mem -2\nUDP: inuse 0 mem 5\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n"
	old6    = "TCP6: inuse 4\nUDP6: inuse 2\nFRAG6: inuse 0\n"
)

func proc(t *testing.T, files map[string]string) *Collector {
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
	return &Collector{proc: root, page: 4096}
}

var limits = map[string]string{tcpLimit: "100\t200\t300\n", udpLimit: "400\t500\t600\n"}

func with(files map[string]string) map[string]string {
	all := maps.Clone(limits)
	maps.Copy(all, files)
	return all
}

func TestNode(t *testing.T) {
	for _, test := range []struct {
		name, message string
		files         map[string]string
		want          *v1alpha1.SocketMemory
	}{
		{"Linux 6.18", "", with(map[string]string{version4: recent, version6: recent6}), &v1alpha1.SocketMemory{
			Sockets: 16, TcpBytes: 285 * 4096, TcpLimitBytes: 300 * 4096, TcpOrphans: 7, UdpBytes: 5 * 4096,
			UdpLimitBytes: 600 * 4096, FragmentBytes: 4096 + 8192,
		}},
		{"Linux 3.10", "", with(map[string]string{version4: old, version6: old6}), &v1alpha1.SocketMemory{
			Sockets: 16, TcpLimitBytes: 300 * 4096, TcpOrphans: 7, UdpBytes: 5 * 4096, UdpLimitBytes: 600 * 4096,
		}},
		{"no IPv6, no limits", "the limits are shown in the first network namespace only", map[string]string{version4: recent}, &v1alpha1.SocketMemory{
			Sockets: 16, TcpBytes: 285 * 4096, TcpOrphans: 7, UdpBytes: 5 * 4096, FragmentBytes: 4096,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, node := proc(t, test.files), &v1alpha1.NodeStats{}
			if err := c.ReadNode(node); err != nil || !proto.Equal(node.SocketMemory, test.want) {
				t.Errorf("got %v (%v), want %v", node.SocketMemory, err, test.want)
			}
			if state, message := c.State(); state != v1alpha1.Collector_STATE_RUNNING || message != test.message {
				t.Errorf("%v: %q, want %q", state, message, test.message)
			}
		})
	}
}

func TestDamagedFiles(t *testing.T) {
	good := with(map[string]string{version4: recent, version6: recent6})
	for name, damages := range map[string][]string{
		version4: {"x", "TCP: mem\n", "TCP: mem x\n", "TCP: mem 99999999999999999999\n"},
		version6: {"FRAG6: memory x"},
		tcpLimit: {"", "1 2", "1 2 x", "1 2 -3", "1 2 9223372036854775807"},
		udpLimit: {"1 2 3 4"},
	} {
		for _, damage := range damages {
			files := maps.Clone(good)
			files[name] = damage
			if err := proc(t, files).ReadNode(&v1alpha1.NodeStats{}); err == nil {
				t.Errorf("%q in %s gave no error", damage, name)
			}
		}
	}
	if err := proc(t, nil).ReadNode(&v1alpha1.NodeStats{}); err == nil {
		t.Error("no files gave no error")
	}
}

func TestThisNode(t *testing.T) {
	node := &v1alpha1.NodeStats{}
	if err := New("/proc").ReadNode(node); err != nil || node.SocketMemory.Sockets == 0 {
		t.Errorf("got %v (%v)", node.SocketMemory, err)
	}
}

func FuzzUse(f *testing.F) {
	for _, text := range []string{recent, recent6, old, old6, "TCP: mem 2147483647 mem 2147483647"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		row := &v1alpha1.SocketMemory{}
		if err := (&Collector{page: 4096}).addUse(row, text); err == nil && min(row.Sockets, row.TcpBytes, row.TcpOrphans, row.UdpBytes) < 0 {
			t.Errorf("a number below zero: %v", row)
		}
	})
}

func FuzzLimit(f *testing.F) {
	f.Add("93225\t124300\t186450\n")
	f.Fuzz(func(t *testing.T, text string) {
		if pages, err := parseLimit(text); err == nil && pages*(64<<10) < 0 {
			t.Errorf("%d pages", pages)
		}
	})
}
