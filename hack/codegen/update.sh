#!/usr/bin/env bash
# Generates all Go code that is generated, in the tree at $1 (this one when not given). BPF has its own script.
set -euo pipefail
root=$(cd "${1:-$(dirname "${BASH_SOURCE[0]}")/../..}" && pwd)
module=github.com/networkobservability/networkobservability
api=$module/apis/networkobservability/v1alpha1
generated=apis/generated
header=$root/hack/boilerplate.go.txt
# The resources' names are their own plural; without this the clients would ask for podnetworkstatses.
plural=PodNetworkStats:PodNetworkStats,NodeNetworkStats:NodeNetworkStats,NetworkFlow:NetworkFlows
cd "$root"

tool() { go tool -modfile="$root/hack/tools/go.mod" "$@"; }

echo "generating: deepcopy"
tool deepcopy-gen --go-header-file "$header" --output-file zz_generated.deepcopy.go ./apis/networkobservability/v1alpha1

echo "generating: openapi"
mkdir -p $generated/openapi
# Names of models are written beside each package that is named, so only ours is: others are in the module cache, which root
# may write to. The definitions of this first call are thrown away.
scratch=$(mktemp -d)
tool openapi-gen --go-header-file "$header" --output-dir "$scratch" --output-pkg $module/$generated/openapi \
	--output-file definitions.go --output-model-name-file zz_generated.model_name.go --report-filename /dev/null $api
rm -r "$scratch"
tool openapi-gen --go-header-file "$header" --output-dir $generated/openapi --output-pkg $module/$generated/openapi \
	--output-file zz_generated.openapi.go --report-filename /dev/null \
	$api k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version k8s.io/apimachinery/pkg/api/resource

echo "generating: apply configurations"
tool applyconfiguration-gen --go-header-file "$header" --output-dir $generated/applyconfiguration --output-pkg $module/$generated/applyconfiguration $api

echo "generating: clientset, listers, informers"
tool client-gen --go-header-file "$header" --plural-exceptions $plural --clientset-name versioned --input-base "" --input $api \
	--apply-configuration-package $module/$generated/applyconfiguration \
	--output-dir $generated/clientset --output-pkg $module/$generated/clientset
tool lister-gen --go-header-file "$header" --plural-exceptions $plural --output-dir $generated/listers --output-pkg $module/$generated/listers $api
tool informer-gen --go-header-file "$header" --plural-exceptions $plural --versioned-clientset-package $module/$generated/clientset/versioned \
	--listers-package $module/$generated/listers --output-dir $generated/informers --output-pkg $module/$generated/informers $api

echo "generating: agent protocol"
(cd hack/tools && go run ./proto "$root" apis/agent/v1alpha1/agent.proto)
