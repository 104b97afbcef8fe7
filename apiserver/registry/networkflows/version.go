package networkflows

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
)

// maxAhead is how far another replica's clock may be before ours.
const maxAhead = 5 * time.Second

// A counter gives resourceVersions: microseconds since the Unix epoch, made to rise. It is safe for concurrent use.
type counter struct {
	clock clock.PassiveClock

	mu   sync.Mutex
	last uint64
}

// next is above all before, and behind it are n-1 more that nobody else gets. The last of them is returned.
func (c *counter) next(n int) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last+uint64(n), uint64(c.clock.Now().UnixMicro()))
	return c.last
}

// adopt makes sure that what comes is above a version that a client has, which may be another replica's.
func (c *counter) adopt(v uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := uint64(c.clock.Now().Add(maxAhead).UnixMicro())
	if v > max(now, c.last) {
		return tooLarge(v, c.last)
	}
	c.last = max(c.last, v)
	return nil
}

// timeOf is when a version was made, by its replica's clock.
func timeOf(v uint64) time.Time { return time.UnixMicro(int64(v)) }

// parseVersion reads a resourceVersion; 0 stands for any.
func parseVersion(text string) (uint64, error) {
	if text == "" || text == "0" {
		return 0, nil
	}
	v, err := strconv.ParseUint(text, 10, 63)
	if err != nil || text[0] == '0' || text[0] == '+' {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %q is not a positive decimal number of 63 bits", text))
	}
	return v, nil
}

func format(v uint64) string { return strconv.FormatUint(v, 10) }

// tooLarge is the error by which clients know to try again or to start anew (the shape of
// k8s.io/apiserver/pkg/storage.NewTooLargeResourceVersionError).
func tooLarge(asked, current uint64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}
