// kubectl-network is a plugin of kubectl: `kubectl network capture ...` and, as `kubectl create capture` and
// `kubectl create clustercapture`, the one command from a label to packets. It uses the API as any other client does.
//
//	main.go       the names by which the program is called
//	kinds.go      captures and clustercaptures as one
//	create.go     flags into an object
//	output.go     --to URLs into outputs
//	run.go        what create does beside: following, waiting, downloading
//	file.go       what packets are written to
//	pipe_*.go     a reader of stdout that goes away, by system
//	manage.go     list, attach, download, stop, delete
//	stream.go     reading packets, resuming, and telling a cut from an end
//	progress.go   a line on a terminal
//	interrupt.go  the first Ctrl-C and the second
//	complete.go   completion with names that exist
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the ways to log in that kubectl knows
	"k8s.io/component-base/version"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

// Exit codes.
const (
	exitError       = 1
	exitInterrupted = 130
)

// errInterrupted ends a command that was told to end.
var errInterrupted = errors.New("interrupted")

func main() {
	os.Exit(run(context.Background(), os.Args, genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}))
}

// run is the program; arguments begin with the name that it was called by.
func run(ctx context.Context, arguments []string, streams genericiooptions.IOStreams) int {
	root, rest := commandFor(arguments, streams)
	root.SetArgs(rest)
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	}
	if kept, ok := err.(unread); ok {
		err = kept.error
	}
	text, ok := cmdutil.StandardErrorMessage(err)
	if !ok {
		text = err.Error()
		if !strings.HasPrefix(text, "error: ") {
			text = "error: " + text
		}
	}
	fmt.Fprintln(streams.ErrOut, strings.TrimSpace(text))
	return exitError
}

// commandFor chooses the command by the program's name, as kubectl calls plugins.
func commandFor(arguments []string, streams genericiooptions.IOStreams) (command *cobra.Command, rest []string) {
	name, rest := strings.TrimSuffix(filepath.Base(arguments[0]), ".exe"), arguments[1:]
	if completed, ok := strings.CutPrefix(name, "kubectl_complete-"); ok {
		name, rest = "kubectl-"+completed, append([]string{cobra.ShellCompRequestCmd}, rest...)
	}
	for _, k := range kinds {
		if name == "kubectl-create-"+k.singular {
			command := newProgram(streams).create(k)
			command.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl create " + k.singular}
			command.Use = strings.Replace(command.Use, "create", "kubectl-create-"+k.singular, 1)
			return finish(command), rest
		}
	}
	return newRoot(streams), rest
}

// A program is what its commands share.
type program struct {
	config  *genericclioptions.ConfigFlags
	streams genericiooptions.IOStreams
}

func newProgram(streams genericiooptions.IOStreams) *program {
	return &program{config: genericclioptions.NewConfigFlags(true), streams: streams}
}

func newRoot(streams genericiooptions.IOStreams) *cobra.Command {
	root := &cobra.Command{
		Use:         "kubectl-network",
		Short:       "Record and read packets of pods and nodes",
		Long:        "Record and read packets of pods and nodes.\n\nTelemetry is read with kubectl itself: kubectl get podnetworkstats,nodenetworkstats,networkflows.",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl network"},
		Args:        cobra.NoArgs,
		RunE:        func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, k := range kinds {
		root.AddCommand(newProgram(streams).manage(k))
	}
	root.AddCommand(&cobra.Command{
		Use: "version", Short: "Print the version of the plugin", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), version.Get().GitVersion)
			return err
		},
	})
	return finish(root)
}

// finish sets what all commands behave like: errors are printed once, by run.
func finish(root *cobra.Command) *cobra.Command {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}
