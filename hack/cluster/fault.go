package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
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

// Heal is the sub-command: undo Partition.
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

func (p Plan) setPort(ctx context.Context, m Machine, state string) error {
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
