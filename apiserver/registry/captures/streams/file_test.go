package streams

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// wantFile is the file by the plainest code for it.
func (w *world) wantFile() []byte {
	file := w.layout()
	type keyed struct {
		place    int64
		node     string
		sequence int
		block    []byte
	}
	var all []keyed
	for name, node := range w.agents {
		place := int64(0)
		for i, p := range node.packets {
			place = max(place, p.at)
			p.part, _ = file.Number(name, p.part)
			all = append(all, keyed{place, name, i, p.block()})
		}
	}
	slices.SortFunc(all, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.node, b.node), cmp.Compare(a.sequence, b.sequence))
	})
	b := file.AppendBegin(nil)
	for _, p := range all {
		b = append(b, p.block...)
	}
	return file.AppendEnd(b)
}

// TestOrder reads the same captures with other batches, and in whatever order goroutines run.
func TestOrder(t *testing.T) {
	for seed := range uint64(12) {
		agents := randomAgents(t, seed, 1+int(seed%6), 60)
		w := newWorld(t, agents)
		want := w.wantFile()
		for _, batch := range []int{1, 2, 7, 1000} {
			for _, node := range agents {
				node.batch = batch
			}
			got := w.get("pcap", v1alpha1.CaptureReadOptions{})
			if got.err != nil || !bytes.Equal(got.Body.Bytes(), want) {
				t.Fatalf("seed %d, batches of %d: other bytes than expected (%d of %d): %v", seed, batch, got.Body.Len(), len(want), got.err)
			}
			if length := got.Header().Get("Content-Length"); length != strconv.Itoa(len(want)) {
				t.Fatalf("Content-Length %s, want %d", length, len(want))
			}
		}
		if file := w.store.object.(*v1alpha1.Capture).Status.File; file.Bytes != int64(len(want)) {
			t.Errorf("status.file says %d bytes, there are %d", file.Bytes, len(want))
		}
	}
}

// TestManyNodes merges more nodes than may each have a batch on the way.
func TestManyNodes(t *testing.T) {
	agents := fakeAgents{}
	for i := range 300 {
		name := fmt.Sprintf("node-%03d", i)
		node := newNode(partOf(0, "shop", "web-"+name, "eth0"))
		for k := range 5 {
			node.record(0, int64(1000+(i*k)%7+k), frame(1, 2, uint32(i), 60))
		}
		node.end()
		agents[name] = node
	}
	w := newWorld(t, agents)
	if got := w.file(); !bytes.Equal(got, w.wantFile()) {
		t.Error("other bytes than expected")
	}
	if w.streams.limits.used != 0 || w.streams.limits.all != 0 || len(w.streams.limits.byUser) != 0 {
		t.Errorf("places and memory are not given back: %d bytes, %d places, %v", w.streams.limits.used, w.streams.limits.all, w.streams.limits.byUser)
	}
}

// marksOf are exact marks behind every so many packets of a part, moved by some bytes.
func marksOf(node *fakeNode, every int, wrong int64) []*agentv1.CaptureMark {
	var marks []*agentv1.CaptureMark
	bytes, count := map[uint32]int64{}, map[uint32]int{}
	for _, p := range node.packets {
		if count[p.part]%every == 0 {
			marks = append(marks, &agentv1.CaptureMark{Part: p.part, TimeUnixNano: p.place, BlockBytes: max(0, bytes[p.part]+wrong)})
		}
		count[p.part]++
		bytes[p.part] += int64(len(p.block()))
	}
	return marks
}

// TestResume resumes at every byte.
func TestResume(t *testing.T) {
	for _, test := range []struct {
		name  string
		marks func(*fakeNode) []*agentv1.CaptureMark
		every int
	}{
		{"no marks", func(*fakeNode) []*agentv1.CaptureMark { return nil }, 13},
		{"all marks", func(n *fakeNode) []*agentv1.CaptureMark { return marksOf(n, 1, 0) }, 1},
		{"few marks", func(n *fakeNode) []*agentv1.CaptureMark { return marksOf(n, 4, 0) }, 7},
		{"wrong marks", func(n *fakeNode) []*agentv1.CaptureMark { return marksOf(n, 2, -1000) }, 7},
	} {
		t.Run(test.name, func(t *testing.T) {
			agents := randomAgents(t, 5, 3, 5)
			for _, node := range agents {
				node.marks = test.marks(node)
			}
			w := newWorld(t, agents)
			whole := w.file()
			digest := strings.Trim(w.get("pcap", v1alpha1.CaptureReadOptions{}).Header().Get("ETag"), `"`)
			for offset := 0; offset <= len(whole); offset += test.every {
				got := w.get("pcap", v1alpha1.CaptureReadOptions{Offset: int64(offset), Digest: digest})
				if got.err != nil || !bytes.Equal(got.Body.Bytes(), whole[offset:]) {
					t.Fatalf("offset %d of %d: %d bytes that are not the rest: %v", offset, len(whole), got.Body.Len(), got.err)
				}
			}
		})
	}
}

// TestSeek wants the agents to be sought, so that a download of many gigabytes does not read all that came before again.
func TestSeek(t *testing.T) {
	agents := randomAgents(t, 8, 2, 400)
	for _, node := range agents {
		node.marks = marksOf(node, 10, 0)
	}
	w := newWorld(t, agents)
	whole := w.file()
	var sent, skipped atomic.Int64
	for _, node := range agents {
		node.spoil = func(batch *agentv1.ReadCaptureResponse) {
			sent.Add(int64(len(batch.Blocks)))
			skipped.Add(batch.SkippedBytes)
		}
		node.batch = 10_000
	}
	w.get("pcap", v1alpha1.CaptureReadOptions{Offset: int64(len(whole) * 9 / 10)})
	if sent.Load() > skipped.Load()/4 {
		t.Errorf("for the last tenth, agents sent %d bytes and left out %d", sent.Load(), skipped.Load())
	}
}

func TestNarrowing(t *testing.T) {
	agents := randomAgents(t, 3, 2, 30)
	w := newWorld(t, agents)
	whole := w.file()
	node := w.get("pcap", v1alpha1.CaptureReadOptions{Node: "a"})
	alone := newWorld(t, fakeAgents{"a": agents["a"]})
	if node.err != nil || !bytes.Equal(node.Body.Bytes(), alone.wantFile()) {
		t.Errorf("one node of two is not as if it was alone: %v", node.err)
	}
	pod := w.get("pcap", v1alpha1.CaptureReadOptions{Pod: "db-b"})
	if pod.err != nil || !strings.Contains(pod.Body.String(), "b/shop/db-b/eth0") || strings.Contains(pod.Body.String(), "web-a/eth0") {
		t.Errorf("one pod: %v: %q", pod.err, pod.Body)
	}
	headers := w.get("headers", v1alpha1.CaptureReadOptions{})
	if headers.err != nil || headers.Body.Len() >= len(whole) {
		t.Errorf("headers are %d bytes of %d: %v", headers.Body.Len(), len(whole), headers.err)
	}
	for what, got := range map[string]reply{"pod": pod, "headers": headers} {
		if length := got.Header().Get("Content-Length"); length != "" {
			t.Errorf("%s: Content-Length is %s before it is known", what, length)
		}
		options := v1alpha1.CaptureReadOptions{Offset: int64(got.Body.Len() / 2)}
		subresource := "headers"
		if what == "pod" {
			subresource, options.Pod = "pcap", "db-b"
		}
		if rest := w.get(subresource, options); rest.err != nil || !bytes.Equal(rest.Body.Bytes(), got.Body.Bytes()[options.Offset:]) {
			t.Errorf("%s: the second half is another: %v", what, rest.err)
		}
	}
	tags := map[string]bool{}
	for _, got := range []reply{node, pod, headers, w.get("pcap", v1alpha1.CaptureReadOptions{})} {
		tags[got.Header().Get("ETag")] = true
	}
	if len(tags) != 4 {
		t.Errorf("four files have the ETags %v", tags)
	}
}

func TestFileRefusals(t *testing.T) {
	unreachable := errors.New("b: the agent at 192.0.2.1:10250 did not answer in time")
	for _, test := range []struct {
		name        string
		subresource string
		options     v1alpha1.CaptureReadOptions
		change      func(*world)
		code        int
		want        string
	}{
		{"running", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) {
			w.store.change(func(c *v1alpha1.Capture) { c.Status.File, c.Status.Conditions = nil, nil })
		}, 409, "attach"},
		{"another digest", "pcap", v1alpha1.CaptureReadOptions{Offset: 1, Digest: "0123"}, nil, 412, "another"},
		{"beyond the end", "pcap", v1alpha1.CaptureReadOptions{Offset: 1 << 30}, nil, 416, "beyond the end"},
		{"beyond the end of headers", "headers", v1alpha1.CaptureReadOptions{Offset: 1 << 30}, nil, 416, "beyond the end"},
		{"silent node", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.agents["b"].err = unreachable }, 503, "b: the agent at"},
		{"node without its packets", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.agents["b"].missing = true }, 503, "b: "},
		{"other node", "pcap", v1alpha1.CaptureReadOptions{Node: "a"}, func(w *world) { w.agents["b"].err = unreachable }, 200, ""},
		{"silent node that never recorded", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) {
			w.agents["c"] = newNode()
			w.agents["c"].err = unreachable
			w.store.change(func(c *v1alpha1.Capture) {
				c.Status.Control.Nodes = append(c.Status.Control.Nodes, v1alpha1.CaptureControlNode{Node: "c"})
			})
		}, 200, ""},
		{"not sealed", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.agents["a"].state.Sealed = false }, 409, "node a"},
		{"other packets", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.agents["a"].state.Digest = []byte("another") }, 503, "digest"},
		{"foreign namespace", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.agents["a"].state.Parts[0].Namespace = "bank" }, 503, "no target"},
		{"foreign pod", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.agents["a"].state.Parts[0].Pod = "other" }, 503, "no target"},
		{"the node itself", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.agents["a"].state.Parts[0].Pod = "" }, 503, "no target"},
		{"unknown node", "pcap", v1alpha1.CaptureReadOptions{Node: "z"}, nil, 400, `"z"`},
		{"unknown pod", "pcap", v1alpha1.CaptureReadOptions{Pod: "z"}, nil, 400, "z"},
		{"attach to the end of an unknown node", "attach", v1alpha1.CaptureReadOptions{Node: "z"}, nil, 400, `"z"`},
		{"attach to the end of an unknown pod", "attach", v1alpha1.CaptureReadOptions{Pod: "z"}, nil, 400, "shop/z"},
		{"attach to the end of a pod", "attach", v1alpha1.CaptureReadOptions{Pod: "web-a"}, nil, 200, ""},
		{"other namespace", "pcap", v1alpha1.CaptureReadOptions{Pod: "web-a", Namespace: "bank"}, nil, 400, "bank"},
		{"namespace alone", "pcap", v1alpha1.CaptureReadOptions{Namespace: "shop"}, nil, 400, "pod"},
		{"headersOnly", "pcap", v1alpha1.CaptureReadOptions{HeadersOnly: true}, nil, 400, "headers"},
		{"offset of attach", "attach", v1alpha1.CaptureReadOptions{Offset: 1}, nil, 400, "offset"},
		{"no right", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.rights.denied["pcap"] = true }, 403, "no binding"},
		{"attach without the right to payload", "attach", v1alpha1.CaptureReadOptions{}, func(w *world) { w.rights.denied["pcap"] = true }, 403, "captures/pcap"},
		{"attach to headers without the right to payload", "attach", v1alpha1.CaptureReadOptions{HeadersOnly: true}, func(w *world) { w.rights.denied["pcap"] = true }, 200, ""},
		{"attach to headers without that right", "attach", v1alpha1.CaptureReadOptions{HeadersOnly: true}, func(w *world) { w.rights.denied["headers"] = true }, 403, "captures/headers"},
		{"no answer about rights", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.rights.err = errors.New("timeout") }, 503, "asking whether"},
		{"gone", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.store.change(nil) }, 404, "not found"},
		{"user's limit", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.streams.limits.byUser["alice"] = 10 }, 429, "alice"},
		{"limit of all", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.streams.limits.all = 100 }, 429, "100 streams"},
		{"memory", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.streams.limits.used = 384 << 20 }, 429, "memory"},
		{"too many nodes", "pcap", v1alpha1.CaptureReadOptions{}, func(w *world) { w.streams.limits.memory = 1 }, 400, "node="},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, randomAgents(t, 3, 2, 30))
			if test.change != nil {
				test.change(w)
			}
			got := w.get(test.subresource, test.options)
			if got.Code != test.code || !strings.Contains(got.Body.String(), test.want) {
				t.Errorf("answered %d, want %d with %q: %q", got.Code, test.code, test.want, got.Body)
			}
			if got.Code == http.StatusOK && got.err != nil {
				t.Error(got.err)
			}
		})
	}
}

// TestSampleOfMarks: however many marks come, few are held, evenly.
func TestSampleOfMarks(t *testing.T) {
	var s sample
	const count = 100_000
	for i := range int64(count) {
		s.take([]*agentv1.CaptureMark{{TimeUnixNano: i}})
		if cap(s.kept) > 4*marksPerNode {
			t.Fatalf("%d are held after %d", cap(s.kept), i)
		}
	}
	if len(s.kept) < marksPerNode/2 || len(s.kept) > marksPerNode {
		t.Errorf("%d are kept", len(s.kept))
	}
	for i, mark := range s.kept {
		if mark.TimeUnixNano != int64(i*s.step) {
			t.Fatalf("mark %d is that of %d", i, mark.TimeUnixNano)
		}
	}
}
