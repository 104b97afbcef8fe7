package tcp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// pace is the pause between two pods. The kernel walks its whole table of connections for each, which takes about a
// millisecond.
const pace = 50 * time.Millisecond

// A queue holds the pods whose sockets are to be looked for. The node, and the pods that use its network, are one entry,
// nil. Its methods are safe for concurrent use.
type queue struct {
	mu      sync.Mutex
	waiting map[string]bool
	// pods are all there are, by key.
	pods   map[string]*podmap.Pod
	failed map[string]error
	// wake has a value when something waits.
	wake chan struct{}
}

// node is the node's key.
const node = ""

func newQueue() *queue {
	return &queue{
		waiting: map[string]bool{node: true}, pods: map[string]*podmap.Pod{node: nil},
		failed: map[string]error{}, wake: make(chan struct{}, 1),
	}
}

// follow takes over all pods, of which some are new. Those that failed are tried again.
func (q *queue) follow(all, fresh []*podmap.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.pods
	q.pods = map[string]*podmap.Pod{node: nil}
	for _, pod := range all {
		if pod.HostNetwork {
			continue
		}
		q.pods[pod.Key] = pod
		if old, ok := before[pod.Key]; ok && old.NetnsCookie != pod.NetnsCookie {
			q.waiting[pod.Key] = true
		}
	}
	for _, pod := range fresh {
		q.waiting[keyOf(pod)] = true
	}
	for key := range q.failed {
		q.waiting[key] = true
	}
	for key := range q.waiting {
		if _, ok := q.pods[key]; !ok {
			delete(q.waiting, key)
		}
	}
	for key := range q.failed {
		if _, ok := q.pods[key]; !ok {
			delete(q.failed, key)
		}
	}
	q.notify()
}

func keyOf(pod *podmap.Pod) string {
	if pod.HostNetwork {
		return node
	}
	return pod.Key
}

// again lets all pods be looked at once more.
func (q *queue) again() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key := range q.pods {
		q.waiting[key] = true
	}
	q.notify()
}

func (q *queue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next takes a pod out of the queue; ok is false when none waits.
func (q *queue) next() (key string, pod *podmap.Pod, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key := range q.waiting {
		delete(q.waiting, key)
		return key, q.pods[key], true
	}
	return "", nil, false
}

// done keeps what went wrong with a pod. One that has ended is no problem.
func (q *queue) done(key string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.failed, key)
	if err != nil && !errors.Is(err, podmap.ErrGone) {
		q.failed[key] = err
	}
}

func (q *queue) problem() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, err := range q.failed {
		return fmt.Errorf("earlier sockets of %d pods are not followed, among them %q: %w", len(q.failed), key, err)
	}
	return nil
}

// run takes one pod after the other, at a pace, until the context ends.
func (q *queue) run(ctx context.Context, seed func(*podmap.Pod) error) {
	for {
		var pause <-chan time.Time
		var wake <-chan struct{}
		if key, pod, ok := q.next(); ok {
			q.done(key, seed(pod))
			pause = time.After(pace)
		} else {
			wake = q.wake
		}
		select {
		case <-ctx.Done():
			return
		case <-pause:
		case <-wake:
		}
	}
}

// seedPod follows the sockets that a pod has, or the node if it is nil.
func (c *Collector) seedPod(pod *podmap.Pod) error {
	c.iterating.Lock()
	defer c.iterating.Unlock()
	if pod == nil {
		return c.seedHere()
	}
	return pod.Enter(c.seedHere)
}

// seedHere follows the sockets of the calling thread's network namespace.
func (c *Collector) seedHere() error {
	return drain(c.seed, c.buffer, func([]byte) {})
}
