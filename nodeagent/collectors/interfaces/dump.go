package interfaces

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// answerSize is more than the kernel sends at a time.
const answerSize = 64 << 10

var answers = sync.Pool{New: func() any { return new([answerSize]byte) }}

// errInterrupted says that what was listed changed meanwhile, so that some may be missing.
var errInterrupted = errors.New("the list changed while it was read")

// dump asks the kernel for a list, of the calling thread's network namespace, and calls do with the message of each. A message
// must not be kept. A list that changed meanwhile is asked for again, twice at most, after again was called; what there is
// then counts. about is the fixed head of the request; kernels from 4.20 on leave out what does not fit to it.
func dump(request, reply uint16, about []byte, do func(message []byte) error, again func()) error {
	buffer := answers.Get().(*[answerSize]byte)
	defer answers.Put(buffer)
	for range 2 {
		err := dumpOnce(request, reply, about, buffer[:], do)
		if !errors.Is(err, errInterrupted) {
			return err
		}
		again()
	}
	if err := dumpOnce(request, reply, about, buffer[:], do); !errors.Is(err, errInterrupted) {
		return err
	}
	return nil
}

func dumpOnce(request, reply uint16, about, buffer []byte, do func(message []byte) error) error {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(socket)
	_ = unix.SetsockoptInt(socket, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) // others list more
	message := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(about))
	binary.NativeEndian.PutUint32(message, uint32(unix.SizeofNlMsghdr+len(about)))
	binary.NativeEndian.PutUint16(message[4:], request)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(socket, append(message, about...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	interrupted := false
	for {
		n, from, err := unix.Recvfrom(socket, buffer, unix.MSG_TRUNC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if n > len(buffer) {
			return fmt.Errorf("an answer of %d bytes does not fit into %d", n, len(buffer))
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // not the kernel
		}
		done, err := each(buffer[:n], reply, &interrupted, do)
		if err != nil {
			return err
		}
		if done && interrupted {
			return errInterrupted
		}
		if done {
			return nil
		}
	}
}

// each goes through the messages of an answer. done says that it was the last one.
func each(answer []byte, reply uint16, interrupted *bool, do func(message []byte) error) (done bool, err error) {
	for len(answer) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(answer))
		if length < unix.SizeofNlMsghdr || length > len(answer) {
			return false, fmt.Errorf("a message of %d bytes in an answer of %d", length, len(answer))
		}
		kind, flags := binary.NativeEndian.Uint16(answer[4:]), binary.NativeEndian.Uint16(answer[6:])
		message := answer[unix.SizeofNlMsghdr:length]
		*interrupted = *interrupted || flags&unix.NLM_F_DUMP_INTR != 0
		switch {
		case kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR:
			return true, problem(message)
		case kind == reply:
			if err := do(message); err != nil {
				return false, err
			}
		}
		answer = answer[min((length+3)&^3, len(answer)):]
	}
	return false, nil
}

// problem is what an answer's last message says: a negative number is an error, and nothing is none.
func problem(message []byte) error {
	if len(message) < 4 {
		return nil
	}
	if number := int32(binary.NativeEndian.Uint32(message)); number < 0 {
		return unix.Errno(-number)
	}
	return nil
}
