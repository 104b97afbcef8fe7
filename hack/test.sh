#!/usr/bin/env bash
# Everything that guards a change. Runs all of it, then says in one line what passed.
set -umo pipefail # m: each part is a group of processes that can be ended whole
cd "$(dirname "${BASH_SOURCE[0]}")/.."
hack/prerequisites.sh || exit 1
status=0
scratch=$(mktemp -d)
running='' verify=''

# Ends what still runs when this script ends, whatever the reason.
end() {
	trap '' INT TERM HUP
	local part
	for part in $running $verify; do kill -TERM -- "-$part" 2>/dev/null; done
	wait
	rm -rf "$scratch"
}
trap end EXIT
trap 'exit 130' INT TERM HUP

# Runs a part, waiting for it in a way that signals interrupt.
run() {
	"$@" &
	running=$!
	wait $running || status=1
	running=''
}

build() {
	CGO_ENABLED=0 go build -o _output/bin/cluster ./hack/cluster && _output/bin/cluster build && make --no-print-directory build
}

# Vet has its turn in verify, for tests are only a part of what it looks at.
test_packages() { # folder of a module, packages...
	local gotestsum
	gotestsum=$(CGO_ENABLED=0 go tool -modfile=hack/tools/go.mod -n gotestsum) || return 1
	cd "$1" && shift
	CGO_ENABLED=1 "$gotestsum" --format pkgname -- -race -vet=off -timeout "${TEST_TIMEOUT:-20m}" "$@"
}

echo "test: 1 of 5: building our programs and those of a local cluster (the first time takes about 10 minutes on 2 cores)"
run build

# Tests wait more than they compute, and verify computes. It runs beside them, with what they leave of the processors.
TMPDIR=$scratch nice -n 19 hack/verify.sh >"$scratch/verify.log" 2>&1 &
verify=$!

echo "test: 2 of 5: tests of each package, with the race detector; verify runs beside them"
# The storage of captures is tested on a real kube-apiserver and etcd, which are those of the local cluster: with this
# set, their absence is a failure and not a skip.
export REQUIRE_CONTROL_PLANE=1
run test_packages . $(go list ./... | grep -v /test/e2e)

echo "test: 3 of 5: tests on a real local cluster"
run hack/e2e.sh

echo "test: 4 of 5: tests with what others make: stores, an OpenTelemetry Collector, types of operators"
# Modules of their own, for what they need is needed nowhere else.
for folder in $(git ls-files 'test/*/go.mod' | xargs -n1 dirname); do run test_packages "$folder" ./...; done

echo "test: 5 of 5: verify, which has run since 2"
wait $verify || status=1
verify=''
cat "$scratch/verify.log"

if [ $status -eq 0 ]; then echo "test: everything passed"; else echo "test: something failed, see above" >&2; fi
exit $status
