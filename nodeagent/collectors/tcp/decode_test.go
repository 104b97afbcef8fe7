package tcp

import (
	"errors"
	"strings"
	"testing"

	bpf "github.com/networkobservability/networkobservability/bpf/tcp"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

const sockstat = `sockets: used 16
TCP: inuse 4 orphan 0 tw 7 alloc 5 mem 285
UDP: inuse 2 mem 0
UDPLITE: inuse 0
RAW: inuse 0
FRAG: inuse 0 memory 0
`

func TestTimeWait(t *testing.T) {
	for text, want := range map[string]struct {
		number int64
		err    string
	}{
		sockstat:                       {7, ""},
		"":                             {0, "parsing net/sockstat: there is no TCP tw"},
		"TCP: inuse 4 orphan 0 tw\n":   {0, "parsing net/sockstat: there is no TCP tw"},
		"TCP: tw 9999999999999\n":      {0, "value out of range"},
		"TCP: tw -1\n":                 {0, "invalid syntax"},
		"UDP: tw 1\nTCP: inuse 1 tw 2": {2, ""},
	} {
		got, err := timeWait([]byte(text), nil)
		if got != want.number || (err == nil) != (want.err == "") || err != nil && !strings.Contains(err.Error(), want.err) {
			t.Errorf("%q: %d, %v; want %d, %q", text, got, err, want.number, want.err)
		}
	}
	if _, err := timeWait(nil, podmap.ErrGone); !errors.Is(err, podmap.ErrGone) {
		t.Errorf("of a pod that is gone: %v", err)
	}
}

// FuzzTimeWait: whatever the text, there is a number that can be, or an error.
func FuzzTimeWait(f *testing.F) {
	f.Add([]byte(sockstat))
	f.Add([]byte("TCP: tw 1"))
	f.Add([]byte("TCP: inuse 4 orphan 0 tw\nTCP:\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if number, err := timeWait(text, nil); number < 0 || err != nil && number != 0 {
			t.Errorf("%d, %v", number, err)
		}
	})
}

// FuzzSockets: whatever the kernel tells, each whole record is one socket of each of its pods, in one state.
func FuzzSockets(f *testing.F) {
	one := make([]byte, bpf.SocketSize)
	one[0], one[8], one[16], one[20], one[28], one[29] = 1, 2, 3, 4, byte(bpf.Established), 1
	f.Add(one)
	f.Add(one[:bpf.SocketSize-1])
	f.Add(append(append([]byte{}, one...), one...))
	f.Add([]byte(strings.Repeat("\xff", 2*bpf.SocketSize)))
	f.Fuzz(func(t *testing.T, records []byte) {
		s := &snapshot{pods: map[uint64]*live{}}
		s.addAll(records)
		var sockets, want int64
		for _, pod := range s.pods {
			var measured int64
			for _, n := range pod.byState {
				sockets += n
			}
			if pod.open != nil {
				for _, n := range pod.open.smoothed.Counts {
					measured += int64(n)
				}
			}
			if measured > sockets {
				t.Errorf("%d round-trip times of %d sockets", measured, sockets)
			}
		}
		for ; len(records) >= bpf.SocketSize; records = records[bpf.SocketSize:] {
			var socket bpf.Socket
			socket.Decode((*[bpf.SocketSize]byte)(records))
			for _, number := range []uint64{socket.ByNamespace, socket.ByCgroup} {
				if number != 0 {
					want++
				}
			}
		}
		if sockets != want {
			t.Errorf("%d sockets, want %d", sockets, want)
		}
	})
}
