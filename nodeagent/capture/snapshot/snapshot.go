package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// MaximumBytes is the largest size of a snapshot. What does not fit is left out of its section, and counted there.
const MaximumBytes = 4 << 20

// version changes when a field changes its meaning.
const version = 1

// A section is one kind of what is recorded.
type section struct {
	name string
	// bytes bounds its items.
	bytes int
	read  func(ctx context.Context, s *items) error
}

// sections in the order in which they are read. Their bounds, and some bytes for what is around them, are MaximumBytes.
var sections = []section{
	{"links", 512 << 10, readLinks},
	{"addresses", 256 << 10, readAddresses},
	{"neighbours", 384 << 10, readNeighbours},
	{"routes", 640 << 10, readRoutes},
	{"rules", 128 << 10, readRules},
	{"nftables", 1024 << 10, readNftables},
	{"sockets", 640 << 10, readSockets},
	{"socketCounts", 16 << 10, readSocketCounts},
	{"sysctls", 384 << 10, readSysctls},
	{"counters", 96 << 10, readCounters},
}

// items are those of a section.
type items struct {
	Items   []json.RawMessage `json:"items"`
	Omitted int               `json:"omitted,omitempty"`
	Error   string            `json:"error,omitempty"`

	room int
}

// add adds an item if there is room, and tells whether there was.
func (s *items) add(item any) bool {
	text, err := json.Marshal(item)
	if err != nil || len(text)+1 > s.room {
		s.Omitted++
		return false
	}
	s.room -= len(text) + 1
	s.Items = append(s.Items, text)
	return true
}

// Take reads the state of the network of the current thread's network namespace: call it on a thread that is locked to
// its goroutine, as inside podmap.Pod.Enter. The answer is JSON as the package says, of at most MaximumBytes. What could
// not be read is said in it; an error is only the end of ctx, which is looked at between sections.
func Take(ctx context.Context) ([]byte, error) {
	whole := map[string]any{"version": version, "time": time.Now().UTC().Format(time.RFC3339Nano)}
	truncated := false
	for _, one := range sections {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s := &items{Items: []json.RawMessage{}, room: one.bytes}
		if err := one.read(ctx, s); err != nil {
			s.Error = fmt.Sprintf("%.500s", brief(err))
		}
		truncated = truncated || s.Omitted > 0
		whole[one.name] = s
	}
	whole["truncated"] = truncated
	return json.Marshal(whole)
}

// brief leaves paths of the node out of an error.
func brief(err error) string {
	var path *fs.PathError
	var number syscall.Errno
	switch {
	case errors.As(err, &path):
		return fmt.Sprintf("%s: %v", path.Op, path.Err)
	case errors.As(err, &number):
		return number.Error()
	default:
		return err.Error()
	}
}
