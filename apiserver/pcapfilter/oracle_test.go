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

// comparedLibrary is the libpcap that programs are compared with to the order of their tests. Other versions may order
// them otherwise, which shows with packets that are too short for a test: these are then left out.
const comparedLibrary = "libpcap version 1.10.3"

// oracle is tcpdump, compiling for a veth in a network namespace of its own.
type oracle struct {
	questions chan question
	version   string
	exact     bool // it is of comparedLibrary
}

type question struct {
	device string
	text   string
	answer chan<- judgement
}

type judgement struct {
	program []bpf.RawInstruction
	err     error // what tcpdump says against the expression
}

// newOracle starts tcpdump's keepers; they end with the test.
func newOracle(t testing.TB) *oracle {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("comparing with tcpdump needs root, for a veth in a network namespace")
	}
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skipf("comparing with tcpdump needs tcpdump: %v", err)
	}
	version, _ := exec.Command("tcpdump", "--version").CombinedOutput()
	o := &oracle{questions: make(chan question), version: strings.Join(strings.Fields(string(version)), " ")}
	o.exact = strings.Contains(o.version, comparedLibrary)
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

// The devices of a keeper: with frames, and with packets that begin with IP.
const (
	ethernetDevice = "filter0"
	rawIPDevice    = "filter2"
)

// keep answers questions from inside a new network namespace. Its thread ends with it, and the namespace with that.
func keep(questions <-chan question, ready chan<- error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		ready <- err
		return
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = ethernetDevice
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "filter1"}); err != nil {
		ready <- err
		return
	}
	attributes.Name = rawIPDevice
	// Without it the questions about raw IP are answered by an error, which their test knows.
	_ = netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attributes, Mode: netlink.TUNTAP_MODE_TUN, NonPersist: false})
	for _, name := range []string{ethernetDevice, "filter1", rawIPDevice} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil && name != rawIPDevice {
			ready <- err
			return
		}
	}
	ready <- nil
	for q := range questions {
		q.answer <- ask(q.device, q.text)
	}
}

func (o *oracle) compile(text string) judgement {
	return o.compileFor(ethernetDevice, text)
}

func (o *oracle) compileFor(device, text string) judgement {
	answer := make(chan judgement, 1)
	o.questions <- question{device, text, answer}
	return <-answer
}

func ask(device, text string) judgement {
	command := exec.Command("tcpdump", "-i", device, "-ddd", "--", text)
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
