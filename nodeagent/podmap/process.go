package podmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone is answered about a process that has ended.
var ErrGone = errors.New("the process has ended")

// A process is held by its directory in /proc. Safe for concurrent use; after close everything answers ErrGone.
type process struct {
	pid       int
	directory *os.File
	// started is in clock ticks since boot: field 22 of /proc/PID/stat.
	started uint64
	// netns is the inode of the network namespace at the time of opening.
	netns uint64
}

func openProcess(pid int) (*process, error) {
	directory, err := os.OpenFile("/proc/"+strconv.Itoa(pid), unix.O_DIRECTORY|unix.O_PATH, 0)
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, gone(err))
	}
	p := &process{pid: pid, directory: directory}
	if err := p.inspect(); err != nil {
		directory.Close()
		return nil, fmt.Errorf("inspecting process %d: %w", pid, err)
	}
	return p, nil
}

func (p *process) inspect() error {
	stat, err := p.read("stat", nil)
	if err != nil {
		return err
	}
	if p.started, err = startTime(stat); err != nil {
		return err
	}
	p.netns, err = p.namespace()
	return err
}

// startTime reads field 22. The second field is the program's name in parentheses and may hold anything, parentheses
// and blanks included.
func startTime(stat []byte) (uint64, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("reading stat: %d fields behind the name", len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// userHZ is how many of the clock ticks in /proc make a second, whatever the kernel's own rate is.
const userHZ = 100

// age is how long ago the process started. An agent that starts anew knows by it that an old process is settled.
func (p *process) age() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano()) - time.Duration(p.started)*(time.Second/userHZ)
}

func (p *process) close() { p.directory.Close() }

// alive is false too for a process that has left the namespace in which it was found.
func (p *process) alive() bool {
	netns, err := p.namespace()
	return err == nil && netns == p.netns
}

// namespace is the inode of the process's network namespace now. A zombie has none.
func (p *process) namespace() (uint64, error) {
	var stat unix.Stat_t
	err := p.control(func(fd int) error { return unix.Fstatat(fd, "ns/net", &stat, 0) })
	return stat.Ino, err
}

// read reads a file of the process's directory, appending to buffer.
func (p *process) read(name string, buffer []byte) ([]byte, error) {
	file, err := p.open(name)
	if err != nil {
		return buffer, err
	}
	defer unix.Close(file)
	return readAll(file, buffer)
}

func (p *process) open(name string) (file int, err error) {
	err = p.control(func(fd int) error {
		file, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	return file, err
}

func (p *process) control(do func(fd int) error) error {
	raw, err := p.directory.SyscallConn()
	if err != nil {
		return ErrGone
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return ErrGone // closed, because the process was found to be gone
	}
	return gone(inner)
}

func gone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return err
}

// readAll avoids os.File: a look reads hundreds of small files.
func readAll(fd int, buffer []byte) ([]byte, error) {
	for {
		if cap(buffer)-len(buffer) < 1024 {
			buffer = append(buffer, make([]byte, 4096)...)[:len(buffer)]
		}
		n, err := unix.Read(fd, buffer[len(buffer):cap(buffer)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return buffer, gone(err)
		}
		if n == 0 {
			return buffer, nil
		}
		buffer = buffer[:len(buffer)+n]
	}
}

// enter runs do on a thread that is in the process's network namespace, and in no other way changed.
func (p *process) enter(do func() error) error {
	target, err := p.open("ns/net")
	if err != nil {
		return err
	}
	defer unix.Close(target)
	result := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine unless it is unlocked, so one that could not come back is not used again.
		runtime.LockOSThread()
		result <- visit(target, do)
	}()
	return <-result
}

func visit(target int, do func() error) error {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the own network namespace: %w", err)
	}
	defer unix.Close(home)
	if err := unix.Setns(target, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the network namespace: %w", err)
	}
	err = do()
	if unix.Setns(home, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// Cookie is the number of the calling thread's network namespace, which no other namespace gets until the next boot.
func Cookie() (uint64, error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(socket)
	number, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("asking for the namespace's cookie: %w", err)
	}
	return number, nil
}
