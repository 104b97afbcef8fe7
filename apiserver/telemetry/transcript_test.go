package telemetry

import (
	"flag"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the transcripts in testdata from what the code does")

// epoch is when every story begins.
var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestStories plays every file in testdata: lines that begin with "> " are commands, those below what do must answer to
// them. Run the test with -rewrite to accept what the code does.
func TestStories(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("there are no stories: ", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) { play(t, path) })
	}
}

func play(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := newStory(t)
	var got strings.Builder
	for line := range strings.Lines(string(text)) {
		command, isCommand := strings.CutPrefix(line, "> ")
		switch {
		case isCommand:
			got.WriteString(line)
			got.WriteString(s.do(strings.Fields(command)))
		case strings.HasPrefix(line, "#"), strings.TrimSpace(line) == "":
			got.WriteString(line)
		}
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != string(text) {
		t.Errorf("%s differs; go test ./apiserver/telemetry -rewrite accepts this:\n%s", path, got.String())
	}
}

// A story is a store, leaders one after the other, and what they and the agent of one node say.
type story struct {
	t   *testing.T
	now time.Time

	store   store
	backup  store
	secrets map[use]secret

	want *desired
	c    *conversation

	synced     bool
	pods       map[string]Pod
	namespaces map[string]labels.Set
	version    uint64
	owners     map[string]Owner

	agent modelAgent
}

// A store is the host: an object at most, and a resourceVersion.
type store struct {
	object  *v1alpha1.NetworkTelemetry
	version int64
	uids    int
}

func (s *store) write(object *v1alpha1.NetworkTelemetry) {
	s.version += 10
	if object != nil {
		object.ResourceVersion = strconv.FormatInt(s.version, 10)
	}
	s.object = object
}

// apply changes the spec, of a new object when there is none.
func (s *store) apply(spec v1alpha1.NetworkTelemetrySpec) {
	object := s.object.DeepCopy()
	if object == nil {
		s.uids++
		object = &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Name: "cluster", UID: types.UID(fmt.Sprint("uid-", s.uids))}}
	}
	object.Spec = spec
	object.Generation++
	s.write(object)
}

// look is what a leader reads.
func (s *store) look() point {
	at := point{object: s.object, revision: s.version}
	if s.object != nil {
		at.revision, _ = strconv.ParseInt(s.object.ResourceVersion, 10, 64)
	}
	at.confirmed = at.revision
	return at
}

// A modelAgent keeps the protocol.
type modelAgent struct {
	config  *agentv1.TelemetryConfig
	refused string
	pods    map[string]*agentv1.TelemetryPod
	named   map[string]bool
}

func (a *modelAgent) take(update *agentv1.TelemetryUpdate) {
	if config := update.Config; config != nil {
		if config.Revision < a.config.GetRevision() && config.Supersedes != a.config.GetRevision() {
			a.refused = fmt.Sprintf("revision %d is in force", a.config.GetRevision())
		} else {
			a.config, a.refused = config, ""
		}
	}
	if a.pods == nil {
		a.pods = map[string]*agentv1.TelemetryPod{}
	}
	for _, pod := range update.Pods {
		a.pods[pod.Key], a.named[pod.Key] = pod, true
	}
	for _, key := range update.GonePods {
		delete(a.pods, key)
	}
	if update.PodsComplete {
		maps.DeleteFunc(a.pods, func(key string, _ *agentv1.TelemetryPod) bool { return !a.named[key] })
	}
}

func (a *modelAgent) report() *agentv1.TelemetryReport {
	return &agentv1.TelemetryReport{Revision: a.config.GetRevision(), Generation: a.config.GetGeneration(), Refused: a.refused}
}

func newStory(t *testing.T) *story {
	return &story{
		t: t, now: epoch, store: store{version: 1000}, secrets: map[use]secret{}, synced: true,
		pods: map[string]Pod{}, namespaces: map[string]labels.Set{}, owners: map[string]Owner{},
	}
}

func (s *story) do(words []string) string {
	s.t.Helper()
	switch words[0] {
	case "apply":
		s.store.apply(s.spec(words[1:]))
		return fmt.Sprintf("stored at %d\n", s.store.version)
	case "status":
		s.store.write(s.store.object.DeepCopy())
		return fmt.Sprintf("stored at %d\n", s.store.version)
	case "delete":
		s.store.write(nil)
		return fmt.Sprintf("stored at %d\n", s.store.version)
	case "backup":
		s.backup = s.store
		return ""
	case "restore":
		s.store = s.backup
		return fmt.Sprintf("stored at %d\n", s.store.version)
	case "leader":
		s.want = nil
		return s.look() + s.connect()
	case "stale": // a leader that has last looked when the backup was made
		s.want = nil
		s.lookAt(&s.backup)
		return s.connect()
	case "claim": // the agent has a revision from nowhere
		revision, err := strconv.ParseInt(words[1], 10, 64)
		must(s.t, err)
		s.agent.config = &agentv1.TelemetryConfig{Revision: revision}
		return ""
	case "look":
		return s.look()
	case "connect":
		return s.connect()
	case "report":
		return s.report(words[1:])
	case "wait":
		s.now = s.now.Add(s.duration(words[1]))
		return s.say(true)
	case "unsynced":
		s.synced = false
		return ""
	case "synced":
		s.synced = true
		return s.say(true)
	}
	return s.cluster(words)
}

// cluster changes what is around.
func (s *story) cluster(words []string) string {
	switch words[0] {
	case "namespace":
		s.namespaces[words[1]] = s.labels(words[2:])
		s.version++
	case "pod":
		namespace, name, _ := strings.Cut(words[1], "/")
		pod := Pod{Key: "key-" + name, Namespace: namespace, Name: name, UID: "uid-" + name, Record: new(int)}
		for i, word := range words[2:] {
			if kind, workload, ok := strings.Cut(word, "/"); ok {
				pod.WorkloadKind, pod.WorkloadName, pod.Created = kind, workload, epoch
				words = slices.Delete(slices.Clone(words), i+2, i+3)
				break
			}
		}
		pod.Labels = s.labels(words[2:])
		s.pods[name] = pod
	case "gone":
		delete(s.pods, words[1])
	case "owner":
		s.owners[words[1]] = s.owner(words[2:])
	case "secret":
		s.secrets[use{name: words[1]}] = secret{headers: s.labels(words[2:])}
	case "nosecret":
		s.secrets[use{name: words[1]}] = secret{problem: strings.Join(words[2:], " ")}
	case "secrets":
		s.want = newDesired(s.want.point, s.secrets)
		return s.say(true)
	default:
		s.t.Fatalf("no such command: %v", words)
	}
	return ""
}

// look has the leader read the store.
func (s *story) look() string {
	first := s.want == nil
	s.lookAt(&s.store)
	if first {
		return ""
	}
	return s.say(true)
}

func (s *story) lookAt(what *store) {
	at, same := s.want.lookedAt(what.look())
	if same == nil {
		same = newDesired(at, s.secrets)
	}
	s.want = same
}

func (s *story) connect() string {
	s.c = &conversation{}
	s.agent.named = map[string]bool{}
	return s.say(true)
}

// say gives the agent what there is to say, and has it answer.
func (s *story) say(all bool) string {
	s.c.want = s.want
	around := &surroundings{
		now: s.now, synced: s.synced, namespace: func(name string) labels.Set { return s.namespaces[name] }, version: s.version,
		owner: func(address netip.Addr) Owner { return s.owners[address.String()] },
	}
	if all {
		around.pods, around.budget = s.podsInOrder(), 100
	}
	var out strings.Builder
	told := false
	for _, update := range s.c.says(around) {
		out.WriteString(text(update))
		s.agent.take(update)
		told = told || update.Config != nil
	}
	if told {
		out.WriteString(s.hear(s.agent.report()) + s.say(!s.c.pods.complete))
	}
	return out.String()
}

func (s *story) podsInOrder() iter.Seq[Pod] {
	return func(yield func(Pod) bool) {
		for _, name := range slices.Sorted(maps.Keys(s.pods)) {
			if !yield(s.pods[name]) {
				return
			}
		}
	}
}

func (s *story) hear(report *agentv1.TelemetryReport) string {
	said := fmt.Sprintf("  report revision %d generation %d", report.Revision, report.Generation)
	if report.Refused != "" {
		said += " refused"
	}
	if s.c.hears(report) {
		said += ", look"
	}
	if revision := s.c.inForce(); revision != 0 {
		said += fmt.Sprintf(", %d is in force", revision)
	}
	return said + "\n"
}

// report has the agent report, with addresses that it wants.
func (s *story) report(addresses []string) string {
	report := s.agent.report()
	for _, address := range addresses {
		report.WantedAddresses = append(report.WantedAddresses, netip.MustParseAddr(address).AsSlice())
	}
	return s.hear(report) + s.say(!s.c.pods.complete)
}

func (s *story) spec(words []string) (spec v1alpha1.NetworkTelemetrySpec) {
	choose := func(text string) *v1alpha1.TelemetryPods {
		if text == "" {
			return nil
		}
		pods := &v1alpha1.TelemetryPods{}
		namespaces, selector, _ := strings.Cut(text, "/")
		for text, to := range map[string]**metav1.LabelSelector{namespaces: &pods.NamespaceSelector, selector: &pods.Selector} {
			if text != "" {
				parsed, err := metav1.ParseToLabelSelector(text)
				must(s.t, err)
				*to = parsed
			}
		}
		return pods
	}
	for _, word := range words {
		what, of, _ := strings.Cut(word, ":")
		switch what {
		case "logs":
			spec.FlowLogs = &v1alpha1.FlowLogs{Pods: choose(of)}
		case "otlp":
			spec.Exporters = append(spec.Exporters, v1alpha1.TelemetryExporter{
				Name: "otlp", Signals: []v1alpha1.TelemetrySignal{v1alpha1.SignalMetrics},
				OTLP: &v1alpha1.OTLPExporter{Endpoint: "https://collector:4317", HeadersSecret: &v1alpha1.TelemetrySecretReference{Name: of}},
			})
		default:
			spec.PodMetrics = append(spec.PodMetrics, v1alpha1.PodMetrics{Group: v1alpha1.PodMetricGroup(what), Pods: choose(of)})
		}
	}
	return spec
}

func (s *story) labels(words []string) map[string]string {
	set := map[string]string{}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		set[key] = value
	}
	return set
}

func (s *story) owner(words []string) (o Owner) {
	kind, name, _ := strings.Cut(words[0], "/")
	o.Namespace, o.Name, _ = strings.Cut(name, "/")
	switch kind {
	case "pod":
		o.Kind, o.WorkloadKind, o.WorkloadName, o.Since = PodOwner, "Deployment", "d-"+o.Name, s.now
	case "service":
		o.Kind = ServiceOwner
	case "node":
		o = Owner{Kind: NodeOwner, Name: name}
	default:
		o = Owner{}
	}
	return o
}

func (s *story) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	must(s.t, err)
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// text is a message in lines, in an order that is always the same.
func text(update *agentv1.TelemetryUpdate) string {
	var out strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&out, "  "+format+"\n", args...) }
	if c := update.Config; c != nil {
		said := fmt.Sprintf("config revision %d generation %d", c.Revision, c.Generation)
		if c.Supersedes != 0 {
			said += fmt.Sprintf(" supersedes %d", c.Supersedes)
		}
		for _, group := range c.Groups {
			said += " " + groupText(group.Name)
		}
		if c.FlowLogs != nil {
			said += " logs"
		}
		for _, exporter := range c.Exporters {
			to := exporter.GetOtlp()
			said += fmt.Sprintf(" %s headers %v", exporter.Name, to.GetHeaders())
			if to.GetProblem() != "" {
				said += " problem: " + to.GetProblem()
			}
		}
		line("%s", said)
	}
	for _, pod := range update.Pods {
		said := fmt.Sprintf("pod %s is %s/%s", pod.Key, pod.Namespace, pod.Name)
		if pod.WorkloadKind != "" {
			said += fmt.Sprintf(" of %s/%s", pod.WorkloadKind, pod.WorkloadName)
		}
		for _, group := range pod.Groups {
			said += " " + groupText(group)
		}
		if pod.FlowLogs {
			said += " logs"
		}
		line("%s", said)
	}
	slices.Sort(update.GonePods)
	for _, key := range update.GonePods {
		line("gone %s", key)
	}
	if update.PodsComplete {
		line("complete")
	}
	for _, name := range update.Names {
		address, _ := netip.AddrFromSlice(name.Address)
		line("%s is %s", address, ownerText(name))
	}
	return out.String()
}

func groupText(name agentv1.TelemetryGroupName) string {
	return strings.TrimPrefix(name.String(), "TELEMETRY_GROUP_NAME_")
}

func ownerText(name *agentv1.TelemetryName) string {
	since := ""
	if name.SinceUnixNano != 0 {
		since = " since " + time.Unix(0, name.SinceUnixNano).UTC().Format("15:04:05")
	}
	switch {
	case name.GetPod() != nil:
		p := name.GetPod()
		return fmt.Sprintf("pod %s/%s of %s/%s%s", p.Namespace, p.Name, p.WorkloadKind, p.WorkloadName, since)
	case name.GetService() != nil:
		return fmt.Sprintf("service %s/%s", name.GetService().Namespace, name.GetService().Name)
	case name.GetNode() != "":
		return "node " + name.GetNode()
	}
	return "nobody"
}
