package export

import (
	"errors"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A kind is how what waits for a destination is encoded.
type kind int

const (
	unknownKind kind = iota
	otlpKind
	fileKind
	stdoutKind
)

func kindOf(wanted *v1alpha1.TelemetryExporter) kind {
	switch {
	case wanted.GetOtlp() != nil:
		return otlpKind
	case wanted.GetFile() != nil:
		return fileKind
	case wanted.GetStdout() != nil:
		return stdoutKind
	}
	return unknownKind
}

// open makes the Exporter of a destination. Whoever adds a kind of destination adds it here. It is never nil: with an error
// it encodes and does not send.
func open(config Config, wanted *v1alpha1.TelemetryExporter) (Exporter, error) {
	about := about{Node: config.Node, Cluster: config.Cluster, Version: config.Version}
	switch kindOf(wanted) {
	case otlpKind:
		encoder := otlpEncoder{about}
		exporter, err := openOTLP(encoder, wanted.GetOtlp())
		if err != nil {
			return waiting{encoder, err}, err
		}
		return exporter, nil
	case fileKind:
		encoder := jsonEncoder{about}
		exporter, err := newFile(encoder, config.LogsDir, wanted.GetName(), wanted.GetFile())
		if err != nil {
			return waiting{encoder, err}, err
		}
		return exporter, nil
	case stdoutKind:
		return newStdout(jsonEncoder{about}, config.Stdout), nil
	}
	err := errors.New("this agent is too old for the kind of this exporter; upgrade the agents")
	return waiting{jsonEncoder{about}, err}, err
}

// about is what everything that leaves says of where it is from.
type about struct{ Node, Cluster, Version string }
