package softnet

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Lines as kernels of these versions write them.
const (
	v2_6_32 = "0000000a 0000000b 0000000c 00000000 00000000 00000000 00000000 00000000 00000001\n" +
		"00000001 00000001 00000001 00000000 00000000 00000000 00000000 00000000 00000000\n"
	v2_6_39 = "0000000a 0000000b 0000000c 00000000 00000000 00000000 00000000 00000000 00000001 0000000d\n"
	v4_19   = "0000000a 0000000b 0000000c 00000000 00000000 00000000 00000000 00000000 00000000 0000000d 0000000e\n"
	v5_10   = "0000000a 0000000b 0000000c 00000000 00000000 00000000 00000000 00000000 00000000 0000000d 0000000e 000000ff 00000003\n"
	v6_18   = "4a6f8ab6 0000004c 0000000b 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n" +
		"4b39d8f5 00000000 0000000a 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000\n"
)

func TestColumnsOfKernels(t *testing.T) {
	for text, want := range map[string][]cpu{
		v2_6_32: {{0, 10, 11, 12, 0, 0}, {1, 1, 1, 1, 0, 0}},
		v2_6_39: {{0, 10, 11, 12, 13, 0}},
		v4_19:   {{0, 10, 11, 12, 13, 14}},
		v5_10:   {{3, 10, 11, 12, 13, 14}},
		v6_18:   {{0, 0x4a6f8ab6, 0x4c, 11, 0, 0}, {1, 0x4b39d8f5, 0, 10, 0, 0}},
	} {
		if got, err := parse(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q is %v (%v), want %v", text, got, err, want)
		}
	}
}

func TestDamagedText(t *testing.T) {
	for _, damaged := range []string{"", "\n", "1 2", "1 2 x", "1 2 100000000", strings.Repeat("1 ", 12) + "2000", strings.Repeat("1 2 3\n", mostCPUs+1)} {
		if got, err := parse(damaged); err == nil {
			t.Errorf("%.40q is %v", damaged, got)
		}
	}
}

// Sums go on rising when a CPU's number begins again, and when a CPU is not there for a while.
func TestNumbersBeginAgain(t *testing.T) {
	proc := t.TempDir()
	c := New(proc)
	if err := os.MkdirAll(filepath.Dir(c.path), 0o755); err != nil {
		t.Fatal(err)
	}
	const tail = " 0 0 0 0 0 0 0 0 0 "
	for _, step := range []struct {
		text string
		want int64
	}{
		{"ffffff00 0 0" + tail + "0\n5 0 0" + tail + "1\n", 0xffffff05},
		{"5 0 0" + tail + "1\n", 0xffffff05},
		{"00000100 0 0" + tail + "0\n6 0 0" + tail + "1\n", 0x100000106},
	} {
		if err := os.WriteFile(c.path, []byte(step.text), 0o644); err != nil {
			t.Fatal(err)
		}
		c.Sample(time.Now())
		node := &v1alpha1.NodeStats{}
		if err := c.ReadNode(node); err != nil || !proto.Equal(node.Softnet, &v1alpha1.Softnet{Processed: step.want}) {
			t.Errorf("%q: %v (%v), want %d", step.text, node.Softnet, err, step.want)
		}
	}
}

func TestThisNode(t *testing.T) {
	node := &v1alpha1.NodeStats{}
	if err := New("/proc").ReadNode(node); err != nil || node.Softnet.Processed == 0 {
		t.Errorf("got %v (%v)", node.Softnet, err)
	}
}

func TestMissingFile(t *testing.T) {
	node := &v1alpha1.NodeStats{}
	if err := New(t.TempDir()).ReadNode(node); err == nil || node.Softnet != nil {
		t.Errorf("got %v (%v)", node.Softnet, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{v2_6_32, v2_6_39, v4_19, v5_10, v6_18} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cpus, err := parse(text)
		if err == nil && (len(cpus) == 0 || len(cpus) > mostCPUs) {
			t.Errorf("%d CPUs", len(cpus))
		}
	})
}
