#!/usr/bin/env bash
# Checks what can be checked without running us. Every check runs; the end says which failed and how to mend it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
mapfile -t modules < <(git ls-files 'test/*/go.mod' | xargs -n1 dirname) # of their own, for what they need is needed nowhere else
failed=()
trap 'exit 130' INT TERM

check() { # name, how to mend it, command...
	local name=$1 mend=$2 started=$SECONDS
	shift 2
	if "$@"; then
		echo "verify: $name: ok ($((SECONDS - started)) s)"
	else
		failed+=("$name: $mend")
		echo "verify: $name: FAILED" >&2
	fi
}

# Go code is checked as it is tested, with the race detector: what checks need of imports is compiled for tests anyway. Collecting
# garbage is a third of the checkers' work unless they may have some memory.
flags="$(go env GOFLAGS) -race"
as_tested() { env CGO_ENABLED=1 GOFLAGS="$flags" GOGC=400 GOMEMLIMIT=1500MiB "$@"; }

gofmt_clean() {
	local dirty
	dirty=$(git ls-files -z '*.go' | xargs -0 gofmt -l)
	[ -z "$dirty" ] || { echo "$dirty" >&2; return 1; }
}

vet() {
	local dir result=0
	for dir in . "${modules[@]}"; do
		(cd "$dir" && as_tested go vet ./...) || result=1
	done
	return $result
}

staticcheck() {
	local dir program result=0
	program=$(go tool -modfile=hack/tools/go.mod -n staticcheck) || return 1
	go list ./... | grep -v /apis/generated/ | as_tested xargs "$program" || result=1
	for dir in "${modules[@]}"; do
		(cd "$dir" && as_tested "$program" ./...) || result=1
	done
	return $result
}

arm64_types() {
	(cd hack/tools && go build -o "$root/_output/bin/typecheck" ./typecheck) &&
		GOARCH=arm64 CGO_ENABLED=0 _output/bin/typecheck ./nodeagent
}

modules_tidy() {
	local dir
	for dir in . hack/tools hack/tools/*/ test/*/; do
		[ -f "$dir/go.mod" ] || continue
		(cd "$dir" && go mod tidy -diff >/dev/null) || { echo "not tidy: $dir" >&2; return 1; }
	done
}

# Regenerates in a copy of what git tracks and compares.
generated_current() (
	copy=$(mktemp -d)
	trap 'rm -rf "$copy"' EXIT
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy" 2>/dev/null
	"$root/hack/codegen/update.sh" "$copy" >/dev/null && "$root/bpf/generate.sh" "$copy" >/dev/null || exit 1
	for dir in apis bpf; do diff -rq "$dir" "$copy/$dir" || exit 1; done
)

shell_syntax() { git ls-files -z '*.sh' .ci/run | xargs -0 -n1 bash -n; }

check gofmt "run gofmt -w on the files named" gofmt_clean
check vet "see above" vet
check "agent for arm64" "see above" arm64_types
check staticcheck "see above" staticcheck
check modules "run go mod tidy in the folder named" modules_tidy
check shell "see above" shell_syntax
check generated "run make generate and commit the result" generated_current
check "arrows, licences, documentation, manifests" "see above" as_tested go test -vet=off ./test/deps ./test/manifests

if [ ${#failed[@]} -gt 0 ]; then
	printf 'verify: %s\n' "${failed[@]}" >&2
	exit 1
fi
echo "verify: all clean"
