#!/usr/bin/env bash
# Measures what we cost: a packet, a read of a node, a list, a recorded packet, a scrape, a capture. About half an hour; PAIRS sets how many pairs the
# throughput is taken of; FULL=1 lists 100,000 pods at the end, and not 19,000, which takes half an hour. PROFILE=DIR keeps profiles of our API
# server. Everything runs in namespaces that end with it. Numbers depend on what else the machine does; ratios were
# taken turn by turn and depend less.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/_output/bin

heading() { printf '\n== %s\n\n' "$1"; }

if [ "$(id -u)" != 0 ]; then
	echo "bench: run this as root: it makes namespaces and loads BPF programs" >&2
	exit 1
fi
echo "bench: building"
make --no-print-directory build
mkdir -p "$bin/bench"
CGO_ENABLED=0 go build -o "$bin/bench/" ./test/bench/packets ./test/bench/reads ./test/bench/lists ./test/bench/recording ./test/bench/captures
if [ ! -x "$bin/etcd" ] || [ ! -x "$bin/kube-apiserver" ]; then
	CGO_ENABLED=0 go build -o "$bin/cluster" ./hack/cluster
	"$bin/cluster" build
fi

heading "1 of 7: what the traffic program adds to a packet (aim: with flows 70 ns at one flow, 200 ns at 5,000)"
"$bin/bench/packets"

heading "2 of 7: throughput between two pods, all collectors against none, in pairs (aim: the interval reaches 0.98)"
go test -timeout 30m -run '^$' -bench . -benchtime "${PAIRS:-40}x" ./test/bench/throughput

heading "3 of 7: what a node with 110 pods, 10,000 sockets and 100,000 flows costs the agent: scrapes and reads (aim: 30 ms of processor time and 1 MB a scrape); what 2,000 pods that come and go leave behind (aim: nothing)"
"$bin/bench/reads" -bin "$bin" -output _output/bench

heading "4 of 7: lists through kube-apiserver, for 1, 10, 100 and 1,000 agents"
"$bin/bench/lists" -bin "$bin" -output _output/bench ${FULL:+-steps 1x100,10x100,100x100,1000x100} ${PROFILE:+-profile "$PROFILE"} -budget "${BUDGET:-20s}"

heading "5 of 7: what it costs to record packets, against tcpdump (aim: 2.5 M small packets a second a processor without loss, or what is made)"
"$bin/bench/recording" -output _output/bench

heading "6 of 7: a scrape of 110 pods with all groups and each label that can be asked for (aim: 30 ms of processor time, 1 MB); what exporters and labels cost"
go test -run '^$' -bench 'Scrape|110Pods|Flows|Labels' ./nodeagent/metrics ./nodeagent/export ./nodeagent/peers

heading "7 of 7: captures in a local cluster: the first packet, and downloads beside reading from the agent"
trap '"$bin/cluster" down --name bench >/dev/null || true' EXIT
hack/deploy.sh bench 2
export KUBECONFIG=$PWD/_output/bench/kubeconfig
"$bin/kubectl" apply -f hack/demo/workloads.yaml >/dev/null
"$bin/kubectl" -n shop wait --for=condition=Available deployment --all --timeout=120s >/dev/null
"$bin/bench/captures"
echo "the same as ordinary answers, for clients that do not take over the connection:"
"$bin/bench/captures" -firsts 0 -streams 0 -upgrade=false

printf '\nbench: done in %d min %d s on %d processors; load average %s\n' \
	$((SECONDS / 60)) $((SECONDS % 60)) "$(nproc)" "$(cut -d' ' -f1-3 /proc/loadavg)"
