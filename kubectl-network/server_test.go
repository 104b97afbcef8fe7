package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	downloads "github.com/networkobservability/networkobservability/apis/networkobservability/download"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A server answers for captures as the real one does, and misbehaves as scripts tell it to. Its packets are numbered
// lines: what they are is not the plugin's business.
type server struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	captures map[string]*v1alpha1.Capture
	changed  *sync.Cond
	log      []string
	// cut is after how many bytes an answer breaks off; 0 is never.
	cut int
	// refuse is how many answers are 503, and forbid 403.
	refuse, forbid int
	// lose deletes the next capture whose packets are asked for, before it is looked up.
	lose bool
	// digest is what the file is now.
	digest string
	// failed is the reason for which captures fail; empty when they do not. There is no file then if they are fileless.
	failed   string
	fileless bool
	// hold keeps captures running until they are stopped; silent gives followers no packets.
	hold, silent bool
	// stuck captures go on although they were stopped; a deaf server does not answer to that.
	stuck, deaf bool
	// copying is for how many looks at a capture that has ended it is still being copied.
	copying int
	// lasting captures cannot be deleted.
	lasting bool
	// interrupted are the commands that were sent an interrupt.
	interrupted []*exec.Cmd
}

const fileBytes = 100_000

// content is the file of every capture.
var content = func() []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < fileBytes; i++ {
		fmt.Fprintf(&b, "packet %d\n", i)
	}
	return b.Bytes()[:fileBytes]
}()

func newServer(t *testing.T) *server {
	s := &server{t: t, captures: map[string]*v1alpha1.Capture{}, digest: "0123456789abcdef"}
	s.changed = sync.NewCond(&s.mu)
	s.Server = httptest.NewServer(s)
	return s
}

func serverOf(ts *testscript.TestScript) *server { return ts.Value("server").(*server) }

func (s *server) kubeconfig() string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","namespace":"shop"}}]}`, s.URL)
}

// command is the script's command server.
func (s *server) command(ts *testscript.TestScript, args []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number := func() int {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		return n
	}
	switch args[0] {
	case "cut":
		s.cut = number()
	case "forbid":
		s.forbid = number()
	case "refuse":
		s.refuse = number()
	case "lose":
		s.lose = true
	case "digest":
		s.digest = args[1]
		for _, capture := range s.captures {
			if capture.Status.File != nil {
				capture.Status.File.Digest = s.digest
			}
		}
	case "hold":
		s.hold, s.stuck, s.deaf, s.lasting = true, false, false, false
	case "silent":
		s.silent = true
	case "stuck":
		s.hold, s.stuck = true, true
	case "copying": // copying LOOKS
		s.copying = number()
	case "lasting":
		s.lasting = true
	case "deaf":
		s.hold, s.deaf = true, true
	case "other": // other DIGEST: of the file, while clients have another one still
		s.digest = args[1]
	case "failing": // failing REASON [fileless]
		s.failed, s.fileless = args[1], len(args) > 2
	case "delete":
		delete(s.captures, args[1])
		s.changed.Broadcast()
	case "log": // log FILE: what was asked since the last time
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(s.log, "\n")+"\n"), 0o600))
		s.log = nil
	case "content": // content FILE
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), content, 0o600))
	case "await": // await TEXT: until something was asked that contains it
		for !strings.Contains(strings.Join(s.log, "\n"), args[1]) {
			s.changed.Wait()
		}
	default:
		ts.Fatalf("server: unknown command %q", args[0])
	}
}

// interruptBackground sends the interrupt to all commands in the background.
func interruptBackground(ts *testscript.TestScript, _ bool, _ []string) {
	serverOf(ts).interrupted = ts.BackgroundCmds()
	for _, command := range ts.BackgroundCmds() {
		ts.Check(command.Process.Signal(os.Interrupt))
	}
}

// exited demands that the commands which were interrupted, and waited for since, ended with a code.
func exited(ts *testscript.TestScript, _ bool, args []string) {
	for _, command := range serverOf(ts).interrupted {
		if got := strconv.Itoa(command.ProcessState.ExitCode()); got != args[0] {
			ts.Fatalf("%s: exit code %s, want %s", command.Path, got, args[0])
		}
	}
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.note(r)
	rest, ok := strings.CutPrefix(r.URL.Path, "/apis/networkobservability.k8s.io/v1alpha1/namespaces/shop/captures")
	if !ok {
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find "+r.URL.Path)
		return
	}
	name, subresource, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	s.mu.Lock()
	if s.refuse > 0 && subresource != "" {
		s.refuse--
		s.mu.Unlock()
		fail(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "node-2: the agent did not answer in time")
		return
	}
	if s.forbid > 0 && subresource != "" {
		s.forbid--
		s.mu.Unlock()
		fail(w, http.StatusForbidden, metav1.StatusReasonForbidden, "cannot get captures/"+subresource)
		return
	}
	if s.lose && subresource != "" {
		s.lose = false
		delete(s.captures, name)
	}
	capture := s.captures[name]
	s.mu.Unlock()
	switch {
	case name == "" && r.Method == http.MethodPost:
		s.create(w, r)
	case name == "":
		s.list(w)
	case capture == nil:
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("captures.networkobservability.k8s.io %q not found", name))
	case subresource == "attach":
		s.attach(w, r, capture)
	case subresource != "":
		s.download(w, r)
	default:
		s.object(w, r, capture)
	}
}

func (s *server) note(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	query := r.URL.Query()
	for _, key := range []string{"fieldManager", "fieldValidation", "pretty"} {
		query.Del(key)
	}
	line := r.Method + " " + path.Base(r.URL.Path)
	if len(query) > 0 {
		line += "?" + query.Encode()
	}
	if r.Method == http.MethodGet && len(s.log) > 0 && s.log[len(s.log)-1] == line {
		return // looked again
	}
	s.log = append(s.log, line)
	s.changed.Broadcast()
}

func fail(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
}

func reply(w http.ResponseWriter, object any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(object)
}

func (s *server) create(w http.ResponseWriter, r *http.Request) {
	var capture v1alpha1.Capture
	if err := json.NewDecoder(r.Body).Decode(&capture); err != nil {
		fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(capture.Spec.Filter, "tcp.port") {
		fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, `Capture.networkobservability.k8s.io "web" is invalid: spec.filter: Invalid value`)
		return
	}
	if r.URL.Query().Get("dryRun") != "" {
		capture.Status.Targets = []v1alpha1.CaptureTarget{{Node: "node-1", Namespace: "shop", Pod: "web-0"}, {Node: "node-2", Namespace: "shop", Pod: "web-1"}}
		w.Header().Set("Warning", `299 - "2 pods on 2 nodes match; the filter has 12 instructions"`)
		reply(w, capture)
		return
	}
	s.captures[capture.Name] = &capture
	now := metav1.NewTime(time.Now())
	capture.Status.StartTime = &now
	capture.Status.Nodes, capture.Status.Pods = 2, 3
	capture.Status.Totals = v1alpha1.CaptureCounts{Packets: 1234, Bytes: 56789}
	if !s.hold {
		s.end(&capture)
	}
	reply(w, capture)
}

// end ends a capture. The lock is held.
func (s *server) end(capture *v1alpha1.Capture) {
	capture.Status.Conditions = []metav1.Condition{{Type: v1alpha1.CaptureComplete, Status: metav1.ConditionTrue, Reason: "Stopped"}}
	if s.copying > 0 {
		capture.Status.Conditions = []metav1.Condition{{Type: v1alpha1.CaptureStored, Status: metav1.ConditionFalse, Reason: "Uploading"}}
	} else if s.failed != "" {
		capture.Status.Conditions = []metav1.Condition{{Type: v1alpha1.CaptureFailed, Status: metav1.ConditionTrue, Reason: s.failed, Message: "it went wrong"}}
	}
	if !s.fileless {
		capture.Status.File = &v1alpha1.CaptureFile{Digest: s.digest, Bytes: fileBytes}
	}
	s.changed.Broadcast()
}

func (s *server) list(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"}}
	for name := range s.captures {
		list.Items = append(list.Items, metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	reply(w, list)
}

func (s *server) object(w http.ResponseWriter, r *http.Request, capture *v1alpha1.Capture) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf && r.Method == http.MethodPatch {
		s.mu.Unlock()
		io.Copy(io.Discard, r.Body) // Only then it is noticed that the client leaves.
		<-r.Context().Done()
		s.mu.Lock()
		return
	}
	if s.copying > 0 && capture.Status.File != nil {
		switch r.Method {
		case http.MethodGet:
			reply(w, capture)
			if s.copying--; s.copying == 0 {
				s.end(capture)
			}
			return
		case http.MethodDelete:
			s.t.Errorf("%s is deleted while it is copied", capture.Name)
		}
	}
	switch r.Method {
	case http.MethodPatch:
		capture.Spec.Stop = true
		if !s.stuck {
			s.end(capture)
		}
	case http.MethodDelete:
		if s.lasting {
			fail(w, http.StatusForbidden, metav1.StatusReasonForbidden, "cannot delete captures")
			return
		}
		delete(s.captures, capture.Name)
		s.changed.Broadcast()
	}
	reply(w, capture)
}

func (s *server) attach(w http.ResponseWriter, r *http.Request, capture *v1alpha1.Capture) {
	defer context.AfterFunc(r.Context(), func() { s.mu.Lock(); s.changed.Broadcast(); s.mu.Unlock() })()
	s.mu.Lock()
	silent, cut := s.silent, s.cut
	s.mu.Unlock()
	if !silent {
		w.Write(content[:fileBytes/2])
	}
	w.(http.Flusher).Flush()
	if cut > 0 {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	s.log = append(s.log, "attached "+capture.Name) // From here on the capture can go without the answer being that there is none.
	s.changed.Broadcast()
	for r.Context().Err() == nil && (s.stuck || !capture.Spec.Stop) && len(capture.Status.Conditions) == 0 && s.captures[capture.Name] != nil {
		s.changed.Wait()
	}
	gone := s.captures[capture.Name] == nil
	s.mu.Unlock()
	if gone {
		panic(http.ErrAbortHandler)
	}
	if !silent {
		w.Write(content[fileBytes/2:])
	}
}

// takeOver answers on the connection itself.
func (s *server) takeOver(w http.ResponseWriter, digest string, rest []byte, cut int) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.t.Error(err)
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nETag: %q\r\n%s: %d\r\n\r\n", downloads.Protocol, digest, downloads.Size, len(rest))
	if cut > 0 {
		rest = rest[:min(cut, len(rest))]
	}
	conn.Write(rest)
}

func (s *server) download(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	cut, digest := s.cut, s.digest
	s.mu.Unlock()
	offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
	if offset > 0 && r.URL.Query().Get("digest") != digest {
		fail(w, http.StatusPreconditionFailed, "", "the file has changed; begin again")
		return
	}
	rest := content[offset:]
	if downloads.Asked(r) {
		s.takeOver(w, digest, rest, cut)
		return
	}
	w.Header().Set("ETag", strconv.Quote(digest))
	w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
	if cut > 0 && cut < len(rest) {
		w.Write(rest[:cut])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Write(rest)
}
