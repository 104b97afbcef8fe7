package flows

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
)

func TestVerdict(t *testing.T) {
	const (
		received, transmitted = 0, 1
		ack                   = 1 << 4
		tcp, udp              = unix.IPPROTO_TCP, unix.IPPROTO_UDP
		forwarded             = v1alpha1.Verdict_VERDICT_FORWARDED
		dropped               = v1alpha1.Verdict_VERDICT_DROPPED
		rejected              = v1alpha1.Verdict_VERDICT_REJECTED
	)
	for _, test := range []struct {
		name     string
		protocol uint16
		flow     headers.Flow
		class    v1alpha1.Drop_Class
		want     v1alpha1.Verdict
	}{
		{"nothing went wrong", udp, headers.Flow{Last: 5}, 0, forwarded},
		{"dropped on its way out, within the tick", udp, headers.Flow{Last: 5, LastDrop: 5, Drops: 1}, 0, dropped},
		{"dropped on its way in", udp, headers.Flow{Last: 5, LastDrop: 6, Drops: 1}, 0, dropped},
		{"dropped before anything came through", udp, headers.Flow{LastDrop: 6, Drops: 1}, 0, dropped},
		{"one came through since", udp, headers.Flow{Last: 7, LastDrop: 6, Drops: 1}, 0, forwarded},
		{"a duplicate was dropped", tcp, headers.Flow{Last: 5, LastDrop: 6, Drops: 1}, v1alpha1.Drop_CLASS_BENIGN, forwarded},
		{"ICMP unreachable came back", udp, headers.Flow{Last: 5, Rejected: 1}, 0, rejected},
		{"rejected at first, answered later", tcp, headers.Flow{Last: 5, Rejected: 1, BegunByTransmit: transmitted,
			Receive: struct{ Packets, Bytes uint64 }{Packets: 1}}, 0, forwarded},
		{"dropped and rejected", udp, headers.Flow{Last: 5, LastDrop: 5, Drops: 1, Rejected: 1}, 0, rejected},
		{"SYN and RST back", tcp, headers.Flow{BegunByTransmit: transmitted, Flags: [2]uint8{rst | ack, syn}}, 0, rejected},
		{"SYN came and the pod sent RST", tcp, headers.Flow{BegunByTransmit: received, Flags: [2]uint8{syn, rst | ack}}, 0, rejected},
		{"RST of a connection that was", tcp, headers.Flow{BegunByTransmit: transmitted, Flags: [2]uint8{syn | ack | rst, syn | ack}}, 0, forwarded},
		{"RST by who began", tcp, headers.Flow{BegunByTransmit: transmitted, Flags: [2]uint8{0, syn | rst}}, 0, forwarded},
		{"RST of a connection seen from its middle", tcp, headers.Flow{BegunByTransmit: transmitted, Flags: [2]uint8{rst, ack}}, 0, forwarded},
		{"UDP has no flags", udp, headers.Flow{BegunByTransmit: transmitted, Flags: [2]uint8{rst, syn}}, 0, forwarded},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := verdict(test.protocol, &test.flow, test.class); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// TestIdleAfter: here no time passes that the machine takes.
func TestIdleAfter(t *testing.T) {
	const now, ended = 1000e9, 5e9
	for _, test := range []struct {
		name     string
		protocol uint16
		flow     headers.Flow
		want     bool
	}{
		{"UDP", unix.IPPROTO_UDP, headers.Flow{Last: now - 60e9}, false},
		{"old UDP", unix.IPPROTO_UDP, headers.Flow{Last: now - 60e9 - 1}, true},
		{"old UDP with a drop", unix.IPPROTO_UDP, headers.Flow{Last: now - 62e9, LastDrop: now - 60e9}, false},
		{"TCP ended one way", unix.IPPROTO_TCP, headers.Flow{Last: now - 60e9, Flags: [2]uint8{fin, syn}}, false},
		{"TCP just ended both ways", unix.IPPROTO_TCP, headers.Flow{Last: now - ended, Flags: [2]uint8{fin, fin}}, false},
		{"TCP ended both ways", unix.IPPROTO_TCP, headers.Flow{Last: now - ended - 1, Flags: [2]uint8{fin, fin}}, true},
		{"TCP just reset", unix.IPPROTO_TCP, headers.Flow{Last: now - ended, Flags: [2]uint8{rst, syn}}, false},
		{"UDP whose bytes look like flags", unix.IPPROTO_UDP, headers.Flow{Last: now - 60e9, Flags: [2]uint8{fin | rst, fin}}, false},
	} {
		if got := idle(test.protocol, &test.flow, now); got != test.want {
			t.Errorf("%s: idle is %v", test.name, got)
		}
	}
}
