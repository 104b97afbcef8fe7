package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Pauses before an address is tried again: the first one, which doubles to the last one.
const firstListenPause, lastListenPause = time.Second, 30 * time.Second

// An endpoint is where metrics are served. An address that somebody else has is no reason for an agent to end, which counts and
// records for others too: it is tried again until it is free. Its methods are safe for concurrent use.
type endpoint struct {
	address string // empty for none
	// first and last are the pauses between attempts.
	first, last time.Duration

	mu      sync.Mutex
	problem string
}

func newEndpoint(address string) *endpoint {
	return &endpoint{address: address, first: firstListenPause, last: lastListenPause}
}

// unserved is why nobody can scrape; empty while somebody can, and before it was tried.
func (e *endpoint) unserved() string {
	if e.address == "" {
		return "nothing is served for scrapes (--metrics-address is empty)"
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.problem
}

// state is what the node's status says of it, which is nothing while it is as it shall be.
func (e *endpoint) state() []*v1alpha1.Collector {
	if problem := e.unserved(); problem != "" && e.address != "" {
		return []*v1alpha1.Collector{{Name: "metrics", State: v1alpha1.Collector_STATE_OFF, Message: problem}}
	}
	return nil
}

// run serves until the context ends. serve has to return when the context has ended, or when the listener fails.
func (e *endpoint) run(ctx context.Context, serve func(net.Listener) error) {
	if e.address == "" {
		return
	}
	pause := e.first
	for ctx.Err() == nil {
		var config net.ListenConfig
		listener, err := config.Listen(ctx, "tcp", e.address)
		if err == nil {
			e.tell(nil)
			pause = e.first
			err = serve(listener)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the listener ended")
		}
		e.tell(fmt.Errorf("--metrics-address %s: %w", e.address, err))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, e.last)
	}
}

// tell notes why nothing is served, and logs it when that has changed.
func (e *endpoint) tell(err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	e.mu.Lock()
	changed := e.problem != problem
	e.problem = problem
	e.mu.Unlock()
	switch {
	case err != nil && changed:
		klog.ErrorS(err, "Metrics are not served; trying again until they are", "flag", "--metrics-address", "address", e.address)
	case err == nil:
		klog.InfoS("Serving metrics", "address", e.address)
	}
}

// checkAddress refuses what no listener could ever listen at.
func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("address %s: the port has to be a number from 0 to 65535", address)
	}
	return nil
}
