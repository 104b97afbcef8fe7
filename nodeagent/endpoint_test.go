package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// TestEndpoint: an address that somebody else has is said to be missing, and used when it is free; one that fails later too.
func TestEndpoint(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := newEndpoint(other.Addr().String())
	e.first, e.last = time.Millisecond, 4*time.Millisecond
	if e.unserved() != "" || e.state() != nil {
		t.Errorf("before it was tried: %q, %v", e.unserved(), e.state())
	}
	ctx, stop := context.WithCancel(t.Context())
	served, broken, ended := make(chan net.Listener), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		e.run(ctx, func(l net.Listener) error {
			defer func() { _ = l.Close() }()
			served <- l
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-broken:
				return errors.New("it broke")
			}
		})
	}()
	want := "--metrics-address " + e.address + ": listen tcp " + e.address + ": bind: address already in use"
	fakepod.Eventually(t, "the problem", func() bool { return e.unserved() == want }, e.unserved)
	if state := e.state(); len(state) != 1 || state[0].Name != "metrics" || state[0].State != v1alpha1.Collector_STATE_OFF || state[0].Message != want {
		t.Errorf("the state is %v", state)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if got := (<-served).Addr().String(); got != e.address || e.unserved() != "" || e.state() != nil {
		t.Errorf("serving at %s, %q", got, e.unserved())
	}
	broken <- struct{}{}
	<-served // again
	stop()
	<-ended
	if strings.Contains(e.unserved(), "broke") {
		t.Errorf("after the end: %q", e.unserved())
	}
}

func TestNoEndpoint(t *testing.T) {
	e := newEndpoint("")
	e.run(t.Context(), func(net.Listener) error { t.Error("served"); return nil })
	if e.unserved() == "" || e.state() != nil {
		t.Errorf("%q, %v", e.unserved(), e.state())
	}
}
