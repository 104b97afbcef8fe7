package protocols

import (
	"io/fs"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	snmp = `Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits
Ip: 1 64 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 201 202 203 204 205 206 207 208 209 210 211
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 301 302 303 304 305 306 307 308 309
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
UdpLite: 9001 9002 9003 9004 9005 9006 9007 9008 9009
`
	netstat = `TcpExt: SyncookiesSent ListenOverflows ListenDrops
TcpExt: 1 401 402
IpExt: InNoRoutes InTruncatedPkts
IpExt: 501 2
MPTcpExt: MPCapableSYNRX
MPTcpExt: 3
`
	snmp6 = `Ip6InReceives                   	601
Ip6InHdrErrors                  	602
Ip6InNoRoutes                   	603
Ip6InAddrErrors                 	604
Ip6InDiscards                   	605
Ip6InDelivers                   	606
Ip6OutForwDatagrams             	607
Ip6OutRequests                  	608
Ip6OutDiscards                  	609
Ip6OutNoRoutes                  	610
Ip6ReasmFails                   	611
Icmp6InMsgs                     	1
Udp6InDatagrams                 	701
Udp6NoPorts                     	702
Udp6InErrors                    	703
Udp6OutDatagrams                	704
Udp6RcvbufErrors                	705
Udp6SndbufErrors                	706
Udp6InCsumErrors                	707
UdpLite6InDatagrams             	9001
`
)

func files(contents map[string]string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		text, ok := contents[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return []byte(text), nil
	}
}

func TestEveryCounterFromItsLine(t *testing.T) {
	got, err := read(files(map[string]string{"snmp": snmp, "netstat": netstat, "snmp6": snmp6}))
	if err != nil {
		t.Fatal(err)
	}
	want := &v1alpha1.Protocols{
		Tcp: &v1alpha1.TCP{
			ActiveOpens: 201, PassiveOpens: 202, AttemptFails: 203, EstablishedResets: 204, CurrentlyEstablished: 205,
			InSegments: 206, OutSegments: 207, RetransmittedSegments: 208, InErrors: 209, OutResets: 210,
			ListenOverflows: 401, ListenDrops: 402,
		},
		Udp: &v1alpha1.UDP{
			InDatagrams: 301 + 701, NoPorts: 302 + 702, InErrors: 303 + 703, OutDatagrams: 304 + 704,
			ReceiveBufferErrors: 305 + 705, SendBufferErrors: 306 + 706, ChecksumErrors: 307 + 707,
		},
		Ipv4: &v1alpha1.IP{
			InReceives: 101, InHeaderErrors: 102, InAddressErrors: 103, Forwarded: 104, InDiscards: 106, InDelivers: 107,
			OutRequests: 108, OutDiscards: 109, NoRoutes: 110 + 501, ReassemblyFails: 114,
		},
		Ipv6: &v1alpha1.IP{
			InReceives: 601, InHeaderErrors: 602, InAddressErrors: 604, Forwarded: 607, InDiscards: 605, InDelivers: 606,
			OutRequests: 608, OutDiscards: 609, NoRoutes: 603 + 610, ReassemblyFails: 611,
		},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestWithoutIPv6(t *testing.T) {
	got, err := read(files(map[string]string{"snmp": snmp, "netstat": netstat}))
	if err != nil || got.Ipv6 != nil || got.Udp.InDatagrams != 301 {
		t.Errorf("got %v (%v), want no IPv6", got, err)
	}
}

func TestDamagedFiles(t *testing.T) {
	for _, damaged := range []string{"Tcp: A B\n", "Tcp: A B\nUdp: 1 2\n", "Tcp: A B\nTcp: 1\n", "Tcp: A\nTcp: 1 2\n", "Tcp: A\nTcp: x\n", "no colon\n1\n"} {
		if got, err := read(files(map[string]string{"snmp": damaged, "netstat": netstat})); err == nil {
			t.Errorf("%q gave %v", damaged, got)
		}
	}
}

// The kernel's own files of this machine can be read.
func TestNode(t *testing.T) {
	node := &v1alpha1.NodeStats{}
	if err := (Collector{}).ReadNode(node); err != nil {
		t.Fatal(err)
	}
	if node.Protocols.GetIpv4() == nil {
		t.Error("no IPv4 counters")
	}
}

// A damaged file gives an error or numbers, and every number is one that stands in the file.
func FuzzTables(f *testing.F) {
	f.Add([]byte(snmp))
	f.Add([]byte(netstat))
	f.Add([]byte("a: b\na: -1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		fields := 0
		_ = eachInTable(text, func(group, name []byte, _ int64) {
			fields++
			if len(name) == 0 {
				t.Errorf("a value of %q has no name", group)
			}
		})
		if fields > len(text) {
			t.Errorf("%d values from %d bytes", fields, len(text))
		}
		_ = eachInList(text, func(name []byte, _ int64) {
			if len(name) == 0 {
				t.Error("a value has no name")
			}
		})
	})
}

func BenchmarkNode(b *testing.B) {
	for b.Loop() {
		if err := (Collector{}).ReadNode(&v1alpha1.NodeStats{}); err != nil {
			b.Fatal(err)
		}
	}
}
