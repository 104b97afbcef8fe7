package pcapfilter

// kind is what a word of the text is to the grammar.
type kind int

const (
	tEnd kind = iota
	tNumber
	tName   // a name: of a host, port, protocol or LLC type
	tObject // svc/NAME or pod/NAME, which only we have
	tIPv4   // two to four dotted numbers
	tIPv6   // an IPv6 address
	tMAC    // an Ethernet address
	tProto  // a protocol's keyword; token.proto says which
	tLen    // len, length
	tAnd
	tOr
	tNot
	tSrc
	tDst
	tHost
	tNet
	tMask
	tPort
	tPortRange
	tProtoWord // the qualifier proto
	tLess
	tGreater
	tByte
	tBroadcast
	tMulticast
	tInbound
	tOutbound
	tIfindex
	tVLAN
	tMPLS
	tPPPoED
	tPPPoES
	tGeneve
	tLLC
	tRuleNumber // rnr: an LLC type, or pf's rule number, which is refused
	tRefused    // a keyword that is refused; token.reason says why
	tSymbol     // an operator or a bracket; token.text says which
)

type token struct {
	kind   kind
	text   string // as written
	offset int    // bytes from the start of the filter
	value  uint32 // of tNumber
	proto  proto  // of tProto
	reason string // of tRefused
}

func (t token) is(symbol string) bool { return t.kind == tSymbol && t.text == symbol }

// proto is a protocol that the grammar knows by name.
type proto int

const (
	pDefault proto = iota // none was given
	pLink
	pIP
	pIP6
	pARP
	pRARP
	pSCTP
	pTCP
	pUDP
	pICMP
	pICMP6
	pIGMP
	pIGRP
	pPIM
	pVRRP
	pCARP
	pAH
	pESP
	pAppleTalk
	pAARP
	pDECnet
	pLAT
	pSCA
	pMOPRC
	pMOPDL
	pISO
	pESIS
	pISIS
	pCLNP
	pSTP
	pIPX
	pNetBEUI
	pISISLevel1
	pISISLevel2
	pISISHello
	pISISLSP
	pISISSNP
	pISISCSNP
	pISISPSNP
	pUndefined // what a bare id inherits after something without qualifiers
)

var protoWords = map[string]proto{
	"link": pLink, "ether": pLink, "ppp": pLink, "slip": pLink, "fddi": pLink, "tr": pLink, "wlan": pLink,
	"ip": pIP, "ip6": pIP6, "arp": pARP, "rarp": pRARP,
	"sctp": pSCTP, "tcp": pTCP, "udp": pUDP, "icmp": pICMP, "icmp6": pICMP6, "igmp": pIGMP, "igrp": pIGRP,
	"pim": pPIM, "vrrp": pVRRP, "carp": pCARP, "ah": pAH, "esp": pESP,
	"atalk": pAppleTalk, "aarp": pAARP, "decnet": pDECnet, "lat": pLAT, "sca": pSCA, "moprc": pMOPRC, "mopdl": pMOPDL,
	"iso": pISO, "esis": pESIS, "es-is": pESIS, "isis": pISIS, "is-is": pISIS, "clnp": pCLNP,
	"stp": pSTP, "ipx": pIPX, "netbeui": pNetBEUI,
	"l1": pISISLevel1, "l2": pISISLevel2, "iih": pISISHello, "lsp": pISISLSP, "snp": pISISSNP, "csnp": pISISCSNP, "psnp": pISISPSNP,
}

var plainWords = map[string]kind{
	"and": tAnd, "or": tOr, "not": tNot, "src": tSrc, "dst": tDst,
	"host": tHost, "net": tNet, "mask": tMask, "port": tPort, "portrange": tPortRange, "proto": tProtoWord,
	"less": tLess, "greater": tGreater, "byte": tByte, "broadcast": tBroadcast, "multicast": tMulticast,
	"len": tLen, "length": tLen, "inbound": tInbound, "outbound": tOutbound, "ifindex": tIfindex,
	"vlan": tVLAN, "mpls": tMPLS, "pppoed": tPPPoED, "pppoes": tPPPoES, "geneve": tGeneve, "llc": tLLC,
	"rnr": tRuleNumber,
}

const (
	onlyWireless = "is for 802.11 frames, which pods do not have"
	onlyPF       = "is for packets logged by pf(4), which Linux does not have; a capture has its interfaces in its targets"
	onlyATM      = "is for ATM links, which pods do not have"
	onlySS7      = "is for SS7 links, which pods do not have"
)

// refusedWords are tcpdump's keywords that mean nothing here, each with its reason. They stay reserved, so
// that a filter never changes its meaning by being moved from tcpdump to here.
var refusedWords = map[string]string{
	"gateway":    "needs the Ethernet address of a name, which nobody knows here (tcpdump refuses it too); write ether host ADDRESS and not host ADDRESS",
	"protochain": "needs a loop, and the kernel runs none; write ip6 proto N for the first header, or ip6[6] = 0 and ip6[40] = N for what follows a hop-by-hop header",
	"radio":      onlyWireless, "type": onlyWireless, "subtype": onlyWireless, "dir": onlyWireless, "direction": onlyWireless,
	"addr1": onlyWireless, "address1": onlyWireless, "addr2": onlyWireless, "address2": onlyWireless,
	"addr3": onlyWireless, "address3": onlyWireless, "addr4": onlyWireless, "address4": onlyWireless,
	"ra": onlyWireless, "ta": onlyWireless,
	"on": onlyPF, "ifname": onlyPF, "rset": onlyPF, "ruleset": onlyPF, "rulenum": onlyPF, "srnr": onlyPF, "subrulenum": onlyPF,
	"reason": onlyPF, "action": onlyPF,
	"lane": onlyATM, "metac": onlyATM, "bcc": onlyATM, "oam": onlyATM, "oamf4": onlyATM, "oamf4ec": onlyATM, "oamf4sc": onlyATM,
	"sc": onlyATM, "ilmic": onlyATM, "vpi": onlyATM, "vci": onlyATM, "connectmsg": onlyATM, "metaconnect": onlyATM,
	"fisu": onlySS7, "lssu": onlySS7, "lsu": onlySS7, "msu": onlySS7, "hfisu": onlySS7, "hlssu": onlySS7, "hmsu": onlySS7,
	"sio": onlySS7, "opc": onlySS7, "dpc": onlySS7, "sls": onlySS7, "hsio": onlySS7, "hopc": onlySS7, "hdpc": onlySS7, "hsls": onlySS7,
}

// numberWords are offsets and values that have names.
var numberWords = map[string]uint32{
	"icmptype": 0, "icmpcode": 1,
	"icmp-echoreply": 0, "icmp-unreach": 3, "icmp-sourcequench": 4, "icmp-redirect": 5, "icmp-echo": 8,
	"icmp-routeradvert": 9, "icmp-routersolicit": 10, "icmp-timxceed": 11, "icmp-paramprob": 12,
	"icmp-tstamp": 13, "icmp-tstampreply": 14, "icmp-ireq": 15, "icmp-ireqreply": 16, "icmp-maskreq": 17, "icmp-maskreply": 18,
	"icmp6type": 0, "icmp6code": 1,
	"icmp6-destinationunreach": 1, "icmp6-packettoobig": 2, "icmp6-timeexceeded": 3, "icmp6-parameterproblem": 4,
	"icmp6-echo": 128, "icmp6-echoreply": 129,
	"icmp6-multicastlistenerquery": 130, "icmp6-multicastlistenerreportv1": 131, "icmp6-multicastlistenerdone": 132,
	"icmp6-routersolicit": 133, "icmp6-routeradvert": 134, "icmp6-neighborsolicit": 135, "icmp6-neighboradvert": 136,
	"icmp6-redirect": 137, "icmp6-routerrenum": 138, "icmp6-nodeinformationquery": 139, "icmp6-nodeinformationresponse": 140,
	"icmp6-ineighbordiscoverysolicit": 141, "icmp6-ineighbordiscoveryadvert": 142, "icmp6-multicastlistenerreportv2": 143,
	"icmp6-homeagentdiscoveryrequest": 144, "icmp6-homeagentdiscoveryreply": 145,
	"icmp6-mobileprefixsolicit": 146, "icmp6-mobileprefixadvert": 147,
	"icmp6-certpathsolicit": 148, "icmp6-certpathadvert": 149,
	"icmp6-multicastrouteradvert": 151, "icmp6-multicastroutersolicit": 152, "icmp6-multicastrouterterm": 153,
	"tcpflags": 13,
	"tcp-fin":  0x01, "tcp-syn": 0x02, "tcp-rst": 0x04, "tcp-push": 0x08, "tcp-ack": 0x10, "tcp-urg": 0x20, "tcp-ece": 0x40, "tcp-cwr": 0x80,
}
