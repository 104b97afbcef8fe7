// Package telemetry is what the API server has told this agent about what shall leave it beside answers: the
// configuration in force, what the node's pods are called, and what the addresses of their peers are.
//
//	telemetry.go  the state: configuration and pods, kept in a file over restarts
//	names.go      addresses, asked for when somebody needs them
//	stream.go     the agent's end of ConfigureTelemetry
//
// Nothing here knows what is done with it: metrics, flow logs and exporters read it.
package telemetry
