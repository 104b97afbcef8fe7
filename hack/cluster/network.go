package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netnsDir is where ip(8) keeps named network namespaces.
const netnsDir = "/run/netns"

// bridgeName is that of the bridge in the switch's namespace. Its ports have the short names of the machines.
const bridgeName = "br0"

// switchSysctls let the switch answer "unreachable" for what is outside the cluster, and keep its bridge a
// plain one.
var switchSysctls = map[string]string{
	"ipv4/ip_forward":                 "1",
	"ipv6/conf/all/forwarding":        "1",
	"bridge/bridge-nf-call-iptables":  "0",
	"bridge/bridge-nf-call-ip6tables": "0",
	"bridge/bridge-nf-call-arptables": "0",
}

// machineSysctls let a node route between pods and machines. Addresses are planned, so none is probed for.
var machineSysctls = map[string]string{
	"ipv4/ip_forward":              "1",
	"ipv6/conf/all/forwarding":     "1",
	"ipv6/conf/all/accept_dad":     "0",
	"ipv6/conf/default/accept_dad": "0",
}

// switchWhole says whether the switch is there with all that makeSwitch makes, the host's link last.
func (p Plan) switchWhole() bool {
	link, err := net.InterfaceByName(p.HostLink())
	return err == nil && link.Flags&net.FlagUp != 0 && fileExists(filepath.Join(netnsDir, p.Switch()))
}

// makeSwitch makes the switch and the host's link to it.
func (p Plan) makeSwitch(ctx context.Context) error {
	if err := run(ctx, "ip", "netns", "add", p.Switch()); err != nil {
		return err
	}
	if err := inNetns(p.Switch(), func() error { return writeSysctls(switchSysctls) }); err != nil {
		return err
	}
	subnets, gateway, host := p.MachineNet(), p.SwitchAddrs(), p.HostAddrs()
	if err := ipBatch(ctx, p.Switch(),
		"link set lo up",
		"link add "+bridgeName+" type bridge",
		fmt.Sprintf("addr add %s/%d dev %s", gateway.V4, subnets.V4.Bits(), bridgeName),
		fmt.Sprintf("addr add %s/%d dev %s nodad", gateway.V6, subnets.V6.Bits(), bridgeName),
		"link set "+bridgeName+" up",
	); err != nil {
		return err
	}
	if err := run(ctx, "ip", "link", "add", p.HostLink(), "address", hardwareAddr(host), "type", "veth", "peer", "name", "host", "netns", p.Switch()); err != nil {
		return err
	}
	if err := ipBatch(ctx, p.Switch(), "link set host master "+bridgeName+" up"); err != nil {
		return err
	}
	return ipBatch(ctx, "",
		fmt.Sprintf("addr add %s/%d dev %s", host.V4, subnets.V4.Bits(), p.HostLink()),
		fmt.Sprintf("addr add %s/%d dev %s nodad", host.V6, subnets.V6.Bits(), p.HostLink()),
		"link set "+p.HostLink()+" up",
	)
}

// makeMachineNetns gives a machine that does not run a network namespace, new even if an old one was left.
func (p Plan) makeMachineNetns(ctx context.Context, m Machine) error {
	if err := p.deleteNetns(ctx, m.Name); err != nil {
		return err
	}
	if err := run(ctx, "ip", "netns", "add", m.Name); err != nil {
		return err
	}
	if err := inNetns(m.Name, func() error { return writeSysctls(machineSysctls) }); err != nil {
		return err
	}
	if err := ipBatch(ctx, p.Switch(),
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %s", m.Short, hardwareAddr(m.Addrs), m.Name),
		fmt.Sprintf("link set %s master %s up", m.Short, bridgeName),
	); err != nil {
		return err
	}
	subnets, gateway := p.MachineNet(), p.SwitchAddrs()
	return ipBatch(ctx, m.Name,
		"link set lo up",
		fmt.Sprintf("addr add %s/%d dev eth0", m.Addrs.V4, subnets.V4.Bits()),
		fmt.Sprintf("addr add %s/%d dev eth0 nodad", m.Addrs.V6, subnets.V6.Bits()),
		"link set eth0 up",
		fmt.Sprintf("route add default via %s", gateway.V4),
		fmt.Sprintf("route add ::/0 via %s", gateway.V6),
	)
}

// hardwareAddr is made from the IPv4 address, so that a machine which starts again is the same to its
// neighbours, and they need not find out that it moved.
func hardwareAddr(a Pair) string {
	b := a.V4.As4()
	return fmt.Sprintf("02:6e:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// joinMachines tells every machine, and the host, which node has which pods, and heals partitions.
func (p Plan) joinMachines(ctx context.Context) error {
	if err := ipBatch(ctx, "", p.podRoutes("")...); err != nil {
		return err
	}
	for _, m := range p.Machines() {
		if err := ipBatch(ctx, m.Name, p.podRoutes(m.Name)...); err != nil {
			return err
		}
		if err := p.setPort(ctx, m, portOpen); err != nil {
			return err
		}
	}
	return nil
}

// podRoutes are the routes to the pods of all nodes but one.
func (p Plan) podRoutes(except string) []string {
	var lines []string
	for _, node := range p.NodeMachines() {
		if node.Name == except {
			continue
		}
		pods := p.NodePodNet(node)
		lines = append(lines,
			fmt.Sprintf("route replace %s via %s", pods.V4, node.Addrs.V4),
			fmt.Sprintf("route replace %s via %s", pods.V6, node.Addrs.V6))
	}
	return lines
}

// deleteNetwork removes every namespace and link of the cluster, also of nodes that the plan does not know.
func (p Plan) deleteNetwork(ctx context.Context) error {
	names, err := p.netnsNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := p.deleteNetns(ctx, name); err != nil {
			return err
		}
	}
	if fileExists(filepath.Join("/sys/class/net", p.HostLink())) {
		if err := run(ctx, "ip", "link", "del", p.HostLink()); err != nil {
			return err
		}
	}
	return removeNetnsDir()
}

// netnsNames lists the cluster's namespaces.
func (p Plan) netnsNames() ([]string, error) {
	ours := regexp.MustCompile(`^` + p.Name + `-(switch|control|node-[0-9]+)$`)
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if ours.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// deleteNetns removes a namespace with its end of the link to the switch: the kernel would do so only later.
func (p Plan) deleteNetns(ctx context.Context, name string) error {
	if !fileExists(filepath.Join(netnsDir, name)) {
		return nil
	}
	port := strings.TrimPrefix(name, p.Name+"-")
	if fileExists(filepath.Join(netnsDir, p.Switch())) && name != p.Switch() {
		exists := exec.CommandContext(ctx, "ip", "-n", p.Switch(), "link", "show", port).Run() == nil
		if exists {
			if err := run(ctx, "ip", "-n", p.Switch(), "link", "del", port); err != nil {
				return err
			}
		}
	}
	return run(ctx, "ip", "netns", "del", name)
}

// removeNetnsDir unmounts and removes netnsDir when nobody has a namespace left in it: ip(8) mounts it on
// first use and never takes it away.
func removeNetnsDir() error {
	entries, err := os.ReadDir(netnsDir)
	if err != nil || len(entries) > 0 {
		return nil
	}
	if err := unix.Unmount(netnsDir, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("unmounting %s: %w", netnsDir, err)
	}
	_ = os.Remove(netnsDir) // somebody may be using it again
	return nil
}

// inNetns calls f in a named network namespace. f must not start goroutines that need it.
func inNetns(name string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine, and takes the namespace along
		result <- func() error {
			ns, err := os.Open(filepath.Join(netnsDir, name))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("entering network namespace %s: %w", name, err)
			}
			return f()
		}()
	}()
	return <-result
}

// writeSysctls writes files below /proc/sys/net of the calling thread's namespace.
func writeSysctls(values map[string]string) error {
	for file, value := range values {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", file), []byte(value), 0o644); err != nil {
			return fmt.Errorf("setting sysctl: %w", err)
		}
	}
	return nil
}

// ipBatch runs lines of ip(8) in a named namespace, or in the host's when the name is empty.
func ipBatch(ctx context.Context, netns string, lines ...string) error {
	args := []string{"-batch", "-"}
	if netns != "" {
		args = append([]string{"-n", netns}, args...)
	}
	return runInput(ctx, []byte(strings.Join(lines, "\n")+"\n"), "ip", args...)
}

// run runs a program; its error says what the program said.
func run(ctx context.Context, name string, args ...string) error {
	return runInput(ctx, nil, name, args...)
}

func runInput(ctx context.Context, input []byte, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
