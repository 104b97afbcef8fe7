// Cluster runs a Kubernetes cluster on this machine for demonstrations and tests: real programs in network,
// mount and process namespaces, with no container engine but containerd. See the README beside it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// A command is a sub-command. One without a word for its arguments takes none.
type command struct {
	name, args, help string
	run              func(context.Context, *Cluster, []string) error
}

func (c command) check(args []string) error {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			return fmt.Errorf("%s comes too late: flags go before arguments", arg)
		}
	}
	if c.args == "" && len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, and got %q", c.name, args)
	}
	return nil
}

func commands() []command {
	return []command{
		{"build", "", "only build what clusters run", func(ctx context.Context, c *Cluster, _ []string) error { return c.build(ctx) }},
		{"up", "", "make the cluster, or mend it; nothing is done to a healthy one", func(ctx context.Context, c *Cluster, _ []string) error { return c.Up(ctx) }},
		{"down", "", "remove every trace of the cluster but its logs", func(ctx context.Context, c *Cluster, _ []string) error { return c.Down(ctx) }},
		{"status", "", "say what runs; the exit code is 1 when the cluster is not healthy", func(ctx context.Context, c *Cluster, _ []string) error { return c.Status(ctx, os.Stdout) }},
		{"load", "ARCHIVE...", "import image archives on every node", func(ctx context.Context, c *Cluster, args []string) error { return c.loaded(ctx, args, c.Load) }},
		{"partition", "NODE...", "cut a node off from the network, silently", func(ctx context.Context, c *Cluster, args []string) error { return c.loaded(ctx, args, c.Partition) }},
		{"lose", "NODE PERCENT", "drop packets of a node at random, each way", func(ctx context.Context, c *Cluster, args []string) error { return c.loaded(ctx, args, c.Lose) }},
		{"heal", "NODE...", "undo partition and lose", func(ctx context.Context, c *Cluster, args []string) error { return c.loaded(ctx, args, c.Heal) }},
	}
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == machineCommand {
		fmt.Fprintln(os.Stderr, "machine:", runMachine())
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := runCommand(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func runCommand(ctx context.Context, args []string) error {
	if len(args) == 0 || slices.Contains([]string{"help", "-h", "--help"}, args[0]) {
		usage(os.Stdout)
		return nil
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == args[0] })
	if i < 0 {
		usage(os.Stderr)
		return fmt.Errorf("unknown command %q", args[0])
	}
	flags := flag.NewFlagSet("cluster "+args[0], flag.ExitOnError)
	name := flags.String("name", "demo", "name of the cluster, and prefix of every name it gives")
	nodes := flags.Int("nodes", 2, "number of nodes, for up")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if err := all[i].check(flags.Args()); err != nil {
		return err
	}
	c, err := newCluster(*name, *nodes, os.Stdout)
	if err != nil {
		return err
	}
	return all[i].run(ctx, c, flags.Args())
}

// loaded runs what needs a cluster that is there.
func (c *Cluster) loaded(ctx context.Context, args []string, do func(context.Context, []string) error) error {
	if err := checkRoot(); err != nil {
		return err
	}
	if err := c.load(); err != nil {
		return err
	}
	return do(ctx, args)
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: cluster COMMAND [--name demo] [--nodes 2] [ARGUMENT...]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-20s %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
	}
}
