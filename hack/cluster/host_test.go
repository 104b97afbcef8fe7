package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseHierarchies(t *testing.T) {
	for _, test := range []struct {
		name, mountinfo string
		want            []hierarchy
	}{
		{"version 1 with a bare version 2", `30 27 0:25 / /sys/fs/cgroup rw - tmpfs cgroup rw
31 30 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
32 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`, []hierarchy{{mount: "/sys/fs/cgroup/cpu"}, {mount: "/sys/fs/cgroup/memory"}, {mount: "/sys/fs/cgroup/unified", unified: true}}},
		{"version 2", "31 30 0:26 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n", []hierarchy{{mount: "/sys/fs/cgroup", unified: true}}},
		{"mounted elsewhere", "31 30 0:26 / /mnt/cgroup rw,relatime - cgroup2 cgroup2 rw\n", nil},
		{"nonsense", "31 30\n\n - \n", nil},
	} {
		if got := parseHierarchies([]byte(test.mountinfo)); !slices.Equal(got, test.want) {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestParseAvailable(t *testing.T) {
	for _, test := range []struct {
		meminfo string
		want    int
		fails   bool
	}{
		{"MemTotal:       24684096 kB\nMemAvailable:   2 kB\n", 2048, false},
		{"MemTotal:       24684096 kB\n", 0, true},
		{"MemAvailable:   many kB\n", 0, true},
	} {
		got, err := parseAvailable([]byte(test.meminfo))
		if got != test.want || (err != nil) != test.fails {
			t.Errorf("%q: %d, error %v; want %d, error %t", test.meminfo, got, err, test.want, test.fails)
		}
	}
}

func TestMissingPackages(t *testing.T) {
	for _, test := range []struct {
		name   string
		exists func(string) bool
		want   string
	}{
		{"all there", func(string) bool { return true }, ""},
		{"ip elsewhere", func(file string) bool { return file != "/usr/sbin/ip" }, ""},
		{"no runc", func(file string) bool { return file != "/usr/sbin/runc" }, "runc"},
		{"neither tool", func(file string) bool { return !strings.HasSuffix(file, "/ip") && !strings.HasSuffix(file, "/nft") }, "iproute2 nftables"},
	} {
		if got := strings.Join(missingPackages(test.exists), " "); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// The command line is what processes are ended by: it must fit one machine of one cluster only.
func TestMachineArgsAreDistinct(t *testing.T) {
	seen := map[string]string{}
	for _, p := range []Plan{{Name: "demo", Nodes: 12}, {Name: "e2e", Nodes: 12}, {Name: "demo1", Nodes: 12}} {
		for _, m := range p.Machines() {
			line := string(cmdline(p.machineArgs(m)))
			if other, twice := seen[line]; twice {
				t.Errorf("%s and %s have the same command line %q", m.Name, other, line)
			}
			seen[line] = m.Name
		}
	}
}

func TestCmdlineIsThatOfProc(t *testing.T) {
	want, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	if got := cmdline(os.Args); string(got) != string(want) {
		t.Errorf("%q, /proc/self/cmdline has %q", got, want)
	}
}

func TestHardwareAddr(t *testing.T) {
	seen := map[string]bool{}
	for slot := range maxSlots {
		p := Plan{Name: "demo", Slot: slot, Nodes: maxNodes}
		for _, pair := range append([]Pair{p.HostAddrs()}, addressesOf(p)...) {
			address := hardwareAddr(pair)
			if seen[address] {
				t.Errorf("%s is there twice", address)
			}
			seen[address] = true
		}
	}
	if got, want := hardwareAddr(Plan{Slot: 1}.HostAddrs()), "02:6e:c6:12:01:03"; got != want {
		t.Errorf("host: %s, want %s", got, want)
	}
}

func addressesOf(p Plan) []Pair {
	var all []Pair
	for _, m := range p.Machines() {
		all = append(all, m.Addrs)
	}
	return all
}

// The version that is stamped into the programs is that of the module which they are built from.
func TestKubernetesVersion(t *testing.T) {
	mod, err := os.ReadFile("../tools/kubernetes/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\tk8s.io/kubernetes " + kubernetesVersion + " "; !strings.Contains(string(mod), want) {
		t.Errorf("hack/tools/kubernetes/go.mod does not require %q", want)
	}
}

func TestCheckInotify(t *testing.T) {
	left := func(n int) func() (int, error) {
		return func() (int, error) {
			if n--; n < 0 {
				return -1, unix.EMFILE
			}
			return unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
	}
	for _, test := range []struct {
		want, left int
		fails      string
	}{
		{30, 30, ""},
		{0, 0, ""},
		{30, 29, "29 inotify instances are left"},
	} {
		err := checkInotify(test.want, left(test.left))
		switch {
		case test.fails == "" && err != nil:
			t.Errorf("%d of %d: %v", test.want, test.left, err)
		case test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)):
			t.Errorf("%d of %d: error %v, want one with %q", test.want, test.left, err, test.fails)
		}
	}
}
