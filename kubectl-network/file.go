package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// writable says early that a file cannot be written.
func writable(file string) error {
	if file == "" || file == "-" {
		return nil
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return fmt.Errorf("-o %s: is a folder; name a file in it", file)
		}
		return nil
	}
	probe, err := os.CreateTemp(filepath.Dir(file), ".kubectl-network-*")
	if err != nil {
		return fmt.Errorf("-o %s: no file can be made there: %w", file, errors.Unwrap(err))
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// sink opens what packets are written to as they come.
func (p *program) sink(file string) (out io.Writer, closeOut func() error, err error) {
	if file == "" || file == "-" {
		if isTerminal(p.streams.Out) {
			return nil, nil, errTerminal
		}
		return p.streams.Out, func() error { return nil }, nil
	}
	later := &lazyFile{name: file}
	return later, later.Close, nil
}

// A lazyFile is made, or emptied, when there is something to write: a name of a capture that does not exist costs nobody an older file.
type lazyFile struct {
	name string
	file *os.File
}

func (l *lazyFile) Write(b []byte) (n int, err error) {
	if l.file == nil {
		if l.file, err = os.OpenFile(l.name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err != nil {
			return 0, err
		}
	}
	return l.file.Write(b)
}

func (l *lazyFile) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
