#!/usr/bin/env bash
# Starts a real cluster of two nodes in network namespaces, deploys us, runs traffic, and shows the answers. With
# WITH=prometheus, a real Prometheus scrapes it, with the shipped rules.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed() {
	echo "demo: failed; removing what was made (logs stay in _output/demo/log)" >&2
	hack/prometheus.sh demo stop || true
	[ ! -x _output/bin/cluster ] || _output/bin/cluster down --name demo || true
}
trap failed ERR
trap 'failed; exit 130' INT TERM

case ${WITH:-} in
'') hack/prerequisites.sh cluster ;;
prometheus) hack/prerequisites.sh prometheus ;;
*)
	echo "demo: WITH is $WITH; it can be prometheus, or empty" >&2
	exit 1
	;;
esac
hack/deploy.sh demo 2
export KUBECONFIG=$PWD/_output/demo/kubeconfig KUBECACHEDIR=$PWD/_output/demo/kube-cache
export PATH=$PWD/_output/bin:$PATH

echo "demo: starting pods that talk: HTTP between nodes, 64 MiB transfers, look-ups"
kubectl apply -f hack/demo/workloads.yaml >/dev/null
kubectl -n shop rollout status deployment/web --timeout=120s >/dev/null
kubectl -n shop wait --for=condition=Available deployment --all --timeout=120s >/dev/null
# Rates need two samples, taken 5 seconds apart.
until kubectl -n shop get podnetworkstats -o jsonpath='{range .items[*]}{.window}{"\n"}{end}' | awk 'NF==0 {missing=1} END {exit missing || NR < 6}'; do
	kubectl -n shop get podnetworkstats -w --output-watch-events -o name --request-timeout=2s >/dev/null 2>&1 || true
done

show() {
	printf '\n$ %s\n' "$*"
	"$@"
}
show kubectl get podnetworkstats -A
show kubectl get podnetworkstats -n shop -l app=web -o wide
printf '\n$ kubectl get podnetworkstats -n shop -w     (for 12 seconds)\n'
timeout 12 kubectl get podnetworkstats -n shop -w || [ $? -eq 124 ]
show kubectl get nodenetworkstats
show kubectl get networkflows -n shop -l app=client --field-selector since=5s
printf '\nWhy can "broken" not talk? Its connections are refused, and the name that it asks for is not there:\n'
show kubectl get networkflows -n shop -l app=broken --field-selector verdict=Rejected,since=5s
names='{range .items[*].dns.topNames[?(@.failed>0)]}{.failed}{" failed look-ups of "}{.name}{"\n"}{end}'
printf "\n\$ kubectl get podnetworkstats -n shop -l app=broken -o jsonpath='%s'\n" "$names"
kubectl get podnetworkstats -n shop -l app=broken -o jsonpath="$names"
printf '\nWhat do they say to each other? Live, from both nodes, until tcpdump has seen enough:\n'
printf "\n\$ kubectl create capture look -n shop -l app=web --filter 'tcp port 8080' --follow --rm | tcpdump -nr - -c 4\n"
kubectl create capture look -n shop -l app=web --filter 'tcp port 8080' --follow --rm 2>/dev/null | tcpdump -nr - -c 4 2>/dev/null
printf '\nAnd as one file, with the names of pods in it for Wireshark:\n'
show kubectl create capture web -n shop -l app=web --duration 3s -o _output/demo/web.pcapng
show kubectl get captures -n shop
show kubectl auth can-i get captures/pcap -n shop --as=system:serviceaccount:shop:default || true
show kubectl auth can-i get podnetworkstats -n shop --as=system:serviceaccount:shop:default || true
if [ "${WITH:-}" = prometheus ]; then
	printf '\nYesterday, graphs and alerts: metrics of all pods, and a Prometheus that scrapes them over TLS with a token of its own:\n'
	show kubectl apply -f artifacts/monitoring/networktelemetry.yaml
	show kubectl wait --for=condition=Applied networktelemetry/cluster --timeout=60s
	show hack/prometheus.sh demo
	url=http://127.0.0.1:$(cat _output/demo/prometheus/port)
	# Rates need samples: the drops and failures of "broken" have been there for three scrapes when they have one.
	deadline=$((SECONDS + 60))
	until [ $SECONDS -ge $deadline ] || [ -n "$(promtool query instant "$url" 'rate(networkobservability_pod_tcp_connections_failed_total{workload="broken"}[1m]) > 0')" ]; do sleep 1; done
	show promtool query instant "$url" 'topk(3, sum by (namespace, workload) (rate(networkobservability_pod_bytes_total{direction="transmit"}[1m])))'
	show promtool query instant "$url" 'sum by (workload, reason) (rate(networkobservability_pod_tcp_connections_failed_total{namespace="shop"}[1m])) > 0'
	show promtool query instant "$url" 'sum by (workload, code) (rate(networkobservability_pod_dns_responses_total{namespace="shop"}[1m])) > 0'
	show promtool query instant "$url" 'histogram_quantile(0.99, sum by (node, le) (rate(networkobservability_node_dns_latency_seconds_bucket[1m])))'
	cat <<TXT

Prometheus runs until the cluster goes. Go on:

  xdg-open $url/targets                     # who is scraped, and how
  xdg-open $url/alerts                      # "broken" fires after 10 minutes: NetworkConnectionsFail
  promtool query instant $url 'up'
  hack/prometheus.sh demo stop              # only Prometheus
  ls artifacts/monitoring/dashboards        # for a Grafana of yours, with $url as its data source
TXT
fi
cat <<TXT

The cluster keeps running. Go on from a plain shell:

  export KUBECONFIG=$KUBECONFIG PATH=$PWD/_output/bin:\$PATH
  kubectl get pns -A -w                                    # short name; follows
  kubectl get pns -n shop --sort-by=.traffic.transmit.bytes
  kubectl get pns -A --field-selector nodeName=demo-node-1
  kubectl describe pns -n shop -l app=backup               # everything that is known of a pod
  kubectl get networkflows -n shop -w                      # follows who talks to whom
  kubectl get nf -n shop --field-selector peer.service=web,since=1m
  kubectl explain podnetworkstats.drops --recursive
  kubectl get nnst -o wide                                 # nodes, their uplinks and agents
  kubectl create capture dns -n shop -l app=resolver --filter 'port 53' --follow | tcpdump -nr -
  kubectl create capture why -n shop -l app=broken --dry-run=server    # what would be recorded, and how much
  kubectl network capture download web -n shop --headers-only -o headers.pcapng

make demo-down removes every trace.
TXT
