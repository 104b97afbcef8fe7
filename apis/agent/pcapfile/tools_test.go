package pcapfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// These tests have files judged by programs that are not ours: tshark, tcpdump, capinfos and gopacket.

// udp is an Ethernet frame with a UDP datagram.
func udp(source, destination netip.Addr, size int) []byte {
	frame := make([]byte, 12, 12+2+40+8+size)
	if source.Is4() {
		frame = append(frame, 0x08, 0x00, 0x45, 0, byte((28+size)>>8), byte(28+size), 0, 0, 0, 0, 64, 17, 0, 0)
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, byte((8+size)>>8), byte(8+size), 17, 64)
	}
	frame = append(append(frame, source.AsSlice()...), destination.AsSlice()...)
	frame = append(frame, 0x9c, 0x40, 0x27, 0x0f, byte((8+size)>>8), byte(8+size), 0, 0)
	return append(frame, make([]byte, size)...)
}

// aRecord is a packet as the tools should see it.
type aRecord struct {
	node         string
	part         uint32
	time         int64
	size, cut    int
	direction    pcapng.Direction
	source, dest string
}

var records = []aRecord{
	{node: "a", part: 0, time: 1_700_000_000_123_456_789, size: 100, direction: pcapng.Outbound, source: "192.0.2.1", dest: "192.0.2.2"},
	{node: "b", part: 0, time: 1_700_000_000_123_456_790, size: 100, direction: pcapng.Inbound, source: "192.0.2.1", dest: "192.0.2.2"},
	{node: "a", part: 1, time: 1_700_000_000_123_456_790, size: 0, direction: pcapng.Unknown, source: "2001:db8::1", dest: "2001:db8::2"},
	{node: "b", part: 0, time: 1_700_000_001_000_000_000, size: 3000, cut: 64, direction: pcapng.Inbound, source: "192.0.2.3", dest: "192.0.2.2"},
	{node: "a", part: 0, time: 1_700_000_000_999_999_999, size: 1, direction: pcapng.Outbound, source: "192.0.2.1", dest: "192.0.2.3"},
}

var pods = map[string]string{"192.0.2.1": "shop/web-1", "192.0.2.2": "shop/db-0", "2001:db8::1": "shop/six"}

// toolFile is a file of two nodes and three interfaces, the offset behind its first block, and where each packet ends.
func toolFile(t testing.TB) (file *File, content []byte, first int, ends []int) {
	t.Helper()
	var names Names
	for address, name := range pods {
		names.Add([]*agentv1.CaptureName{{Address: netip.MustParseAddr(address).AsSlice(), Names: []string{name}}})
	}
	file = mustNew(t, header, &names,
		Node{"a", state("a", 0, part(0, "shop", "web-1", "eth0"), part(1, "shop", "web-1", "net1"))}, Node{"b", state("b", 0, part(0, "shop", "db-0", "eth0"))})
	content = file.AppendBegin(nil)
	for _, r := range records {
		number, ok := file.Number(r.node, r.part)
		if !ok {
			t.Fatal("no such part")
		}
		data := udp(netip.MustParseAddr(r.source), netip.MustParseAddr(r.dest), r.size)
		kept := data
		if r.cut > 0 {
			kept = data[:r.cut]
		}
		content = pcapng.AppendPacket(content, number, r.time, kept, uint32(len(data)), r.direction)
		ends = append(ends, len(content))
	}
	return file, file.AppendEnd(content), int(binary.LittleEndian.Uint32(content[4:])), ends
}

func write(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pcapng")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a program that reads files, or skips the test where there is none.
func run(t testing.TB, program string, arguments ...string) (stdout, stderr string, err error) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed", program)
	}
	command := exec.Command(path, arguments...)
	command.Env = append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C.UTF-8")
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	err = command.Run()
	return out.String(), errs.String(), err
}

// quiet leaves out what programs say of themselves and not of the file.
func quiet(stderr string) string {
	var said []string
	for line := range strings.Lines(stderr) {
		switch {
		case strings.HasPrefix(line, "reading from file"), strings.HasPrefix(line, "Running as user"), strings.Contains(line, "dropped privs"):
		default:
			said = append(said, line)
		}
	}
	return strings.Join(said, "")
}

func TestTshark(t *testing.T) {
	_, content, _, _ := toolFile(t)
	stdout, stderr, err := run(t, "tshark", "-r", write(t, content), "-N", "n", "-T", "fields", "-E", "separator=|",
		"-e", "frame.interface_name", "-e", "frame.time_epoch", "-e", "frame.len", "-e", "frame.cap_len", "-e", "frame.packet_flags_direction",
		"-e", "ip.src_host", "-e", "ipv6.src_host")
	if err != nil || quiet(stderr) != "" {
		t.Fatalf("%v: %s", err, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != len(records) {
		t.Fatalf("%d packets, want %d: %s", len(lines), len(records), stdout)
	}
	interfaces := map[string][]string{"a": {"a/shop/web-1/eth0", "a/shop/web-1/net1"}, "b": {"b/shop/db-0/eth0"}}
	for i, r := range records {
		size := len(udp(netip.MustParseAddr(r.source), netip.MustParseAddr(r.dest), r.size))
		kept := size
		if r.cut > 0 {
			kept = r.cut
		}
		name := pods[r.source]
		if name == "" {
			name = r.source
		}
		fields := strings.Split(lines[i], "|")
		if strings.Contains(r.source, ":") {
			fields[5] = fields[6]
		}
		time := fmt.Sprintf("%d.%09d", r.time/1e9, r.time%1e9)
		got := append(fields[:4:4], fields[5])
		want := []string{interfaces[r.node][r.part], time, fmt.Sprint(size), fmt.Sprint(kept), name}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("packet %d is %v, want %v", i, got, want)
		}
		if !strings.HasSuffix(fields[4], fmt.Sprint(int(r.direction))) {
			t.Errorf("packet %d has the direction %s, want %d", i, fields[4], r.direction)
		}
	}
}

func TestTcpdump(t *testing.T) {
	_, content, _, _ := toolFile(t)
	stdout, stderr, err := run(t, "tcpdump", "-n", "-r", write(t, content))
	if err != nil || quiet(stderr) != "" || strings.Count(stdout, "UDP") != len(records) {
		t.Errorf("%v: %s: %s", err, stderr, stdout)
	}
}

func TestCapinfos(t *testing.T) {
	_, content, _, _ := toolFile(t)
	stdout, stderr, err := run(t, "capinfos", write(t, content))
	if err != nil || quiet(stderr) != "" {
		t.Fatalf("%v: %s", err, stderr)
	}
	for _, want := range []string{"Number of packets:   5", "Number of interfaces in file: 3", "Name = a/shop/web-1/net1", "Time precision = nanoseconds (9)", "Filter string = udp",
		"Number of stat entries = 1", "Capture length = 262144", "Encapsulation = Ethernet"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("does not say %q: %s", want, stdout)
		}
	}
}

// TestIndependentReader has gopacket read everything, the statistics too.
func TestIndependentReader(t *testing.T) {
	_, content, _, _ := toolFile(t)
	reader, err := pcapgo.NewNgReader(bytes.NewReader(content), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range records {
		data, info, err := reader.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		full := udp(netip.MustParseAddr(r.source), netip.MustParseAddr(r.dest), r.size)
		if info.Timestamp.UnixNano() != r.time || info.Length != len(full) || !bytes.Equal(data, full[:len(data)]) {
			t.Errorf("packet %d is %v", i, info)
		}
	}
	if _, _, err := reader.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last packet: %v", err)
	}
	for number := range 3 {
		i, err := reader.Interface(number)
		if err != nil {
			t.Fatal(err)
		}
		s := i.Statistics
		if i.Filter != "udp" || i.SnapLength != 262144 || s.PacketsReceived != 100 || s.PacketsDropped != 6 ||
			s.StartTime.Unix() != 1_700_000_000 || s.EndTime.Unix() != 1_700_000_009 || !strings.Contains(s.Comment, "at the other vantage point 4; ended: stopped") {
			t.Errorf("interface %d: %+v", number, i)
		}
	}
}

// TestCutAnywhere cuts the file behind every byte from the first block on. Readers get every packet that is whole.
func TestCutAnywhere(t *testing.T) {
	_, content, first, ends := toolFile(t)
	whole := func(cut int) (packets int) {
		for _, end := range ends {
			if end <= cut {
				packets++
			}
		}
		return packets
	}
	for cut := first; cut <= len(content); cut++ {
		reader, err := pcapgo.NewNgReader(bytes.NewReader(content[:cut]), pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		packets := 0
		for ; ; packets++ {
			if _, _, err = reader.ReadPacketData(); err != nil {
				break
			}
		}
		if packets != whole(cut) || !strings.HasSuffix(err.Error(), "EOF") { // It does not always wrap io.EOF.
			t.Errorf("cut at %d: %d packets, want %d: %v", cut, packets, whole(cut), err)
		}
	}
	if testing.Short() {
		return
	}
	// Each cut is a run of a program: as many as each has the time for, in and around one packet and then up to the end.
	lines := func(stdout string) int { return strings.Count(stdout, "\n") }
	for program, test := range map[string]struct {
		arguments []string
		near, far int
		packets   func(stdout string) int
	}{
		"tcpdump":  {[]string{"-n", "-r"}, 1, 37, lines},
		"tshark":   {[]string{"-n", "-r"}, 9, 97, lines},
		"capinfos": {[]string{"-M", "-c", "-r", "-T"}, 9, 97, func(stdout string) (n int) { fmt.Sscanf(stdout[strings.Index(stdout, "\t")+1:], "%d", &n); return n }},
	} {
		t.Run(program, func(t *testing.T) {
			for cut := first; cut < len(content); {
				stdout, stderr, _ := run(t, program, append(test.arguments, write(t, content[:cut]))...)
				if got := test.packets(stdout); got != whole(cut) {
					t.Errorf("cut at %d: %d packets, want %d: %s", cut, got, whole(cut), stdout)
				}
				for line := range strings.Lines(quiet(stderr)) {
					if cut == first && strings.Contains(line, "has no Interface Description Blocks") {
						continue // What is left is a section of no interface.
					}
					if !strings.Contains(line, "truncated") && !strings.Contains(line, "cut short") && !strings.Contains(line, "An error occurred after reading") && !strings.Contains(line, "will continue anyway") {
						t.Errorf("cut at %d: %s", cut, line)
					}
				}
				if cut >= ends[0]-8 && cut < ends[1] {
					cut += test.near
				} else {
					cut += test.far
				}
			}
		})
	}
}
