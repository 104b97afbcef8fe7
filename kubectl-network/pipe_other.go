//go:build !unix

package main

import (
	"errors"
	"io/fs"
	"syscall"
)

func isBrokenPipe(err error) bool {
	// ERROR_BROKEN_PIPE and ERROR_NO_DATA of Windows.
	return errors.Is(err, syscall.Errno(109)) || errors.Is(err, syscall.Errno(232)) || errors.Is(err, fs.ErrClosed)
}

func watchReader(any, func()) (stop func()) { return func() {} }
