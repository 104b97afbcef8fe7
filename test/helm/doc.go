// Package helm holds the chart of artifacts/helm to what artifacts/deploy and artifacts/monitoring install without it, to what its
// values say, and to what a real kube-apiserver makes of it. It is a module of its own, so that Helm is in no go.mod of our
// programs.
package helm
