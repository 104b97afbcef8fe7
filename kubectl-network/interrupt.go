package main

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"

	"syscall"
)

// interrupts makes the first interrupt call first, and the second end the context. interrupted says whether there was one.
func interrupts(parent context.Context, first func()) (ctx context.Context, interrupted func() bool, done func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	var count atomic.Int32
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for {
			select {
			case <-signals:
				if count.Add(1) == 1 {
					first()
				} else {
					cancel(errInterrupted)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() bool { return count.Load() > 0 }, func() {
		signal.Stop(signals)
		cancel(nil)
		<-finished
	}
}
