#!/usr/bin/env bash
# Compiles the BPF programs, in the tree at $1 (this one when not given). Objects are committed, so that building
# the agent needs no compiler for BPF; only those who change a program need the packages named here (Debian 12):
#   clang-19 llvm-19 libbpf-dev linux-libc-dev
# One little-endian object serves amd64 and arm64: the programs use no register of a machine, and the kernel's
# structures only by relocation (CO-RE).
set -euo pipefail
root=$(cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}" && pwd)
multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch)

for source in "$root"/bpf/*/*.bpf.c; do
	program=$(basename "$(dirname "$source")")
	echo "compiling: bpf/$program"
	cd "$root/bpf/$program"
	GOPACKAGE=$program go tool -modfile="$root/hack/tools/go.mod" bpf2go \
		-cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -output-stem zz_generated \
		object $program.bpf.c -- \
		-O2 -mcpu=v3 -Wall -Wextra -Werror -ffile-prefix-map="$root=." -I "$root/bpf/headers" -isystem "/usr/include/$multiarch"
done
