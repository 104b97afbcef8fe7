package pcapfilter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// keepers is how many tcpdump run at once. Each mostly waits for the kernel to close its socket.
const keepers = 8

// oracle is tcpdump, compiling for a veth in a network namespace of its own.
type oracle struct{ questions chan question }

type question struct {
	text   string
	answer chan<- judgement
}

type judgement struct {
	program []bpf.RawInstruction
	err     error // what tcpdump says against the expression
}

var errNoOracle = errors.New("no tcpdump to compare with")

// newOracle starts tcpdump's keepers; they end with the test.
func newOracle(t testing.TB) *oracle {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("comparing with tcpdump needs root, for a veth in a network namespace")
	}
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skipf("comparing with tcpdump needs tcpdump: %v", err)
	}
	o := &oracle{questions: make(chan question)}
	var running sync.WaitGroup
	for range keepers {
		ready := make(chan error, 1)
		running.Go(func() { keep(o.questions, ready) })
		if err := <-ready; err != nil {
			t.Skipf("comparing with tcpdump needs a veth in a network namespace: %v", err)
		}
	}
	t.Cleanup(func() {
		close(o.questions)
		running.Wait()
	})
	return o
}

const oracleDevice = "filter0"

// keep answers questions from inside a new network namespace. Its thread ends with it, and the namespace with that.
func keep(questions <-chan question, ready chan<- error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		ready <- err
		return
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = oracleDevice
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "filter1"}); err != nil {
		ready <- err
		return
	}
	for _, name := range []string{oracleDevice, "filter1"} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			ready <- err
			return
		}
	}
	ready <- nil
	for q := range questions {
		q.answer <- ask(q.text)
	}
}

func (o *oracle) compile(text string) judgement {
	answer := make(chan judgement, 1)
	o.questions <- question{text, answer}
	return <-answer
}

func ask(text string) judgement {
	command := exec.Command("tcpdump", "-i", oracleDevice, "-ddd", "--", text)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return judgement{err: errors.New(strings.TrimSpace(stderr.String()))}
	}
	var n int
	fmt.Fscan(&stdout, &n)
	program := make([]bpf.RawInstruction, n)
	for i := range program {
		p := &program[i]
		if _, err := fmt.Fscan(&stdout, &p.Op, &p.Jt, &p.Jf, &p.K); err != nil {
			return judgement{err: fmt.Errorf("reading tcpdump's program: %w", err)}
		}
	}
	return judgement{program: program}
}
