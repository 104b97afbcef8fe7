#!/usr/bin/env bash
# Fuzzes every fuzz target of the tree for FUZZTIME each. Inputs that fail are kept in testdata/fuzz.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
grep -rlE --include='*_test.go' '^func Fuzz' . | while read -r file; do
	package=./$(dirname "${file#./}")
	grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | sed 's/func //' | while read -r target; do
		echo "fuzz: $package $target"
		go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-60s}" -parallel "$(nproc)" </dev/null
	done
done
