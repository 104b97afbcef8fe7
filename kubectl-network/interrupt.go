package main

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// interrupts makes the first interrupt call first, and the second end the context, which is that of first, too. interrupted says
// whether there was one, and done waits for first.
func interrupts(parent context.Context, first func(context.Context)) (ctx context.Context, interrupted func() bool, done func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	var count atomic.Int32
	ending, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		var under chan struct{} // closed when first has returned
		for leave := ending; leave != nil || under != nil; {
			select {
			case <-leave:
				leave = nil
			case <-under:
				under = nil
			case <-signals:
				if count.Add(1) > 1 {
					cancel(errInterrupted)
					continue
				}
				called := make(chan struct{})
				under = called
				go func() {
					defer close(called)
					first(ctx)
				}()
			}
		}
	}()
	return ctx, func() bool { return count.Load() > 0 }, func() {
		close(ending)
		<-finished
		signal.Stop(signals)
		cancel(nil)
	}
}
