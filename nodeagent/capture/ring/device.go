package ring

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrLinkType says that packets of an interface are of a kind that is not recorded.
var ErrLinkType = errors.New("its packets begin neither with an Ethernet header nor with IP")

// A device is an interface as it was when the ring was opened.
type device struct {
	index    int
	loopback bool
	// ethernet is false where packets have no Ethernet header: they are taken from their network header on.
	ethernet bool
}

// findDevice asks a socket's network namespace for an interface.
func findDevice(socket int, name string) (device, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return device{}, fmt.Errorf("the name %q: %w", name, err)
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, request); err != nil {
		return device{}, fmt.Errorf("looking for it: %w", err)
	}
	found := device{index: int(request.Uint32())}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFHWADDR, request); err != nil {
		return device{}, fmt.Errorf("asking for its kind: %w", err)
	}
	kind := request.Uint16() // sa_family of ifr_hwaddr
	found.loopback = kind == unix.ARPHRD_LOOPBACK
	switch kind {
	case unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK:
		found.ethernet = true
	case unix.ARPHRD_NONE, unix.ARPHRD_RAWIP, unix.ARPHRD_PPP, unix.ARPHRD_TUNNEL, unix.ARPHRD_TUNNEL6,
		unix.ARPHRD_SIT, unix.ARPHRD_IPGRE, unix.ARPHRD_IP6GRE, unix.ARPHRD_INFINIBAND:
	default:
		return device{}, fmt.Errorf("%w (ARPHRD type %d)", ErrLinkType, kind)
	}
	return found, nil
}
