// Package monitoring holds artifacts/monitoring to what Prometheus Operator itself says of its resources: its Go types decode
// the component strictly, and its own checks accept it. It is a module of its own, so that the operator is in no go.mod of our
// programs. Whether kube-apiserver accepts the component, with the operator's definitions of resources, is a test of test/e2e.
package monitoring
