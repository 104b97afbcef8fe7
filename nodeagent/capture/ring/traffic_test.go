package ring_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

func pid(n *fakepod.Namespace) string { return fmt.Sprint(n.PID) }

// A sender puts frames onto an interface.
type sender struct {
	t      testing.TB
	socket int
}

func (l link) sender(t testing.TB) sender { return newSender(t, l.far, farName) }

func newSender(t testing.TB, n *fakepod.Namespace, name string) sender {
	t.Helper()
	s := sender{t: t, socket: -1}
	n.Do(func() {
		socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Errorf("opening a packet socket: %v", err)
			return
		}
		t.Cleanup(func() { unix.Close(socket) })
		request, _ := unix.NewIfreq(name)
		if err := unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, request); err != nil {
			t.Errorf("looking for %s: %v", name, err)
			return
		}
		if err := unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: int(request.Uint32())}); err != nil {
			t.Errorf("binding to %s: %v", name, err)
			return
		}
		s.socket = socket
	})
	if s.socket < 0 {
		t.FailNow()
	}
	return s
}

func (s sender) send(frame []byte) {
	s.t.Helper()
	if _, err := unix.Write(s.socket, frame); err != nil {
		s.t.Fatalf("sending %d bytes: %v", len(frame), err)
	}
}

// frame is an Ethernet frame of a type for experiments.
func frame(length int, fill byte) []byte {
	f := make([]byte, length)
	for i := range f {
		f[i] = fill
	}
	copy(f, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
	return f
}
