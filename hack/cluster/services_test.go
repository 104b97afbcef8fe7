package main

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the tests get into testdata")

var examplePlan = Plan{Name: "demo", Slot: 1, Nodes: 2, Output: "/checkout/_output/demo"}

// What machines are told is reviewed like code: a change of it shows as a change of testdata.
func TestGolden(t *testing.T) {
	p, node := examplePlan, examplePlan.node(2)
	manifest, err := p.dnsManifest()
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{
		"control.json":     encode(p.machineSpec(p.Control(), "/checkout/_output/bin")),
		"node.json":        encode(p.machineSpec(node, "/checkout/_output/bin")),
		"kubelet.json":     p.kubeletConfig(node),
		"kube-proxy.json":  p.proxyConfig(node),
		"cni.json":         p.cniConfig(node),
		"containerd.toml":  containerdConfig(),
		"coredns.yaml":     manifest,
		"kubeconfig.json":  p.kubeconfig("admin", []byte("CA"), KeyPair{Cert: []byte("CERT"), Key: []byte("KEY")}),
		"node-mounts.json": encode(describeMounts(p.machineSpec(node, "/bin"))),
		"plan.json":        encode(p),
	} {
		t.Run(name, func(t *testing.T) { compareGolden(t, filepath.Join("testdata", name), got) })
	}
}

func compareGolden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := writeFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("differs from %s (go test ./hack/cluster -update writes it):\n%s", path, got)
	}
}

func describeMounts(spec MachineSpec) []string {
	var lines []string
	for _, step := range machineMounts(spec) {
		lines = append(lines, strings.TrimSpace(step.why+": "+step.source+" on "+step.target+" "+step.fstype))
	}
	return lines
}

// A machine looks for its programs after its own /var/lib and /run are mounted.
func TestMountsCutOffFirst(t *testing.T) {
	steps := machineMounts(MachineSpec{})
	if first := steps[0]; first.target != "/" || first.then == nil {
		t.Errorf("the first step is %q: before mounts are cut off from the host's, nothing may change", first.why)
	}
	position := func(target string) int {
		return slices.IndexFunc(steps, func(s mountStep) bool { return s.target == target })
	}
	if position("/sys/fs/bpf") < position("/sys") {
		t.Error("the bpffs is mounted before the /sys that would cover it")
	}
}

// Services reach each other only by addresses of the plan.
func TestAddressesComeFromThePlan(t *testing.T) {
	address := regexp.MustCompile(`\b(\d+\.){3}\d+\b`)
	for _, m := range examplePlan.Machines() {
		for _, service := range examplePlan.machineSpec(m, "/bin").Services {
			for _, found := range address.FindAllString(strings.Join(service.Args, " "), -1) {
				if !strings.HasPrefix(found, "198.18.") && !strings.HasPrefix(found, "198.19.") && found != "127.0.0.1" {
					t.Errorf("%s of %s is told of %s", service.Name, m.Name, found)
				}
			}
		}
	}
}

func TestNodeLabelsTakeTurns(t *testing.T) {
	p := Plan{Name: "demo", Nodes: 4}
	var zones []string
	for _, m := range p.NodeMachines() {
		_, after, _ := strings.Cut(nodeLabels(m), "zone=")
		zone, _, _ := strings.Cut(after, ",")
		zones = append(zones, zone)
	}
	if got, want := strings.Join(zones, " "), "local-a local-b local-c local-a"; got != want {
		t.Errorf("zones %s, want %s", got, want)
	}
}

func TestConfigIsJSON(t *testing.T) {
	for _, content := range [][]byte{examplePlan.kubeletConfig(examplePlan.node(1)), examplePlan.proxyConfig(examplePlan.node(1)), examplePlan.cniConfig(examplePlan.node(1))} {
		if !json.Valid(content) {
			t.Errorf("no JSON: %s", content)
		}
	}
}
