# make help lists what can be done. Recipes are thin: each names the program or script that does the work.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

OUT     := _output
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
VERSION_PACKAGES := k8s.io/component-base/version k8s.io/client-go/pkg/version
# A git describe that is not a version (no tag yet) becomes one, because clients parse what /version says.
SEMVER  := $(if $(filter v%,$(VERSION)),$(VERSION),v0.0.0-$(VERSION))
LDFLAGS := -s -w $(foreach p,$(VERSION_PACKAGES),-X $(p).gitVersion=$(SEMVER) -X $(p).gitMajor=0 -X $(p).gitMinor=0)
export CGO_ENABLED ?= 0
TEST_TIMEOUT ?= 20m

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build our programs into _output/bin.
	@mkdir -p $(OUT)/bin
	go build -ldflags "$(LDFLAGS)" -o $(OUT)/bin/networkobservability-apiserver ./apiserver
	go build -ldflags "-s -w -X main.version=$(SEMVER)" -o $(OUT)/bin/networkobservability-nodeagent ./nodeagent
	go build -ldflags "$(LDFLAGS)" -o $(OUT)/bin/kubectl-network ./kubectl-network
	@for name in kubectl-create-capture kubectl-create-clustercapture kubectl_complete-network kubectl_complete-create-capture \
		kubectl_complete-create-clustercapture; do ln -sf kubectl-network $(OUT)/bin/$$name; done

.PHONY: images
images: build ## Build the container images as archives in _output/images, without a container engine.
	go run ./artifacts/images -bin $(OUT)/bin -out $(OUT)/images apiserver nodeagent

.PHONY: generate
generate: ## Regenerate all generated code, BPF objects included (needs clang-19).
	hack/codegen/update.sh
	bpf/generate.sh

.PHONY: prerequisites
prerequisites: ## Install what building and testing need (Debian packages).
	@hack/prerequisites.sh

.PHONY: verify
verify: prerequisites ## Check formatting, vet, staticcheck, generated code, arrows, licences and manifests.
	hack/verify.sh

.PHONY: test
test: ## Run everything that guards a change: verify, tests, and the tests on a real local cluster.
	hack/test.sh

.PHONY: e2e
e2e: prerequisites ## Run only the tests on a real local cluster.
	hack/e2e.sh

.PHONY: fuzz
fuzz: ## Fuzz every decoder for FUZZTIME (60s) each.
	hack/fuzz.sh

.PHONY: bench
bench: prerequisites ## Measure: cost per packet, per read, and list latency. Prints ratios taken in one run.
	hack/bench.sh

.PHONY: demo
demo: ## Start a local cluster, deploy, run traffic and show the answers (WITH=prometheus: scraped, too). Leaves it running.
	hack/demo.sh

.PHONY: demo-down
demo-down: ## Remove the demo's cluster and every trace of it.
	hack/demo-down.sh

.PHONY: clean
clean: ## Remove what was built.
	rm -rf $(OUT)/bin $(OUT)/images
