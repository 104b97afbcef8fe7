package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/kubectl/pkg/cmd/delete"
	"k8s.io/kubectl/pkg/cmd/get"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// manage makes the commands for captures of a kind.
func (p *program) manage(k kind) *cobra.Command {
	c := &cobra.Command{
		Use: k.singular, Aliases: []string{k.plural},
		Short: "Manage " + k.plural, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	// Each has a program of its own: kubectl's commands below bring flags that would clash.
	for _, command := range []func(*program, kind) *cobra.Command{
		(*program).create, (*program).list, (*program).attachCommand, (*program).downloadCommand, (*program).stopCommand, (*program).deleteCommand,
	} {
		c.AddCommand(command(newProgram(p.streams), k))
	}
	return c
}

// kubectl makes a command of kubectl's own be about one kind.
func (p *program) kubectl(k kind, c *cobra.Command, use, short, example string) *cobra.Command {
	run := c.Run
	c.Use, c.Short, c.Long, c.Example, c.SuggestFor = use, short, "", example, nil
	c.Run = func(c *cobra.Command, args []string) {
		run(c, append([]string{k.plural + "." + v1alpha1.GroupName}, args...))
	}
	c.ValidArgsFunction = p.completeNames(k, true)
	p.config.AddFlags(c.Flags())
	p.completeFlags(c, k)
	return c
}

func (p *program) list(k kind) *cobra.Command {
	factory := cmdutil.NewFactory(cmdutil.NewMatchVersionFlags(p.config))
	c := p.kubectl(k, get.NewCmdGet("kubectl", factory, p.streams), "list [NAME...] [flags]", "List "+k.plural,
		fmt.Sprintf("  # Watch how far they are\n  kubectl network %s list -w", k.singular))
	c.Aliases = []string{"ls", "get"}
	return c
}

func (p *program) deleteCommand(k kind) *cobra.Command {
	factory := cmdutil.NewFactory(cmdutil.NewMatchVersionFlags(p.config))
	return p.kubectl(k, delete.NewCmdDelete(factory, p.streams), "delete [NAME... | -l LABELS | --all] [flags]", "Delete "+k.plural+" with their packets",
		fmt.Sprintf("  kubectl network %s delete web", k.singular))
}

func (p *program) stopCommand(k kind) *cobra.Command {
	c := &cobra.Command{
		Use: "stop NAME... [flags]", Short: "End " + k.plural + " now and keep what was recorded",
		Args: atLeastOneName, ValidArgsFunction: p.completeNames(k, true),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := p.connect(k)
			if err != nil {
				return err
			}
			var problems []error
			for _, name := range args {
				if err := api.stop(c.Context(), name); err != nil {
					problems = append(problems, err)
					continue
				}
				fmt.Fprintf(p.streams.Out, "%s.%s/%s stopped\n", k.singular, v1alpha1.GroupName, name)
			}
			return errors.Join(problems...)
		},
	}
	p.config.AddFlags(c.Flags())
	p.completeFlags(c, k)
	return c
}

func atLeastOneName(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("give a name, or several: %s NAME... (see %[1]s --help)", c.CommandPath())
	}
	return nil
}

// portionFlags narrow what is read.
type portionFlags struct {
	node, pod string
	headers   bool
}

func (f *portionFlags) addTo(c *cobra.Command, k kind) {
	usage := "Only the packets of this pod"
	if !k.namespaced {
		usage += " (NAMESPACE/NAME)"
	}
	c.Flags().StringVar(&f.pod, "pod", "", usage)
	c.Flags().StringVar(&f.node, "node", "", "Only the packets of this node")
	c.Flags().BoolVar(&f.headers, "headers-only", false, "Without payload: each packet ends behind its transport header")
}

func (f *portionFlags) portion(api *captures) (portion, error) {
	what := portion{node: f.node, pod: f.pod, headersOnly: f.headers}
	if f.pod == "" {
		return what, nil
	}
	if what.namespace = api.namespace; !api.namespaced {
		var ok bool
		if what.namespace, what.pod, ok = strings.Cut(f.pod, "/"); !ok {
			return what, fmt.Errorf("--pod %s: give NAMESPACE/NAME", f.pod)
		}
	}
	return what, nil
}

func (p *program) attachCommand(k kind) *cobra.Command {
	var flags portionFlags
	var file string
	c := &cobra.Command{
		Use: "attach NAME [flags]", Short: "Read packets as they come, from the beginning",
		Long:    "Read packets as they come, from the beginning of the capture, on all its nodes together. Ctrl-C ends reading and not the capture.",
		Example: fmt.Sprintf("  kubectl network %s attach web | tcpdump -nr -", k.singular),
		Args:    exactlyOneName(k), ValidArgsFunction: p.completeNames(k, false),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := p.connect(k)
			if err != nil {
				return err
			}
			what, err := flags.portion(api)
			if err != nil {
				return err
			}
			if err := writable(file); err != nil {
				return err
			}
			return p.follow(c.Context(), api, args[0], what, file, false)
		},
	}
	flags.addTo(c, k)
	c.Flags().StringVarP(&file, "output", "o", "-", "File to write to; - for stdout")
	p.config.AddFlags(c.Flags())
	p.completeFlags(c, k)
	return c
}

func (p *program) downloadCommand(k kind) *cobra.Command {
	var flags portionFlags
	var file string
	c := &cobra.Command{
		Use: "download NAME [flags]", Short: "Get the file of a capture, when it has ended",
		Long: "Get the file of a capture: all packets of all nodes in one. Waits until the capture has ended. A download that was broken off " +
			"is gone on with, unless it is of one pod or node only or without payload.",
		Example: fmt.Sprintf("  kubectl network %s download web -o web.pcapng", k.singular),
		Args:    exactlyOneName(k), ValidArgsFunction: p.completeNames(k, false),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := p.connect(k)
			if err != nil {
				return err
			}
			what, err := flags.portion(api)
			if err != nil {
				return err
			}
			if file == "" {
				file = args[0] + ".pcapng"
			}
			if file == "-" && isTerminal(p.streams.Out) {
				return errTerminal
			}
			if err := writable(file); err != nil {
				return err
			}
			return p.collect(c.Context(), api, args[0], what, file, false)
		},
	}
	flags.addTo(c, k)
	c.Flags().StringVarP(&file, "output", "o", "", "File to write to (default NAME.pcapng); - for stdout")
	p.config.AddFlags(c.Flags())
	p.completeFlags(c, k)
	return c
}
