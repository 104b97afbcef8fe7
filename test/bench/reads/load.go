package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

// A load is what makes a node large: open sockets and many flows. It stays until the program ends.
type load struct {
	pids []int // of the pods
	open []net.Conn
	sink net.PacketConn
}

// newLoad finds the pods' processes.
func newLoad(keys []string) (*load, error) {
	root, err := hierarchy()
	if err != nil {
		return nil, err
	}
	l := &load{}
	for _, key := range keys {
		text, err := os.ReadFile(filepath.Join(root, cgroupName, "kubepods", "pod"+key, "cgroup.procs"))
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, fmt.Errorf("finding the process of pod %s: %w", key, err)
		}
		l.pids = append(l.pids, pid)
	}
	return l, nil
}

// openSockets opens so many TCP sockets, spread over the pods: both ends of connections on loopback interfaces.
func (l *load) openSockets(count int) error {
	files := unix.Rlimit{Cur: uint64(count + 1000), Max: uint64(count + 1000)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("asking for %d open files: %w", files.Cur, err)
	}
	for i, pid := range l.pids {
		pairs := share(count/2, len(l.pids), i)
		if err := inNamespace(pid, func() error { return l.openPairs(pairs) }); err != nil {
			return fmt.Errorf("opening sockets in pod %d: %w", i, err)
		}
	}
	return nil
}

// share is the part of the whole that the i-th of so many gets.
func share(whole, parts, i int) int { return whole*(i+1)/parts - whole*i/parts }

func (l *load) openPairs(pairs int) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	for range pairs {
		near, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		far, err := listener.Accept()
		if err != nil {
			return err
		}
		l.open = append(l.open, near, far)
	}
	return nil
}

// Every address of sinkNetwork is the node's, for pods to have many peers there.
var sinkNetwork = net.IPNet{IP: net.IPv4(10, 89, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}

const sinkPort = 9

// makeFlows makes so many flows, spread over the pods: a packet each, to an address of its own.
func (l *load) makeFlows(count int) error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if l.sink == nil {
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: loopback.Attrs().Index, Dst: &sinkNetwork, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST})
		if err != nil {
			return fmt.Errorf("taking in the pods' peers: %w", err)
		}
		if l.sink, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", sinkPort)); err != nil {
			return err
		}
	}
	for i, pid := range l.pids {
		err := inNamespace(pid, func() error { return talkToMany(i, share(count, len(l.pids), i)) })
		if err != nil {
			return fmt.Errorf("making flows of pod %d: %w", i, err)
		}
	}
	return nil
}

// talkToMany sends a datagram to each of so many peers. Those that are dropped because the sink is full have been sent.
func talkToMany(i, peers int) error {
	gateway, _, err := net.ParseCIDR(address(i, 1)[0])
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(&netlink.Route{Dst: &sinkNetwork, Gw: gateway}); err != nil {
		return fmt.Errorf("adding a route: %w", err)
	}
	socket, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		return err
	}
	defer socket.Close()
	for n := range peers {
		to := net.UDPAddr{IP: net.IPv4(sinkNetwork.IP[0], sinkNetwork.IP[1], byte(n>>8), byte(n)), Port: sinkPort}
		if _, err := socket.WriteTo([]byte("one"), &to); err != nil {
			return err
		}
	}
	return nil
}

// recordsFlows fails until the history of the agent has so many flows.
func (a *agent) recordsFlows(ctx context.Context, count int) error {
	_, node, err := a.read(ctx, &agentv1.ReadStatsRequest{Node: true})
	if err != nil {
		return err
	}
	if table := node.GetFlows(); table.GetRecorded() < int64(count) {
		return fmt.Errorf("of %d flows the history has %d: %v", count, table.GetRecorded(), table)
	}
	return nil
}

// awaitFlows makes flows and waits until the agent knows of them.
func (a *agent) awaitFlows(ctx context.Context, l *load, count int) error {
	if err := l.makeFlows(count); err != nil {
		return err
	}
	return sandbox.Await(ctx, 20*time.Second, "the flows to be recorded", func() error { return a.recordsFlows(ctx, count) })
}

// residence is what a process has resident, by kind, in bytes (proc_pid_status(5)).
type residence struct{ now, peak, anonymous, files, shared int64 }

func (r residence) String() string {
	return fmt.Sprintf("%.1f MiB resident, at most %.1f; %.1f anonymous, %.1f of files, %.1f shared", mib(r.now), mib(r.peak), mib(r.anonymous), mib(r.files), mib(r.shared))
}

func (a *agent) residence() (r residence, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.process.PID))
	if err != nil {
		return r, err
	}
	var problems []error
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		into := map[string]*int64{"VmRSS": &r.now, "VmHWM": &r.peak, "RssAnon": &r.anonymous, "RssFile": &r.files, "RssShmem": &r.shared}[name]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		*into, problems = kib<<10, append(problems, err)
	}
	return r, errors.Join(problems...)
}
