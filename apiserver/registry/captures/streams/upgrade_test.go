package streams

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	auditinternal "k8s.io/apiserver/pkg/apis/audit"

	"github.com/networkobservability/networkobservability/apis/networkobservability/download"
)

// upgrade asks for a file over a connection of its own.
func (s *served) upgrade(ctx context.Context, path string) *http.Response {
	s.t.Helper()
	response, err := download.Get(ctx, s.client, s.of(path), true)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { response.Body.Close() })
	return response
}

// TestUpgraded reads a file whole and from an offset on: the bytes and the audit are those of an ordinary answer.
func TestUpgraded(t *testing.T) {
	w := newWorld(t, randomAgents(t, 2, 2, 3000))
	want := w.wantFile()
	s := serve(t, w, false)
	for i, offset := range []int{0, 1, len(want) / 2, len(want)} {
		response := s.upgrade(t.Context(), "pcap?offset="+strconv.Itoa(offset))
		if response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Content-Type") != contentType || response.ContentLength != int64(len(want)-offset) {
			t.Fatalf("answered %s with %v", response.Status, response.Header)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || !bytes.Equal(body, want[offset:]) {
			t.Errorf("%d of %d bytes: %v", len(body), len(want)-offset, err)
		}
		eventually(t, "the end is audited", func() bool { return len(s.stages(auditinternal.StageResponseComplete)) == i+1 })
		end := s.stages(auditinternal.StageResponseComplete)[i]
		if end.Annotations[auditBytes] != strconv.Itoa(len(body)) || end.Annotations[auditEnd] != "complete" || end.Annotations[auditPayload] != "true" ||
			end.ResponseStatus.Code != http.StatusSwitchingProtocols {
			t.Errorf("annotations at the end: %v, status %v", end.Annotations, end.ResponseStatus)
		}
	}
}

// TestUpgradeRefused wants what is no file of known size to be refused, and errors to be those of ordinary answers.
func TestUpgradeRefused(t *testing.T) {
	w := newWorld(t, randomAgents(t, 2, 2, 10))
	s := serve(t, w, false)
	for path, code := range map[string]int{
		"headers": 400, "attach": 400, "pcap?pod=web-a": 400, "pcap?offset=10000000": 416, "pcap?digest=00000000000000000000000000000000": 412,
	} {
		response := s.upgrade(t.Context(), path)
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != code || !strings.Contains(string(body), `"kind":"Status"`) {
			t.Errorf("%s is answered %d, want %d: %s", path, response.StatusCode, code, body)
		}
	}
}

// TestUpgradedTruncation wants the client to see that a file is not whole.
func TestUpgradedTruncation(t *testing.T) {
	agents := randomAgents(t, 2, 2, 3000)
	w := newWorld(t, agents)
	agents["a"].breakAfter = len(agents["a"].packets) - 1
	s := serve(t, w, false)
	response := s.upgrade(t.Context(), "pcap")
	body, err := io.ReadAll(response.Body)
	if err == nil || len(body) == 0 {
		t.Errorf("a clean end behind %d bytes: %v", len(body), err)
	}
	eventually(t, "the end is audited", func() bool { return len(s.stages(auditinternal.StagePanic)) == 1 })
	end := s.stages(auditinternal.StagePanic)[0]
	sent, err := strconv.Atoi(end.Annotations[auditBytes])
	if err != nil || sent < len(body) || !strings.HasPrefix(end.Annotations[auditEnd], "a: ") {
		t.Errorf("client got %d bytes; annotations at the end: %v", len(body), end.Annotations)
	}
}

// largeNode has more packets than connections take before anybody reads.
func largeNode() *fakeNode {
	node := newNode(partOf(0, "shop", "web-a", "eth0"))
	for i := range 20_000 {
		node.record(0, int64(1000+i), frame(1, 2, 3, 1400))
	}
	node.batch = 100
	node.end()
	return node
}

// TestUpgradedStall wants a stream whose client does not read to be ended all the same when the right to it is gone.
func TestUpgradedStall(t *testing.T) {
	node := largeNode()
	w := newWorld(t, fakeAgents{"a": node})
	s := serve(t, w, false)
	response := s.upgrade(t.Context(), "pcap")
	if _, err := io.ReadFull(response.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	w.rights.set(func() { w.rights.denied["pcap"] = true })
	eventually(t, "the agent is left", func() bool { node.mu.Lock(); defer node.mu.Unlock(); return node.open == 0 })
	if _, err := io.Copy(io.Discard, response.Body); err == nil {
		t.Error("a clean end")
	}
}

// TestUpgradedClientGone wants the agent to be left when the client leaves, though nothing is being written.
func TestUpgradedClientGone(t *testing.T) {
	node := largeNode()
	w := newWorld(t, fakeAgents{"a": node})
	s := serve(t, w, false)
	ctx, leave := context.WithCancel(t.Context())
	response := s.upgrade(ctx, "pcap")
	if _, err := io.ReadFull(response.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	leave()
	eventually(t, "the agent is left", func() bool { node.mu.Lock(); defer node.mu.Unlock(); return node.open == 0 })
	if _, err := io.Copy(io.Discard, response.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	eventually(t, "the end is audited", func() bool { return len(s.stages(auditinternal.StageResponseComplete)) == 1 })
	if end := s.stages(auditinternal.StageResponseComplete)[0]; end.Annotations[auditEnd] != "the client went away" {
		t.Errorf("annotations at the end: %v", end.Annotations)
	}
}
