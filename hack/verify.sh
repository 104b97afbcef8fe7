#!/usr/bin/env bash
# Checks what can be checked without running us. Every check runs; the end says which failed and how to mend it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
failed=()

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

gofmt_clean() {
	local dirty
	dirty=$(git ls-files -z '*.go' | xargs -0 gofmt -l)
	[ -z "$dirty" ] || { echo "$dirty" >&2; return 1; }
}

staticcheck() {
	go list ./... | grep -v /apis/generated/ | xargs go tool -modfile=hack/tools/go.mod staticcheck &&
		for dir in test/outputs test/collector test/monitoring; do # modules of their own
			(cd $dir && go tool -modfile=../../hack/tools/go.mod staticcheck ./...) || return 1
		done
}

modules_tidy() {
	local dir
	for dir in . hack/tools hack/tools/*/ test/*/; do
		[ -f "$dir/go.mod" ] || continue
		(cd "$dir" && go mod tidy -diff >/dev/null) || { echo "not tidy: $dir" >&2; return 1; }
	done
}

# Regenerates in a copy of what git tracks and compares.
generated_current() {
	local copy
	copy=$(mktemp -d)
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy" 2>/dev/null
	"$root/hack/codegen/update.sh" "$copy" >/dev/null && "$root/bpf/generate.sh" "$copy" >/dev/null &&
		for dir in apis bpf; do diff -rq "$dir" "$copy/$dir" || { rm -rf "$copy"; return 1; }; done
	local result=$?
	rm -rf "$copy"
	return $result
}

shell_syntax() { git ls-files -z '*.sh' .ci/run | xargs -0 -n1 bash -n; }

check gofmt "run gofmt -w on the files named" gofmt_clean
check vet "see above" go vet ./...
check "agent for arm64" "see above" env GOARCH=arm64 CGO_ENABLED=0 go build -o /dev/null ./nodeagent
check staticcheck "see above" staticcheck
check modules "run go mod tidy in the folder named" modules_tidy
check shell "see above" shell_syntax
check generated "run make generate and commit the result" generated_current
check "arrows, licences, documentation, manifests" "see above" go test ./test/deps ./test/manifests

if [ ${#failed[@]} -gt 0 ]; then
	printf 'verify: %s\n' "${failed[@]}" >&2
	exit 1
fi
echo "verify: all clean"
