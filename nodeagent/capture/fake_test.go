package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
)

// A fakeSource hands out what is pushed into it.
type fakeSource struct {
	blocks           chan []ring.Packet
	stopped          chan struct{}
	stop             sync.Once
	matched, dropped atomic.Int64
	open             *atomic.Int64
}

type fakeBlock struct{ packets []ring.Packet }

func (b *fakeBlock) Next() (ring.Packet, bool) {
	if len(b.packets) == 0 {
		return ring.Packet{}, false
	}
	packet := b.packets[0]
	b.packets = b.packets[1:]
	return packet, true
}

func (s *fakeSource) push(packets ...ring.Packet) {
	s.matched.Add(int64(len(packets)))
	s.blocks <- packets
}

// pushUnlessStopped is push for who does not know whether anybody takes it.
func (s *fakeSource) pushUnlessStopped(packets []ring.Packet) {
	select {
	case <-s.stopped:
		return
	default:
	}
	select {
	case <-s.stopped:
	case s.blocks <- packets:
		s.matched.Add(int64(len(packets)))
	}
}

func (s *fakeSource) Run(take func(block) error) error {
	for {
		select {
		case packets := <-s.blocks:
			if err := take(&fakeBlock{packets}); err != nil {
				return err
			}
			continue
		default:
		}
		select {
		case packets := <-s.blocks:
			if err := take(&fakeBlock{packets}); err != nil {
				return err
			}
		case <-s.stopped:
			if len(s.blocks) == 0 {
				return nil
			}
		}
	}
}

func (s *fakeSource) Stop() error {
	s.stop.Do(func() { close(s.stopped) })
	return nil
}

func (s *fakeSource) Statistics() (matched, dropped int64, err error) {
	return s.matched.Load() + s.dropped.Load(), s.dropped.Load(), nil
}

func (s *fakeSource) Close() error {
	s.open.Add(-1)
	return s.Stop()
}

// A fakePlace is a pod with interfaces eth0, eth1 and so on.
type fakePlace struct {
	namespace uint64
	revision  atomic.Uint64
	gone      atomic.Bool
}

func (p *fakePlace) Enter(do func() error) error { return do() }
func (p *fakePlace) Alive() bool                 { return !p.gone.Load() }
func (p *fakePlace) Namespace() uint64           { return p.namespace }
func (p *fakePlace) Revision() uint64            { return p.revision.Load() }
func (*fakePlace) Uplinks() ([]string, error)    { return nil, nil }

// fakes stand for pods and their rings.
type fakes struct {
	mu      sync.Mutex
	places  map[string]*fakePlace
	sources []*fakeSource
	count   int // interfaces of a pod
	opened  atomic.Int64
}

// fake makes an engine whose pods have so many interfaces each.
func fake(t testing.TB, dir string, interfaces int, change ...func(*Config)) (*engine, *fakes) {
	t.Helper()
	f := &fakes{places: map[string]*fakePlace{}, count: interfaces}
	e := launch(t, dir, f, change...)
	t.Cleanup(func() {
		e.stop()
		if open := f.opened.Load(); open != 0 {
			t.Errorf("%d sources were left open", open)
		}
	})
	return e, f
}

func (f *fakes) serve(m *Manager) {
	m.find, m.links = f.find, f.links
	m.open = func(*v1alpha1.EnsureCaptureRequest, string, int64) (source, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		s := &fakeSource{blocks: make(chan []ring.Packet, 20), stopped: make(chan struct{}), open: &f.opened}
		f.opened.Add(1)
		f.sources = append(f.sources, s)
		return s, nil
	}
}

func (f *fakes) find(target *v1alpha1.CaptureTarget) place {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.places[target.GetKey()]
	if p == nil {
		p = &fakePlace{namespace: uint64(len(f.places) + 1)}
		p.revision.Store(1)
		f.places[target.GetKey()] = p
	}
	if p.gone.Load() {
		return nil
	}
	return p
}

func (f *fakes) links() (links []link, err error) {
	for i := range f.count {
		links = append(links, link{name: fmt.Sprintf("eth%d", i), index: i + 1, up: true})
	}
	return links, nil
}

func (f *fakes) source(i int) *fakeSource {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sources[i]
}

// fakeRequest asks for pods by name.
func fakeRequest(uid string, pods ...string) *v1alpha1.EnsureCaptureRequest {
	r := request()
	r.Uid = uid
	for _, pod := range pods {
		r.Targets = append(r.Targets, &v1alpha1.CaptureTarget{Key: pod, Namespace: "shop", Pod: pod, PodUid: pod})
	}
	return r
}

// frameOf is a UDP datagram in an Ethernet frame.
func frameOf(source, destination string, from, to uint16, payload []byte) []byte {
	a, b := netip.MustParseAddr(source), netip.MustParseAddr(destination)
	header := make([]byte, 8)
	binary.BigEndian.PutUint16(header, from)
	binary.BigEndian.PutUint16(header[2:], to)
	binary.BigEndian.PutUint16(header[4:], uint16(8+len(payload)))
	return ip(a, b, protocolUDP, append(header, payload...))
}

// ip puts a packet into a frame.
func ip(a, b netip.Addr, protocol byte, rest []byte) []byte {
	frame := make([]byte, 12, 64+len(rest))
	if a.Is4() {
		frame = append(frame, 0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0)
		binary.BigEndian.PutUint16(frame[16:], uint16(20+len(rest)))
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64)
		binary.BigEndian.PutUint16(frame[18:], uint16(len(rest)))
	}
	frame = append(append(frame, a.AsSlice()...), b.AsSlice()...)
	return append(frame, rest...)
}

// packetAt is a packet of so many bytes, at a time.
func packetAt(time int64, size int) ring.Packet {
	data := frameOf("10.0.0.1", "10.0.0.2", 1000, 2000, make([]byte, max(0, size-42)))
	return ring.Packet{Time: time, Data: data[:size], Original: uint32(size), Direction: pcapng.Inbound}
}
