package collectors

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/example"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

const page = "docs/collectors.md"

// addExample adds the line that docs/collectors.md shows.
func addExample(t *testing.T) {
	before := list
	t.Cleanup(func() { list = before })
	list = append(slices.Clone(list), []registration{
		{"neighbours", func(*maker) collector { return example.New() }},
	}...)
}

// The example counts in a set, can be switched off like any other, and is not there when nobody added it.
func TestExampleInSet(t *testing.T) {
	if slices.Contains(Names(), "neighbours") {
		t.Error("the example is on the list")
	}
	addExample(t)
	pod, peer := fakepod.New(t, fakepod.Prefix()), fakepod.NewNamespace(t)
	fakepod.Connect(pod.Namespace, peer, "eth0", "eth0", 1)
	pod.Run("ip", "neigh", "add", "10.99.1.3", "lladdr", "02:99:00:00:01:03", "dev", "eth0", "nud", "permanent")
	follow(t, pod, func(found *podmap.Pod) {
		want := []*v1alpha1.Counter{
			{Collector: "neighbours", Name: "known", Value: 2},
			{Collector: "neighbours", Name: "unanswered", Value: 0},
		}
		set := New(Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}, Options{Disabled: all("neighbours")})
		defer set.Close()
		row := set.Read().Pod(found)
		if !slices.EqualFunc(row.Additional, want, func(a, b *v1alpha1.Counter) bool { return proto.Equal(a, b) }) {
			t.Errorf("got %v (%v), want %v", row.Additional, row.Measurement, want)
		}
		off := New(Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}, Options{Disabled: Names()})
		defer off.Close()
		if row := off.Read().Pod(found); row.Additional != nil {
			t.Errorf("switched off, it counts %v", row.Additional)
		}
	})
}

// all are the names of all collectors but one.
func all(but string) []string {
	return slices.DeleteFunc(Names(), func(name string) bool { return name == but })
}

// follow calls do with a pod as the map of pods finds it.
func follow(t *testing.T, pod *fakepod.Pod, do func(*podmap.Pod)) {
	t.Helper()
	pods, err := podmap.New(podmap.Config{Changed: func([]*podmap.Pod) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- pods.Run(ctx, func() { close(ready) }) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	<-ready
	var found *podmap.Pod
	fakepod.Eventually(t, "finding the pod", func() (ok bool) {
		found, ok = pods.Lookup(pod.UID)
		return ok
	})
	do(found)
}

var quoted = regexp.MustCompile("(?ms)^```go ([^\n]+)\n(.*?)^```$")

// What the page quotes is what the file says, and the example is there as a whole.
func TestPageQuotesTheCode(t *testing.T) {
	text := readFile(t, "../../"+page)
	blocks := quoted.FindAllStringSubmatch(text, -1)
	for _, block := range blocks {
		path, code := block[1], block[2]
		if !strings.Contains(unindented(readFile(t, "../../"+path)), unindented(code)) {
			t.Errorf("%s quotes of %s what is not there:\n%s", page, path, code)
		}
	}
	whole := "example/example.go"
	if !strings.Contains(text, readFile(t, whole)) {
		t.Errorf("%s does not quote all of %s", page, whole)
	}
	if strings.Count(text, "```go") != len(blocks) {
		t.Errorf("%s has code that does not say from which file it is", page)
	}
}

// Every role and every collector has its line in the page.
func TestPageNamesRolesAndCollectors(t *testing.T) {
	text := readFile(t, "../../"+page)
	file, err := parser.ParseFile(token.NewFileSet(), "collectors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	wanted := Names()
	ast.Inspect(file, func(node ast.Node) bool {
		if spec, ok := node.(*ast.TypeSpec); ok {
			if _, ok := spec.Type.(*ast.InterfaceType); ok {
				wanted = append(wanted, spec.Name.Name)
			}
		}
		return true
	})
	for _, name := range wanted {
		if !strings.Contains(text, "\n| `"+name+"` |") {
			t.Errorf("%s has no line that begins with | `%s` |", page, name)
		}
	}
}

func unindented(code string) string {
	lines := strings.Split(code, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
