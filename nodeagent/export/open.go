package export

import (
	"errors"
	"reflect"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// kindOf is what kind of destination is wanted. What waits for one is encoded for its kind.
func kindOf(wanted *v1alpha1.TelemetryExporter) reflect.Type { return reflect.TypeOf(wanted.GetTo()) }

// open makes the Exporter of a destination. It is never nil: with an error it encodes and does not send.
func open(config Config, wanted *v1alpha1.TelemetryExporter) (Exporter, error) {
	about := about{Node: config.Node, Cluster: config.Cluster, Version: config.Version}
	switch to := wanted.GetTo().(type) {
	case *v1alpha1.TelemetryExporter_Otlp:
		encoder := otlpEncoder{about}
		exporter, err := openOTLP(encoder, to.Otlp)
		if err != nil {
			return waiting{encoder, err}, err
		}
		return exporter, nil
	case *v1alpha1.TelemetryExporter_File:
		encoder := jsonEncoder{about}
		exporter, err := newFile(encoder, config.LogsDir, wanted.GetName(), to.File)
		if err != nil {
			return waiting{encoder, err}, err
		}
		return exporter, nil
	case *v1alpha1.TelemetryExporter_Stdout:
		return newStdout(jsonEncoder{about}, config.Stdout), nil
	}
	err := errors.New("this agent does not know this kind of exporter; upgrade the agents")
	if config.Open != nil {
		exporter, other := config.Open(wanted)
		if other == nil && exporter != nil {
			return exporter, nil
		}
		if other != nil {
			err = other
		}
	}
	return waiting{jsonEncoder{about}, err}, err
}

// about is what everything that leaves says of where it is from.
type about struct{ Node, Cluster, Version string }
