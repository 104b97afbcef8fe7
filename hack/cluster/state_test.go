package main

import (
	"strings"
	"testing"
)

func TestFreeSlot(t *testing.T) {
	var all []int
	for slot := range maxSlots {
		all = append(all, slot)
	}
	for _, test := range []struct {
		name  string
		taken []int
		want  int
		fails bool
	}{
		{"first cluster", nil, 0, false},
		{"second cluster", []int{0}, 1, false},
		{"gap", []int{0, 2, 3}, 1, false},
		{"unordered", []int{2, 0, 1}, 3, false},
		{"full", all, 0, true},
	} {
		got, err := freeSlot(test.taken)
		if got != test.want || (err != nil) != test.fails {
			t.Errorf("%s: slot %d, error %v; want %d, error %t", test.name, got, err, test.want, test.fails)
		}
	}
}

func TestGrowRefuses(t *testing.T) {
	have := Plan{Name: "demo", Nodes: 2, Output: "/a/_output/demo"}
	for _, test := range []struct {
		name string
		want Plan
		err  string // part of it; empty for none
	}{
		{"same", have, ""},
		{"fewer nodes", Plan{Name: "demo", Nodes: 1, Output: have.Output}, "cannot shrink"},
		{"another checkout", Plan{Name: "demo", Nodes: 2, Output: "/b/_output/demo"}, "belongs to /a"},
	} {
		got, err := have.grow(test.want)
		switch {
		case test.err == "" && (err != nil || got != have):
			t.Errorf("%s: %+v, error %v", test.name, got, err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.err)
		}
	}
}
