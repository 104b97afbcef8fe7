package main

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fileBacked is how many kB of this process are pages of files.
func fileBacked(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "RssFile:"); ok {
			kB, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kB
		}
	}
	t.Skip("the kernel does not say how much memory is of files")
	return 0
}

// TestGiveBack: pages of the program go, and come back when they are run.
func TestGiveBack(t *testing.T) {
	command().Execute() // touches much of the program, and fails for want of a name
	before := fileBacked(t)
	if err := giveBack(); err != nil {
		t.Fatal(err)
	}
	if after := fileBacked(t); after >= before {
		t.Errorf("%d kB of the program were resident, now %d", before, after)
	}
	if err := command().Execute(); err == nil {
		t.Error("a command without the name of its node ran")
	}
}

// garbage is what was just let go of.
var garbage []byte

// TestGiveBackSpare: what the heap has free goes within a minute.
func TestGiveBackSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go giveBackSpare(ctx)
		synctest.Wait()
		garbage = make([]byte, 64<<20)
		garbage = nil
		runtime.GC()
		before := spare()
		if before < 32<<20 {
			t.Skipf("only %d bytes are free: Go gave them back at once", before)
		}
		time.Sleep(spareEvery) // of the test's own clock
		synctest.Wait()
		if after := spare(); after > before/2 {
			t.Errorf("%d bytes were free, now %d", before, after)
		}
		cancel()
	})
}
