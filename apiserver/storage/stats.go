package storage

import (
	"context"
	"sync"

	apistorage "k8s.io/apiserver/pkg/storage"
)

// Stats counts the objects and, once the sizes are kept, averages those that were seen.
func (s *store) Stats(ctx context.Context) (apistorage.Stats, error) {
	count, err := s.count(ctx, "")
	if err != nil {
		return apistorage.Stats{}, err
	}
	return apistorage.Stats{ObjectCount: count, EstimatedAverageObjectSizeBytes: s.sizes.average()}, nil
}

// EnableResourceSizeEstimation begins to keep sizes. Deletions are seen by the watch, so the keys are not needed.
func (s *store) EnableResourceSizeEstimation(apistorage.KeysFunc) error {
	s.sizes.keep()
	return nil
}

// ReadinessCheck is the cache's matter: see cached.
func (s *store) ReadinessCheck() error { return nil }

// RequestWatchProgress does nothing: the host sends bookmarks by itself, about once a minute. Nothing waits for more,
// because what has to be as new as the host is asked of the host.
func (s *store) RequestWatchProgress(context.Context) error { return nil }

// CompactRevision is unknown: the host does not tell when it forgets.
func (s *store) CompactRevision() int64 { return 0 }

// sizes are those of the objects that were seen, by the names of their envelopes. The zero value keeps none.
type sizes struct {
	mu    sync.Mutex
	bytes map[string]int
	sum   int64
}

func (s *sizes) keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes == nil {
		s.bytes = map[string]int{}
	}
}

func (s *sizes) set(name string, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes == nil {
		return
	}
	s.sum += int64(size - s.bytes[name])
	s.bytes[name] = size
}

func (s *sizes) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum -= int64(s.bytes[name])
	delete(s.bytes, name)
}

func (s *sizes) average() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.bytes) == 0 {
		return 0
	}
	return s.sum / int64(len(s.bytes))
}
