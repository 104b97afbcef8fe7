package main

import (
	"context"
	"fmt"
	"time"
)

// pollInterval is short, since what is polled is on this machine.
const pollInterval = 100 * time.Millisecond

// poll calls check until it returns nil, and gives up at the deadline with check's last word on why not.
func poll(ctx context.Context, deadline time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (%w)", what, err, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
