package serve

import (
	"google.golang.org/grpc"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Observer is told of streams. Its methods must be quick and safe for concurrent use.
type Observer interface {
	// Began is called when a stream of a kind (stats, flows, capture, telemetry) begins, and what it returns when that has
	// ended, with the error that the API server gets.
	Began(kind string) (ended func(error))
}

// kinds are those of streams, by method. Streams that are not here are short answers.
var kinds = map[string]string{
	v1alpha1.Agent_ReadStats_FullMethodName:          "stats",
	v1alpha1.Agent_ReadFlows_FullMethodName:          "flows",
	v1alpha1.Agent_ReadCapture_FullMethodName:        "capture",
	v1alpha1.Agent_ConfigureTelemetry_FullMethodName: "telemetry",
}

func observed(observer Observer) grpc.ServerOption {
	return grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		kind, known := kinds[info.FullMethod]
		if !known {
			return handle(server, stream)
		}
		ended := observer.Began(kind)
		err := handle(server, stream)
		ended(err)
		return err
	})
}
