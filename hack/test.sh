#!/usr/bin/env bash
# Everything that guards a change. Runs all of it, then says in one line what passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
hack/prerequisites.sh || exit 1
status=0

echo "test: 1 of 3: verify"
hack/verify.sh || status=1

echo "test: 2 of 3: tests of each package, with the race detector (the first time builds for some minutes)"
# The storage of captures is tested on a real kube-apiserver and etcd, which are those of the local cluster: with this
# set, their absence is a failure and not a skip.
CGO_ENABLED=0 go build -o _output/bin/cluster ./hack/cluster && _output/bin/cluster build || status=1
export REQUIRE_CONTROL_PLANE=1
packages=$(go list ./... | grep -v /test/e2e)
CGO_ENABLED=1 go tool -modfile=hack/tools/go.mod gotestsum --format pkgname -- \
	-race -timeout "${TEST_TIMEOUT:-20m}" $packages || status=1
# Modules of their own, for what they need is needed nowhere else: stores, an OpenTelemetry Collector, the types of Prometheus Operator.
for folder in test/outputs test/collector test/monitoring; do
	(cd "$folder" && CGO_ENABLED=1 go tool -modfile=../../hack/tools/go.mod gotestsum --format pkgname -- \
		-race -timeout "${TEST_TIMEOUT:-20m}" ./...) || status=1
done

echo "test: 3 of 3: tests on a real local cluster"
hack/e2e.sh || status=1

if [ $status -eq 0 ]; then echo "test: everything passed"; else echo "test: something failed, see above" >&2; fi
exit $status
