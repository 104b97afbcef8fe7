package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestPoll(t *testing.T) {
	calls := 0
	if err := poll(t.Context(), time.Minute, "the third call", func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil || calls != 3 {
		t.Errorf("%d calls, error %v; want 3 and none", calls, err)
	}
}

// Who gives up says what for and why.
func TestPollGivesUp(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	why := errors.New("connection refused")
	for _, test := range []struct {
		name     string
		ctx      context.Context
		deadline time.Duration
		cause    error
	}{
		{"deadline", t.Context(), time.Nanosecond, context.DeadlineExceeded},
		{"interrupt", cancelled, time.Minute, context.Canceled},
	} {
		err := poll(test.ctx, test.deadline, "the server", func() error { return why })
		if !errors.Is(err, why) || !errors.Is(err, test.cause) || !strings.HasPrefix(err.Error(), "waiting for the server") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
