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
Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps OutAddrMasks OutAddrMaskReps
Icmp: 801 802 803 804 805 806 807 808 809 810 811 812 813 814 815 816 817 818 819 820 821 822 823 824 825 826 827 828 829
IcmpMsg: InType3 OutType3
IcmpMsg: 9001 9002
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 201 202 203 204 205 206 207 208 209 210 211
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 301 302 303 304 305 306 307 308 309
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
UdpLite: 9001 9002 9003 9004 9005 9006 9007 9008 9009
`
	netstat = `TcpExt: SyncookiesSent SyncookiesRecv ListenOverflows ListenDrops TCPReqQFullDoCookies TCPReqQFullDrop TCPFromZeroWindowAdv TCPToZeroWindowAdv TCPWantZeroWindowAdv TCPZeroWindowDrop
TcpExt: 403 9001 401 402 9002 404 9003 405 9004 406
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
Icmp6InMsgs                     	901
Icmp6InErrors                   	902
Icmp6OutMsgs                    	903
Icmp6OutErrors                  	9001
Icmp6InCsumErrors               	9002
Icmp6InDestUnreachs             	904
Icmp6InPktTooBigs               	905
Icmp6InTimeExcds                	906
Icmp6InEchos                    	907
Icmp6InEchoReplies              	908
Icmp6InRedirects                	909
Icmp6OutDestUnreachs            	910
Icmp6OutPktTooBigs              	911
Icmp6OutTimeExcds               	912
Icmp6OutEchos                   	913
Icmp6OutEchoReplies             	914
Icmp6OutRedirects               	915
Icmp6InType1                    	9003
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
	got, err := read(files(map[string]string{"net/snmp": snmp, "net/netstat": netstat, "net/snmp6": snmp6}))
	if err != nil {
		t.Fatal(err)
	}
	want := &v1alpha1.Protocols{
		Tcp: &v1alpha1.TCP{
			ActiveOpens: 201, PassiveOpens: 202, AttemptFails: 203, EstablishedResets: 204, CurrentlyEstablished: 205,
			InSegments: 206, OutSegments: 207, RetransmittedSegments: 208, InErrors: 209, OutResets: 210,
			ListenOverflows: 401, ListenDrops: 402, SynCookiesSent: 403, RequestQueueDrops: 404,
			ZeroWindowsSent: 405, ZeroWindowDrops: 406,
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
		Icmpv4: &v1alpha1.ICMP{
			InMessages: 801, OutMessages: 815, InErrors: 802, InDestinationUnreachable: 804, OutDestinationUnreachable: 819,
			InTimeExceeded: 805, OutTimeExceeded: 820, InEchos: 809, OutEchos: 824, InEchoReplies: 810, OutEchoReplies: 825,
			InRedirects: 808, OutRedirects: 823,
		},
		Icmpv6: &v1alpha1.ICMP{
			InMessages: 901, OutMessages: 903, InErrors: 902, InDestinationUnreachable: 904, OutDestinationUnreachable: 910,
			InPacketTooBig: 905, OutPacketTooBig: 911, InTimeExceeded: 906, OutTimeExceeded: 912, InEchos: 907, OutEchos: 913,
			InEchoReplies: 908, OutEchoReplies: 914, InRedirects: 909, OutRedirects: 915,
		},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestWithoutIPv6(t *testing.T) {
	got, err := read(files(map[string]string{"net/snmp": snmp, "net/netstat": netstat}))
	if err != nil || got.Ipv6 != nil || got.Icmpv6 != nil || got.Udp.InDatagrams != 301 {
		t.Errorf("got %v (%v), want no IPv6", got, err)
	}
}

// Kernels differ in which columns there are, and in their order. Those that one lacks are 0.
func TestColumnsOfOtherKernels(t *testing.T) {
	// Of Linux 3.10, abridged only in the values.
	const old = `Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates
Ip: 1 64 1 0 0 0 0 0 2 3 0 4 0 0 0 0 0 0 0
Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps OutAddrMasks OutAddrMaskReps
Icmp: 5 0 0 6 0 0 0 0 0 0 0 0 0 0 7 0 8 0 0 0 0 0 0 0 0 0 0
IcmpMsg:
IcmpMsg:
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 9 0 0 0 18446744073709551615 10 0 0 0 11 0
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors
Udp: 12 13 0 14 0 0 0
`
	got, err := read(files(map[string]string{"net/snmp": old, "net/netstat": "TcpExt: ListenDrops\nTcpExt: 15\n"}))
	if err != nil {
		t.Fatal(err)
	}
	want := &v1alpha1.Protocols{
		Tcp:    &v1alpha1.TCP{ActiveOpens: 9, InSegments: 10, OutResets: 11, ListenDrops: 15},
		Udp:    &v1alpha1.UDP{InDatagrams: 12, NoPorts: 13, OutDatagrams: 14},
		Ipv4:   &v1alpha1.IP{InReceives: 1, InDelivers: 2, OutRequests: 3, NoRoutes: 4},
		Icmpv4: &v1alpha1.ICMP{InMessages: 5, InDestinationUnreachable: 6, OutMessages: 7, OutDestinationUnreachable: 8},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestDamagedFiles(t *testing.T) {
	for _, damaged := range []string{
		"Tcp: A B\n", "Tcp: A B\nUdp: 1 2\n", "Tcp: A B\nTcp: 1\n", "Tcp: A\nTcp: 1 2\n", "Tcp: InSegs\nTcp: x\n",
		"Tcp: InSegs\nTcp: -1\n", "Tcp: InSegs\nTcp: 18446744073709551616\n", "no colon\n1\n",
	} {
		if got, err := read(files(map[string]string{"net/snmp": damaged, "net/netstat": netstat})); err == nil {
			t.Errorf("%q gave %v", damaged, got)
		}
	}
	for _, damaged := range []string{"Ip6InReceives", "Ip6InReceives x\n", "Icmp6InMsgs -1"} {
		if got, err := read(files(map[string]string{"net/snmp": snmp, "net/netstat": netstat, "net/snmp6": damaged})); err == nil {
			t.Errorf("%q gave %v", damaged, got)
		}
	}
}

// The kernel's own files of this machine can be read.
func TestNode(t *testing.T) {
	node := &v1alpha1.NodeStats{}
	if err := New().ReadNode(node); err != nil {
		t.Fatal(err)
	}
	if node.Protocols.GetIpv4() == nil {
		t.Error("no IPv4 counters")
	}
}

// A damaged file gives an error or numbers, and no more of them than it has room for.
func FuzzTables(f *testing.F) {
	f.Add([]byte(snmp))
	f.Add([]byte(netstat))
	f.Add([]byte(snmp6))
	f.Add([]byte("a: b\na: -1"))
	f.Add([]byte("Tcp: InSegs InSegs\nTcp: 9223372036854775807 18446744073709551615"))
	f.Fuzz(func(t *testing.T, text []byte) {
		fields := 0
		find := func(name []byte) *int64 {
			fields++
			if len(name) == 0 {
				t.Error("a value has no name")
			}
			return new(int64)
		}
		_ = addTable(text, func([]byte) finder { return find })
		_ = addList(text, find)
		if fields > 2*len(text) {
			t.Errorf("%d values from %d bytes", fields, len(text))
		}
		_, _ = read(func(string) ([]byte, error) { return text, nil })
	})
}

func BenchmarkNode(b *testing.B) {
	for b.Loop() {
		if err := New().ReadNode(&v1alpha1.NodeStats{}); err != nil {
			b.Fatal(err)
		}
	}
}
