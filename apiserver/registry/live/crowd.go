package live

import (
	"context"

	"golang.org/x/sync/semaphore"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// How many records may be in flight: read, and not yet encoded and sent. One takes about 5 KiB on its way to a client.
const (
	// maxListed bounds lists of more than smallPage records, and maxWatched the first chunks of watches. A larger
	// request is served when it is alone.
	maxListed  = 150_000
	maxWatched = 50_000
	// maxSmall bounds smaller lists, such as kubectl's pages, so that large ones do not turn them away.
	maxSmall  = 50_000
	smallPage = 500
)

// A crowd bounds the memory that requests take together. Those that find no room are told to come back.
type crowd struct {
	small, listed, watched *bound
}

func newCrowd() crowd {
	return crowd{small: newBound(maxSmall), listed: newBound(maxListed), watched: newBound(maxWatched)}
}

// list takes the room of a list until the request ends: its answer is encoded after List returns.
func (c crowd) list(ctx context.Context, records int) error {
	b := c.listed
	if records <= smallPage {
		b = c.small
	}
	release, err := b.take(records)
	if err == nil {
		context.AfterFunc(ctx, release)
	}
	return err
}

// watch takes the room of a watch's first chunk until it is given back.
func (c crowd) watch(records int) (release func(), err error) {
	return c.watched.take(min(records, initialChunk))
}

type bound struct {
	free *semaphore.Weighted
	size int
}

func newBound(size int) *bound { return &bound{semaphore.NewWeighted(int64(size)), size} }

func (b *bound) take(records int) (release func(), err error) {
	weight := int64(min(records, b.size))
	if !b.free.TryAcquire(weight) {
		return nil, apierrors.NewTooManyRequests("too many objects are being sent to others", 1)
	}
	return func() { b.free.Release(weight) }, nil
}
