package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	defaultFileBytes = 100 << 20
	defaultFiles     = 5
	filesAtMost      = 100
	fileMode         = 0o640
	folderMode       = 0o750
	// tornBytes is how far back the beginning of a line that is not whole is looked for.
	tornBytes = 64 << 10
)

// A file is LOGS_DIR/NAME.log and its predecessors, NAME.log.1 (the youngest) and on. Whatever else writes to the folder
// may rename or remove them: what is written next is in a new file.
type file struct {
	jsonEncoder
	dir, name string
	maxBytes  int64
	maxFiles  int

	mu   sync.Mutex // of the fields below
	root *os.Root
	open *os.File // nil until something is written, and after a failure
	size int64
}

// labelName is a DNS label, which names an exporter: nothing else becomes part of a path.
var labelName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// newFile makes nothing yet.
func newFile(encoder jsonEncoder, dir, name string, wanted *v1alpha1.FileDestination) (*file, error) {
	if !labelName.MatchString(name) {
		return nil, fmt.Errorf("name: %q is no DNS label, and cannot be that of a file", printable(name, 64))
	}
	if dir == "" {
		return nil, errors.New("this agent has no folder for flow logs; start it with --logs-dir")
	}
	f := &file{jsonEncoder: encoder, dir: dir, name: name + ".log", maxBytes: wanted.GetMaxBytes(), maxFiles: int(wanted.GetMaxFiles())}
	if f.maxBytes <= 0 {
		f.maxBytes = defaultFileBytes
	}
	if f.maxFiles <= 0 {
		f.maxFiles = defaultFiles
	}
	f.maxFiles = min(f.maxFiles, filesAtMost)
	return f, nil
}

// Send implements Exporter. What could not be written is tried again: the disk may have room later.
func (f *file) Send(_ context.Context, batch Batch) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.write(batch.Payload); err != nil {
		f.closeFile()
		return 0, &Retry{Err: err}
	}
	return 0, nil
}

// write writes all lines or none.
func (f *file) write(lines []byte) error {
	if err := f.ready(int64(len(lines))); err != nil {
		return err
	}
	n, err := f.open.Write(lines)
	if err == nil {
		f.size += int64(n)
		return nil
	}
	if n > 0 {
		err = errors.Join(err, f.open.Truncate(f.size)) // a line is whole, or not there
	}
	return fmt.Errorf("writing %s: %w", f.name, shortened(err))
}

// ready opens the file, if it is not the one that is open, and replaces it when so many bytes do not fit.
func (f *file) ready(more int64) error {
	if err := f.moved(); err != nil {
		f.closeFile()
	}
	if err := f.reopen(); err != nil {
		return err
	}
	if f.size == 0 || f.size+more <= f.maxBytes {
		return nil
	}
	f.closeFile()
	if err := f.rotate(); err != nil {
		return err
	}
	return f.reopen()
}

// moved fails when the open file is no longer what its name says.
func (f *file) moved() error {
	if f.open == nil {
		return nil
	}
	is, err := f.open.Stat()
	if err != nil {
		return err
	}
	named, err := f.root.Lstat(f.name)
	if err != nil {
		return err
	}
	if !os.SameFile(is, named) {
		return errors.New("replaced")
	}
	f.size = is.Size() // somebody may have emptied it
	return nil
}

func (f *file) reopen() error {
	if f.open != nil {
		return nil
	}
	if f.root == nil {
		if err := os.MkdirAll(f.dir, folderMode); err != nil {
			return fmt.Errorf("making the folder of flow logs: %w", shortened(err))
		}
		root, err := os.OpenRoot(f.dir)
		if err != nil {
			return fmt.Errorf("opening the folder of flow logs: %w", shortened(err))
		}
		f.root = root
	}
	// Neither through a link nor, for ever, to a pipe that nobody reads.
	open, err := f.root.OpenFile(f.name, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NONBLOCK, fileMode)
	if err != nil {
		f.closeRoot() // the folder may have been replaced
		return fmt.Errorf("opening %s: %w", f.name, shortened(err))
	}
	var size int64
	if named, missing := f.root.Lstat(f.name); missing != nil || !named.Mode().IsRegular() {
		err = errors.New("it is no regular file") // nor is what it leads to prepared, which is not ours
	} else {
		size, err = prepare(open)
	}
	if err != nil {
		_ = open.Close() // nothing was written
		return fmt.Errorf("opening %s: %w", f.name, shortened(err))
	}
	f.open, f.size = open, size
	return nil
}

// prepare checks that it is a file, and cuts off a line that an end of the machine left torn.
func prepare(f *os.File) (size int64, err error) {
	about, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !about.Mode().IsRegular() {
		return 0, errors.New("it is no regular file")
	}
	size = about.Size()
	tail := make([]byte, min(size, tornBytes))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	whole := size - int64(len(tail)) + int64(bytes.LastIndexByte(tail, '\n')+1)
	if whole == size {
		return size, nil
	}
	return whole, f.Truncate(whole)
}

// rotate renames each file to the next number; the oldest goes.
func (f *file) rotate() error {
	for i := f.maxFiles - 1; i >= 1; i-- {
		err := f.root.Rename(f.numbered(i-1), f.numbered(i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("replacing %s: %w", f.name, shortened(err))
		}
	}
	if f.maxFiles == 1 {
		if err := f.root.Remove(f.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("replacing %s: %w", f.name, shortened(err))
		}
	}
	for i := f.maxFiles; i < filesAtMost; i++ { // of a configuration that had more
		if f.root.Remove(f.numbered(i)) != nil {
			break
		}
	}
	return nil
}

func (f *file) numbered(i int) string {
	if i == 0 {
		return f.name
	}
	return f.name + "." + strconv.Itoa(i)
}

// shortened leaves the path out, which is in the message already.
func shortened(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return err
}

func (f *file) closeFile() {
	if f.open != nil {
		_ = f.open.Close() // every write was checked
		f.open = nil
	}
}

func (f *file) closeRoot() {
	if f.root != nil {
		_ = f.root.Close() // it was only looked through
		f.root = nil
	}
}

// Close implements Exporter.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closeFile()
	f.closeRoot()
	return nil
}
