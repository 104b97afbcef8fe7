package infiniband

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func read(t *testing.T, sys string) (*Collector, []*v1alpha1.InfiniBandPort) {
	t.Helper()
	c, node := New(sys), &v1alpha1.NodeStats{}
	if err := c.ReadNode(node); err != nil {
		t.Fatal(err)
	}
	if state, _ := c.State(); state != v1alpha1.Collector_STATE_RUNNING {
		t.Errorf("state %v", state)
	}
	return c, node.Infiniband
}

// The tree in testdata has the files of a port of mlx5, and of a device that refuses some counters.
func TestPorts(t *testing.T) {
	c, ports := read(t, "testdata/sys")
	var shown []string
	for _, p := range ports {
		shown = append(shown, fmt.Sprintf("%s/%d %s: %d", p.Device, p.Port, p.State, len(p.Counters)))
	}
	if want := []string{"hfi1_0/1 down: 1", "hfi1_0/2 init: 0", "mlx5_0/1 active: 34"}; !slices.Equal(shown, want) {
		t.Fatalf("got %q, want %q", shown, want)
	}
	if _, message := c.State(); message != "" {
		t.Errorf("message %q", message)
	}
	values := map[string]int64{}
	for _, counter := range ports[2].Counters {
		values[counter.Name] = counter.Value
	}
	for name, want := range map[string]int64{"VL15_dropped": 1001, "port_rcv_data": 1009, "unicast_xmit_packets": 1021, "duplicate_request": 2001, "out_of_buffer": 2005, "rx_write_requests": 2013} {
		if values[name] != want {
			t.Errorf("%s is %d, want %d", name, values[name], want)
		}
	}
	if _, ok := values["lifespan"]; ok {
		t.Error("lifespan is no counter")
	}
}

func TestNoDevice(t *testing.T) {
	c, ports := read(t, t.TempDir())
	if _, message := c.State(); ports != nil || message != "no InfiniBand device" {
		t.Errorf("got %v, message %q", ports, message)
	}
}

func TestManyPortsAndCounters(t *testing.T) {
	sys := t.TempDir()
	for number := range mostPorts + 2 {
		if err := os.MkdirAll(filepath.Join(sys, "class/infiniband/a/ports", fmt.Sprint(number+1)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c, ports := read(t, sys)
	if _, message := c.State(); len(ports) != mostPorts || message != "2 of 10 ports are left out" {
		t.Errorf("%d ports, message %q", len(ports), message)
	}
	directory := filepath.Join(sys, "class/infiniband/a/ports/1/hw_counters")
	if err := os.Mkdir(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range mostCounters + 3 {
		if err := os.WriteFile(filepath.Join(directory, fmt.Sprintf("c%03d", i)), []byte("1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	node := &v1alpha1.NodeStats{}
	if err := c.ReadNode(node); err == nil || !strings.Contains(err.Error(), "3 counters are left out") || len(node.Infiniband[0].Counters) != mostCounters {
		t.Errorf("%d counters (%v)", len(node.Infiniband[0].Counters), err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add("port_rcv_data", "1\n")
	f.Add("symbol_error", "N/A (no PMA)\n")
	f.Add("state", "4: ACTIVE\n")
	f.Fuzz(func(t *testing.T, name, content string) {
		if value, ok := parseCounter(name, content); ok && value < 0 {
			t.Errorf("%q is %d", content, value)
		}
		if state := parseState(content); len(state) > 3*longestName || !utf8.ValidString(state) {
			t.Errorf("%q has state %q", content, state)
		}
	})
}
