package interfaces

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// mostCounters is how many statistics of a driver are reported.
	mostCounters = 128
	// mostDrivers is how many interfaces' drivers are asked. Hundreds of virtual functions are of no use to a reader.
	mostDrivers = 8
	// patience is how long a reader waits for drivers. Some ask their firmware, which may be stuck.
	patience = 250 * time.Millisecond
)

// A driver is what one interface's driver answers.
type driver struct {
	counters []*v1alpha1.Counter
	leftOut  int
	// speed is in megabits per second; 0 where it is not known.
	speed int64
}

// asked are the names of the interfaces whose drivers are asked: uplinks and hardware.
func asked(links []netlink.Link, uplinks map[int]bool) (names []string) {
	for _, wanted := range []bool{true, false} {
		for _, link := range links {
			attrs := link.Attrs()
			hardware := link.Type() == "device" && attrs.Flags&net.FlagLoopback == 0
			if uplinks[attrs.Index] == wanted && (wanted || hardware) {
				names = append(names, attrs.Name)
			}
		}
	}
	return names
}

// askDrivers asks drivers for their statistics, for one reader after the other. It does not wait longer than its patience,
// and a driver that is stuck holds up one goroutine, not one for each reader.
func (c *Collector) askDrivers(names []string) (map[string]driver, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case c.asking <- struct{}{}:
	case <-timer.C:
		return nil, errors.New("a driver has not yet answered an earlier reader")
	}
	// Opened by the caller's thread, the socket speaks of the caller's network namespace on every thread.
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		<-c.asking
		return nil, fmt.Errorf("opening a socket for drivers: %w", err)
	}
	type answer struct {
		drivers map[string]driver
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		defer func() { <-c.asking }()
		defer unix.Close(socket)
		drivers, err := ask(socket, names)
		answers <- answer{drivers, err}
	}()
	select {
	case got := <-answers:
		return got.drivers, got.err
	case <-timer.C:
		return nil, fmt.Errorf("drivers have not answered within %v", patience)
	}
}

// ask leaves out what drivers do not offer.
func ask(socket int, names []string) (map[string]driver, error) {
	room, err := newRoom()
	if err != nil {
		return nil, err
	}
	defer room.close()
	found := map[string]driver{}
	for _, name := range names {
		var d driver
		if text, values, err := room.statistics(socket, name); err == nil {
			d.counters, d.leftOut = counters(text, values)
		}
		d.speed = room.speed(socket, name)
		found[name] = d
	}
	return found, nil
}

// A room is memory for answers of ethtool. The kernel writes as many statistics as a driver has at that moment, not as
// many as there was room for when it was asked: behind the room is a page that nobody can write, so that it gets an
// error instead of our heap.
type room []byte

const (
	sizeOfRoom   = 1 << 20
	mostInRoom   = sizeOfRoom/lengthOfName - 1
	lengthOfName = 32 // ETH_GSTRING_LEN
	statistics   = 1  // ETH_SS_STATS
)

func newRoom() (room, error) {
	page := unix.Getpagesize()
	memory, err := unix.Mmap(-1, 0, sizeOfRoom+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("making room for drivers' statistics: %w", err)
	}
	if err := unix.Mprotect(memory[sizeOfRoom:], unix.PROT_NONE); err != nil {
		_ = unix.Munmap(memory)
		return nil, fmt.Errorf("protecting what is behind the room for drivers' statistics: %w", err)
	}
	return memory, nil
}

func (r room) close() { _ = unix.Munmap(r) }

// put begins a question with numbers of 32 bits.
func (r room) put(numbers ...uint32) {
	for i, number := range numbers {
		binary.NativeEndian.PutUint32(r[4*i:], number)
	}
}

func (r room) number(i int) uint32 { return binary.NativeEndian.Uint32(r[4*i:]) }

// A request is struct ifreq with a pointer in it.
type request struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// control asks about an interface what stands in the room, where the answer is written, too.
func (r room) control(socket int, name string) error {
	question := request{data: unsafe.Pointer(unsafe.SliceData(r))}
	if len(name) >= len(question.name) {
		return unix.ENODEV
	}
	copy(question.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&question)))
	if errno != 0 {
		return errno
	}
	return nil
}

// statistics are a driver's names, of 32 bytes each, and as many values.
func (r room) statistics(socket int, name string) (names []byte, values []uint64, err error) {
	// struct ethtool_sset_info: command, reserved, mask of 64 bits, and a length for each bit that was set.
	r.put(unix.ETHTOOL_GSSET_INFO, 0)
	binary.NativeEndian.PutUint64(r[8:], 1<<statistics)
	r[16], r[17], r[18], r[19] = 0, 0, 0, 0
	if err := r.control(socket, name); err != nil {
		return nil, nil, err
	}
	count := int(r.number(4))
	if binary.NativeEndian.Uint64(r[8:]) == 0 || count == 0 || count > mostInRoom {
		return nil, nil, unix.EOPNOTSUPP
	}
	// struct ethtool_gstrings: command, set, length, names.
	r.put(unix.ETHTOOL_GSTRINGS, statistics, uint32(count))
	if err := r.control(socket, name); err != nil {
		return nil, nil, err
	}
	count = min(count, int(r.number(2)))
	names = slices.Clone(r[12 : 12+count*lengthOfName])
	// struct ethtool_stats: command, length, values of 64 bits.
	r.put(unix.ETHTOOL_GSTATS, uint32(count))
	if err := r.control(socket, name); err != nil {
		return nil, nil, err
	}
	if int(r.number(1)) != count {
		return nil, nil, unix.EAGAIN // the driver has others now, and the names would not fit
	}
	for i := range count {
		values = append(values, binary.NativeEndian.Uint64(r[8+8*i:]))
	}
	return names, values, nil
}

// speed is in megabits per second; 0 where it is not known.
func (r room) speed(socket int, name string) int64 {
	clear(r[:64])
	r.put(unix.ETHTOOL_GSET) // struct ethtool_cmd: the low 16 bits of the speed are at byte 12, the high ones at 28
	if r.control(socket, name) != nil {
		return 0
	}
	low, high := binary.NativeEndian.Uint16(r[12:]), binary.NativeEndian.Uint16(r[28:])
	if speed := uint32(high)<<16 | uint32(low); speed < math.MaxInt32 {
		return int64(speed)
	}
	return 0 // all bits are set where there is no link
}

// counters are those statistics that are not zero, sorted by name, each name once. If there are too many, those that tell of trouble
// stay, and leftOut says how many of the others do not.
func counters(names []byte, values []uint64) (found []*v1alpha1.Counter, leftOut int) {
	for i, value := range values {
		if value == 0 || len(names) < (i+1)*lengthOfName {
			continue
		}
		name := text(unix.ByteSliceToString(names[i*lengthOfName : (i+1)*lengthOfName]))
		if name == "" {
			continue
		}
		found = append(found, &v1alpha1.Counter{Name: name, Value: int64(min(value, math.MaxInt64))})
	}
	if len(found) > mostCounters {
		slices.SortStableFunc(found, func(a, b *v1alpha1.Counter) int {
			return cmp.Compare(importance(a.Name), importance(b.Name))
		})
		found, leftOut = found[:mostCounters], len(found)-mostCounters
	}
	slices.SortStableFunc(found, func(a, b *v1alpha1.Counter) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(found, func(a, b *v1alpha1.Counter) bool { return a.Name == b.Name }), leftOut
}

// importance puts trouble before totals, and these before what each queue has of its own, which drivers number.
func importance(name string) int {
	name = strings.ToLower(name)
	trouble := []string{"drop", "err", "disc", "miss", "over", "full", "crc", "fail", "timeout", "no_buf", "out_of_buffer", "pause"}
	numbered := strings.ContainsAny(name, "0123456789")
	switch {
	case slices.ContainsFunc(trouble, func(word string) bool { return strings.Contains(name, word) }) && !numbered:
		return 0
	case !numbered:
		return 1
	}
	return 2
}

// text makes valid for the wire what the kernel or a driver has named.
func text(name string) string { return strings.ToValidUTF8(strings.TrimSpace(name), "?") }
