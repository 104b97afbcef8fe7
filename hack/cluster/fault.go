package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

// Port states, as `bridge link` spells them.
const (
	portClosed = "disabled"
	portOpen   = "forwarding"
)

// Partition is the sub-command: cut a node off. The switch stops forwarding at the node's port; no link goes
// down, so nobody is told, as when a network fails far away.
func (c *Cluster) Partition(ctx context.Context, nodes []string) error {
	return c.setPorts(ctx, nodes, portClosed)
}

// Lose is the sub-command: drop packets of a node at random, in each direction.
func (c *Cluster) Lose(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want a node and a percentage, got %q", args)
	}
	m, err := c.machineNamed(args[0])
	if err != nil {
		return err
	}
	percent, err := strconv.Atoi(args[1])
	if err != nil || percent < 0 || percent > 100 {
		return fmt.Errorf("percentage %q: want a whole number from 0 to 100", args[1])
	}
	if err := c.setLoss(ctx, m, percent); err != nil {
		return err
	}
	c.Say("uplink of %s: loses %d%% each way", m.Name, percent)
	return nil
}

// lossRules replaces what was lost before; the table is made first so that it can be deleted.
func lossRules(m Machine, percent int) string {
	table := "netdev loss-" + m.Short
	rules := fmt.Sprintf("add table %s\ndelete table %s\n", table, table)
	if percent == 0 {
		return rules
	}
	rules += "add table " + table + "\n"
	for _, hook := range []string{"ingress", "egress"} {
		rules += fmt.Sprintf("add chain %s %s { type filter hook %s device %q priority 0; }\n", table, hook, hook, m.Short)
		rules += fmt.Sprintf("add rule %s %s numgen random mod 100 < %d counter drop\n", table, hook, percent)
	}
	return rules
}

func (p Plan) setLoss(ctx context.Context, m Machine, percent int) error {
	netns := "--net=" + filepath.Join(netnsDir, p.Switch())
	return runInput(ctx, []byte(lossRules(m, percent)), "nsenter", netns, "nft", "-f", "-")
}

// Heal is the sub-command: undo Partition and Lose.
func (c *Cluster) Heal(ctx context.Context, nodes []string) error {
	return c.setPorts(ctx, nodes, portOpen)
}

func (c *Cluster) setPorts(ctx context.Context, nodes []string, state string) error {
	if len(nodes) == 0 {
		return fmt.Errorf("no node named: want %s or such", c.NodeMachines()[0].Name)
	}
	for _, name := range nodes {
		m, err := c.machineNamed(name)
		if err != nil {
			return err
		}
		if err := c.setPort(ctx, m, state); err != nil {
			return err
		}
		c.Say("uplink of %s: %s", m.Name, state)
	}
	return nil
}

// setPort closes a machine's port, or opens it for all packets.
func (p Plan) setPort(ctx context.Context, m Machine, state string) error {
	if state == portOpen {
		if err := p.setLoss(ctx, m, 0); err != nil {
			return err
		}
	}
	return run(ctx, "bridge", "-n", p.Switch(), "link", "set", "dev", m.Short, "state", state)
}

// machineNamed finds a machine by its full or its short name.
func (p Plan) machineNamed(name string) (Machine, error) {
	all := p.Machines()
	i := slices.IndexFunc(all, func(m Machine) bool { return m.Name == name || m.Short == name })
	if i < 0 {
		return Machine{}, fmt.Errorf("cluster %s has no machine %q", p.Name, name)
	}
	return all[i], nil
}

// uplink is the state of a machine's port on the switch, for people.
func (c *Cluster) uplink(ctx context.Context, m Machine) string {
	out, err := exec.CommandContext(ctx, "bridge", "-n", c.Switch(), "-json", "link", "show", "dev", m.Short).Output()
	if err != nil {
		return "missing"
	}
	var ports []struct {
		State string `json:"state"`
	}
	if err := json.Unmarshal(out, &ports); err != nil || len(ports) != 1 {
		return "unknown"
	}
	return ports[0].State
}
