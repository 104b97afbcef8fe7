package captures

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const everyPod = "{pods: {selector: {}}}"

// ways of creating: all have to be decided about in the same way.
func (w *world) ways() map[string]func(name, query, spec string) answer {
	return map[string]func(string, string, string) answer{"create": w.create, "apply": w.apply}
}

func TestCreate(t *testing.T) {
	w := newWorld(t)
	w.matches = []Match{{Node: "n1", Namespace: "shop", Pod: "web-0"}}
	for how, create := range w.ways() {
		answered := create(how, "", `{pods: {selector: {}}, filter: tcp, requester: {username: root}, match: [{ports: [{port: 80}], peers: [{pod: {name: web-0}}]}]}`)
		got := answered.capture(t)
		if got.Generation != 1 || got.UID == "" || len(answered.warnings) > 0 {
			t.Errorf("%s: generation %d, UID %q, warnings %q", how, got.Generation, got.UID, answered.warnings)
		}
		spec := got.Spec
		if *spec.PacketBytes != 262144 || *spec.DurationSeconds != 300 || *spec.TTLSecondsAfterFinished != 86400 || spec.VantagePoint != "OncePerFlow" {
			t.Errorf("%s: defaults are %d, %d, %d, %s", how, *spec.PacketBytes, *spec.DurationSeconds, *spec.TTLSecondsAfterFinished, spec.VantagePoint)
		}
		if spec.Match[0].Peers[0].Pod.Namespace != "shop" {
			t.Errorf("%s: the peer's namespace is %q", how, spec.Match[0].Peers[0].Pod.Namespace)
		}
		if by := spec.Requester; by.Username != "alice" || by.UID != "uid-alice" || strings.Join(by.Groups, ",") != "staff" || by.Extra["scope"][0] != "a" {
			t.Errorf("%s: the requester is %+v", how, by)
		}
		const text = "(tcp) and (port 80 and ((inbound and src net 10.0.0.7/32) or (outbound and dst net 10.0.0.7/32)))"
		if filter := got.Status.Filter; filter == nil || !filter.HeadersOnly || filter.Instructions != int32(len(text)) || w.compiled[len(w.compiled)-1] != text {
			t.Errorf("%s: the filter is %+v, compiled %q", how, filter, w.compiled)
		}
		if got.Status.Targets != nil || got.Status.Expected != nil {
			t.Errorf("%s: what no dry run was is previewed: %+v", how, got.Status)
		}
		if stored := w.do(http.MethodGet, shop+"/"+how, "", "").capture(t); stored.UID != got.UID || stored.Status.Filter == nil {
			t.Errorf("%s: stored %+v", how, stored)
		}
	}
}

func TestCreateWithGeneratedName(t *testing.T) {
	w := newWorld(t)
	got := w.do(http.MethodPost, shop, "application/yaml",
		"{apiVersion: networkobservability.k8s.io/v1alpha1, kind: Capture, metadata: {generateName: web-}, spec: "+everyPod+"}").capture(t)
	if !strings.HasPrefix(got.Name, "web-") || len(got.Name) < 6 {
		t.Errorf("named %q", got.Name)
	}
}

// TestRefused: what is wrong is said with the field, however the capture comes.
func TestRefused(t *testing.T) {
	policy := func(c *Config) {
		c.Policy = Policy{Volumes: []string{"archive"}, Outputs: []AllowedOutput{{S3: &AllowedStore{Endpoint: "https://s3.example.com", Buckets: []string{"*"}}}}}
	}
	const secretOutput = `{pods: {selector: {}}, outputs: [{name: a, s3: {bucket: captures, endpoint: "https://s3.example.com", secretName: keys}}]}`
	for name, test := range map[string]struct {
		spec   string
		denied string
		host   bool
		code   int
		says   []string
	}{
		"targets": {spec: `{pods: {}}`, code: 422, says: []string{"spec.pods: Required value", "selector: {} is every pod"}},
		"twice wrong": {
			spec: `{pods: {selector: {}}, durationSeconds: 0, limits: {packets: 0}}`, code: 422,
			says: []string{"spec.durationSeconds: Invalid value: 0", "spec.limits.packets: Invalid value: 0"},
		},
		"filter":       {spec: `{pods: {selector: {}}, filter: tcp nonsense}`, code: 422, says: []string{`spec.filter: Invalid value: "tcp nonsense": filter, byte 4`}},
		"filter alone": {spec: `{pods: {selector: {}}, filter: "tcp) nonsense (", match: [{direction: Ingress}]}`, code: 422, says: []string{"spec.filter: Invalid value"}},
		"big filter":   {spec: `{pods: {selector: {}}, filter: "` + strings.Repeat("a", 1<<20) + `"}`, code: 422, says: []string{"spec.filter: Too long: may not be more than 65536 bytes"}},
		"peer": {
			spec: `{pods: {selector: {}}, match: [{direction: Ingress}, {peers: [{cidr: 10.0.0.0/8}, {service: {name: nope}}]}]}`, code: 422,
			says: []string{`spec.match[1].peers[1].service: Invalid value: "shop/nope": there is no service nope in namespace shop`},
		},
		"output": {
			spec: `{pods: {selector: {}}, outputs: [{name: a, s3: {bucket: captures, endpoint: "http://s3.example.com"}}]}`, code: 422,
			says: []string{"spec.outputs[0].s3: Forbidden", "only https://s3.example.com"},
		},
		"output's identity": {
			spec: `{pods: {selector: {}}, outputs: [{name: a, s3: {bucket: captures, endpoint: "https://s3.example.com"}}]}`, code: 422,
			says: []string{"spec.outputs[0].s3: Forbidden", "give secretName"},
		},
		"volume": {
			spec: `{pods: {selector: {}}, outputs: [{name: a, volume: {volume: other}}]}`, code: 422,
			says: []string{"spec.outputs[0].volume: Forbidden", "only archive"},
		},
		"payload by filter": {
			spec: `{pods: {selector: {}}, filter: payload}`, denied: "get captures/pcap x in namespace shop", code: 403,
			says: []string{"spec.filter", "the right to get captures/pcap x in namespace shop"},
		},
		"payload by output": {
			spec: `{pods: {selector: {}}, outputs: [{name: a, volume: {volume: archive}}]}`, denied: "get captures/pcap", code: 403,
			says: []string{"spec.outputs", "get captures/pcap x in namespace shop"},
		},
		"secret": {spec: secretOutput, denied: "get secrets keys in namespace shop", code: 403, says: []string{"spec.outputs[0]", "the right to get secrets keys in namespace shop"}},
		"peer's right": {
			spec: `{pods: {selector: {}}, match: [{peers: [{pod: {name: p, namespace: other}}]}]}`, denied: "get pods p in namespace other", code: 403,
			says: []string{"spec.match: the addresses of p are looked up in your name; this needs the right to get pods p in namespace other"},
		},
		"name's right": {spec: `{pods: {selector: {}}, filter: host db}`, denied: "get services db in namespace shop", code: 403, says: []string{"spec.filter: the addresses of db are looked up in your name; this needs the right to get services db"}},
		"hostNetwork": {
			spec: `{pods: {names: [web-0, node-exporter]}}`, denied: "create clustercaptures", host: true, code: 403,
			says: []string{"spec.pods: pod node-exporter is in the network of its node", "the right to create clustercaptures"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, policy)
			w.matches = []Match{{Node: "n1", Namespace: "shop", Pod: "web-0"}, {Node: "n1", Namespace: "shop", Pod: "node-exporter", HostNetwork: test.host}}
			if test.denied != "" {
				w.denied = []string{test.denied}
			}
			for how, create := range w.ways() {
				for _, query := range []string{"", "dryRun=All"} {
					got := create("x", query, test.spec)
					if got.code != test.code {
						t.Errorf("%s?%s: answered %d: %.500s", how, query, got.code, got.body)
					}
					var status metav1.Status
					if err := json.Unmarshal([]byte(got.body), &status); err != nil {
						t.Fatal(err)
					}
					for _, text := range test.says {
						if !strings.Contains(status.Message, text) {
							t.Errorf("%s?%s: says %.500q, not %q", how, query, status.Message, text)
						}
					}
				}
			}
			if got := w.do(http.MethodGet, shop+"/x", "", ""); got.code != http.StatusNotFound {
				t.Errorf("what was refused is there: %d", got.code)
			}
			if test.denied != "" {
				w.denied = nil
				if got := w.create("x", "", strings.ReplaceAll(test.spec, "name: p, namespace: other", "name: web-0")); got.code != http.StatusCreated {
					t.Errorf("with the right: answered %d: %s", got.code, got.body)
				}
			}
		})
	}
}

// TestLookups: each name is asked for once, and no number of them keeps the cluster busy.
func TestLookups(t *testing.T) {
	w := newWorld(t)
	w.create("web", "", `{pods: {selector: {}}, filter: host db, match: [{peers: [{pod: {name: web-0}}]}, {peers: [{pod: {name: web-0}}]}]}`).capture(t)
	if len(w.asked) != 3 {
		t.Errorf("asked %q", w.asked)
	}
	w = newWorld(t, func(c *Config) {
		c.Resolve = func(filtertext.Kind, string, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
		}
	})
	var peers []string
	for i := range 100 {
		peers = append(peers, fmt.Sprintf("{pod: {name: p%d}}", i))
	}
	got := w.create("many", "", `{pods: {selector: {}}, match: [{peers: [`+strings.Join(peers, ",")+`]}]}`)
	if got.code != 422 || !strings.Contains(got.body, "spec.match[0].peers[64].pod") || !strings.Contains(got.body, "names more than 64 pods and Services") {
		t.Errorf("answered %d: %s", got.code, got.body)
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	got := w.create("a.b", "", everyPod)
	if got.code != 422 || !strings.Contains(got.body, "metadata.name") || !strings.Contains(got.body, "must not contain dots") {
		t.Errorf("answered %d: %s", got.code, got.body)
	}
	if got := w.create("web", "", everyPod); got.code != http.StatusCreated {
		t.Fatal(got.body)
	}
	if got := w.create("web", "dryRun=All", everyPod); got.code != http.StatusConflict {
		t.Errorf("a dry run of what is there answered %d: %s", got.code, got.body)
	}
}

func TestUnknownState(t *testing.T) {
	w := newWorld(t)
	w.matchErr = errors.New("pods are not known yet")
	if got := w.create("web", "", everyPod); got.code != http.StatusServiceUnavailable || !strings.Contains(got.body, "not known yet") {
		t.Errorf("answered %d: %s", got.code, got.body)
	}
}

func TestWarnings(t *testing.T) {
	w := newWorld(t)
	w.denied = []string{"create clustercaptures"}
	if got := w.create("a", "", everyPod); len(got.warnings) != 1 || !strings.HasPrefix(got.warnings[0], "nothing matches now") {
		t.Errorf("warned %q", got.warnings)
	}
	w.matches = []Match{{Node: "n1", Namespace: "shop", Pod: "a"}, {Node: "n1", Namespace: "shop", Pod: "b", HostNetwork: true}}
	got := w.create("b", "", everyPod)
	if got.code != http.StatusCreated || len(got.warnings) != 1 || !strings.Contains(got.warnings[0], "left out (1)") {
		t.Errorf("answered %d, warned %q", got.code, got.warnings)
	}
	// Who may record nodes gets them.
	w.denied = nil
	if got := w.create("c", "", everyPod); got.code != http.StatusCreated || len(got.warnings) != 0 {
		t.Errorf("answered %d, warned %q", got.code, got.warnings)
	}
}

func TestUpdate(t *testing.T) {
	w := newWorld(t)
	const spec = `{pods: {selector: {}}, filter: tcp, limits: {bytes: 1024Ki}, match: [{peers: [{pod: {name: web-0}}]}]}`
	created := w.apply("web", "", spec).capture(t)
	patch := func(path, body string) answer { return w.do(http.MethodPatch, path, merge, body) }

	if got := w.apply("web", "", spec).capture(t); got.ResourceVersion != created.ResourceVersion {
		t.Error("applying the same again changed something")
	}
	// Nor does it in another second than the first time: what the server fills in is no change.
	earlier := w.do(http.MethodPatch, shop+"/web", "application/json-patch+json", `[
		{"op": "replace", "path": "/metadata/managedFields/0/time", "value": "2020-01-01T00:00:00Z"},
		{"op": "add", "path": "/metadata/labels", "value": {"c": "d"}}]`).capture(t)
	if at := earlier.ManagedFields[0].Time; at.UTC().Year() != 2020 {
		t.Fatalf("managed since %s", at)
	}
	if got := w.apply("web", "", spec).capture(t); got.ResourceVersion != earlier.ResourceVersion {
		t.Error("applying the same again, later, changed something")
	}
	for body, field := range map[string]string{
		`{"spec": {"filter": "udp"}}`:                                      "spec.filter: Forbidden",
		`{"spec": {"durationSeconds": 5}}`:                                 "spec.durationSeconds: Forbidden",
		`{"spec": {"pods": {"names": ["web-0"], "selector": null}}}`:       "spec.pods: Forbidden",
		`{"spec": {"limits": {"packets": 5}}}`:                             "spec.limits: Forbidden",
		`{"spec": {"outputs": [{"name": "a", "volume": {"volume":"v"}}]}}`: "spec.outputs: Forbidden",
	} {
		if got := patch(shop+"/web", body); got.code != 422 || !strings.Contains(got.body, field) || strings.Count(got.body, `"field":`) != 1 {
			t.Errorf("%s answered %d: %s", body, got.code, got.body)
		}
	}
	// What only the server writes stays; labels change.
	got := patch(shop+"/web", `{"metadata": {"labels": {"a": "b"}}, "spec": {"requester": {"username": "root"}}, "status": {"nodes": 5}}`).capture(t)
	if got.Spec.Requester.Username != "alice" || got.Status.Nodes != 0 || got.Generation != 1 || got.Labels["a"] != "b" {
		t.Errorf("changed to %+v", got)
	}
	if got := patch(shop+"/web", `{"spec": {"stop": true}}`).capture(t); !got.Spec.Stop || got.Generation != 2 {
		t.Errorf("stopped: %v, generation %d", got.Spec.Stop, got.Generation)
	}
	if got := patch(shop+"/web", `{"spec": {"stop": false}}`); got.code != 422 || !strings.Contains(got.body, "spec.stop: Forbidden") {
		t.Errorf("going on answered %d: %s", got.code, got.body)
	}
	// The applier does not own stop, so applying again leaves it.
	if got := w.apply("web", "", spec).capture(t); !got.Spec.Stop || got.Generation != 2 {
		t.Errorf("after applying: stop %v, generation %d", got.Spec.Stop, got.Generation)
	}
	for _, entry := range w.do(http.MethodGet, shop+"/web", "", "").capture(t).ManagedFields {
		if owned := entry.FieldsV1.GetRawString(); strings.Contains(owned, "requester") || strings.Contains(owned, "f:status") {
			t.Errorf("%s owns %s", entry.Manager, owned)
		}
	}
	if got := w.do(http.MethodDelete, shop+"/web", "", ""); got.code != http.StatusOK {
		t.Errorf("deleting answered %d: %s", got.code, got.body)
	}
	if got := w.do(http.MethodPut, shop+"/web", "application/yaml", manifest("Capture", "web", everyPod)); got.code != http.StatusNotFound {
		t.Errorf("putting what is not there answered %d: %s", got.code, got.body)
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	w.create("web", "", everyPod).capture(t)
	body := `{"metadata": {"labels": {"a": "b"}}, "spec": {"stop": true}, "status": {"nodes": 2, "targets": [{"node": "n1", "phase": "Running"}],
		"conditions": [{"type": "Started", "status": "True", "reason": "Recording", "message": "", "lastTransitionTime": "2026-11-23T10:00:00Z"}]}}`
	got := w.do(http.MethodPatch, shop+"/web/status", merge, body).capture(t)
	if got.Status.Nodes != 2 || got.Spec.Stop || got.Labels["a"] != "" || got.Generation != 1 || got.Status.Filter == nil {
		t.Errorf("changed to %+v", got)
	}
	rows := strings.Repeat(`{"node": "n", "phase": "Running"},`, 501)
	for body, says := range map[string]string{
		`{"status": {"targets": [` + strings.TrimSuffix(rows, ",") + `]}}`:           "status.targets: Too many: 501: must have at most 500",
		`{"status": {"targets": [{"node": "n1", "phase": "Dancing"}]}}`:              `status.targets[0].phase: Unsupported value: \"Dancing\"`,
		`{"status": {"totals": {"packets": -1}}}`:                                    "status.totals.packets: Invalid value: -1",
		`{"status": {"conditions": [{"type": "Started", "status": "Perhaps"}]}}`:     "status.conditions[0].status",
		`{"status": {"outputs": [{"name": "a", "node": "n1", "phase": "x"}]}}`:       "status.outputs[0].phase",
		`{"status": {"expected": {"packetsPerSecond": "1", "bytesPerSecond": "1"}}}`: "status.expected: Forbidden",
	} {
		if got := w.do(http.MethodPatch, shop+"/web/status", merge, body); got.code != 422 || !strings.Contains(got.body, says) {
			t.Errorf("%.60s answered %d: %.300s", body, got.code, got.body)
		}
	}
	if got := w.do(http.MethodPatch, shop+"/nope/status?fieldManager=a", apply, manifest("Capture", "nope", everyPod)); got.code != http.StatusNotFound {
		t.Errorf("the status of nothing answered %d: %s", got.code, got.body)
	}
}

// TestFresh: a single get shows more than is stored, a list and the subresource status show what is.
func TestFresh(t *testing.T) {
	w := newWorld(t)
	w.create("web", "", everyPod).capture(t)
	w.freshened = func(object runtime.Object) { partsOf(object).status.Pods = 7 }
	if got := w.do(http.MethodGet, shop+"/web", "", "").capture(t); got.Status.Pods != 7 {
		t.Errorf("a get shows %d pods", got.Status.Pods)
	}
	if got := w.do(http.MethodGet, shop+"/web/status", "", "").capture(t); got.Status.Pods != 0 {
		t.Errorf("the status that is changed has %d pods", got.Status.Pods)
	}
	if got := w.do(http.MethodPatch, shop+"/web", merge, `{"spec": {"stop": true}}`).capture(t); got.Status.Pods != 0 {
		t.Errorf("a change wrote %d pods back", got.Status.Pods)
	}
	if got := w.do(http.MethodGet, shop, "", ""); strings.Contains(got.body, `"pods":7`) {
		t.Errorf("a list shows %s", got.body)
	}
	w.do(http.MethodPatch, shop+"/web/status", merge,
		`{"status": {"conditions": [{"type": "Complete", "status": "True", "reason": "DurationReached", "message": "", "lastTransitionTime": "2026-11-23T10:00:00Z"}]}}`).capture(t)
	if got := w.do(http.MethodGet, shop+"/web", "", "").capture(t); got.Status.Pods != 0 {
		t.Error("agents are asked for a capture that has ended")
	}
}

// TestFreshEnds: agents that do not answer hold nobody up for longer than the deadline.
func TestFreshEnds(t *testing.T) {
	var deadline bool
	w := newWorld(t, func(c *Config) {
		c.Fresh = func(ctx context.Context, _ runtime.Object) {
			until, ok := ctx.Deadline()
			deadline = ok && time.Until(until) <= freshTime
		}
	})
	w.create("web", "", everyPod).capture(t)
	w.do(http.MethodGet, shop+"/web", "", "").capture(t)
	if !deadline {
		t.Error("there is no deadline")
	}
}

func TestFieldSelectors(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"done", "new", "old"} {
		w.create(name, "", everyPod).capture(t)
	}
	w.do(http.MethodPatch, shop+"/done/status", merge,
		`{"status": {"conditions": [{"type": "Complete", "status": "True", "reason": "Stopped", "message": "", "lastTransitionTime": "2026-11-23T10:00:00Z"}]}}`).capture(t)
	w.do(http.MethodPatch, shop+"/old", merge, `{"spec": {"stop": true}}`).capture(t)
	for selector, want := range map[string]string{
		"metadata.name=new":                      "new",
		"metadata.name!=new":                     "done old",
		"metadata.namespace=shop":                "done new old",
		"metadata.namespace=other":               "",
		"status.phase=complete":                  "done",
		"status.phase!=Complete":                 "new old",
		"status.phase=Stopping":                  "old",
		"status.phase=Pending,metadata.name=new": "new",
	} {
		var list v1alpha1.CaptureList
		got := w.do(http.MethodGet, shop+"?fieldSelector="+escape(selector), "", "")
		if err := json.Unmarshal([]byte(got.body), &list); err != nil {
			t.Fatal(err)
		}
		var names []string
		_ = meta.EachListItem(&list, func(object runtime.Object) error {
			names = append(names, partsOf(object).meta.Name)
			return nil
		})
		if strings.Join(names, " ") != want {
			t.Errorf("%s chooses %q, want %q", selector, names, want)
		}
	}
	for selector, says := range map[string]string{
		"status.phase=Dancing": `\"Dancing\" is none of [\"Pending\" \"Running\" \"Stopping\" \"Storing\" \"Complete\" \"Failed\"]`,
		"spec.nodeName=n1":     `is not a field that Capture can be selected by; known are`,
	} {
		if got := w.do(http.MethodGet, shop+"?fieldSelector="+escape(selector), "", ""); got.code != http.StatusBadRequest || !strings.Contains(got.body, says) {
			t.Errorf("%s answered %d: %s", selector, got.code, got.body)
		}
	}
	if got := w.do(http.MethodGet, base+"/clustercaptures?fieldSelector="+escape("metadata.namespace=shop"), "", ""); got.code != http.StatusBadRequest {
		t.Errorf("cluster captures have no namespace: answered %d: %s", got.code, got.body)
	}
}

func TestClusterCapture(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Policy = Policy{Outputs: []AllowedOutput{{GoogleCloudStorage: &AllowedStore{Buckets: []string{"captures"}}}}}
	})
	w.matches = []Match{{Node: "n1"}, {Node: "n1", Namespace: "shop", Pod: "agent", HostNetwork: true}}
	create := func(query, spec string) answer {
		return w.do(http.MethodPost, base+"/clustercaptures?"+query, "application/yaml", manifest("ClusterCapture", "all", spec))
	}
	const spec = `{nodes: {selector: {}}, filter: payload, outputs: [{name: a, googleCloudStorage: {bucket: captures, secretName: keys}}]}`
	w.denied = []string{"get secrets keys in namespace network-observability"}
	if got := create("", spec); got.code != http.StatusForbidden {
		t.Errorf("without the Secret answered %d: %s", got.code, got.body)
	}
	w.denied = []string{"create clustercaptures"}
	if got := create("", spec); got.code != http.StatusCreated {
		t.Errorf("answered %d: %s", got.code, got.body)
	}
	for _, right := range []string{"alice: get clustercaptures/pcap all", "alice: get secrets keys in namespace network-observability"} {
		if !slices.Contains(w.asked, right) {
			t.Errorf("never asked whether %q: %q", right, w.asked)
		}
	}
	w.denied = []string{"get clustercaptures/pcap"}
	const misplaced = "{apiVersion: networkobservability.k8s.io/v1alpha1, kind: ClusterCapture, metadata: {name: x, namespace: shop}, spec: {nodes: {selector: {}}, filter: payload}}"
	if got := w.do(http.MethodPost, base+"/clustercaptures", "application/yaml", misplaced); got.code < 400 {
		t.Errorf("with a namespace answered %d: %s", got.code, got.body)
	}
	if object, err := w.storage.ClusterCaptures.Create(genericapirequest.WithUser(t.Context(), &user.DefaultInfo{Name: "alice"}),
		&v1alpha1.ClusterCapture{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "shop"}, Spec: v1alpha1.ClusterCaptureSpec{
			Nodes: &v1alpha1.CaptureNodes{Selector: &metav1.LabelSelector{}}, CaptureSettings: v1alpha1.CaptureSettings{Filter: "payload"},
		}}, nil, &metav1.CreateOptions{}); err == nil {
		t.Errorf("with a namespace became %v", object)
	}
	if got := create("", `{match: [{peers: [{pod: {name: a}}]}]}`); got.code != 422 ||
		!strings.Contains(got.body, "spec.pods: Required value") || !strings.Contains(got.body, "spec.match[0].peers[0].pod.namespace: Required value") {
		t.Errorf("without targets answered %d: %s", got.code, got.body)
	}
	w.do(http.MethodPatch, base+"/clustercaptures/all", merge, `{"spec": {"stop": true}}`).capture(t)
	w.do(http.MethodPatch, base+"/clustercaptures/all/status", merge, `{"status": {"nodes": 1}}`).capture(t)
}

func TestPreview(t *testing.T) {
	many := func(n int) (all []Match) {
		for i := range n {
			all = append(all, Match{Node: fmt.Sprintf("n%d", i%3), Namespace: "shop", Pod: fmt.Sprintf("web-%d", i)})
		}
		return all
	}
	for name, test := range map[string]struct {
		spec     string
		matches  []Match
		rates    Rates
		ratesErr error
		denied   []string
		warning  string
		rows     int
		omitted  int32
		pods     int32
		nodes    int32
		expected string
	}{
		"one": {
			matches: many(1), rates: Rates{Packets: 1234.4, Bytes: 5e6}, rows: 1, pods: 1, nodes: 1, expected: "1234 5000000",
			warning: "dry run: 1 pod (web-0) on 1 node would be recorded; the filter has 3 instructions; they send and receive 1.23k packets/s, 4.77MiB/s before the filter",
		},
		"short filter": {
			spec: `{pods: {selector: {}}, filter: t}`, matches: many(1), rates: Rates{Packets: 1}, rows: 1, pods: 1, nodes: 1, expected: "1 0",
			warning: "dry run: 1 pod (web-0) on 1 node would be recorded; the filter has 1 instruction; they send and receive 1 packets/s, 0B/s before the filter",
		},
		"many": {
			matches: many(502), ratesErr: errors.New("2 of 3 nodes did not answer"), rows: 500, omitted: 2, pods: 502, nodes: 3,
			warning: "dry run: 502 pods (web-0, web-1, web-2, web-3, web-4, ...) on 3 nodes would be recorded; the filter has 3 instructions; how much they send and receive is not known: 2 of 3 nodes did not answer",
		},
		"none": {warning: "dry run: nothing matches now; the filter has 3 instructions; how much they send and receive is not known"},
		"some of them": {
			matches: many(3), denied: []string{"get pods in namespace shop", "get pods web-1"}, rows: 2, pods: 2, nodes: 2, rates: Rates{Packets: 1}, expected: "1 0",
			warning: "dry run: 2 pods (web-0, web-2) on 2 nodes would be recorded, of those that you may get; the filter has 3 instructions; they send and receive 1 packets/s, 0B/s before the filter",
		},
		"not theirs": {
			matches: many(3), denied: []string{"get pods"},
			warning: "dry run: nothing matches now, of those that you may get; the filter has 3 instructions; how much they send and receive is not known",
		},
		"no statistics": {
			matches: many(1), denied: []string{"get podnetworkstats in namespace shop"}, rows: 1, pods: 1, nodes: 1,
			warning: "dry run: 1 pod (web-0) on 1 node would be recorded; the filter has 3 instructions; how much they send and receive is not known",
		},
		"hostNetwork": {
			matches: append(many(1), Match{Node: "n9", Namespace: "shop", Pod: "x", HostNetwork: true}), denied: []string{"create clustercaptures"}, rows: 1, pods: 1, nodes: 1, expected: "0 0",
			warning: "dry run: 1 pod (web-0) on 1 node would be recorded; the filter has 3 instructions; they send and receive 0 packets/s, 0B/s before the filter" +
				"; pods in the network of their node are left out (1): recording them needs the right to create clustercaptures",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.matches, w.rates, w.ratesErr, w.denied = test.matches, test.rates, test.ratesErr, test.denied
			for how, create := range w.ways() {
				answered := create("web", "dryRun=All", cmp.Or(test.spec, `{pods: {selector: {}}, filter: tcp}`))
				status := answered.capture(t).Status
				if len(answered.warnings) != 1 || answered.warnings[0] != test.warning {
					t.Errorf("%s: warned\n%q, want\n%q", how, answered.warnings, test.warning)
				}
				if len(status.Targets) != test.rows || status.OmittedTargets != test.omitted || status.Pods != test.pods || status.Nodes != test.nodes {
					t.Errorf("%s: %d rows, %d left out, %d pods, %d nodes", how, len(status.Targets), status.OmittedTargets, status.Pods, status.Nodes)
				}
				expected := ""
				if e := status.Expected; e != nil {
					expected = fmt.Sprintf("%d %d", e.PacketsPerSecond.Value(), e.BytesPerSecond.Value())
				}
				if expected != test.expected {
					t.Errorf("%s: expects %q, want %q", how, expected, test.expected)
				}
				if test.rows > 0 && (status.Targets[0].Pod != "web-0" || status.Targets[0].Node != "n0" || status.Targets[0].Phase != v1alpha1.CapturePending) {
					t.Errorf("%s: the first row is %+v", how, status.Targets[0])
				}
			}
			if got := w.do(http.MethodGet, shop+"/web", "", ""); got.code != http.StatusNotFound {
				t.Errorf("a dry run stored something: %d", got.code)
			}
		})
	}
}

// TestManyAtOnce: each is answered about itself.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Matches = func(object runtime.Object) ([]Match, error) {
			return []Match{{Node: "n1", Namespace: "shop", Pod: "of-" + partsOf(object).meta.Name}}, nil
		}
	})
	w.create("there", "", everyPod).capture(t)
	var running sync.WaitGroup
	for i := range 20 {
		name := fmt.Sprintf("c%d", i)
		running.Go(func() {
			answered := w.apply("dry-"+name, "dryRun=All", everyPod)
			if len(answered.warnings) != 1 || !strings.Contains(answered.warnings[0], "(of-dry-"+name+")") || !strings.Contains(answered.body, `"pod":"of-dry-`+name+`"`) {
				t.Errorf("%s: answered %q, %s", name, answered.warnings, answered.body)
			}
		})
		running.Go(func() {
			if got := w.create(name, "", everyPod); got.code != http.StatusCreated {
				t.Errorf("%s: answered %d: %s", name, got.code, got.body)
			}
		})
		running.Go(func() {
			if got := w.do(http.MethodGet, shop+"/there", "", ""); got.code != http.StatusOK {
				t.Errorf("reading: answered %d: %s", got.code, got.body)
			}
			w.do(http.MethodPatch, shop+"/there", merge, `{"metadata": {"labels": {"a": "`+name+`"}}}`)
		})
	}
	running.Wait()
}

// TestPreviewOfEverything asks for rights few times, however many match.
func TestPreviewOfEverything(t *testing.T) {
	w := newWorld(t)
	for i := range 1000 {
		w.matches = append(w.matches, Match{Node: "n1", Namespace: fmt.Sprintf("ns-%d", i%10), Pod: fmt.Sprintf("web-%d", i)})
	}
	w.matches = append(w.matches, Match{Node: "n1"}, Match{Node: "n2"})
	w.denied = []string{"get pods"}
	answered := w.do(http.MethodPost, base+"/clustercaptures?dryRun=All", "application/yaml", manifest("ClusterCapture", "all", "{nodes: {selector: {}}, pods: {selector: {}}}"))
	const want = "dry run: 2 nodes (n1, n2) on 2 nodes would be recorded, of those that you may get; the filter has 0 instructions; they send and receive 0 packets/s, 0B/s before the filter"
	if len(answered.warnings) != 1 || answered.warnings[0] != want {
		t.Errorf("warned %q", answered.warnings)
	}
	if len(w.asked) > 100 {
		t.Errorf("asked for %d rights", len(w.asked))
	}
}
