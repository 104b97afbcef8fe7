#!/usr/bin/env bash
# Runs test/e2e on a local cluster of its own, and removes the cluster whatever happens. KEEP=1 leaves it
# running, for looking around.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

clean() {
	[ -n "${KEEP:-}" ] || "$PWD/_output/bin/cluster" down --name e2e || true
}
trap clean EXIT
trap 'exit 130' INT TERM

hack/deploy.sh e2e 2
echo "e2e: running the tests"
export E2E_OUTPUT=$PWD/_output/e2e KUBECACHEDIR=$PWD/_output/e2e/kube-cache
CGO_ENABLED=1 go tool -modfile=hack/tools/go.mod gotestsum --format testname --hide-summary=output -- \
	-race -count=1 -timeout "${E2E_TIMEOUT:-20m}" ${RUN:+-run "$RUN"} ./test/e2e/...
