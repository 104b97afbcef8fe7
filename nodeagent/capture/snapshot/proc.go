package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

type sysctl struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// sysctlFolders are read whole, but not what is below them.
var sysctlFolders = []string{
	"core", "ipv4", "ipv4/conf/all", "ipv4/conf/default", "ipv4/neigh/default", "ipv4/route", "ipv6", "ipv6/conf/all", "ipv6/conf/default", "ipv6/icmp",
	"ipv6/neigh/default", "ipv6/route", "mptcp", "netfilter", "unix", "sctp", "bridge", "mpls",
}

// ofInterfaces are read of each interface as well.
var ofInterfaces = map[string][]string{
	"ipv4": {"accept_local", "accept_redirects", "arp_announce", "arp_filter", "arp_ignore", "forwarding", "proxy_arp", "route_localnet", "rp_filter", "send_redirects", "src_valid_mark"},
	"ipv6": {"accept_dad", "accept_ra", "accept_redirects", "addr_gen_mode", "autoconf", "disable_ipv6", "forwarding", "mtu", "proxy_ndp"},
}

const (
	sysctlBytes   = 4096 // of a value
	maxInterfaces = 256
	maxSysctls    = 5000
)

// sysctlName makes a name of a path as sysctl does: an interface's dot becomes a slash.
var sysctlName = strings.NewReplacer("/", ".", ".", "/")

// isSecret tells of keys: of TCP's fast open, of what spreads packets over queues, of addresses. They are nobody's business.
func isSecret(name string) bool {
	return strings.HasSuffix(name, "_key") || strings.Contains(name, "stable_secret") || strings.Contains(name, "cookie_hmac")
}

// readSysctls reads below /proc/sys/net, which shows the reading thread's network namespace.
func readSysctls(ctx context.Context, s *items) error {
	root, err := os.OpenRoot("/proc/sys/net")
	if err != nil {
		return err
	}
	defer root.Close()
	seen := 0
	add := func(name string) {
		if seen++; seen > maxSysctls || isSecret(name) {
			return
		}
		if value, ok := sysctlValue(root, name); ok {
			s.add(sysctl{Name: "net." + sysctlName.Replace(name), Value: value})
		}
	}
	for _, folder := range sysctlFolders {
		for _, entry := range entries(root, folder) {
			if entry.Type().IsRegular() {
				add(folder + "/" + entry.Name())
			}
		}
	}
	var errs []error
	for _, family := range []string{"ipv4", "ipv6"} {
		folders := entries(root, family+"/conf")
		if len(folders) > maxInterfaces+2 {
			errs = append(errs, fmt.Errorf("sysctls of %d interfaces were left out", len(folders)-maxInterfaces-2))
			folders = folders[:maxInterfaces+2]
		}
		for _, folder := range folders {
			if folder.Name() == "all" || folder.Name() == "default" || ctx.Err() != nil {
				continue
			}
			for _, name := range ofInterfaces[family] {
				add(filepath.Join(family, "conf", folder.Name(), name))
			}
		}
	}
	return errors.Join(errs...)
}

func entries(root *os.Root, folder string) []fs.DirEntry {
	all, err := fs.ReadDir(root.FS(), folder)
	if err != nil {
		return nil // this kernel does not have it
	}
	return all
}

// sysctlValue reads what can be read; some can only be written.
func sysctlValue(root *os.Root, name string) (string, bool) {
	file, err := root.Open(name)
	if err != nil {
		return "", false
	}
	defer file.Close()
	value, err := io.ReadAll(io.LimitReader(file, sysctlBytes))
	if err != nil {
		return "", false
	}
	return strings.ReplaceAll(strings.TrimSpace(string(value)), "\t", " "), true
}

type counter struct {
	Name  string `json:"name"`
	Value int64  `json:"value"`
}

const counterBytes = 256 << 10 // of a file below /proc/net

// readCounters reads below the thread's own /proc/net; that of the process would be of another namespace.
func readCounters(_ context.Context, s *items) error {
	var errs []error
	for _, one := range []struct {
		file  string
		parse func(text string, add func(name, value string))
	}{
		{"snmp", parsePairs}, {"netstat", parsePairs}, {"snmp6", parseLines}, {"sockstat", parseSockstat}, {"sockstat6", parseSockstat},
	} {
		content, err := readSome("/proc/thread-self/net/"+one.file, counterBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue // IPv6 is switched off
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s", one.file, brief(err)))
			continue
		}
		one.parse(string(content), func(name, value string) { addCounter(s, name, value) })
	}
	for _, name := range []string{"count", "max"} { // there only where connections are tracked
		if value, err := readSome("/proc/sys/net/netfilter/nf_conntrack_"+name, 64); err == nil {
			addCounter(s, "conntrack."+name, strings.TrimSpace(string(value)))
		}
	}
	return errors.Join(errs...)
}

func addCounter(s *items, name, value string) {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		s.add(counter{Name: name, Value: n})
	}
}

func readSome(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, limit))
}

// parsePairs parses pairs of lines: "Tcp: ActiveOpens ..." and "Tcp: 3 ...".
func parsePairs(text string, add func(name, value string)) {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for k := 1; k < min(len(names), len(values)); k++ {
			add(strings.TrimSuffix(names[0], ":")+"."+names[k], values[k])
		}
	}
}

// parseLines parses "Ip6InReceives 3".
func parseLines(text string, add func(name, value string)) {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 2 {
			add("snmp6."+fields[0], fields[1])
		}
	}
}

// parseSockstat parses "TCP: inuse 3 orphan 0".
func parseSockstat(text string, add func(name, value string)) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		for k := 1; k+1 < len(fields); k += 2 {
			add("sockstat."+strings.TrimSuffix(fields[0], ":")+"."+fields[k], fields[k+1])
		}
	}
}
