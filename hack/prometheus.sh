#!/usr/bin/env bash
# Runs a real Prometheus (Debian's) for the local cluster $1, with the scrape configuration, rights and rules of
# artifacts/monitoring, and shows where it answers. "hack/prometheus.sh NAME stop" ends it and removes what it kept.
#
# It runs on this machine, since machines and pods of a local cluster answer to it, with the token of a service account
# that has the rights of rbac.yaml and no others. Debian builds Prometheus without discovery by Kubernetes: a watch of
# the same pods, with the same token, writes the targets to files, with the labels that Kubernetes' discovery gives them.
#
# RULES names another folder of rules, and INTERVAL how often is scraped and evaluated (5s), for tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=$1 action=${2:-start}
here=$PWD/_output/$name/prometheus
bin=$PWD/_output/bin
monitoring=$PWD/artifacts/monitoring
account=prometheus namespace=monitoring # as rbac.yaml has them

stop() {
	local pid
	[ -f "$here/pid" ] || return 0
	pid=$(cat "$here/pid")
	if [ -d "/proc/$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "prometheus.sh $name run"; then
		kill "$pid" 2>/dev/null || true
		while [ -d "/proc/$pid" ]; do sleep 0.1; done
		echo "prometheus: ended"
	fi
	rm -rf "$here"
}

# kubectl as the service account.
kubectl() { "$bin/kubectl" --kubeconfig="$here/kubeconfig" "$@"; }

# Writes the targets of a component anew whenever one of its pods changes.
discover() { # component
	local template='[{{range $i, $p := .items}}{{if $p.status.podIP}}{{range .spec.containers}}{{range .ports}}
{"targets": ["{{$p.status.podIP}}:{{.containerPort}}"], "labels": {
"__meta_kubernetes_pod_name": "{{$p.metadata.name}}", "__meta_kubernetes_pod_node_name": "{{$p.spec.nodeName}}",
"__meta_kubernetes_pod_phase": "{{$p.status.phase}}", "__meta_kubernetes_pod_container_port_number": "{{.containerPort}}"}},
{{end}}{{end}}{{end}}{{end}}{"targets": []}]'
	while true; do
		kubectl -n network-observability get pods -l "app.kubernetes.io/component=$1" --watch -o name 2>/dev/null | while read -r _; do
			# Events come in crowds, and one look answers them all.
			while read -r -t 0.2 _; do :; done
			if kubectl -n network-observability get pods -l "app.kubernetes.io/component=$1" -o go-template="$template" >"$here/targets/$1.new"; then
				mv "$here/targets/$1.new" "$here/targets/$1.json"
			fi
		done || true # a watch ends when kube-apiserver does
		sleep 1
	done
}

# Stays in the foreground. Its children live in the PID namespace of the control plane, so that they end with it.
run() {
	discover nodeagent &
	discover apiserver &
	prometheus --config.file="$here/prometheus.yaml" --storage.tsdb.path="$here/data" --storage.tsdb.retention.time=2d \
		--web.listen-address="127.0.0.1:$(cat "$here/port")" --web.enable-lifecycle --log.level=warn &
	# All of them are one process group, which has no others.
	trap 'trap "" TERM; kill -- -$$' EXIT
	trap 'exit 0' TERM INT
	wait -n || true
}

free_port() {
	local port
	for port in $(seq 9090 9189); do
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
	echo "prometheus: no port from 9090 to 9189 is free on 127.0.0.1" >&2
	return 1
}

# The shipped configuration, with files in place of discovery, and our paths.
configure() {
	awk -v here="$here" '
		/kubernetes_sd_configs:/ { skipping = 1 }
		skipping && /label: / { component = $0; sub(/.*component=/, "", component) }
		/^    authorization:/ && skipping {
			skipping = 0
			print "    file_sd_configs:\n      - files: [" here "/targets/" component ".json]"
		}
		!skipping { print }' "$monitoring/prometheus.yaml" |
		sed -e "s#/var/run/secrets/kubernetes.io/serviceaccount/token#$here/token#" \
			-e "s#/etc/prometheus/networkobservability/serving-ca.crt#$here/serving-ca.crt#" \
			-e "s#rules/\*.yaml#${RULES:-$monitoring/rules}/*.yaml#" \
			-e "s#\(scrape_interval\|evaluation_interval\): 30s#\1: ${INTERVAL:-5s}#"
}

start() {
	local admin="$bin/kubectl --kubeconfig=$PWD/_output/$name/kubeconfig" machine up wanted url
	stop
	install -d -m 0700 "$here" "$here/targets" "$here/data"
	trap 'echo "prometheus: failed; the end of its log:" >&2; tail -5 "$here/log" >&2 || true; stop' ERR

	echo "prometheus: giving the service account $namespace/$account the rights of artifacts/monitoring/rbac.yaml"
	$admin create namespace $namespace --dry-run=client -o yaml | $admin apply -f - >/dev/null
	$admin -n $namespace create serviceaccount $account --dry-run=client -o yaml | $admin apply -f - >/dev/null
	$admin apply -f "$monitoring/rbac.yaml" >/dev/null
	(umask 077; $admin -n $namespace create token $account --duration=8760h >"$here/token")
	# The cluster's kubeconfig with another user; the token is in no command line.
	cat >"$here/kubeconfig" <<-YAML
		apiVersion: v1
		kind: Config
		clusters: [{name: $name, cluster: $($admin config view --raw -o jsonpath='{.clusters[0].cluster}')}]
		users: [{name: $account, user: {tokenFile: $here/token}}]
		contexts: [{name: $name, context: {cluster: $name, user: $account}}]
		current-context: $name
	YAML
	$admin -n network-observability get configmap networkobservability-ca -o jsonpath='{.data.serving-ca\.crt}' >"$here/serving-ca.crt"
	free_port >"$here/port"
	configure >"$here/prometheus.yaml"
	promtool check config "$here/prometheus.yaml" >"$here/log"

	machine=$("$bin/cluster" status --name "$name" | awk -v m="$name-control" '$1 == m {print $2}')
	setsid nsenter --target "$machine" --pid --no-fork bash "$PWD/hack/prometheus.sh" "$name" run >>"$here/log" 2>&1 </dev/null &
	echo $! >"$here/pid"
	url=http://127.0.0.1:$(cat "$here/port")
	echo "prometheus: starting, waiting until all targets are up"
	wanted=$($admin -n network-observability get pods -l 'app.kubernetes.io/component in (nodeagent, apiserver)' -o name | wc -l)
	local deadline=$((SECONDS + 60))
	until up=$(promtool query instant "$url" 'count(up{job=~"networkobservability-.*"} == 1)' 2>/dev/null | sed -n 's/.*=> \([0-9]*\) @.*/\1/p') && [ "$up" = "$wanted" ]; do
		if [ ! -d "/proc/$(cat "$here/pid")" ] || [ $SECONDS -ge $deadline ]; then
			echo "prometheus: ${up:-no} of $wanted targets are up" >&2
			promtool query instant "$url" 'up == 0' >&2 || true
			false
		fi
		sleep 0.5
	done
	echo "prometheus: $up targets are up; it answers at $url, until the cluster goes"
}

case $action in
start) start ;;
stop) stop ;;
run) run ;;
*)
	echo "usage: hack/prometheus.sh NAME [stop]" >&2
	exit 1
	;;
esac
