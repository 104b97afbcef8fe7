package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
)

// Status is the sub-command: it says what runs, and returns why the cluster is not healthy.
func (c *Cluster) Status(ctx context.Context, w io.Writer) error {
	if err := checkRoot(); err != nil {
		return err
	}
	if err := c.load(); err != nil {
		return err
	}
	pids, err := c.running()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MACHINE\tPROCESS\tADDRESSES\tPODS\tUPLINK")
	for _, m := range c.Machines() {
		process, pods, uplink := "-", "-", "-"
		if pid := pids[m.Name]; pid != 0 {
			process, uplink = fmt.Sprint(pid), c.uplink(ctx, m)
		}
		if m.Role == RoleNode {
			pods = c.NodePodNet(m).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", m.Name, process, m.Addrs, pods, uplink)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := c.healthy(ctx); err != nil {
		return fmt.Errorf("cluster %s is not healthy: %w", c.Name, err)
	}
	fmt.Fprintf(w, "\nhealthy: export KUBECONFIG=%s\n", c.Kubeconfig())
	return nil
}
