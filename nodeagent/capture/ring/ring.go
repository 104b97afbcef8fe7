package ring

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// MaxSnapLength is the most that is kept of a packet, in bytes.
	MaxSnapLength = 262_144
	// DefaultBytes is the memory of a ring: a hundredth of a second of the most packets that a processor can take.
	DefaultBytes = 8 << 20
	// maxBytes is what the kernel's 32-bit offsets leave.
	maxBytes = 1 << 30

	// smallestBlock is in bytes. A block that fills wakes Run, and a packet that does not fit into the rest of one leaves
	// it unused: of what segmentation offload makes, three fit.
	smallestBlock = 256 << 10
	// overhead of a block and its first packet, generously: one that is larger than a block would be cut by it.
	overhead = 4 << 10

	// retire is how long packets wait at most for others to fill a block.
	retire = 50 * time.Millisecond
	// patience bounds how long Run waits, after the last packet, for the block that it is in.
	patience = 2 * time.Second
	// countEvery is how often the kernel's counters are read while packets come: they are of 32 bits.
	countEvery = 10 * time.Second
)

var (
	// ErrClosed is what Run returns when the ring was closed before it was stopped, or is closed.
	ErrClosed = errors.New("the ring is closed")
	// ErrStopped says that a ring that is stopped takes no filter.
	ErrStopped = errors.New("the ring is stopped")
	// ErrDown is what Run returns when the interface was set down.
	ErrDown = errors.New("the interface was set down")
	// ErrGone is what Run returns when the interface was removed or moved to another network namespace.
	ErrGone = errors.New("the interface is gone")
)

// Config is what Open needs.
type Config struct {
	// Interface is the name of the interface in the network namespace of the calling thread.
	Interface string
	// SnapLength is how many bytes of a packet are kept at most, 1 to MaxSnapLength. Ethernet header and VLAN tags count.
	SnapLength int
	// EthernetFilter and RawFilter are classic BPF: the first for interfaces whose packets have an Ethernet header, the
	// second for those whose packets begin with IP. An empty one accepts everything. What they accept is cut to
	// SnapLength.
	EthernetFilter, RawFilter []unix.SockFilter
	// Bytes is the memory of the ring, rounded up to whole blocks; 0 is DefaultBytes. It is the kernel's memory, of no
	// cgroup.
	Bytes int
}

func (c Config) validate() error {
	if c.SnapLength < 1 || c.SnapLength > MaxSnapLength {
		return fmt.Errorf("snap length %d: must be between 1 and %d", c.SnapLength, MaxSnapLength)
	}
	if c.Bytes < 0 || c.Bytes > maxBytes {
		return fmt.Errorf("ring of %d bytes: must be between 0 and %d", c.Bytes, maxBytes)
	}
	return nil
}

// blocks is the size of a block, a power of two that the largest packet fits into, and how many there are, at least
// two.
func (c Config) blocks() (size, number int) {
	size = max(smallestBlock, 1<<bits.Len(uint(c.SnapLength+overhead-1)))
	total := c.Bytes
	if total == 0 {
		total = DefaultBytes
	}
	return size, max(2, (total+size-1)/size)
}

// A Ring takes packets from an interface from Open until Stop. Run is called by one goroutine, once; all other methods
// may be called by any at any time, unless they say otherwise. It must be closed: an open ring keeps its network
// namespace alive.
type Ring struct {
	device      device
	snap        int
	optionLimit int
	file        *os.File // the socket, for the runtime's poller
	socket      syscall.RawConn
	memory      []byte
	block       int // bytes

	// consuming is held by Run. Who holds it may use memory.
	consuming sync.Mutex
	awake     func(socket uintptr) bool // check
	next      int                       // offset in memory of the block that comes next
	current   Block                     // what take is given
	counted   time.Time
	failed    error // of the socket
	ended     error // why there are no more packets, when they were not stopped

	delivered atomic.Int64
	closed    atomic.Bool
	stopped   atomic.Bool

	mu               sync.Mutex // orders filters, stopping and reading counters
	matched, dropped int64
}

// Open opens a ring on an interface and begins to take packets. It must be called on a thread in the interface's network
// namespace; the ring then works from any thread. It needs CAP_NET_RAW. A filter that is too large is a
// *FilterSizeError; ErrLinkType and ENODEV are told apart too.
func Open(config Config) (*Ring, error) {
	r, err := newRing(config)
	if err != nil {
		return nil, fmt.Errorf("opening a ring on interface %q: %w", config.Interface, err)
	}
	return r, nil
}

func newRing(config Config) (*Ring, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	// With no protocol the socket takes nothing until it is bound, when filter and ring are there.
	socket, device, err := openSocket(config.Interface)
	if err != nil {
		return nil, err
	}
	r := &Ring{device: device, snap: config.SnapLength, optionLimit: optionMemory()}
	if r.memory, r.block, err = prepare(socket, r, config); err != nil {
		unix.Close(socket)
		return nil, err
	}
	r.awake = r.check
	r.file = os.NewFile(uintptr(socket), "packet socket")
	if r.socket, err = r.file.SyscallConn(); err != nil {
		_ = unix.Munmap(r.memory)
		r.file.Close()
		return nil, fmt.Errorf("giving the socket to the poller: %w", err)
	}
	if err := bind(socket, device.index, unix.ETH_P_ALL); err != nil {
		r.Close()
		return nil, fmt.Errorf("binding: %w", err)
	}
	return r, nil
}

func openSocket(name string) (int, device, error) {
	const kind = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|kind, 0)
	if err != nil {
		return -1, device{}, fmt.Errorf("opening a packet socket: %w", err)
	}
	found, err := findDevice(socket, name)
	if err != nil {
		unix.Close(socket)
		return -1, device{}, err
	}
	if found.ethernet {
		return socket, found, nil
	}
	// Link headers of other kinds may be there in one direction only: such packets are taken without.
	unix.Close(socket)
	if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|kind, 0); err != nil {
		return -1, device{}, fmt.Errorf("opening a packet socket: %w", err)
	}
	return socket, found, nil
}

// prepare gives a socket its options, filter and ring.
func prepare(socket int, r *Ring, config Config) (memory []byte, block int, err error) {
	if err := setOptions(socket, r.device); err != nil {
		return nil, 0, err
	}
	filter := config.RawFilter
	if r.device.ethernet {
		filter = config.EthernetFilter
	}
	if err := attach(socket, cut(filter, r.snap), r.optionLimit); err != nil {
		return nil, 0, err
	}
	block, number := config.blocks()
	request := unix.TpacketReq3{
		Block_size: uint32(block), Block_nr: uint32(number),
		Frame_size: uint32(block), Frame_nr: uint32(number), // of no meaning in this version, but checked
		Retire_blk_tov: uint32(retire / time.Millisecond),
	}
	if err := unix.SetsockoptTpacketReq3(socket, unix.SOL_PACKET, unix.PACKET_RX_RING, &request); err != nil {
		return nil, 0, fmt.Errorf("allocating a ring of %d blocks of %d bytes: %w", number, block, err)
	}
	memory, err = unix.Mmap(socket, 0, block*number, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, 0, fmt.Errorf("mapping the ring: %w", err)
	}
	return memory, block, nil
}

func setOptions(socket int, device device) error {
	type option struct {
		name        string
		code, value int
	}
	options := []option{
		{"PACKET_VERSION", unix.PACKET_VERSION, unix.TPACKET_V3},
		{"PACKET_RESERVE", unix.PACKET_RESERVE, tagLength}, // room for a VLAN tag to be put back
	}
	if device.loopback {
		// There every packet is seen as it is sent and as it is received.
		options = append(options, option{"PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING, 1})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(socket, unix.SOL_PACKET, o.code, o.value); err != nil {
			return fmt.Errorf("setting %s: %w", o.name, err)
		}
	}
	return nil
}

func bind(socket, index int, protocol uint16) error {
	return unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: index, Protocol: protocol<<8 | protocol>>8})
}

// HasEthernetHeader says whether packets come with an Ethernet header of their own. Those without get one of zero
// addresses, and are judged by Config.RawFilter.
func (r *Ring) HasEthernetHeader() bool { return r.device.ethernet }

// SetFilter replaces the filter; an empty one accepts everything. No packet is lost in between, and packets that are in
// the ring already still come. The answer is a *FilterSizeError when both filters together are too large, ErrStopped or
// ErrClosed.
func (r *Ring) SetFilter(filter []unix.SockFilter) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed.Load():
		return ErrClosed
	case r.stopped.Load():
		return ErrStopped
	}
	return r.control(func(socket int) error { return attach(socket, cut(filter, r.snap), r.optionLimit) })
}

// Stop ends the taking of packets: when it returns nothing more is added. Run delivers what was taken before and then
// returns. It may be called in what Run calls, and more than once.
func (r *Ring) Stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped.Load() || r.closed.Load() {
		return nil
	}
	err := r.control(func(socket int) error {
		// No memory for another filter: then binding to another protocol ends it alone.
		var size *FilterSizeError
		if err := attach(socket, refuse, r.optionLimit); err != nil && !errors.As(err, &size) {
			return err
		}
		// That waits for processors that still judge by the old filter or copy a packet. An interface that went has done
		// the same.
		if err := bind(socket, r.device.index, nothing); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
			return fmt.Errorf("unbinding: %w", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("stopping a ring: %w", err)
	}
	r.stopped.Store(true)
	_ = r.file.SetReadDeadline(past) // wakes Run; it fails only when the ring was closed
	return nil
}

// nothing is a protocol that no received packet has (ETH_P_DDCMP, internal to the kernel and unused).
const nothing = 6

var past = time.Unix(1, 0)

// Statistics are packets since Open. matched is what the filter accepted, dropped is what of it found the ring full.
// When Run has returned after Stop, or because of the interface, Run has delivered matched less dropped. They stay when
// the ring is closed.
func (r *Ring) Statistics() (matched, dropped int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count()
}

// count adds the kernel's counters, which reading resets.
func (r *Ring) count() (matched, dropped int64, err error) {
	if !r.closed.Load() {
		err = r.control(func(socket int) error {
			counters, err := unix.GetsockoptTpacketStatsV3(socket, unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil {
				return fmt.Errorf("reading the ring's counters: %w", err)
			}
			r.matched += int64(counters.Packets) // with those dropped
			r.dropped += int64(counters.Drops)
			return nil
		})
	}
	return r.matched, r.dropped, err
}

// Delivered is the number of packets in the blocks that Run has handed out.
func (r *Ring) Delivered() int64 { return r.delivered.Load() }

// Run calls take for every block of packets, until the ring is stopped (nil), closed (ErrClosed), its interface goes
// (ErrDown, ErrGone, after everything that was taken before was delivered) or take fails (its error). Packets that take
// does not ask the block for are passed over. While there are none it needs no thread.
func (r *Ring) Run(take func(*Block) error) error {
	r.consuming.Lock()
	defer func() {
		r.consuming.Unlock()
		if r.closed.Load() {
			_ = r.free()
		}
	}()
	for {
		if err := r.consume(take); err != nil {
			return err
		}
		if r.closed.Load() {
			return ErrClosed
		}
		if r.stopped.Load() {
			return r.drain(take)
		}
		if err := r.wait(); err != nil {
			return err
		}
	}
}

// consume delivers the blocks that are ready.
func (r *Ring) consume(take func(*Block) error) error {
	for !r.closed.Load() && r.ready() {
		if err := r.countInTime(); err != nil {
			return err
		}
		r.current = open(r.memory[r.next:][:r.block], r.snap, !r.device.ethernet)
		r.delivered.Add(int64(r.current.Len()))
		err := take(&r.current)
		atomic.StoreUint32(r.status(), unix.TP_STATUS_KERNEL)
		if r.next += r.block; r.next == len(r.memory) {
			r.next = 0
		}
		if err = errors.Join(r.current.err, err); err != nil {
			return err
		}
	}
	return nil
}

// status is the word by which the next block changes hands.
func (r *Ring) status() *uint32 {
	return (*uint32)(unsafe.Pointer(&r.memory[r.next+blockStatus]))
}

func (r *Ring) ready() bool { return atomic.LoadUint32(r.status())&unix.TP_STATUS_USER != 0 }

func (r *Ring) countInTime() error {
	now := time.Now()
	if now.Sub(r.counted) < countEvery {
		return nil
	}
	r.counted = now
	_, _, err := r.Statistics()
	return err
}

// wait waits for a block, Stop, Close, or the end of the interface.
func (r *Ring) wait() error {
	r.failed = nil
	err := r.socket.Read(r.awake)
	if r.closed.Load() || r.stopped.Load() {
		return nil
	}
	if err != nil && r.failed == nil {
		// The poller does not wait for a socket that is in error, and does not say in which.
		if r.failed = r.control(socketError); r.failed == nil {
			r.failed = err
		}
	}
	if r.failed != nil {
		return r.interfaceEnded(r.failed)
	}
	return nil
}

// check says whether there is anything but to wait.
func (r *Ring) check(socket uintptr) bool {
	if r.closed.Load() || r.stopped.Load() || r.ready() {
		return true
	}
	r.failed = socketError(int(socket))
	return r.failed != nil
}

// interfaceEnded stops a ring whose socket is in error, because the interface went.
func (r *Ring) interfaceEnded(failed error) error {
	if !errors.Is(failed, unix.ENETDOWN) && !errors.Is(failed, unix.ENODEV) {
		return fmt.Errorf("waiting for packets: %w", failed)
	}
	// An interface that goes is set down first. Both happen under the lock that this question waits for.
	_ = r.control(func(socket int) error {
		_, err := unix.IoctlGetEthtoolDrvinfo(socket, "lo")
		return err
	})
	r.ended = r.control(lost)
	return r.Stop()
}

// lost tells why the interface that a socket is bound to sends nothing: only one that is gone is bound to no more.
func lost(socket int) error {
	address, err := unix.Getsockname(socket)
	if err != nil {
		return fmt.Errorf("asking for the socket's interface: %w", err)
	}
	if link, ok := address.(*unix.SockaddrLinklayer); ok && link.Ifindex > 0 {
		return ErrDown
	}
	return ErrGone
}

func socketError(socket int) error {
	code, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	return nil
}

// drain delivers what was taken before the ring was stopped. The kernel hands the last block over when it retires, and
// its counters say how many packets there are to be.
func (r *Ring) drain(take func(*Block) error) error {
	tick := time.NewTicker(retire / 4)
	defer tick.Stop()
	for missing, progress := int64(0), time.Now(); ; {
		<-tick.C
		matched, dropped, err := r.Statistics()
		if err != nil {
			return err
		}
		if err := r.consume(take); err != nil {
			return err
		}
		before := missing
		missing = matched - dropped - r.Delivered()
		switch {
		case r.closed.Load():
			return ErrClosed
		case missing == 0:
			return r.ended
		case missing != before:
			progress = time.Now()
		case time.Since(progress) > patience:
			return fmt.Errorf("the kernel kept %d packets back for %v", missing, patience)
		}
	}
}

// Close ends the ring and frees its memory and socket, and with that the network namespace; while Run is in take, that
// is done when take returns. It may be called there, too, and more than once. Packets that Run has not delivered are
// lost: Stop comes first where they count.
func (r *Ring) Close() error {
	r.mu.Lock()
	_, _, err := r.count()
	r.closed.Store(true)
	r.mu.Unlock()
	_ = r.file.SetReadDeadline(past) // wakes Run; it fails only when the ring is closed
	if err = errors.Join(err, r.free()); err != nil {
		return fmt.Errorf("closing a ring: %w", err)
	}
	return nil
}

// free frees a closed ring, unless Run uses it: it does so when it has ended.
func (r *Ring) free() error {
	if !r.consuming.TryLock() {
		return nil
	}
	defer r.consuming.Unlock()
	if r.memory == nil {
		return nil
	}
	memory := r.memory
	r.memory = nil
	return errors.Join(unix.Munmap(memory), r.file.Close())
}

// control calls do with the socket, which stays open meanwhile.
func (r *Ring) control(do func(socket int) error) error {
	var failed error
	if err := r.socket.Control(func(socket uintptr) { failed = do(int(socket)) }); err != nil {
		return ErrClosed
	}
	return failed
}
