package main

import (
	"fmt"
	"io"
	"time"
)

// A Progress tells people what goes on, with the time since the start.
type Progress struct {
	w     io.Writer
	start time.Time
}

func newProgress(w io.Writer) *Progress { return &Progress{w: w, start: time.Now()} }

// Say prints a line.
func (p *Progress) Say(format string, args ...any) {
	fmt.Fprintf(p.w, "%6.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// Step says what is done, does it, and says how long it took if that was noticeable.
func (p *Progress) Step(what string, do func() error) error {
	p.Say("%s ...", what)
	start := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if took := time.Since(start); took > 3*time.Second {
		p.Say("  done in %.1f s", took.Seconds())
	}
	return nil
}
