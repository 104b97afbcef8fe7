package snapshot

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nft is a table, chain, rule, set or element.
type nft struct {
	What         string       `json:"what"`
	Family       string       `json:"family"`
	Table        string       `json:"table"`
	Chain        string       `json:"chain,omitempty"`
	Set          string       `json:"set,omitempty"`
	Name         string       `json:"name,omitempty"`
	Handle       uint64       `json:"handle,omitempty"`
	Hook         string       `json:"hook,omitempty"`
	HookPriority *int32       `json:"hookPriority,omitempty"`
	Policy       string       `json:"policy,omitempty"`
	Type         string       `json:"type,omitempty"`
	Device       string       `json:"device,omitempty"`
	Flags        uint32       `json:"flags,omitempty"`
	Comment      string       `json:"comment,omitempty"`
	Expressions  []expression `json:"expressions,omitempty"`
	Key          string       `json:"key,omitempty"`
	KeyEnd       string       `json:"keyEnd,omitempty"`
	Value        any          `json:"value,omitempty"`
}

// expression is what a rule does or asks: its type and what the kernel tells of it. Data are in hexadecimal digits.
type expression map[string]any

var nftFamilies = map[uint8]string{1: "inet", unix.AF_INET: "ip", 3: "arp", 5: "netdev", unix.AF_BRIDGE: "bridge", unix.AF_INET6: "ip6"}

var nftHooks = map[string][]string{
	"netdev": {"ingress", "egress"},
	"arp":    {"input", "output", "forward"},
	"":       {"prerouting", "input", "forward", "output", "postrouting", "ingress"},
}

const (
	maxRules    = 50_000 // that are looked at
	maxSets     = 500
	maxElements = 500 // of a set
)

// nfgenmsg is struct nfgenmsg with a family; 0 asks for all.
type nfgenmsg uint8

// Len implements nl.NetlinkRequestData.
func (nfgenmsg) Len() int { return nfgenmsgBytes }

// Serialize implements nl.NetlinkRequestData.
func (family nfgenmsg) Serialize() []byte { return []byte{byte(family), 0, 0, 0} }

// attributes of a message or of another attribute, by number. Lists, whose numbers come twice, are read with each.
type attributes map[uint16][]byte

const attributeMask = 0x3fff // without the flags of nested and network byte order

// each calls do for every attribute, as far as the bytes can be parsed.
func each(b []byte, do func(number uint16, value []byte)) {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return
		}
		do(binary.NativeEndian.Uint16(b[2:])&attributeMask, b[unix.SizeofNlAttr:size])
		b = b[min((size+3)&^3, len(b)):]
	}
}

func parse(b []byte) attributes {
	all := attributes{}
	each(b, func(number uint16, value []byte) { all[number] = value })
	return all
}

func (a attributes) text(number uint16) string { return unix.ByteSliceToString(a[number]) }

// number reads numbers of 1, 2, 4 and 8 bytes in network byte order.
func (a attributes) number(number uint16) uint64 {
	var n uint64
	if len(a[number]) > 8 {
		return 0
	}
	for _, b := range a[number] {
		n = n<<8 | uint64(b)
	}
	return n
}

// dump calls do for every object of a kind, until it answers false.
func dump(kind int, family nfgenmsg, which []*nl.RtAttr, do func(family string, a attributes) bool) error {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_DUMP)
	request.AddData(family)
	for _, one := range which {
		request.AddData(one)
	}
	return request.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		return len(message) < nfgenmsgBytes || do(named(nftFamilies, message[0]), parse(message[nfgenmsgBytes:]))
	})
}

// readNftables reads what there is, in this order, so that rules of many chains do not push out the chains.
func readNftables(ctx context.Context, s *items) error {
	return errors.Join(readTables(ctx, s), readChains(ctx, s), readSets(ctx, s), readNftRules(ctx, s))
}

func readTables(ctx context.Context, s *items) error {
	return dump(unix.NFT_MSG_GETTABLE, 0, nil, func(family string, a attributes) bool {
		s.add(nft{What: "table", Family: family, Table: a.text(unix.NFTA_TABLE_NAME), Handle: a.number(nftaTableHandle), Flags: uint32(a.number(unix.NFTA_TABLE_FLAGS))})
		return ctx.Err() == nil
	})
}

func readChains(ctx context.Context, s *items) error {
	return dump(unix.NFT_MSG_GETCHAIN, 0, nil, func(family string, a attributes) bool {
		item := nft{
			What: "chain", Family: family, Table: a.text(unix.NFTA_CHAIN_TABLE), Name: a.text(unix.NFTA_CHAIN_NAME), Handle: a.number(unix.NFTA_CHAIN_HANDLE),
			Type: a.text(unix.NFTA_CHAIN_TYPE),
		}
		if hook, ok := a[unix.NFTA_CHAIN_HOOK]; ok {
			h := parse(hook)
			priority := int32(h.number(unix.NFTA_HOOK_PRIORITY))
			item.Hook, item.HookPriority, item.Device = hookName(family, h.number(unix.NFTA_HOOK_HOOKNUM)), &priority, h.text(unix.NFTA_HOOK_DEV)
			item.Policy = map[uint64]string{nfDrop: "drop", nfAccept: "accept"}[a.number(unix.NFTA_CHAIN_POLICY)]
		}
		s.add(item)
		return ctx.Err() == nil
	})
}

func hookName(family string, number uint64) string {
	names, ok := nftHooks[family]
	if !ok {
		names = nftHooks[""]
	}
	if number < uint64(len(names)) {
		return names[number]
	}
	return fmt.Sprint(number)
}

func readNftRules(ctx context.Context, s *items) error {
	seen := 0
	err := dump(unix.NFT_MSG_GETRULE, 0, nil, func(family string, a attributes) bool {
		item := nft{
			What: "rule", Family: family, Table: a.text(unix.NFTA_RULE_TABLE), Chain: a.text(unix.NFTA_RULE_CHAIN), Handle: a.number(unix.NFTA_RULE_HANDLE),
			Comment: comment(a[unix.NFTA_RULE_USERDATA]),
		}
		each(a[unix.NFTA_RULE_EXPRESSIONS], func(_ uint16, value []byte) { item.Expressions = append(item.Expressions, parseExpression(value)) })
		s.add(item)
		seen++
		return seen < maxRules && ctx.Err() == nil
	})
	if seen >= maxRules {
		err = errors.Join(err, fmt.Errorf("there are more than %d rules; the rest was not looked at", maxRules))
	}
	return err
}

// comment finds the comment that nft keeps beside a rule: pairs of type and length, a byte each, and a text.
func comment(b []byte) string {
	for len(b) >= 2 && int(b[1]) <= len(b)-2 {
		if b[0] == 0 {
			return unix.ByteSliceToString(b[2 : 2+int(b[1])])
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

func readSets(ctx context.Context, s *items) error {
	type known struct{ family, table, name string }
	var sets []known
	err := dump(unix.NFT_MSG_GETSET, 0, nil, func(family string, a attributes) bool {
		set := known{family, a.text(unix.NFTA_SET_TABLE), a.text(unix.NFTA_SET_NAME)}
		s.add(nft{What: "set", Family: family, Table: set.table, Name: set.name, Handle: a.number(nftaSetHandle), Flags: uint32(a.number(unix.NFTA_SET_FLAGS))})
		sets = append(sets, set)
		return len(sets) < maxSets && ctx.Err() == nil
	})
	for _, set := range sets {
		err = errors.Join(err, readElements(ctx, s, set.family, set.table, set.name))
	}
	return err
}

// What golang.org/x/sys/unix does not name.
const (
	nfgenmsgBytes     = 4
	nfDrop            = 0
	nfAccept          = 1
	nfQueue           = 3
	nftaTableHandle   = 4
	nftaSetHandle     = 16
	nftaSetElemKeyEnd = 10
)

func readElements(ctx context.Context, s *items, family, table, set string) error {
	number := nfgenmsg(0)
	for n, name := range nftFamilies {
		if name == family {
			number = nfgenmsg(n)
		}
	}
	which := []*nl.RtAttr{
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(table)), nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(set)),
	}
	seen := 0
	return dump(unix.NFT_MSG_GETSETELEM, number, which, func(_ string, list attributes) bool {
		each(list[unix.NFTA_SET_ELEM_LIST_ELEMENTS], func(_ uint16, value []byte) {
			if seen++; seen > maxElements {
				s.Omitted++
				return
			}
			a := parse(value)
			s.add(nft{
				What: "element", Family: family, Table: table, Set: set, Flags: uint32(a.number(unix.NFTA_SET_ELEM_FLAGS)),
				Key: keyOf(a[unix.NFTA_SET_ELEM_KEY]), KeyEnd: keyOf(a[nftaSetElemKeyEnd]), Value: parseData(a[unix.NFTA_SET_ELEM_DATA]),
			})
		})
		return seen <= maxElements && ctx.Err() == nil
	})
}

func keyOf(b []byte) string {
	if value, ok := parseData(b).(string); ok {
		return value
	}
	return ""
}

// parseData parses a value or a verdict; nil when there is none.
func parseData(b []byte) any {
	a := parse(b)
	if value, ok := a[unix.NFTA_DATA_VALUE]; ok {
		return hex.EncodeToString(value)
	}
	if verdict, ok := a[unix.NFTA_DATA_VERDICT]; ok {
		v := parse(verdict)
		code := int32(v.number(unix.NFTA_VERDICT_CODE))
		said := map[string]any{"verdict": named(verdicts, int(code))}
		if chain := v.text(unix.NFTA_VERDICT_CHAIN); chain != "" {
			said["chain"] = chain
		}
		return said
	}
	return nil
}

var verdicts = map[int]string{
	nfDrop: "drop", nfAccept: "accept", nfQueue: "queue",
	unix.NFT_CONTINUE: "continue", unix.NFT_BREAK: "break", unix.NFT_JUMP: "jump", unix.NFT_GOTO: "goto", unix.NFT_RETURN: "return",
}

// field is how an attribute of an expression is shown.
type field struct {
	name string
	kind fieldKind
	// names of numbers, where they have any.
	names []string
}

type fieldKind int

const (
	aNumber fieldKind = iota
	aText
	someData
)

var (
	comparisons  = []string{"==", "!=", "<", "<=", ">", ">="}
	payloadBases = []string{"link", "network", "transport", "inner"}
	metaKeys     = []string{
		"len", "protocol", "priority", "mark", "iif", "oif", "iifname", "oifname", "iiftype", "oiftype", "skuid", "skgid", "nftrace", "rtclassid", "secmark",
		"nfproto", "l4proto", "ibrname", "obrname", "pkttype", "cpu", "iifgroup", "oifgroup", "cgroup", "random", "secpath", "iifkind", "oifkind",
	}
	ctKeys = []string{
		"state", "direction", "status", "mark", "secmark", "expiration", "helper", "l3proto", "saddr", "daddr", "protocol", "proto-src", "proto-dst", "label",
		"packets", "bytes", "avgpkt", "zone", "event", "saddr-ip", "daddr-ip", "saddr-ip6", "daddr-ip6", "id",
	}
)

// fields are what is shown of expressions, as in the kernel's include/uapi/linux/netfilter/nf_tables.h. Of others only the
// type is.
var fields = map[string]map[uint16]field{
	"immediate": {1: {name: "register"}, 2: {name: "data", kind: someData}},
	"bitwise":   {1: {name: "from"}, 2: {name: "register"}, 4: {name: "mask", kind: someData}, 5: {name: "xor", kind: someData}},
	"byteorder": {1: {name: "from"}, 2: {name: "register"}, 4: {name: "length"}},
	"cmp":       {1: {name: "from"}, 2: {name: "operator", names: comparisons}, 3: {name: "data", kind: someData}},
	"range":     {1: {name: "from"}, 2: {name: "operator", names: comparisons}, 3: {name: "first", kind: someData}, 4: {name: "last", kind: someData}},
	"lookup":    {1: {name: "set", kind: aText}, 2: {name: "from"}, 3: {name: "register"}, 5: {name: "flags"}},
	"payload":   {1: {name: "register"}, 2: {name: "base", names: payloadBases}, 3: {name: "offset"}, 4: {name: "length"}, 5: {name: "from"}},
	"meta":      {1: {name: "register"}, 2: {name: "key", names: metaKeys}, 3: {name: "from"}},
	"ct":        {1: {name: "register"}, 2: {name: "key", names: ctKeys}, 3: {name: "direction"}, 4: {name: "from"}},
	"limit":     {1: {name: "rate"}, 2: {name: "unitSeconds"}, 3: {name: "burst"}, 4: {name: "kind", names: []string{"packets", "bytes"}}, 5: {name: "flags"}},
	"counter":   {1: {name: "bytes"}, 2: {name: "packets"}},
	"log":       {1: {name: "group"}, 2: {name: "prefix", kind: aText}, 3: {name: "snapLength"}, 5: {name: "level"}, 6: {name: "flags"}},
	"reject":    {1: {name: "kind", names: []string{"icmp", "tcp reset", "icmpx"}}, 2: {name: "code"}},
	"nat": {
		1: {name: "kind", names: []string{"snat", "dnat"}}, 2: {name: "family"}, 3: {name: "addressFrom"}, 4: {name: "addressTo"},
		5: {name: "portFrom"}, 6: {name: "portTo"}, 7: {name: "flags"},
	},
	"masq":    {1: {name: "flags"}, 2: {name: "portFrom"}, 3: {name: "portTo"}},
	"redir":   {1: {name: "portFrom"}, 2: {name: "portTo"}, 3: {name: "flags"}},
	"objref":  {1: {name: "kind"}, 2: {name: "object", kind: aText}},
	"fib":     {1: {name: "register"}, 2: {name: "result"}, 3: {name: "flags"}},
	"target":  {1: {name: "name", kind: aText}, 2: {name: "revision"}},
	"match":   {1: {name: "name", kind: aText}, 2: {name: "revision"}},
	"quota":   {1: {name: "bytes"}, 2: {name: "flags"}, 4: {name: "used"}},
	"queue":   {1: {name: "number"}, 2: {name: "count"}, 3: {name: "flags"}},
	"dynset":  {1: {name: "set", kind: aText}, 3: {name: "operation"}, 4: {name: "from"}},
	"tproxy":  {1: {name: "family"}, 2: {name: "addressFrom"}, 3: {name: "portFrom"}},
	"socket":  {1: {name: "key"}, 2: {name: "register"}},
	"rt":      {1: {name: "register"}, 2: {name: "key"}},
	"exthdr":  {1: {name: "register"}, 2: {name: "header"}, 3: {name: "offset"}, 4: {name: "length"}},
	"numgen":  {1: {name: "register"}, 2: {name: "modulus"}, 3: {name: "kind"}, 4: {name: "offset"}},
	"hash":    {1: {name: "from"}, 2: {name: "register"}, 3: {name: "length"}, 4: {name: "modulus"}},
	"connlim": {1: {name: "count"}, 2: {name: "flags"}},
}

func parseExpression(b []byte) expression {
	a := parse(b)
	kind := a.text(unix.NFTA_EXPR_NAME)
	shown := expression{"type": kind}
	known := fields[kind]
	if known == nil {
		return shown
	}
	data := parse(a[unix.NFTA_EXPR_DATA])
	for number := range data {
		f, ok := known[number]
		if !ok {
			continue
		}
		switch n := data.number(number); {
		case f.kind == aText:
			shown[f.name] = data.text(number)
		case f.kind == someData:
			shown[f.name] = parseData(data[number])
		case n < uint64(len(f.names)):
			shown[f.name] = f.names[n]
		default:
			shown[f.name] = n
		}
	}
	return shown
}
