package live

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// TestStore plays the transcripts in testdata. A line that begins with > is a command; what it prints follows.
func TestStore(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding transcripts: %v, %d found", err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("%s differs; go test -run TestStore -update rewrites it. Now:\n%s", file, got)
			}
		})
	}
}

func play(t *testing.T, transcript string) string {
	stage := stage{t: t, stores: map[string]*stagedStore{}}
	var out strings.Builder
	for line := range strings.Lines(transcript) {
		switch {
		case strings.HasPrefix(line, "#") || line == "\n":
			out.WriteString(line)
		case strings.HasPrefix(line, ">"):
			out.WriteString(line)
			stage.do(strings.Fields(line[1:]))
			out.Write(stage.out.Bytes())
			stage.out.Reset()
		}
	}
	return out.String()
}

// A stage has one store for each replica that a transcript names.
type stage struct {
	t      *testing.T
	out    bytes.Buffer
	stores map[string]*stagedStore
}

// A stagedStore prints what it is told as a listener.
type stagedStore struct {
	*store
	stage *stage
}

func (s *stagedStore) offer(b batch) {
	for _, c := range b.changes {
		s.stage.print(c)
	}
}
func (s *stagedStore) wants() *selection { return nil }
func (s *stagedStore) expire()           { fmt.Fprintln(&s.stage.out, "expired") }

func (s *stage) print(c change) {
	fmt.Fprintf(&s.out, "%v %s %s\n", c.version, c.kind, describe(c.record))
}

func describe(r *Record) string {
	text := fmt.Sprintf("%s/%s uid=%s", r.Namespace, r.Name, r.HostUID)
	if r.Node != "" {
		text += " node=" + r.Node
	}
	if len(r.Labels) > 0 {
		text += " labels=" + labels.Set(r.Labels).String()
	}
	return text
}

// do plays: REPLICA COMMAND ARGUMENT...
func (s *stage) do(words []string) {
	replica, command, args := words[0], words[1], words[2:]
	if s.stores[replica] == nil {
		staged := &stagedStore{newStore(recordOfPod), s}
		staged.listenForever(staged)
		staged.history.limit = 8
		s.stores[replica] = staged
	}
	store := s.stores[replica]
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(&s.out, "error:", err)
		}
	}
	switch command {
	case "list":
		var objects []any
		for _, arg := range args[1:] {
			objects = append(objects, pod(arg, "1"))
		}
		check(store.Replace(objects, args[0]))
	case "put":
		check(store.Update(pod(args[1], args[0])))
		store.UpdateResourceVersion(args[0])
	case "delete":
		check(store.Delete(pod(args[1], args[0])))
		store.UpdateResourceVersion(args[0])
	case "bookmark":
		store.UpdateResourceVersion(args[0])
	case "answers":
		for range number(s.t, args[0]) {
			store.list(&selection{labels: labels.Everything()}, key{}, 0)
		}
	case "sequence":
		store.current.sequence = uint32(number(s.t, args[0]))
	case "version":
		current, seen := store.versions()
		fmt.Fprintf(&s.out, "%v, the host is known up to %d\n", current, seen)
	case "since":
		s.since(store, args[0])
	case "get":
		namespace, name, _ := strings.Cut(args[0], "/")
		_, v, found := store.get(key{namespace, name})
		fmt.Fprintln(&s.out, v, found)
	case "page":
		s.page(store, args)
	default:
		s.t.Fatalf("%q is no command", command)
	}
}

// since begins a watch at a version, as a client does that comes from anywhere.
func (s *stage) since(store *stagedStore, text string) {
	v, err := parseVersion(text)
	if err != nil {
		s.t.Fatal(err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := store.reach(ended, v); err != nil {
		fmt.Fprintln(&s.out, err)
		return
	}
	changes, ok := store.listenSince(&mute{}, v)
	if !ok {
		fmt.Fprintln(&s.out, "410 Expired")
	}
	for _, c := range changes {
		s.print(c)
	}
}

type mute struct{}

func (*mute) offer(batch)       {}
func (*mute) wants() *selection { return nil }
func (*mute) expire()           {}

// page lists: LIMIT AFTER NAMESPACE FIELDS LABELS, - for none.
func (s *stage) page(store *stagedStore, args []string) {
	arg := func(i int) string {
		if i < len(args) && args[i] != "-" {
			return args[i]
		}
		return ""
	}
	after := key{}
	if arg(1) != "" {
		after.namespace, after.name, _ = strings.Cut(arg(1), "/")
	}
	options := &metainternalversion.ListOptions{FieldSelector: fields.ParseSelectorOrDie(arg(3))}
	var err error
	if options.LabelSelector, err = labels.Parse(arg(4)); err != nil {
		s.t.Fatal(err)
	}
	selection, err := newSelection(genericapirequest.WithNamespace(context.Background(), arg(2)), true, options)
	if err != nil {
		fmt.Fprintln(&s.out, "error:", err)
		return
	}
	p := store.list(selection, after, int(number(s.t, args[0])))
	for _, record := range p.records {
		fmt.Fprintln(&s.out, describe(record))
	}
	if p.more {
		fmt.Fprintf(&s.out, "%d more\n", p.remaining)
	}
}

func number(t *testing.T, text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pod reads NAMESPACE/NAME[,uid=UID][,node=NODE][,LABEL=VALUE...].
func pod(text, version string) *corev1.Pod {
	parts := strings.Split(text, ",")
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name, _ = strings.Cut(parts[0], "/")
	pod.UID = types.UID("of-" + pod.Name)
	pod.ResourceVersion = version
	for _, part := range parts[1:] {
		switch label, value, _ := strings.Cut(part, "="); label {
		case "uid":
			pod.UID = types.UID(value)
		case "node":
			pod.Spec.NodeName = value
		default:
			if pod.Labels == nil {
				pod.Labels = map[string]string{}
			}
			pod.Labels[label] = value
		}
	}
	return pod
}

func recordOfPod(host runtime.Object) (*Record, error) {
	pod := host.(*corev1.Pod)
	return &Record{
		Namespace: pod.Namespace, Name: pod.Name, HostUID: pod.UID, Labels: pod.Labels, Node: pod.Spec.NodeName, PodKey: string(pod.UID),
	}, nil
}

// TestIndexes compares pages and nodes of a store with a list that is searched from end to end.
func TestIndexes(t *testing.T) {
	s := newStore(recordOfPod)
	if err := s.Replace(nil, "1"); err != nil {
		t.Fatal(err)
	}
	all := map[string]*corev1.Pod{}
	for i := range 600 {
		// A walk over 50 names that puts, moves and deletes.
		name := fmt.Sprintf("ns-%d/pod-%d", i*7%3, i*31%50)
		version := strconv.Itoa(i + 2)
		p := pod(fmt.Sprintf("%s,node=n%d", name, i%4), version)
		if i%5 == 4 {
			delete(all, name)
			if err := s.Delete(p); err != nil {
				t.Fatal(err)
			}
		} else {
			all[name] = p
			if err := s.Update(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, namespace := range []string{"", "ns-0", "ns-1", "none"} {
		for _, node := range []string{"", "n2"} {
			compare(t, s, all, namespace, node)
		}
	}
}

func compare(t *testing.T, s *store, all map[string]*corev1.Pod, namespace, node string) {
	t.Helper()
	selection := &selection{namespaced: true, namespace: namespace, labels: labels.Everything()}
	if node != "" {
		selection.fields = fields.ParseSelectorOrDie("nodeName=" + node).Requirements()
	}
	var want, got []string
	for name, pod := range all {
		if (namespace == "" || pod.Namespace == namespace) && (node == "" || pod.Spec.NodeName == node) {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	after := key{}
	for {
		p := s.list(selection, after, 7)
		for _, record := range p.records {
			got = append(got, record.Namespace+"/"+record.Name)
			after = record.key()
		}
		if !p.more {
			break
		}
		if left := int64(len(want) - len(got)); node == "" && p.remaining != left {
			t.Errorf("namespace %q, node %q: %d remaining, want %d", namespace, node, p.remaining, left)
		}
	}
	// Keys sort by namespace first, so "a-b/x" and "a/x" differ from the order of texts; these names do not.
	if !slices.Equal(got, want) {
		t.Errorf("namespace %q, node %q: got %v, want %v", namespace, node, got, want)
	}
}

// TestHighestLimit: a list that asks for as many as can be said has all of them.
func TestHighestLimit(t *testing.T) {
	s := newStore(recordOfPod)
	for _, want := range [][]any{nil, {pod("x/a", "1"), pod("x/b", "1")}} {
		if err := s.Replace(want, "1"); err != nil {
			t.Fatal(err)
		}
		p := s.list(&selection{namespaced: true, labels: labels.Everything()}, key{}, math.MaxInt)
		if len(p.records) != len(want) || p.more {
			t.Errorf("got %d records and more: %v, want %d", len(p.records), p.more, len(want))
		}
	}
}
