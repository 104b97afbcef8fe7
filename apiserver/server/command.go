package server

import (
	"context"

	"github.com/spf13/cobra"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	baseversion "k8s.io/component-base/version"
)

// NewCommand makes the program, which runs until ctx ends.
func NewCommand(ctx context.Context) *cobra.Command {
	options := NewOptions()
	logging := logsapi.NewLoggingConfiguration()
	cmd := &cobra.Command{
		Use:   "networkobservability-apiserver",
		Short: "Serve network telemetry of pods and nodes as Kubernetes objects",
		Long: `Serve networkobservability.k8s.io behind the aggregator of a Kubernetes cluster: network telemetry of
pods and nodes as objects, read live from the agents on the nodes, and captures of packets.`,
		Version:       baseversion.Get().GitVersion,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			if err := logsapi.ValidateAndApply(logging, nil); err != nil {
				return err
			}
			if err := options.Validate(); err != nil {
				return err
			}
			return Run(ctx, options)
		},
	}
	sets := cliflag.NamedFlagSets{}
	options.addFlags(&sets)
	logsapi.AddFlags(logging, sets.FlagSet("logs"))
	globalflag.AddGlobalFlags(sets.FlagSet("global"), cmd.Name(), logs.SkipLoggingConfigurationFlags())
	for _, set := range sets.FlagSets {
		cmd.Flags().AddFlagSet(set)
	}
	const anyWidth = 0
	cliflag.SetUsageAndHelpFunc(cmd, sets, anyWidth)
	return cmd
}
