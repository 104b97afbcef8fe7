package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A progress is one line on a terminal that is written over. Elsewhere it writes nothing.
type progress struct {
	out    io.Writer
	active bool
	last   string
}

func newProgress(out io.Writer) *progress { return &progress{out: out, active: isTerminal(out)} }

func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// show replaces the line.
func (p *progress) show(text string) {
	if !p.active || text == p.last {
		return
	}
	padding := max(0, len(p.last)-len(text))
	fmt.Fprintf(p.out, "\r%s%s", text, strings.Repeat(" ", padding))
	p.last = text
}

// counting shows how much was written to out.
func (p *progress) counting(name string, out io.Writer) io.Writer {
	var written int64
	return writerFunc(func(b []byte) (int, error) {
		n, err := out.Write(b)
		written += int64(n)
		p.show(fmt.Sprintf("%s: %s written; Ctrl-C ends it", name, size(written)))
		return n, err
	})
}

// clear removes the line, so that something else can be written.
func (p *progress) clear() {
	if p.last != "" {
		fmt.Fprintf(p.out, "\r%s\r", strings.Repeat(" ", len(p.last)))
		p.last = ""
	}
}

// summary says what was recorded so far.
func summary(v view) string {
	totals := v.status.Totals
	text := fmt.Sprintf("%s from %s", count(totals.Packets, "packet"), count(int64(v.status.Pods), "pod"))
	if v.status.Pods == 0 {
		text = fmt.Sprintf("%s from %s", count(totals.Packets, "packet"), count(int64(v.status.Nodes), "node"))
	} else {
		text += " on " + count(int64(v.status.Nodes), "node")
	}
	return fmt.Sprintf("%s, %s, %s", text, size(totals.Bytes), dropped(totals))
}

// dropped says how many packets are missing, and why.
func dropped(counts v1alpha1.CaptureCounts) string {
	var sum int64
	var causes []string
	for _, one := range []struct {
		packets int64
		cause   string
	}{
		{counts.DroppedByLimit, "beyond a limit"}, {counts.DroppedByRing, "by the kernel's ring"}, {counts.DroppedByDisk, "by the disk"},
	} {
		if sum += one.packets; one.packets > 0 {
			causes = append(causes, fmt.Sprintf("%d %s", one.packets, one.cause))
		}
	}
	switch len(causes) {
	case 0:
		return "0 dropped"
	case 1:
		return strings.Replace(causes[0], " ", " dropped ", 1)
	}
	return fmt.Sprintf("%d dropped: %s", sum, strings.Join(causes, ", "))
}

func count(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// size is human: 1.5 MiB.
func size(bytes int64) string {
	value, units := float64(bytes), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	unit := 0
	for ; value >= 1024 && unit < len(units)-1; unit++ {
		value /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

// running is the line of a capture that is under way.
func running(v view, now time.Time) string {
	if v.status.StartTime == nil {
		return v.Name + ": waiting to begin"
	}
	passed := now.Sub(v.status.StartTime.Time).Round(time.Second)
	limit := ""
	if seconds := v.settings.DurationSeconds; seconds != nil {
		limit = fmt.Sprintf(" of %v", time.Duration(*seconds)*time.Second)
	}
	return fmt.Sprintf("%s: %v%s, %s", v.Name, max(passed, 0), limit, summary(v))
}
