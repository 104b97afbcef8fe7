#!/usr/bin/env bash
# Installs what building, testing and the local cluster need on a Debian-like machine, and says what it
# does. With nothing missing it prints one line. With the argument "cluster", only what the cluster needs; with
# "prometheus", that and Prometheus, whose service is neither started nor enabled.
set -euo pipefail

go_wanted=1.26.0
# What the local cluster runs and calls.
packages=(ca-certificates containerd runc containernetworking-plugins iproute2 iptables nftables busybox-static util-linux procps git make tcpdump)
# What only those need who check, measure or change the tree: the race detector's C compiler and BPF's, and judges of
# TCP, of filters (with the names of ports) and of capture files.
profile=${1:-all}
if [ "$profile" = all ]; then
	packages+=(gcc libc6-dev clang-19 llvm-19 libbpf-dev iperf3 netbase tshark)
	command -v npm >/dev/null || packages+=(nodejs npm) # for Azure's stand-in and Grafana's types
fi
# The server, and promtool, which judges rules, boards and what is scraped. Another than Debian's does as well.
if [ "$profile" != cluster ] && ! { command -v prometheus && command -v promtool; } >/dev/null; then
	packages+=(prometheus)
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The stand-in for Azure's stores and Grafana's types of boards come from npm. Without them, their tests say so and are skipped.
from_npm() {
	local name folder
	[ "$profile" = all ] || return 0
	for name in azurite grafana; do
		folder=hack/tools/$name
		if cmp -s $folder/package-lock.json $folder/node_modules/.installed; then continue; fi
		echo "prerequisites: installing $name"
		if (cd $folder && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null); then
			cp $folder/package-lock.json $folder/node_modules/.installed
		else
			echo "prerequisites: npm could not install $name; tests that need it are skipped" >&2
		fi
	done
}

if ! command -v go >/dev/null; then
	echo "prerequisites: Go $go_wanted or later is missing; install it and put it on PATH" >&2
	exit 1
fi
have=$(go env GOVERSION | sed 's/^go//')
if [ "$(printf '%s\n%s\n' "$go_wanted" "$have" | sort -V | head -1)" != "$go_wanted" ]; then
	echo "prerequisites: Go $have is older than $go_wanted; install a newer one" >&2
	exit 1
fi

missing=()
for package in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
	from_npm
	echo "prerequisites: Go $have and all Debian packages are there"
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "prerequisites: run this as root, or install by hand: apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "prerequisites: installing ${missing[*]}"
log=$(mktemp)
# Debian starts services as it installs them, unless this file says no.
policy=/usr/sbin/policy-rc.d
if [ -e $policy ]; then policy=''; fi
trap 'rm -f "$log" $policy' EXIT
if [ -n "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy; fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
	tail -20 "$log" >&2
	echo "prerequisites: apt-get could not install: ${missing[*]}" >&2
	exit 1
fi
if [[ " ${missing[*]} " == *" prometheus "* ]] && command -v systemctl >/dev/null; then
	systemctl --quiet disable prometheus 2>/dev/null || true # nor at the next boot
fi
from_npm
echo "prerequisites: done"
