#!/usr/bin/env bash
# Removes the demo's cluster and every trace of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x _output/bin/cluster ]; then
	CGO_ENABLED=0 go build -o _output/bin/cluster ./hack/cluster
fi
hack/prometheus.sh demo stop
_output/bin/cluster down --name demo
