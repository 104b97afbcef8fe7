// Command networkobservability-apiserver serves networkobservability.k8s.io behind the aggregator of a Kubernetes
// cluster: network telemetry of pods and nodes, read live from the agents on the nodes.
package main

import (
	"os"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"

	"github.com/networkobservability/networkobservability/apiserver/server"
)

func main() {
	os.Exit(cli.Run(server.NewCommand(genericapiserver.SetupSignalContext())))
}
