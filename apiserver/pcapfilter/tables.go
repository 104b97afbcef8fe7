package pcapfilter

// Names of ports and protocols are fixed, so that a filter means the same in every replica: no file of the
// machine is read. They are a part of what Debian's netbase 6.4 has in /etc/services and /etc/protocols.

// onlyTCP and the like say what a port's name stands for; one that both have stands for all protocols.
const (
	anyTransport = 0
	onlyTCP      = ipTCP
	onlyUDP      = ipUDP
)

type namedPort struct {
	number    uint32
	transport uint32
}

var ports = map[string]namedPort{
	"ftp-data": {20, onlyTCP}, "ftp": {21, onlyTCP}, "ssh": {22, onlyTCP}, "telnet": {23, onlyTCP}, "smtp": {25, onlyTCP},
	"time": {37, anyTransport}, "whois": {43, onlyTCP}, "tacacs": {49, anyTransport}, "domain": {53, anyTransport},
	"bootps": {67, onlyUDP}, "bootpc": {68, onlyUDP}, "tftp": {69, onlyUDP}, "gopher": {70, onlyTCP}, "finger": {79, onlyTCP},
	"http": {80, onlyTCP}, "kerberos": {88, anyTransport}, "pop3": {110, onlyTCP}, "sunrpc": {111, anyTransport},
	"auth": {113, onlyTCP}, "nntp": {119, onlyTCP}, "ntp": {123, onlyUDP},
	"netbios-ns": {137, onlyUDP}, "netbios-dgm": {138, onlyUDP}, "netbios-ssn": {139, onlyTCP}, "imap2": {143, onlyTCP},
	"snmp": {161, anyTransport}, "snmp-trap": {162, anyTransport}, "bgp": {179, onlyTCP}, "ldap": {389, anyTransport},
	"https": {443, anyTransport}, "microsoft-ds": {445, onlyTCP}, "submissions": {465, onlyTCP}, "isakmp": {500, onlyUDP},
	"syslog": {514, anyTransport}, "printer": {515, onlyTCP}, "submission": {587, onlyTCP}, "ldaps": {636, anyTransport},
	"domain-s": {853, anyTransport}, "rsync": {873, onlyTCP}, "imaps": {993, onlyTCP}, "pop3s": {995, onlyTCP},
	"openvpn": {1194, anyTransport}, "ms-sql-s": {1433, onlyTCP}, "radius": {1812, anyTransport}, "radius-acct": {1813, anyTransport},
	"nfs": {2049, anyTransport}, "iscsi-target": {3260, onlyTCP}, "mysql": {3306, onlyTCP}, "ms-wbt-server": {3389, onlyTCP},
	"ipsec-nat-t": {4500, onlyUDP}, "sip": {5060, anyTransport}, "sip-tls": {5061, anyTransport},
	"xmpp-client": {5222, onlyTCP}, "xmpp-server": {5269, onlyTCP}, "mdns": {5353, onlyUDP}, "postgresql": {5432, onlyTCP},
	"redis": {6379, onlyTCP}, "http-alt": {8080, onlyTCP}, "git": {9418, onlyTCP},
}

// ipProtocols are the names that proto, ip proto and ip6 proto take.
var ipProtocols = map[string]uint32{
	"ip": 0, "hopopt": 0, "icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "dccp": 33,
	"ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58,
	"ipv6-nonxt": 59, "ipv6-opts": 60, "eigrp": 88, "ospf": 89, "ipip": 94, "etherip": 97, "pim": 103, "ipcomp": 108,
	"vrrp": 112, "l2tp": 115, "sctp": 132, "mobility-header": 135, "udplite": 136, "mpls-in-ip": 137, "hip": 139,
}

// etherProtocols are the names that ether proto takes.
var etherProtocols = map[string]uint32{
	"ip": etherIP, "ip6": etherIP6, "arp": etherARP, "rarp": etherRARP, "atalk": etherAppleTalk, "aarp": etherAARP,
	"decnet": etherDECnet, "lat": etherLAT, "loopback": etherLoopback, "mopdl": etherMOPDL, "moprc": etherMOPRC, "sca": etherSCA,
	"iso": sapISO, "stp": sapSTP, "ipx": sapIPX, "netbeui": sapNetBEUI,
}

// isoProtocols are the names that iso proto takes.
var isoProtocols = map[string]uint32{"clnp": isoCLNP, "esis": isoESIS, "isis": isoISIS}

// llcTypes are the names that llc takes beside i, s and u: the control byte under a mask.
var llcTypes = map[string]struct{ value, mask uint32 }{
	"s": {0x01, 0x03}, "u": {0x03, 0x03},
	"rr": {0x01, 0x0f}, "rnr": {0x05, 0x0f}, "rej": {0x09, 0x0f},
	"ui": {0x03, 0xef}, "ua": {0x63, 0xef}, "disc": {0x43, 0xef}, "sabme": {0x6f, 0xef}, "test": {0xe3, 0xef}, "xid": {0xaf, 0xef}, "frmr": {0x87, 0xef},
}
