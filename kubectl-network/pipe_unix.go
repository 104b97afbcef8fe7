//go:build unix

package main

import (
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Without this, writing to a pipe that nobody reads ends the program before it can stop the capture.
func init() { signal.Ignore(unix.SIGPIPE) }

func isBrokenPipe(err error) bool { return errors.Is(err, unix.EPIPE) }

// watchReader calls gone when out is a pipe that nobody reads any more, also while nothing is written to it.
func watchReader(out any, gone func()) (stop func()) {
	file, ok := out.(*os.File)
	if !ok {
		return func() {}
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return func() {}
	}
	end := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		watched := []unix.PollFd{{Fd: int32(file.Fd())}}
		for {
			n, err := unix.Poll(watched, 200)
			if n > 0 && watched[0].Revents&unix.POLLERR != 0 {
				gone()
				return
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			select {
			case <-end:
				return
			default:
			}
		}
	}()
	return func() { close(end); <-finished }
}
