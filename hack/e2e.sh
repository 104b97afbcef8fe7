#!/usr/bin/env bash
# Runs test/e2e on a local cluster of its own, and removes the cluster whatever happens. KEEP=1 leaves it
# running, for looking around; CLUSTER names it, for two runs at a time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=${CLUSTER:-e2e}
clean() {
	[ -n "${KEEP:-}" ] || "$PWD/_output/bin/cluster" down --name "$name" || true
}
trap clean EXIT
trap 'exit 130' INT TERM

hack/deploy.sh "$name" 2
echo "e2e: running the tests"
export E2E_OUTPUT=$PWD/_output/$name KUBECACHEDIR=$PWD/_output/$name/kube-cache
gotestsum=$(CGO_ENABLED=0 go tool -modfile=hack/tools/go.mod -n gotestsum)
# Vet has its turn in verify.
CGO_ENABLED=1 "$gotestsum" --format testname -- \
	-race -vet=off -count=1 -timeout "${E2E_TIMEOUT:-30m}" ${RUN:+-run "$RUN"} ./test/e2e/...
