package outputs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
)

// volumeStore writes files below a folder that the operator has mounted. No name and no symbolic link leads out of it. A
// file has its name only when it is whole and on disk.
type volumeStore struct {
	root *os.Root
	file *os.File // that is being written
}

func newVolume(dir, name string) (*volumeStore, error) {
	if dir == "" {
		return nil, lasting("this agent has no volumes")
	}
	root, err := os.OpenRoot(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, lasting("the volume %s is not mounted into the agent of this node", name)
	}
	if err != nil {
		return nil, volumeFailure("opening the volume", err)
	}
	return &volumeStore{root: root}, nil
}

func (s *volumeStore) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
	_ = s.root.Close()
}

// partial is what a file is called until it is whole.
func partial(key string) string { return key + ".partial" }

func (s *volumeStore) whole(ctx context.Context, key string, p *part) error {
	if _, err := s.begin(ctx, key); err != nil {
		return err
	}
	if _, err := s.part(ctx, key, "", p); err != nil {
		return errors.Join(err, s.abort(ctx, key, ""))
	}
	return s.finish(ctx, key, "", nil)
}

func (s *volumeStore) begin(_ context.Context, key string) (string, error) {
	if err := s.root.MkdirAll(path.Dir(key), 0o750); err != nil {
		return "", volumeFailure("making the folder", err)
	}
	if err := s.root.Remove(partial(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", volumeFailure("removing what an earlier try left", err)
	}
	file, err := s.root.OpenFile(partial(key), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return "", volumeFailure("making the file", err)
	}
	s.file = file
	return "", nil
}

func (s *volumeStore) part(ctx context.Context, _, _ string, p *part) (string, error) {
	if s.file == nil {
		return "", fmt.Errorf("%w: %w", errAnew, passing("the file was left by an earlier try"))
	}
	const step = 1 << 20 // between looks at whether to go on
	for rest := p.data; len(rest) > 0; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := s.file.Write(rest[:min(step, len(rest))])
		if err != nil {
			return "", fmt.Errorf("%w: %w", errAnew, volumeFailure("writing the file", err))
		}
		rest = rest[n:]
	}
	return "", nil
}

func (s *volumeStore) finish(_ context.Context, key, _ string, _ *object) error {
	if s.file == nil {
		return fmt.Errorf("%w: %w", errAnew, passing("the file was left by an earlier try"))
	}
	file := s.file
	s.file = nil
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("%w: %w", errAnew, volumeFailure("writing the file", err))
	}
	if err := s.root.Rename(partial(key), key); err != nil {
		return fmt.Errorf("%w: %w", errAnew, volumeFailure("giving the file its name", err))
	}
	folder, err := s.root.Open(path.Dir(key))
	if err != nil {
		return volumeFailure("opening the folder", err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // some network file systems have no such thing
		return volumeFailure("writing the folder", err)
	}
	return nil
}

func (s *volumeStore) abort(_ context.Context, key, _ string) error {
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	if err := s.root.Remove(partial(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return volumeFailure("removing the unfinished file", err)
	}
	return nil
}

// volumeFailure says what went wrong with a volume, without its path on the node.
func volumeFailure(what string, err error) error {
	var number syscall.Errno
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return passing("%s: the volume is full", what)
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.ETIMEDOUT):
		errors.As(err, &number)
		return passing("%s: %s", what, number.Error())
	case errors.As(err, &number):
		return lasting("%s: %s", what, number.Error())
	default:
		return lasting("%s: the path leads out of the volume or is not a folder", what)
	}
}
