// Package protocols reads the counters that the kernel itself keeps of TCP, UDP and IP in each network namespace,
// from /proc/PID/net/{snmp,snmp6,netstat} of one of the pod's processes. It needs no rights and no hooks, and costs
// about 150 us a pod.
//
// In snmp, Tcp counts both IP versions, Udp and Ip only version 4; those of version 6 are in snmp6.
package protocols

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// Collector reads protocol counters. It has no state and is safe for concurrent use.
type Collector struct{}

// Name is how users know the collector.
func (Collector) Name() string { return "protocols" }

// State is always Running: the kernel has these counters everywhere.
func (Collector) State() (v1alpha1.Collector_State, string) {
	return v1alpha1.Collector_STATE_RUNNING, ""
}

// ReadPod fills in the counters of the pod's namespace, unless that is the node's.
func (Collector) ReadPod(pod *podmap.Pod, row *v1alpha1.PodStats) (err error) {
	if pod.HostNetwork {
		return nil
	}
	row.Protocols, err = read(func(name string) ([]byte, error) { return pod.ReadFile("net/"+name, nil) })
	return err
}

// ReadNode fills in the counters of the agent's own namespace, which is the node's.
func (Collector) ReadNode(node *v1alpha1.NodeStats) (err error) {
	node.Protocols, err = read(func(name string) ([]byte, error) { return os.ReadFile("/proc/thread-self/net/" + name) })
	return err
}

func read(file func(name string) ([]byte, error)) (*v1alpha1.Protocols, error) {
	p := &v1alpha1.Protocols{Tcp: &v1alpha1.TCP{}, Udp: &v1alpha1.UDP{}, Ipv4: &v1alpha1.IP{}}
	for _, name := range []string{"snmp", "netstat"} {
		text, err := file(name)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		if err := eachInTable(text, func(group, name []byte, value int64) { addVersion4(p, group, name, value) }); err != nil {
			return nil, fmt.Errorf("parsing %s: %w", name, err)
		}
	}
	text, err := file("snmp6")
	// Without IPv6 in the kernel there is no such file. Of a process that is gone the answer is the same, but then
	// the files before it could not be read.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, podmap.ErrGone) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading snmp6: %w", err)
	}
	p.Ipv6 = &v1alpha1.IP{}
	if err := eachInList(text, func(name []byte, value int64) { addVersion6(p, name, value) }); err != nil {
		return nil, fmt.Errorf("parsing snmp6: %w", err)
	}
	return p, nil
}

// eachInTable goes through pairs of lines, names and values, that both begin with their group and a colon.
func eachInTable(text []byte, yield func(group, name []byte, value int64)) error {
	for len(text) > 0 {
		var names, values []byte
		names, text = cutLine(text)
		values, text = cutLine(text)
		group, names, ok1 := bytes.Cut(names, []byte(":"))
		again, values, ok2 := bytes.Cut(values, []byte(":"))
		if !ok1 || !ok2 || !bytes.Equal(group, again) {
			return fmt.Errorf("no line of values for %q", group)
		}
		for {
			var name, value []byte
			name, names = cutField(names)
			value, values = cutField(values)
			if len(name) == 0 && len(value) == 0 {
				break
			}
			number, err := strconv.ParseInt(string(value), 10, 64)
			if err != nil || len(name) == 0 {
				return fmt.Errorf("%q of %q is %q", name, group, value)
			}
			yield(group, name, number)
		}
	}
	return nil
}

// eachInList goes through lines of a name and a value.
func eachInList(text []byte, yield func(name []byte, value int64)) error {
	for len(text) > 0 {
		var line []byte
		line, text = cutLine(text)
		name, rest := cutField(line)
		value, _ := cutField(rest)
		if len(name) == 0 {
			continue
		}
		number, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil {
			return fmt.Errorf("%q is %q", name, value)
		}
		yield(name, number)
	}
	return nil
}

func cutLine(text []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(text, []byte("\n"))
	return line, rest
}

func cutField(text []byte) (field, rest []byte) {
	text = bytes.TrimLeft(text, " \t")
	if end := bytes.IndexAny(text, " \t"); end >= 0 {
		return text[:end], text[end:]
	}
	return text, nil
}

func addVersion4(p *v1alpha1.Protocols, group, name []byte, value int64) {
	switch string(group) {
	case "Tcp", "TcpExt":
		addTCP(p.Tcp, name, value)
	case "Udp":
		addUDP(p.Udp, name, value)
	case "Ip":
		addIP(p.Ipv4, name, value)
	case "IpExt":
		if string(name) == "InNoRoutes" {
			p.Ipv4.NoRoutes += value
		}
	}
}

func addVersion6(p *v1alpha1.Protocols, name []byte, value int64) {
	if field, ok := bytes.CutPrefix(name, []byte("Udp6")); ok {
		addUDP(p.Udp, field, value)
	} else if field, ok := bytes.CutPrefix(name, []byte("Ip6")); ok {
		addIP(p.Ipv6, field, value)
	}
}

func addTCP(tcp *v1alpha1.TCP, name []byte, value int64) {
	switch string(name) {
	case "ActiveOpens":
		tcp.ActiveOpens += value
	case "PassiveOpens":
		tcp.PassiveOpens += value
	case "AttemptFails":
		tcp.AttemptFails += value
	case "EstabResets":
		tcp.EstablishedResets += value
	case "CurrEstab":
		tcp.CurrentlyEstablished += value
	case "InSegs":
		tcp.InSegments += value
	case "OutSegs":
		tcp.OutSegments += value
	case "RetransSegs":
		tcp.RetransmittedSegments += value
	case "InErrs":
		tcp.InErrors += value
	case "OutRsts":
		tcp.OutResets += value
	case "ListenOverflows":
		tcp.ListenOverflows += value
	case "ListenDrops":
		tcp.ListenDrops += value
	}
}

func addUDP(udp *v1alpha1.UDP, name []byte, value int64) {
	switch string(name) {
	case "InDatagrams":
		udp.InDatagrams += value
	case "OutDatagrams":
		udp.OutDatagrams += value
	case "NoPorts":
		udp.NoPorts += value
	case "InErrors":
		udp.InErrors += value
	case "RcvbufErrors":
		udp.ReceiveBufferErrors += value
	case "SndbufErrors":
		udp.SendBufferErrors += value
	case "InCsumErrors":
		udp.ChecksumErrors += value
	}
}

// addIP takes the names of both versions; where they differ, that of version 6 is the longer one.
func addIP(ip *v1alpha1.IP, name []byte, value int64) {
	switch string(name) {
	case "InReceives":
		ip.InReceives += value
	case "InDelivers":
		ip.InDelivers += value
	case "OutRequests":
		ip.OutRequests += value
	case "ForwDatagrams", "OutForwDatagrams":
		ip.Forwarded += value
	case "InDiscards":
		ip.InDiscards += value
	case "OutDiscards":
		ip.OutDiscards += value
	case "InHdrErrors":
		ip.InHeaderErrors += value
	case "InAddrErrors":
		ip.InAddressErrors += value
	case "OutNoRoutes", "InNoRoutes":
		ip.NoRoutes += value
	case "ReasmFails":
		ip.ReassemblyFails += value
	}
}
