package agents

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// TestFlights names flights f1, f2, ... in the order in which they are first seen.
func TestFlights(t *testing.T) {
	var s flights
	now := epoch
	var all []*flight
	name := func(f *flight) string {
		i := slices.Index(all, f)
		if i < 0 {
			all = append(all, f)
			i = len(all) - 1
		}
		keys := slices.Sorted(maps.Keys(f.asked.keys))
		if f.asked.node {
			keys = append(keys, "node")
		}
		return fmt.Sprintf("f%d(%s)", i+1, strings.Join(keys, ","))
	}
	find := func(t *testing.T, word string) *flight {
		for i, f := range all {
			if word == fmt.Sprintf("f%d", i+1) {
				return f
			}
		}
		t.Fatalf("no flight %q", word)
		return nil
	}
	transcript(t, "flights.txt", func(t *testing.T, words []string) string {
		switch words[0] {
		case "new":
			s, now, all = flights{}, epoch, nil
		case "wait":
			now = now.Add(duration(t, words[1]))
			s.expire(now)
		case "ask":
			q := Query{}
			for _, word := range words[1:] {
				if word == "node" {
					q.Node = true
				} else if key, ok := strings.CutPrefix(word, "ahead:"); ok {
					q.Ahead = append(q.Ahead, key)
				} else {
					q.PodKeys = append(q.PodKeys, word)
				}
			}
			f, shared := s.join(now, usable(q))
			return map[bool]string{true: "shares ", false: "starts "}[shared] + name(f)
		case "begin":
			f := s.begin(now)
			if f == nil {
				return "nothing may begin"
			}
			return "begins " + name(f)
		case "leave":
			return map[bool]string{true: "cancel", false: "goes on"}[s.leave(find(t, words[1]))]
		case "end":
			var reply Reply
			if len(words) > 2 {
				reply.Err = errors.New(words[2])
			}
			s.end(find(t, words[1]), reply)
		default:
			t.Fatalf("unknown command %q", words)
		}
		kept := "nothing"
		if s.kept != nil {
			kept = name(s.kept)
		}
		return fmt.Sprintf("under way: %d, kept: %s", len(s.running), kept)
	})
}

func TestPart(t *testing.T) {
	rows := map[string]*agentv1.PodStats{"a": {Key: "a"}, "b": {Key: "b"}}
	whole := Reply{Pods: rows, Node: &agentv1.NodeStats{}}
	of := usable(Query{PodKeys: []string{"a", "b"}, Node: true})

	got := part(whole, of, usable(Query{PodKeys: []string{"b"}}))
	if got.Node != nil || len(got.Pods) != 1 || got.Pods["b"] != rows["b"] {
		t.Errorf("a reader got what it did not ask for: %v", got)
	}
	if got := part(whole, of, of); got.Node == nil || len(got.Pods) != 2 {
		t.Errorf("a reader that asked for all got %v", got)
	}
	if got := part(Reply{Err: errors.New("no")}, of, of); got.Err == nil || got.Pods != nil {
		t.Errorf("an error came with rows: %v", got)
	}
}

func TestReadingAheadStaysWithinOneCall(t *testing.T) {
	q := Query{PodKeys: []string{"a"}, Ahead: []string{"", "\xff"}}
	for i := range agentv1.MaxPodKeys {
		q.Ahead = append(q.Ahead, fmt.Sprint(i))
	}
	own := asked{keys: map[string]struct{}{}}
	own.add(usable(q))
	if len(own.keys) != agentv1.MaxPodKeys || !own.covers(usable(Query{PodKeys: []string{"a", "0"}})) {
		t.Errorf("%d keys are asked for", len(own.keys))
	}
	for _, key := range []string{"", "\xff"} {
		if _, ok := own.keys[key]; ok {
			t.Errorf("the key %q is asked for", key)
		}
	}
}

func TestUsableLeavesOutWhatNoAgentTakes(t *testing.T) {
	got := usable(Query{PodKeys: []string{"a", "a", "", "\xff", strings.Repeat("x", 254), strings.Repeat("y", 253)}})
	if len(got.keys) != 2 {
		t.Errorf("usable keys are %v", got.keys)
	}
}
