package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	podColumns  = "NAME RX TX RX/S TX/S DROPS RETRANS CONNS RTT DNS-ERR AGE"
	podWide     = podColumns + " NODE IP RX-PKTS TX-PKTS RESETS CONN-FAIL DNS-P99 API-P99 STATE"
	nodeColumns = "NAME RX TX RX/S TX/S DROPS RETRANS CONNS RTT PODS AGE"
	nodeWide    = nodeColumns + " IP UPLINKS ERRORS DROPPED CONNTRACK FLOWS API-P99 KERNEL AGENT STATE"
)

// TestKubectl asks for the statistics of three pods in every way that kubectl offers.
func TestKubectl(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace, nodes := c.namespace(t), c.nodes(t)
	web := sink("web", nodes[0])
	web.Labels["tier"] = "front"
	pods := c.start(t, namespace, web, sink("api", nodes[0]), sink("db", nodes[1]))
	c.waitMeasured(t, podDeadline, pods...)
	// Enough for a prefix in the table.
	c.exec(t, pods[2], "/bin/traffic", "tcp", target(t, pods[0], "ipv4"), "3000000")
	c.outwaitShared(t, pods...)
	k := kubectlTest{c, namespace, nodes}
	t.Run("table", k.table)
	t.Run("wide", k.wide)
	t.Run("all namespaces", k.allNamespaces)
	t.Run("machine-readable", k.machineReadable)
	t.Run("custom columns", k.customColumns)
	t.Run("selectors", k.selectors)
	t.Run("unknown field selector", k.unknownField)
	t.Run("chunks", k.chunks)
	t.Run("sort", k.sortBy)
	t.Run("describe", k.describe)
	t.Run("missing pod", k.missing)
	t.Run("watch", k.watch)
	t.Run("watch table", k.watchTable)
	t.Run("category", k.category)
	t.Run("label column", k.labelColumn)
	t.Run("wait", k.wait)
}

type kubectlTest struct {
	*cluster
	namespace string
	nodes     []string
}

// get runs kubectl get for pod statistics in the test's namespace.
func (k kubectlTest) pns(t *testing.T, args ...string) string {
	t.Helper()
	return k.kubectl(t, append([]string{"get", "podnetworkstats", "--namespace", k.namespace}, args...)...)
}

// header is the first line of a table, with single blanks.
func header(output string) string {
	first, _, _ := strings.Cut(output, "\n")
	return strings.Join(strings.Fields(first), " ")
}

// names are the first fields of a table's lines.
func names(output string) []string {
	var all []string
	for line := range strings.Lines(strings.TrimSpace(output)) {
		all = append(all, strings.Fields(line)[0])
	}
	return all
}

func (k kubectlTest) table(t *testing.T) {
	out := k.pns(t)
	if header(out) != podColumns || !slices.Equal(names(out), []string{"NAME", "api", "db", "web"}) {
		t.Errorf("unexpected table:\n%s", out)
	}
	if row := regexp.MustCompile(`(?m)^web +[0-9.]+Mi +[0-9.]+Ki? `).FindString(out); row == "" {
		t.Errorf("web received 3 MB, and its row does not say so in Mi:\n%s", out)
	}
	if short := k.kubectl(t, "get", "pns", "--namespace", k.namespace); header(short) != podColumns {
		t.Errorf("the short name gives another table:\n%s", short)
	}
}

func (k kubectlTest) wide(t *testing.T) {
	out := k.pns(t, "--output", "wide")
	if header(out) != podWide {
		t.Errorf("unexpected wide table:\n%s", out)
	}
	if !strings.Contains(out, k.nodes[0]) || !strings.Contains(out, k.nodes[1]) || strings.Count(out, string(v1alpha1.Measured)) != 3 {
		t.Errorf("nodes or states are missing:\n%s", out)
	}
}

func (k kubectlTest) allNamespaces(t *testing.T) {
	out := k.kubectl(t, "get", "podnetworkstats", "--all-namespaces")
	if header(out) != "NAMESPACE "+podColumns {
		t.Errorf("unexpected table:\n%s", out)
	}
	for _, namespace := range []string{k.namespace, metav1.NamespaceSystem} {
		if !slices.Contains(names(out), namespace) {
			t.Errorf("no pod of %s:\n%s", namespace, out)
		}
	}
}

// machineReadable checks that machines get whole numbers: units are only in the table.
func (k kubectlTest) machineReadable(t *testing.T) {
	var fromJSON, fromYAML v1alpha1.PodNetworkStats
	if err := json.Unmarshal([]byte(k.pns(t, "web", "--output", "json")), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte(k.pns(t, "web", "--output", "yaml")), &fromYAML); err != nil {
		t.Fatal(err)
	}
	for _, stats := range []v1alpha1.PodNetworkStats{fromJSON, fromYAML} {
		if stats.Kind != "PodNetworkStats" || stats.APIVersion != v1alpha1.SchemeGroupVersion.String() || stats.Name != "web" ||
			stats.Traffic.Receive.Bytes < 3000000 || stats.NodeName != k.nodes[0] || stats.Labels["tier"] != "front" {
			t.Errorf("unexpected object: %+v", stats)
		}
	}
	bytes := k.pns(t, "web", "--output", "jsonpath={.traffic.receive.bytes}")
	if !regexp.MustCompile(`^[0-9]{7,}$`).MatchString(bytes) {
		t.Errorf("jsonpath gives %q for bytes", bytes)
	}
	if out := k.pns(t, "--output", "name"); !strings.Contains(out, "podnetworkstats.networkobservability.k8s.io/web\n") {
		t.Errorf("unexpected names:\n%s", out)
	}
	var list v1alpha1.PodNetworkStatsList
	if err := json.Unmarshal([]byte(k.pns(t, "--output", "json")), &list); err != nil || len(list.Items) != 3 {
		t.Errorf("the list has %d items (%v)", len(list.Items), err)
	}
}

func (k kubectlTest) customColumns(t *testing.T) {
	out := k.pns(t, "--output", "custom-columns=POD:.metadata.name,BYTES:.traffic.receive.bytes", "--no-headers")
	if !regexp.MustCompile(`(?m)^web +[0-9]{7,}$`).MatchString(out) {
		t.Errorf("unexpected columns:\n%s", out)
	}
}

func (k kubectlTest) selectors(t *testing.T) {
	for _, test := range []struct {
		selector string
		want     []string
	}{
		{"--selector=tier=front", []string{"web"}},
		{"--selector=app in (api,db)", []string{"api", "db"}},
		{"--field-selector=metadata.name=db", []string{"db"}},
		{"--field-selector=metadata.name!=db", []string{"api", "web"}},
		{"--field-selector=nodeName=" + k.nodes[0], []string{"api", "web"}},
		{"--field-selector=spec.nodeName=" + k.nodes[1], []string{"db"}},
		{"--field-selector=nodeName=" + k.nodes[0] + ",metadata.name=db", nil},
	} {
		out := k.pns(t, test.selector, "--no-headers")
		if got := names(out); !slices.Equal(got, test.want) {
			t.Errorf("%s gives %v, want %v", test.selector, got, test.want)
		}
	}
	out := k.kubectl(t, "get", "podnetworkstats", "--all-namespaces", "--field-selector=metadata.namespace="+k.namespace, "--no-headers")
	if strings.Count(out, "\n") != 3 {
		t.Errorf("selecting by namespace gives\n%s", out)
	}
}

func (k kubectlTest) unknownField(t *testing.T) {
	r := k.kubectlFails(t, "get", "podnetworkstats", "--namespace", k.namespace, "--field-selector", "status.phase=Running")
	for _, want := range []string{"BadRequest", "status.phase", "metadata.name", "nodeName", "spec.nodeName"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("the refusal of an unknown field does not name %s: %s", want, r.stderr)
		}
	}
}

func (k kubectlTest) chunks(t *testing.T) {
	r := k.kubectlRun(t, "get", "podnetworkstats", "--namespace", k.namespace, "--chunk-size=1", "--no-headers", "-v=6")
	if got := names(r.stdout); !slices.Equal(got, []string{"api", "db", "web"}) {
		t.Errorf("chunks of one give %v", got)
	}
	if pages := strings.Count(r.stderr, "limit=1"); pages < 3 {
		t.Errorf("kubectl asked for %d pages: %s", pages, r.stderr)
	}
}

func (k kubectlTest) sortBy(t *testing.T) {
	out := k.pns(t, "--sort-by=.traffic.receive.bytes", "--no-headers")
	if got := names(out); len(got) != 3 || got[2] != "web" {
		t.Errorf("sorted by received bytes, web should be last:\n%s", out)
	}
	out = k.pns(t, "--sort-by={.metadata.name}", "--no-headers")
	if got := names(out); !slices.Equal(got, []string{"api", "db", "web"}) {
		t.Errorf("sorted by name:\n%s", out)
	}
}

func (k kubectlTest) describe(t *testing.T) {
	out := k.kubectl(t, "describe", "podnetworkstats", "web", "--namespace", k.namespace)
	for _, want := range []string{`Name: +web`, `Node Name: +` + k.nodes[0], `State: +Measured`, `Start Time: +20`, `Retransmitted Segments: +[0-9]+`, `Bytes: +[0-9]{7,}`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("describe lacks %q:\n%s", want, out)
		}
	}
}

func (k kubectlTest) missing(t *testing.T) {
	r := k.kubectlFails(t, "get", "podnetworkstats", "nobody", "--namespace", k.namespace)
	if !strings.Contains(r.stderr, `Error from server (NotFound): podnetworkstats.networkobservability.k8s.io "nobody" not found`) {
		t.Errorf("kubectl says %s", r.stderr)
	}
	if r.took > answerDeadline {
		t.Errorf("kubectl took %v to say so", r.took)
	}
}

// watch sees each pod once, and then at least one pod again with new numbers.
func (k kubectlTest) watch(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := k.kubectlCommand(ctx, "get", "podnetworkstats", "--namespace", k.namespace, "--watch", "--output-watch-events", "--output=json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	added := map[string]*v1alpha1.PodNetworkStats{}
	for decoder := json.NewDecoder(out); ; {
		var event struct {
			Type   string
			Object *v1alpha1.PodNetworkStats
		}
		if err := decoder.Decode(&event); err != nil {
			t.Fatalf("no MODIFIED event came within a minute: %v; added: %d", err, len(added))
		}
		switch old := added[event.Object.Name]; {
		case event.Type == "ADDED" && old == nil:
			added[event.Object.Name] = event.Object
		case event.Type == "MODIFIED" && old != nil && len(added) == 3:
			checkLater(t, old, event.Object)
			return
		default:
			t.Fatalf("unexpected event %s of %s", event.Type, event.Object.Name)
		}
	}
}

func checkLater(t *testing.T, old, now *v1alpha1.PodNetworkStats) {
	t.Helper()
	if old.Timestamp == nil || !now.Timestamp.After(old.Timestamp.Time) || now.ResourceVersion == old.ResourceVersion || now.UID != old.UID {
		t.Errorf("a later event does not show a later reading: %v then %v, versions %s then %s",
			old.Timestamp, now.Timestamp, old.ResourceVersion, now.ResourceVersion)
	}
}

// watchTable is what people type: the table, and then its rows again as they change.
func (k kubectlTest) watchTable(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := k.kubectlCommand(ctx, "get", "pns", "--namespace", k.namespace, "-w")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	// Something has to change for a row to be printed again.
	k.exec(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: "api"}}, "/bin/ping", "-c", "1", "-q", "127.0.0.1")
	lines := bufio.NewScanner(out)
	for seen := 0; seen < 5; seen++ { // the header, three pods, and one of them again
		if !lines.Scan() {
			t.Fatalf("kubectl -w ended after %d lines", seen)
		}
		if seen == 0 && header(lines.Text()) != podColumns {
			t.Errorf("unexpected header %s", lines.Text())
		}
	}
}

func (k kubectlTest) category(t *testing.T) {
	out := k.kubectl(t, "get", "networkobservability", "--namespace", k.namespace)
	if !strings.Contains(out, "podnetworkstats.networkobservability.k8s.io/web") || !strings.Contains(out, "nodenetworkstats.networkobservability.k8s.io/"+k.nodes[0]) {
		t.Errorf("the category does not show both resources:\n%s", out)
	}
}

func (k kubectlTest) labelColumn(t *testing.T) {
	out := k.pns(t, "--label-columns=tier")
	if header(out) != podColumns+" TIER" || !regexp.MustCompile(`(?m)^web .* front$`).MatchString(out) {
		t.Errorf("unexpected table:\n%s", out)
	}
}

func (k kubectlTest) wait(t *testing.T) {
	k.kubectl(t, "wait", "--for=jsonpath={.state}=Measured", "podnetworkstats", "--all", "--namespace", k.namespace, "--timeout=30s")
}

// TestKubectlDiscovery checks what kubectl knows of the API without asking for an object.
func TestKubectlDiscovery(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	out := c.kubectl(t, "api-resources", "--api-group="+v1alpha1.GroupName, "--output=wide", "--no-headers")
	for _, want := range []string{
		`(?m)^podnetworkstats +pns +networkobservability.k8s.io/v1alpha1 +true +PodNetworkStats +get,list,watch +networkobservability`,
		`(?m)^networkflows +nf +networkobservability.k8s.io/v1alpha1 +true +NetworkFlow +get,list,watch +networkobservability`,
		`(?m)^nodenetworkstats +nnst +networkobservability.k8s.io/v1alpha1 +false +NodeNetworkStats +get,list,watch +networkobservability`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("api-resources has no line like %s:\n%s", want, out)
		}
	}
	for resource, want := range map[string][]string{
		"podnetworkstats":  {"traffic", "retransmittedSegments", "bytesPerSecond", "nonUnicast", "drops", "attributedBy", "segmentsRetransmitted", "topNames", "handshake", "coverage"},
		"networkflows":     {"translated", "verdict", "dropReason", "dnsName"},
		"nodenetworkstats": {"interfaces", "uplink", "collectors", "kernelVersion", "conntrack", "socketMemory", "softnet", "infiniband"},
	} {
		tree := c.kubectl(t, "explain", resource, "--recursive")
		for _, field := range want {
			if !strings.Contains(tree, field) {
				t.Errorf("explain %s --recursive lacks %s:\n%s", resource, field, tree)
			}
		}
	}
	if text := c.kubectl(t, "explain", "pns.traffic.receive.bypassed"); !strings.Contains(text, "PACKET_QDISC_BYPASS") {
		t.Errorf("explain has lost the field's description:\n%s", text)
	}
	if out := c.kubectl(t, "auth", "can-i", "list", "podnetworkstats.networkobservability.k8s.io"); strings.TrimSpace(out) != "yes" {
		t.Errorf("auth can-i says %s", out)
	}
	if r := c.kubectlFails(t, "delete", "podnetworkstats", "any", "--namespace", "default"); !strings.Contains(r.stderr, "MethodNotAllowed") {
		t.Errorf("deleting statistics says %s", r.stderr)
	}
}

// TestKubectlNodes asks for the statistics of nodes.
func TestKubectlNodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.nodes(t)
	out := c.kubectl(t, "get", "nodenetworkstats")
	if header(out) != nodeColumns || !slices.Equal(names(out)[1:], nodes) {
		t.Errorf("unexpected table:\n%s", out)
	}
	out = c.kubectl(t, "get", "nnst", "--output=wide")
	if header(out) != nodeWide || strings.Count(out, string(v1alpha1.Measured)) != len(nodes) {
		t.Errorf("unexpected wide table:\n%s", out)
	}
	var stats v1alpha1.NodeNetworkStats
	if err := json.Unmarshal([]byte(c.kubectl(t, "get", "nnst", nodes[0], "--output=json")), &stats); err != nil {
		t.Fatal(err)
	}
	uplink := slices.IndexFunc(stats.Interfaces, func(i v1alpha1.InterfaceStats) bool { return i.Uplink })
	if stats.Agent == nil || stats.Agent.KernelVersion == "" || len(stats.Agent.Collectors) == 0 || len(stats.NodeIPs) == 0 || uplink < 0 {
		t.Fatalf("the node's object is incomplete: %+v", stats)
	}
	if up := stats.Interfaces[uplink]; up.Receive.Bytes == 0 || up.MTU == 0 || up.State == "" {
		t.Errorf("the uplink's statistics are incomplete: %+v", up)
	}
	if r := c.kubectlFails(t, "get", "nnst", "nowhere"); !strings.Contains(r.stderr, "(NotFound)") {
		t.Errorf("a missing node gives %s", r.stderr)
	}
}

// TestFinishedPod demands that a pod that has run to its end says so, and stays listed.
func TestFinishedPod(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	template := toolbox("", c.nodes(t)[0], "/bin/true").Spec
	template.RestartPolicy = corev1.RestartPolicyNever
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "short"},
		Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: template}},
	}
	if _, err := c.kube.BatchV1().Jobs(namespace).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "wait", "--for=condition=Complete", "job/short", "--namespace", namespace, "--timeout="+podDeadline.String())
	eventually(t, podDeadline, "the finished pod to be called Ended", func(context.Context) error {
		list := c.list(t, namespace)
		if len(list.items) != 1 {
			return fmt.Errorf("%d objects", len(list.items))
		}
		if stats := list.items[0]; stats.State != v1alpha1.Ended || stats.Message == "" || stats.Traffic != nil {
			return fmt.Errorf("%s: %s", stats.State, stats.Message)
		}
		return nil
	})
}
