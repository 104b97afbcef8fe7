// Package deps holds the rules about what may depend on what, as tests.
package deps

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/networkobservability/networkobservability/"

// A rule forbids packages below from to import, themselves or through others, packages below to.
type rule struct {
	from, to string
	reason   string
	// direct limits the rule to the imports that a package writes itself.
	direct bool
	except []string
}

var rules = []rule{
	{from: module + "apis", to: module + "apiserver", reason: "the contract stands alone"},
	{from: module + "apis", to: module + "nodeagent", reason: "the contract stands alone"},
	{from: module + "apis", to: module + "bpf", reason: "the contract stands alone"},
	{from: module + "apis", to: module + "hack", reason: "the contract stands alone"},
	{from: module + "apiserver", to: module + "nodeagent", reason: "the two programs meet on the wire only"},
	{from: module + "nodeagent", to: module + "apiserver", reason: "the two programs meet on the wire only"},
	{from: module + "apiserver", to: module + "bpf", reason: "the API server runs no BPF and needs no kernel"},
	{from: module + "apiserver", to: "github.com/cilium/ebpf", reason: "the API server runs no BPF and needs no kernel"},
	{from: module + "nodeagent", to: "k8s.io/apiserver", reason: "the agent is no API server and stays small"},
	{from: module + "nodeagent", to: module + "apis/networkobservability", reason: "the agent speaks the wire, not the API"},
	{from: module + "nodeagent", to: module + "apis/generated", reason: "the agent never calls our API"},
	{from: module + "bpf", to: module + "nodeagent", reason: "the kernel half knows nothing of who reads it"},
	{from: module + "bpf", to: module + "apis", reason: "the kernel half knows nothing of who reads it"},
	{from: module + "bpf", to: "k8s.io", reason: "the kernel half knows nothing of Kubernetes"},
	{from: module + "kubectl-network", to: module + "apiserver", reason: "the plugin sees only what any third party sees"},
	{from: module + "kubectl-network", to: module + "nodeagent", reason: "the plugin sees only what any third party sees"},
	// In the API server the parts meet in server and nowhere else.
	{from: module + "apiserver/agents", to: module + "apiserver", except: []string{module + "apiserver/agents"}, reason: "parts meet in apiserver/server"},
	{from: module + "apiserver/certificates", to: module + "apiserver", except: []string{module + "apiserver/certificates"}, reason: "parts meet in apiserver/server"},
	{from: module + "apiserver/captures", to: module + "apiserver", except: []string{module + "apiserver/captures"}, reason: "parts meet in apiserver/server"},
	{from: module + "apiserver/registry", to: module + "apiserver", except: []string{module + "apiserver/registry"}, reason: "parts meet in apiserver/server"},
	{from: module + "apiserver/telemetry", to: module + "apiserver", except: []string{module + "apiserver/telemetry"}, reason: "parts meet in apiserver/server"},
	{from: module + "apiserver/storage", to: module + "apiserver", except: []string{module + "apiserver/storage"}, reason: "parts meet in apiserver/server"},
	{from: module + "apiserver/pcapfilter", to: module + "apiserver", except: []string{module + "apiserver/pcapfilter"}, reason: "parts meet in apiserver/server"},
	{from: module + "apiserver/captures", to: module + "apiserver", except: []string{module + "apiserver/captures"}, reason: "parts meet in apiserver/server"},
	{from: module + "apiserver/registry/captures", to: module + "apiserver", except: []string{module + "apiserver/registry/captures", module + "apiserver/registry/live", module + "apiserver/registry/managedfields"}, reason: "resources share only registry/live and registry/managedfields"},
	{from: module + "apiserver/registry/networktelemetry", to: module + "apiserver", except: []string{module + "apiserver/registry/networktelemetry", module + "apiserver/registry/live", module + "apiserver/registry/managedfields"}, reason: "resources share only registry/live and registry/managedfields"},
	{from: module + "apiserver/registry/podnetworkstats", to: module + "apiserver/registry/nodenetworkstats", reason: "resources share only registry/live"},
	{from: module + "apiserver/registry/nodenetworkstats", to: module + "apiserver/registry/podnetworkstats", reason: "resources share only registry/live"},
	{from: module + "apiserver/registry/networkflows", to: module + "apiserver/registry/podnetworkstats", reason: "resources share only registry/live and registry/directory"},
	{from: module + "apiserver/registry/networkflows", to: module + "apiserver/registry/nodenetworkstats", reason: "resources share only registry/live and registry/directory"},
	{from: module + "apiserver/registry/podnetworkstats", to: module + "apiserver/registry/networkflows", reason: "resources share only registry/live and registry/directory"},
	{from: module + "apiserver/registry/directory", to: module + "apiserver/registry/networkflows", reason: "names are there before flows"},
	{from: module + "nodeagent/flows", to: module + "nodeagent/collectors", reason: "collectors know flows; what flows need of them is given by collectors/list.go"},
	{from: module + "nodeagent/flows", to: module + "nodeagent/flowlog", reason: "the history does not know who watches it"},
	{from: module + "nodeagent/flows", to: module + "nodeagent/peers", reason: "the history does not know who watches it"},
	{from: module + "nodeagent/flowlog", to: module + "nodeagent/collectors", reason: "records are made of flows; agent.go gives them the history"},
	{from: module + "nodeagent/peers", to: module + "nodeagent/collectors", reason: "counters are made of flows; agent.go gives them the history"},
	{from: module + "nodeagent/pins", to: module + "nodeagent/collectors", reason: "collectors build on pins"},
	{from: module + "nodeagent/podindex", to: module + "nodeagent/collectors", reason: "collectors build on podindex"},
	{from: module + "nodeagent/capture", to: module + "nodeagent/collectors", reason: "captures stand beside collectors; agent.go gives them the uplinks"},
	{from: module + "nodeagent/capture", to: module + "nodeagent/serve", reason: "captures return data; serve sends it"},
	{from: module + "nodeagent/collectors", to: module + "nodeagent/serve", reason: "collectors return data; serve sends it"},
	{from: module + "nodeagent/export", to: module + "nodeagent/collectors", reason: "exporters get families and records, whoever makes them"},
	{from: module + "nodeagent/export", to: module + "nodeagent/metrics", reason: "exporters get families and records, whoever makes them"},
	{from: module + "nodeagent/export", to: module + "nodeagent/serve", reason: "exporters know destinations, not who configures them"},
	{from: module + "nodeagent/capture/outputs", to: module + "nodeagent", except: []string{module + "nodeagent/capture/outputs"}, reason: "outputs know files, and not what is in them"},
	{from: module + "nodeagent/scrape", to: module + "nodeagent", except: []string{module + "nodeagent/scrape"}, reason: "who may scrape does not depend on what; agent.go says what is offered"},
	{from: module + "nodeagent/retina", to: module + "nodeagent", except: []string{module + "nodeagent/retina"}, reason: "it gives families other names, whoever made them"},
	{from: module + "nodeagent/own", to: module + "nodeagent", except: []string{module + "nodeagent/own"}, reason: "agent.go says where the agent's own numbers come from"},
	{from: module + "nodeagent/capture/snapshot", to: module + "nodeagent", except: []string{module + "nodeagent/capture/snapshot"}, reason: "a snapshot is of a thread's namespace, whosever it is"},
}

// Names that hide what a package is for.
var badNames = []string{"util", "utils", "common", "helper", "helpers", "shared", "misc"}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T, patterns ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps"}, patterns...)...)
	cmd.Dir = "../.."
	output, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []listed
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var one listed
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
}

func below(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/") ||
		strings.HasSuffix(parent, "/") && strings.HasPrefix(path, parent)
}

func (r rule) violations(p listed) []string {
	if !below(p.ImportPath, r.from) {
		return nil
	}
	imports := p.Deps
	if r.direct {
		imports = p.Imports
	}
	var found []string
	for _, path := range imports {
		allowed := slices.ContainsFunc(r.except, func(e string) bool { return below(path, e) })
		if below(path, r.to) && !allowed {
			found = append(found, path)
		}
	}
	return found
}

func TestArrows(t *testing.T) {
	all := packages(t, "./...")
	if len(all) < 10 {
		t.Fatalf("go list named %d packages: too few to be the whole tree", len(all))
	}
	for _, p := range all {
		for _, r := range rules {
			for _, path := range r.violations(p) {
				t.Errorf("%s must not depend on %s: %s", p.ImportPath, path, r.reason)
			}
		}
		for _, part := range strings.Split(strings.TrimPrefix(p.ImportPath, module), "/") {
			if slices.Contains(badNames, part) {
				t.Errorf("%s: the name %q does not say what the package is for", p.ImportPath, part)
			}
		}
		if !below(p.ImportPath, module+"test") {
			for _, path := range p.Imports {
				if below(path, module+"test") {
					t.Errorf("%s imports %s: nothing may import test", p.ImportPath, path)
				}
			}
		}
	}
}

// A rule that cannot fail guards nothing.
func TestRulesCatch(t *testing.T) {
	for _, r := range rules {
		p := listed{ImportPath: r.from + "/x", Deps: []string{r.to + "/y"}, Imports: []string{r.to + "/y"}}
		if len(r.violations(p)) != 1 {
			t.Errorf("rule %s -> %s does not catch what it forbids", r.from, r.to)
		}
	}
}
