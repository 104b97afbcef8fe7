package podmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// ownNamespace stands for the namespace of the listener, which the kernel does not number.
	ownNamespace = -1
	// everyNamespace is that of an event that stands for those that were lost.
	everyNamespace = -3
	// room is how many bytes of announcements wait while pods that were announced before are attached to.
	room = 1 << 20
)

// An event is an interface that came, changed or went, got or lost an address, or a whole namespace that went.
type event struct {
	// namespace is the number that the namespace has in that of the listener.
	namespace int
	what      change
}

type change int

const (
	appeared change = iota
	changed
	vanished
)

// A listener hears of interfaces that come, change or go, and of their addresses, in its own network namespace and in every one that has a
// number there, and of namespaces that go.
type listener struct {
	socket *os.File
	// everywhere is false without CAP_NET_BROADCAST: then only the own namespace is heard.
	everywhere bool
}

func listen() (*listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a route socket: %w", err)
	}
	groups := uint32(1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_NSID-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1))
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribing to interfaces: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) // with less, more is lost
	everywhere := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1) == nil
	return &listener{socket: os.NewFile(uintptr(fd), "route socket"), everywhere: everywhere}, nil
}

// close ends run.
func (l *listener) close() { l.socket.Close() }

// run calls heard for each event until close. When the kernel had more to tell than the socket holds, it makes up an
// event of every namespace.
func (l *listener) run(heard func(event)) error {
	raw, err := l.socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("using the route socket: %w", err)
	}
	// A message is cut where the buffer ends, which does no harm: only its head is read.
	buffer, control := make([]byte, 4096), make([]byte, 256)
	for {
		var n, controlled int
		var receiveError error
		if err := raw.Read(func(fd uintptr) bool {
			n, controlled, _, _, receiveError = unix.Recvmsg(int(fd), buffer, control, 0)
			return !errors.Is(receiveError, unix.EAGAIN)
		}); err != nil {
			return nil // closed
		}
		switch {
		case errors.Is(receiveError, unix.ENOBUFS):
			heard(event{namespace: everyNamespace, what: appeared})
		case errors.Is(receiveError, unix.EINTR):
		case receiveError != nil:
			return fmt.Errorf("listening for interfaces: %w", receiveError)
		default:
			e := event{namespace: namespaceOf(control[:controlled])}
			var ok bool
			// What changes in the node's own namespace is of no interest here, and may be much.
			if e.what, ok = read(buffer[:n]); ok && (e.what != changed || e.namespace != ownNamespace) {
				heard(e)
			}
		}
	}
}

// read tells what a message is about. The change mask of a new interface, or one moved here from another namespace,
// is all ones.
func read(message []byte) (what change, ok bool) {
	const changeMask = unix.NLMSG_HDRLEN + 12 // in struct ifinfomsg
	if len(message) < unix.NLMSG_HDRLEN {
		return 0, false
	}
	switch binary.NativeEndian.Uint16(message[4:]) {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return changed, true
	case unix.RTM_NEWLINK:
		if len(message) < changeMask+4 {
			return 0, false
		}
		if binary.NativeEndian.Uint32(message[changeMask:]) == ^uint32(0) {
			return appeared, true
		}
		return changed, true
	case unix.RTM_DELLINK, unix.RTM_DELNSID:
		return vanished, true
	}
	return 0, false
}

func namespaceOf(control []byte) int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return ownNamespace
	}
	for _, message := range messages {
		if message.Header.Level == unix.SOL_NETLINK && message.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(message.Data) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(message.Data)))
		}
	}
	return ownNamespace
}
