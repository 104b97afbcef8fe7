#!/usr/bin/env bash
# Brings up the local cluster $1 with $2 nodes, and deploys what this tree builds into it from
# artifacts/deploy. Doing it again replaces what runs by what the tree says now.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=$1 nodes=${2:-2}
bin=$PWD/_output/bin
export KUBECONFIG=$PWD/_output/$name/kubeconfig KUBECACHEDIR=$PWD/_output/$name/kube-cache
kubectl=$bin/kubectl

echo "deploy: building our programs and the local cluster's (the first time takes about 10 minutes on 2 cores)"
make --no-print-directory build
CGO_ENABLED=0 go build -o "$bin/cluster" ./hack/cluster
"$bin/cluster" up --name "$name" --nodes "$nodes"

echo "deploy: making and loading images"
"$bin/images" -bin "$bin" -out _output/images apiserver nodeagent
"$bin/cluster" load --name "$name" _output/images/apiserver.tar _output/images/nodeagent.tar

echo "deploy: applying artifacts/deploy"
generation_before=$("$kubectl" -n network-observability get deployment networkobservability-apiserver -o jsonpath='{.metadata.generation}' 2>/dev/null || true)
"$kubectl" apply -k artifacts/deploy >/dev/null
if [ -n "$generation_before" ]; then
	# The images have the same name as before, so nothing would be replaced by itself.
	"$kubectl" -n network-observability rollout restart deployment/networkobservability-apiserver daemonset/networkobservability-nodeagent >/dev/null
fi

explain() {
	echo "deploy: not ready; this is what the pods say:" >&2
	"$kubectl" -n network-observability get pods -o wide >&2
	"$kubectl" -n network-observability get events --sort-by=.lastTimestamp >&2 | tail -10
	for component in apiserver nodeagent; do
		"$kubectl" -n network-observability logs -l "app.kubernetes.io/component=$component" --tail=15 --prefix >&2 || true
	done
	exit 1
}
echo "deploy: waiting until two API servers and $nodes agents are ready"
"$kubectl" -n network-observability rollout status deployment/networkobservability-apiserver --timeout=180s >/dev/null || explain
"$kubectl" -n network-observability rollout status daemonset/networkobservability-nodeagent --timeout=180s >/dev/null || explain
"$kubectl" wait --for=condition=Available apiservice/v1alpha1.networkobservability.k8s.io --timeout=60s >/dev/null || explain
echo "deploy: ready ($SECONDS s)"
