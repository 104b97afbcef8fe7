// The nodeagent runs on every node. It finds the node's pods in the kernel, counts their traffic with eBPF, and answers
// the API server, which asks when somebody asks it. It offers metrics to who may scrape them, and sends what a NetworkTelemetry
// asks for; otherwise it calls nobody but Kubernetes, for its own certificate and about who scrapes.
//
//	main.go      flags and commands
//	config.go    the file of options
//	agent.go     the whole program on a page: what is made, and what runs
//	outgoing.go  the same for what leaves it beside answers
//	endpoint.go  the address of metrics, tried again while it is not free
//	lacking.go   what is asked for and cannot be given here
//	resident.go  memory that only starting needs
//	podmap/      which pods there are
//	podindex/    tells programs in the kernel which pod a namespace, cgroup or address belongs to
//	pins/        what goes on in the kernel while no agent runs
//	collectors/  sources of numbers, a folder each
//	flows/       the history of flows
//	capture/     packets, recorded on disk
//	serve/       gRPC, certificates, health
//	telemetry/   what shall leave the agent beside answers, and the names that this needs
//	metrics/     families of metrics of node and pods
//	peers/       counters by peer, Service, port and name
//	own/         metrics of the agent itself
//	retina/      the same numbers under Retina's names
//	scrape/      HTTPS for who may read metrics
//	flowlog/     records of flows
//	export/      where metrics and records are sent to
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors"
)

// version is set by the linker.
var version = ""

type options struct {
	nodeName, clusterName, podUID       string
	listen, healthAddress               string
	bpffs, cgroupRoot, caDir, dataDir   string
	kubeconfig, config                  string
	nodeIPs                             []string
	volumesDir, logsDir, metricsAddress string
	configuration                       configuration // what the file at config says
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	err := command().ExecuteContext(ctx)
	stop()
	klog.Flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:           "networkobservability-nodeagent",
		Short:         "Counts the network traffic of this node's pods and answers the API server about it.",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			return run(c.Context(), o)
		},
	}
	o.addTo(root)
	root.AddCommand(
		&cobra.Command{
			Use: "version", Short: "Prints the version.", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(c.OutOrStdout(), programVersion())
				return err
			},
		},
		&cobra.Command{
			Use: "cleanup", Args: cobra.NoArgs,
			Short: "Removes all programs, pins, filters and recorded packets of this node's agent, and says what it removed.",
			Long: "Removes all programs, pins, filters and recorded packets of this node's agent, and says what it removed.\n" +
				"An agent leaves them in place when it ends, so that counting goes on; run this after the last one.",
			RunE: func(c *cobra.Command, _ []string) error {
				if err := o.validate(); err != nil {
					return err
				}
				return cleanup(c.Context(), o, c.OutOrStdout())
			},
		},
	)
	return root
}

func (o *options) addTo(c *cobra.Command) {
	flags := c.PersistentFlags()
	flags.StringVar(&o.nodeName, "node-name", os.Getenv("NODE_NAME"), "Name of this node (default: the environment's NODE_NAME).")
	flags.StringVar(&o.clusterName, "cluster-name", os.Getenv("CLUSTER_NAME"), "Name of the cluster, k8s.cluster.name of what exporters send (default: the environment's CLUSTER_NAME; empty for none).")
	flags.StringVar(&o.podUID, "pod-uid", os.Getenv("POD_UID"), "UID of the agent's own pod (default: the environment's POD_UID). Without one, pods of every kubelet on this kernel are taken for this node's.")
	flags.StringSliceVar(&o.nodeIPs, "node-ips", environmentList("NODE_IPS"), "Addresses of this node (default: the environment's NODE_IPS). Interfaces that carry one are uplinks.")
	flags.StringVar(&o.listen, "listen", fmt.Sprintf(":%d", v1alpha1.Port), "Address at which the API server is answered.")
	flags.StringVar(&o.healthAddress, "health-address", "127.0.0.1:10262", "Loopback address of /healthz and /readyz; empty for none.")
	flags.StringVar(&o.bpffs, "bpffs", "/sys/fs/bpf", "Where the BPF file system is mounted.")
	flags.StringVar(&o.cgroupRoot, "cgroup-root", "", "Where the host's cgroup version 2 is mounted (default: found below /sys/fs/cgroup).")
	flags.StringVar(&o.caDir, "ca-dir", "/etc/networkobservability/ca", "Folder with the CA bundles "+v1alpha1.ClientCAKey+" and "+v1alpha1.ServingCAKey+".")
	flags.StringVar(&o.dataDir, "data-dir", "/var/lib/networkobservability", "Folder for the agent's certificate, for recorded packets and for what it was last told of telemetry.")
	flags.StringVar(&o.volumesDir, "volumes-dir", "/var/lib/networkobservability-volumes", "Folder below which volumes are mounted, by name, that captures may be copied to.")
	flags.StringVar(&o.logsDir, "logs-dir", "/var/log/networkobservability", "Folder for flow logs that are written to files.")
	flags.StringVar(&o.metricsAddress, "metrics-address", fmt.Sprintf(":%d", v1alpha1.MetricsPort), "Address of /metrics, over HTTPS, for who may get it; empty for none.")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "How to reach Kubernetes, for the agent's certificate and to ask who may read metrics (default: as a pod does).")
	flags.StringVar(&o.config, "config", "", "File that says what the agent does, and how (default: everything, as docs/configuration.md describes).")
	klogFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(klogFlags)
	flags.AddGoFlag(klogFlags.Lookup("v"))
}

func environmentList(name string) []string {
	return strings.FieldsFunc(os.Getenv(name), func(r rune) bool { return r == ',' })
}

// nodeNames are those that Kubernetes allows: DNS subdomains.
var nodeNames = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func (o *options) validate() error {
	if len(o.nodeName) > 253 || !nodeNames.MatchString(o.nodeName) {
		return fmt.Errorf("--node-name: %q is not the name of a node", o.nodeName)
	}
	var err error
	if o.configuration, err = readConfig(o.config); err != nil {
		return err
	}
	for _, ip := range o.nodeIPs {
		if _, err := netip.ParseAddr(ip); err != nil {
			return fmt.Errorf("--node-ips: %w", err)
		}
	}
	if _, _, err := net.SplitHostPort(o.listen); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if o.metricsAddress != "" {
		if err := checkAddress(o.metricsAddress); err != nil {
			return fmt.Errorf("--metrics-address: %w", err)
		}
	}
	if o.healthAddress != "" {
		address, err := netip.ParseAddrPort(o.healthAddress)
		if err != nil {
			return fmt.Errorf("--health-address: %w", err)
		}
		if !address.Addr().IsLoopback() {
			return fmt.Errorf("--health-address: %s is not a loopback address", address.Addr())
		}
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(o.bpffs, &stat); err != nil || stat.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("--bpffs: no BPF file system is mounted at %s", o.bpffs)
	}
	return nil
}

// environment is what the flags say of this node.
func (o *options) environment() collectors.Environment {
	environment := collectors.Environment{BPFFS: o.bpffs, Node: o.nodeName, CgroupRoot: o.cgroupRoot}
	if environment.CgroupRoot == "" {
		environment.CgroupRoot = findCgroupRoot()
	}
	for _, ip := range o.nodeIPs {
		environment.NodeIPs = append(environment.NodeIPs, netip.MustParseAddr(ip))
	}
	return environment
}

// capturesDir is where recorded packets are.
func (o *options) capturesDir() string { return filepath.Join(o.dataDir, "captures") }

// findCgroupRoot looks where version 2 is mounted whole: in a container's own mount the pods' cgroups are not to be
// found. The root of the file system has inode 1.
func findCgroupRoot() string {
	for _, path := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var system unix.Statfs_t
		var stat unix.Stat_t
		if unix.Statfs(path, &system) == nil && system.Type == unix.CGROUP2_SUPER_MAGIC && unix.Stat(path, &stat) == nil && stat.Ino == 1 {
			return filepath.Clean(path)
		}
	}
	return ""
}

func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
