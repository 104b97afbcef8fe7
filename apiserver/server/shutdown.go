package server

import (
	"net/http"

	genericapiserver "k8s.io/apiserver/pkg/server"
)

// buildHandlerChain is the generic server's chain, behind what moves connections away at the end.
func buildHandlerChain(handler http.Handler, config *genericapiserver.Config) http.Handler {
	return withFarewell(genericapiserver.DefaultBuildHandlerChain(handler, config), config.ShutdownInitiatedNotify())
}

// withFarewell asks, once stopping is set, each connection that brings a request to move: over HTTP/2 the header
// becomes a GOAWAY behind the answer. kube-apiserver's aggregator would otherwise keep sending over the connection
// that it has until the listener closes, whatever the Service's endpoints say by then.
func withFarewell(handler http.Handler, stopping <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-stopping:
			w.Header().Set("Connection", "close")
		default:
		}
		handler.ServeHTTP(w, req)
	})
}
