package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/networkobservability/networkobservability/apis/generated/informers/externalversions"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	captureColumns = "NAME STATUS NODES PODS PACKETS BYTES DROPPED DURATION AGE"
	captureWide    = captureColumns + " FILTER REQUESTER FILE STORED"
)

// A captureTest has two pods, and captures of them.
type captureTest struct {
	*cluster
	namespace string
}

// TestCaptureKubectl does with captures what kubectl does with any object, from the manifest to the deletion.
func TestCaptureKubectl(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	k := captureTest{c, c.namespace(t)}
	c.start(t, k.namespace, sink("web", c.nodes(t)[0]), sink("api", c.nodes(t)[1]))
	t.Run("dry run", k.dryRun)
	t.Run("apply", k.apply)
	t.Run("refuse", k.refuse)
	t.Run("watch to the end", k.watch)
	t.Run("table", k.table)
	t.Run("describe", k.describe)
	t.Run("select", k.selectors)
	t.Run("explain", k.explain)
	t.Run("rights", k.rights)
	t.Run("delete", k.remove)
}

func (k captureTest) manifest(t *testing.T, name, spec string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".yaml")
	text := fmt.Sprintf("{apiVersion: %s, kind: Capture, metadata: {name: %s, labels: {test: %s}}, spec: %s}", v1alpha1.SchemeGroupVersion, name, name, spec)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// run runs a command of kubectl in the test's namespace.
func (k captureTest) run(t *testing.T, args ...string) string {
	t.Helper()
	return k.kubectl(t, append(args, "--namespace", k.namespace)...)
}

func (k captureTest) dryRun(t *testing.T) {
	manifest := k.manifest(t, "dry", "{pods: {selector: {}}, filter: tcp port 80}")
	warning := regexp.MustCompile(`^Warning: dry run: 2 pods \((api, web|web, api)\) on 2 nodes would be recorded; the filter has \d+ instructions; they send and receive `)
	// Rates are known some seconds after somebody has first read statistics.
	eventually(t, captureDeadline, "the warning of a dry run", func(context.Context) error {
		r := k.kubectlRun(t, "apply", "--dry-run=server", "--namespace", k.namespace, "-f", manifest, "-o", "jsonpath={.status.targets[*].pod}")
		if r.err != nil || r.stdout != "web api" && r.stdout != "api web" || !warning.MatchString(r.stderr) {
			return fmt.Errorf("would record %q, said %s: %v", r.stdout, r.stderr, r.err)
		}
		return nil
	})
	k.kubectlFails(t, "get", "capture", "dry", "--namespace", k.namespace)
}

func (k captureTest) apply(t *testing.T) {
	manifest := k.manifest(t, "first", "{pods: {selector: {}}, filter: udp port 9000, limits: {bytes: 1Gi}}")
	for _, want := range []string{"created", "unchanged"} {
		if said := k.run(t, "apply", "-f", manifest); !strings.Contains(said, "first "+want) {
			t.Errorf("applied: %s, want %s", said, want)
		}
	}
	k.run(t, "apply", "--server-side", "-f", k.manifest(t, "second", "{pods: {names: [web]}, durationSeconds: 600}"))
	k.run(t, "apply", "--server-side", "-f", k.manifest(t, "third", "{pods: {names: [api]}, stop: false}"))
	k.run(t, "wait", "--for=condition=Started", "capture", "--all", "--timeout=30s")
}

func (k captureTest) refuse(t *testing.T) {
	r := k.kubectlFails(t, "apply", "--namespace", k.namespace, "-f", k.manifest(t, "first", "{pods: {selector: {}}, filter: tcp}"))
	if !strings.Contains(r.stderr, "spec.filter: Forbidden: cannot be changed, only stop can be set") {
		t.Errorf("a change is answered %s", r.stderr)
	}
	r = k.kubectlFails(t, "apply", "--namespace", k.namespace, "-f", k.manifest(t, "bad", "{pods: {}, filter: tcp prot 80, durationSeconds: 0}"))
	for _, want := range []string{"spec.pods: Required value", "spec.durationSeconds: Invalid value"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("%s is not said: %s", want, r.stderr)
		}
	}
}

// watch stops a capture and sees it end.
func (k captureTest) watch(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), captureDeadline)
	defer cancel()
	cmd := k.kubectlCommand(ctx, "get", "captures", "--namespace", k.namespace, "--watch", "--field-selector", "metadata.name=first")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	var seen []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); fields[0] == "first" {
			seen = append(seen, fields[1])
			if len(seen) == 1 {
				k.run(t, "patch", "capture", "first", "--type=merge", "--patch", `{"spec": {"stop": true}}`)
			}
		} else if header(lines.Text()) != captureColumns {
			t.Errorf("unexpected header %s", lines.Text())
		}
		if slices.Contains(seen, "Complete") {
			break
		}
	}
	if len(seen) < 2 || seen[0] != "Running" || seen[len(seen)-1] != "Complete" {
		t.Errorf("seen %v", seen)
	}
	k.run(t, "wait", "--for=condition=Complete", "capture/first", "--timeout=30s")
	k.run(t, "wait", "--for=jsonpath={.status.file.digest}", "capture/first", "--timeout=30s")
}

func (k captureTest) table(t *testing.T) {
	if out := k.run(t, "get", "captures"); header(out) != captureColumns || !slices.Equal(names(out), []string{"NAME", "first", "second", "third"}) {
		t.Errorf("unexpected table:\n%s", out)
	}
	out := k.run(t, "get", "pcap", "first", "--output=wide")
	if header(out) != captureWide || !regexp.MustCompile(`(?m)^first +Complete +2 +2 +0 +0 +0 +\d+\S+ +\d+\S+ +udp port 9000 +admin +\S+i? +-`).MatchString(out) {
		t.Errorf("unexpected wide table:\n%s", out)
	}
	sorted := names(k.run(t, "get", "captures", "--no-headers", "--sort-by=.spec.durationSeconds"))
	if len(sorted) != 3 || sorted[2] != "second" {
		t.Errorf("sorted by duration: %v", sorted)
	}
	r := k.kubectlRun(t, "get", "captures", "--namespace", k.namespace, "--chunk-size=1", "--no-headers", "-v=6")
	if got := names(r.stdout); !slices.Equal(got, []string{"first", "second", "third"}) || strings.Count(r.stderr, "limit=1") < 3 {
		t.Errorf("chunks of one give %v: %s", got, r.stderr)
	}
}

func (k captureTest) describe(t *testing.T) {
	eventually(t, podDeadline, "events of the capture", func(context.Context) error {
		out := k.run(t, "describe", "capture", "first")
		for _, want := range []string{`Name: +first`, `Filter: +udp port 9000`, `Vantage Point: +OncePerFlow`, `Reason: +Stopped`, `Headers Only: +true`, `Normal +Started `, `Normal +Completed +.*It was stopped`} {
			if !regexp.MustCompile(want).MatchString(out) {
				return fmt.Errorf("describe lacks %q:\n%s", want, out)
			}
		}
		return nil
	})
}

func (k captureTest) selectors(t *testing.T) {
	for _, test := range []struct {
		args string
		want []string
	}{
		{"--field-selector=status.phase=Complete", []string{"first"}},
		{"--field-selector=status.phase!=Complete", []string{"second", "third"}},
		{"--field-selector=metadata.name=third,status.phase=Running", []string{"third"}},
		{"--selector=test in (first, second)", []string{"first", "second"}},
	} {
		if got := names(k.run(t, "get", "captures", "--no-headers", test.args)); !slices.Equal(got, test.want) {
			t.Errorf("%s chooses %v, want %v", test.args, got, test.want)
		}
	}
	r := k.kubectlFails(t, "get", "captures", "--namespace", k.namespace, "--field-selector=spec.filter=tcp")
	if !strings.Contains(r.stderr, `"spec.filter" is not a field that Capture can be selected by`) {
		t.Errorf("an unknown field is answered %s", r.stderr)
	}
}

func (k captureTest) explain(t *testing.T) {
	for _, resource := range []string{"captures", "clustercaptures"} {
		tree := k.kubectl(t, "explain", resource, "--recursive")
		for _, field := range []string{"filter", "packetsPerNode", "vantagePoint", "ttlSecondsAfterFinished", "networkSnapshot", "atOtherVantagePoint", "digest"} {
			if !strings.Contains(tree, field) {
				t.Errorf("explain %s --recursive lacks %s", resource, field)
			}
		}
	}
	if said := k.kubectl(t, "explain", "captures.spec.filter"); !strings.Contains(said, "tcpdump") {
		t.Errorf("explain says of the filter: %s", said)
	}
}

func (k captureTest) rights(t *testing.T) {
	as := k.user(t, k.namespace, "somebody")
	k.allow(t, k.namespace, "somebody", may("get", "captures/headers"))
	for subresource, want := range map[string]string{"pcap": "no", "headers": "yes"} {
		eventually(t, podDeadline, "auth can-i to say "+want, func(context.Context) error {
			r := as.kubectlRun(t, "auth", "can-i", "get", "captures", "--subresource="+subresource, "--namespace", k.namespace)
			if strings.TrimSpace(r.stdout) != want { // It ends with an error when it says no.
				return fmt.Errorf("of %s it says %s%s", subresource, r.stdout, r.stderr)
			}
			return nil
		})
	}
}

func (k captureTest) remove(t *testing.T) {
	if said := k.run(t, "delete", "captures", "--selector=test!=third"); !strings.Contains(said, `"first" deleted`) || !strings.Contains(said, `"second" deleted`) {
		t.Errorf("deleted: %s", said)
	}
	if left := names(k.run(t, "get", "captures", "--no-headers")); !slices.Equal(left, []string{"third"}) {
		t.Errorf("left are %v", left)
	}
}

// TestCaptureOwned: captures are deleted with their owner, wait for their finalizers, and informers hear of all of it.
func TestCaptureOwned(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	c.start(t, namespace, sink("web", c.nodes(t)[0]))
	seen := c.followCaptures(t, namespace)
	captures := c.stats.NetworkobservabilityV1alpha1().Captures(namespace)
	owner, err := c.kube.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owned := newCapture("owned", "")
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	c.capture(t, namespace, owned, 1)
	held := newCapture("held", "")
	held.Finalizers = []string{"example.com/held"}
	c.capture(t, namespace, held, 1)

	if err := c.kube.CoreV1().ConfigMaps(namespace).Delete(t.Context(), owner.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, podDeadline, "the capture to go with its owner", func(ctx context.Context) error {
		if _, err := captures.Get(ctx, "owned", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
	t.Logf("it was gone %v after its owner", took.Round(time.Millisecond))

	if err := captures.Delete(t.Context(), "held", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	done := c.captureUntil(t, namespace, "held", "recording to end although the object is held", func(s *v1alpha1.CaptureStatus) bool {
		return conditionIs(s, v1alpha1.CaptureComplete)
	})
	if done.DeletionTimestamp == nil {
		t.Error("it is not being deleted")
	}
	if _, err := captures.Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	seen.wait(t, "owned", "held")
}

// A captureFollower is a typed informer of captures with default settings.
type captureFollower struct {
	mu             sync.Mutex
	added, updated map[string]int
	deleted        map[string]int
}

func (c *cluster) followCaptures(t *testing.T, namespace string) *captureFollower {
	t.Helper()
	factory := externalversions.NewSharedInformerFactoryWithOptions(c.stats, 0, externalversions.WithNamespace(namespace))
	f := &captureFollower{added: map[string]int{}, updated: map[string]int{}, deleted: map[string]int{}}
	note := func(where map[string]int, object any) {
		f.mu.Lock()
		defer f.mu.Unlock()
		where[object.(*v1alpha1.Capture).Name]++
	}
	informer := factory.Networkobservability().V1alpha1().Captures().Informer()
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { note(f.added, object) }, UpdateFunc: func(_, object any) { note(f.updated, object) },
		DeleteFunc: func(object any) { note(f.deleted, object) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	eventually(t, podDeadline, "the informer to be in sync", func(context.Context) error {
		if !registration.HasSynced() {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	return f
}

// wait waits until the informer has heard once that each came, that it changed, and once that it went.
func (f *captureFollower) wait(t *testing.T, names ...string) {
	t.Helper()
	eventually(t, podDeadline, "the informer to hear of everything", func(context.Context) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, name := range names {
			if f.added[name] != 1 || f.updated[name] == 0 || f.deleted[name] != 1 {
				return fmt.Errorf("of %s it heard %d times that it came, %d that it changed, %d that it went", name, f.added[name], f.updated[name], f.deleted[name])
			}
		}
		return nil
	})
}

// TestCaptureBookmarks watches captures from the beginning, as informers do: what is there comes first, and a bookmark says that that was all.
func TestCaptureBookmarks(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	captures := c.stats.NetworkobservabilityV1alpha1().Captures(namespace)
	for i := range 3 {
		capture := newCapture(fmt.Sprintf("c%d", i), "")
		if _, err := captures.Create(t.Context(), capture, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	all, seconds := true, int64(captureDeadline.Seconds())
	w, err := captures.Watch(t.Context(), metav1.ListOptions{
		AllowWatchBookmarks: true, SendInitialEvents: &all, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, TimeoutSeconds: &seconds,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	added := map[string]bool{}
	for event := range w.ResultChan() {
		capture, ok := event.Object.(*v1alpha1.Capture)
		if !ok {
			t.Fatalf("told of %v", event)
		}
		if event.Type == watch.Added {
			added[capture.Name] = true
		}
		if event.Type == watch.Bookmark && capture.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			if len(added) != 3 || capture.ResourceVersion == "" {
				t.Errorf("the bookmark came after %v, with version %q", added, capture.ResourceVersion)
			}
			return
		}
	}
	t.Errorf("no bookmark came after %v", added)
}
