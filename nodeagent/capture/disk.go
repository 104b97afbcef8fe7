package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// errFull says that there is no room on disk.
var errFull = errors.New("there is no room for more packets")

// A disk bounds what all captures together hold. Its methods are safe for concurrent use.
type disk struct {
	quota   int64
	minFree int64 // below 0: the default
	// statfs asks for the free and all bytes of the file system.
	statfs func() (free, all int64, err error)
	used   atomic.Int64
}

// reserve takes room for n bytes. The error wraps errFull when there is none.
func (d *disk) reserve(n int64) error {
	if d.used.Add(n) > d.quota {
		d.used.Add(-n)
		return fmt.Errorf("%w: the quota of %d bytes for captures on this node is used", errFull, d.quota)
	}
	free, all, err := d.statfs()
	if err != nil {
		d.used.Add(-n)
		return fmt.Errorf("asking for free space: %w", err)
	}
	if least := d.least(all); free-n < least {
		d.used.Add(-n)
		return fmt.Errorf("%w: %d bytes are free on this node's disk, and %d have to stay so", errFull, free, least)
	}
	return nil
}

// least is how much has to stay free.
func (d *disk) least(all int64) int64 {
	if d.minFree >= 0 {
		return d.minFree
	}
	return min(all/10, 1<<30)
}

// release gives room back.
func (d *disk) release(n int64) { d.used.Add(-n) }

// statfsOf asks about the file system of an open directory.
func statfsOf(directory *os.File) func() (free, all int64, err error) {
	return func() (int64, int64, error) {
		var stat unix.Statfs_t
		raw, err := directory.SyscallConn()
		if err != nil {
			return 0, 0, err
		}
		var inner error
		if err := raw.Control(func(fd uintptr) { inner = unix.Fstatfs(int(fd), &stat) }); err != nil {
			return 0, 0, err
		}
		return int64(stat.Bavail) * stat.Bsize, int64(stat.Blocks) * stat.Bsize, inner
	}
}

// writeJSON replaces a file as a whole. When it returns, and durable is set, it is on disk.
func writeJSON(root *os.Root, name string, value any, durable bool) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	return replace(root, name, text, durable)
}

func replace(root *os.Root, name string, content []byte, durable bool) error {
	temporary := name + ".new"
	if err := writeFile(root, temporary, content, durable); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := root.Rename(temporary, name); err != nil {
		return fmt.Errorf("replacing %s: %w", name, err)
	}
	if durable {
		return syncFolder(root)
	}
	return nil
}

func writeFile(root *os.Root, name string, content []byte, durable bool) (err error) {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err = file.Write(content); err != nil || !durable {
		return err
	}
	return file.Sync()
}

// syncFolder has the names in a folder on disk.
func syncFolder(root *os.Root) error {
	folder, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("opening the folder: %w", err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return fmt.Errorf("syncing the folder: %w", err)
	}
	return nil
}

func readJSON(root *os.Root, name string, value any) error {
	text, err := root.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("decoding %s: %w", name, err)
	}
	return nil
}

// isFull is true for errors of writing that mean that the file system, or what we may use of it, has no room.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
