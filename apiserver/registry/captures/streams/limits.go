package streams

import (
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// windowMemory and batchMemory are what the stream of a node may hold, for each batch; wideMemory instead of windowMemory
	// when there is more than one.
	windowMemory, wideMemory, batchMemory = 64 << 10, 640 << 10, 256 << 10
	// retryAfter is what clients over a limit are told to wait, in seconds.
	retryAfter = 5
)

// limits bound how many streams are open, and what memory they hold.
type limits struct {
	perUser, inAll int
	memory         int64

	mu     sync.Mutex
	byUser map[string]int
	all    int
	used   int64
}

// enter takes a place for a stream of a user. The error is an API error with status 429.
func (l *limits) enter(user string) (leave func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.byUser[user] >= l.perUser:
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("%d streams of packets of %s are open, more are not allowed", l.perUser, user), retryAfter)
	case l.all >= l.inAll:
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("%d streams of packets are open, more are not allowed", l.inAll), retryAfter)
	}
	l.byUser[user]++
	l.all++
	return func() { l.leave(user) }, nil
}

func (l *limits) leave(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.byUser[user]--; l.byUser[user] == 0 {
		delete(l.byUser, user)
	}
}

// take takes memory for the streams of so many nodes. The error is an API error with status 429, or 400 when there would
// never be enough.
func (l *limits) take(nodes, batches int) (giveBack func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	each := int64(windowMemory + batches*batchMemory)
	if batches > 1 {
		each += wideMemory - windowMemory
	}
	want := int64(nodes) * each
	if want > l.memory {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("packets of %d nodes are more than can be merged at a time (%d): narrow the request with node=", nodes, l.memory/each))
	}
	if l.used+want > l.memory {
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("there is no memory to read from %d more nodes", nodes), retryAfter)
	}
	l.used += want
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.used -= want
	}, nil
}
