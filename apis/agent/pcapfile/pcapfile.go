// Package pcapfile lays out the file that is merged from what nodes recorded of a capture that has ended: what comes before
// the packets, what comes after them, its size and its digest. Nothing of it depends on when, where or by whom the file is
// made, so that a download goes on at any replica of the API server.
//
//	Section Header
//	Interface Description Blocks, by node, namespace, pod, interface and number
//	Name Resolution Blocks, by address
//	Enhanced Packet Blocks, by time and node (merged by whoever serves the file)
//	Interface Statistics Blocks, in the order of the interfaces
//
// Everything that agents say is escaped and bounded here; they are not trusted with the form of the file.
package pcapfile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// version is part of every digest. It rises when the same packets make another file.
	version = "1"
	// digestDigits is how much of the hexadecimal SHA-256 is told.
	digestDigits = 32
	// MaxInterfaces is how many interfaces a file may have: of those that read it, tshark needs the most memory for each.
	MaxInterfaces = 50_000
	// maxText is where texts of agents are cut, in bytes before they are escaped.
	maxText = 253
)

// A Header is what a file has of its capture.
type Header struct {
	// UID of the capture; Namespace (empty for a ClusterCapture) and Name.
	UID, Namespace, Name string
	// Filter is the text that every interface shows as its filter.
	Filter string
	// SnapLength is how many bytes of a packet were kept at most.
	SnapLength uint32

	// PodNamespace and Pod are set when the file has one pod only, HeadersOnly when every packet ends behind its transport
	// header. They are part of the digest.
	PodNamespace, Pod string
	HeadersOnly       bool
}

// A Node is what one node recorded.
type Node struct {
	Name string
	// State is kept and not changed.
	State *agentv1.CaptureState
}

// A File is the layout of a file. It is not changed once it is made.
type File struct {
	header     Header
	nodes      []Node
	interfaces []networkInterface
	numbers    map[string]map[uint32]uint32
	names      []pcapng.Name
}

type networkInterface struct {
	node string
	part *agentv1.CapturePart
}

// New lays out a file. Nodes come in any order; those that recorded no interface add nothing, to the digest neither.
// names may be nil. An error begins with the name of the node that is to blame.
func New(header Header, nodes []Node, names *Names) (*File, error) {
	f := &File{header: header, numbers: map[string]map[uint32]uint32{}, names: names.Sorted()}
	for _, node := range nodes {
		if len(node.State.GetParts()) == 0 {
			continue
		}
		if f.numbers[node.Name] != nil {
			return nil, fmt.Errorf("%s: there twice", node.Name)
		}
		f.numbers[node.Name] = make(map[uint32]uint32, len(node.State.Parts))
		f.nodes = append(f.nodes, node)
		if err := f.add(node); err != nil {
			return nil, fmt.Errorf("%s: %w", node.Name, err)
		}
	}
	slices.SortFunc(f.nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(f.interfaces, networkInterface.compare)
	for number, i := range f.interfaces {
		f.numbers[i.node][i.part.Number] = uint32(number)
	}
	return f, nil
}

func (f *File) add(node Node) error {
	for _, part := range node.State.Parts {
		if _, ok := f.numbers[node.Name][part.Number]; ok {
			return fmt.Errorf("part %d is there twice", part.Number)
		}
		f.numbers[node.Name][part.Number] = 0
		if f.header.Pod != "" && (part.Pod != f.header.Pod || part.Namespace != f.header.PodNamespace) {
			delete(f.numbers[node.Name], part.Number)
			continue
		}
		if len(f.interfaces) == MaxInterfaces {
			return fmt.Errorf("more than %d interfaces for one file", MaxInterfaces)
		}
		f.interfaces = append(f.interfaces, networkInterface{node.Name, part})
	}
	return nil
}

func (i networkInterface) compare(j networkInterface) int {
	return cmp.Or(cmp.Compare(i.node, j.node), cmp.Compare(i.part.Namespace, j.part.Namespace),
		cmp.Compare(i.part.Pod, j.part.Pod), cmp.Compare(i.part.Interface, j.part.Interface), cmp.Compare(i.part.Number, j.part.Number))
}

// Nodes are those that add to the file, sorted by name. The caller must not change them.
func (f *File) Nodes() []Node { return f.nodes }

// Number is the number that a node's part has as an interface of the file.
func (f *File) Number(node string, part uint32) (number uint32, ok bool) {
	number, ok = f.numbers[node][part]
	return number, ok
}

// Digest is different when the file is. It is made of the digests of the nodes, which have to be sealed.
func (f *File) Digest() string {
	sum := sha256.New()
	snap := binary.LittleEndian.AppendUint32(nil, f.header.SnapLength)
	form := "whole"
	if f.header.HeadersOnly {
		form = "headers"
	}
	for _, text := range []string{"networkobservability capture file", version, f.header.UID, f.header.Namespace, f.header.Name,
		f.header.Filter, string(snap), form, f.header.PodNamespace, f.header.Pod} {
		writeText(sum, text)
	}
	for _, node := range f.nodes {
		writeText(sum, node.Name)
		writeText(sum, string(node.State.Digest))
	}
	return hex.EncodeToString(sum.Sum(nil))[:digestDigits]
}

// writeText writes a text so that it cannot be taken for two.
func writeText(sum hash.Hash, text string) {
	sum.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(text))))
	sum.Write([]byte(text))
}

// Size is that of the file in bytes. It is known when the file has all packets, whole, of its nodes.
func (f *File) Size() (size int64, known bool) {
	if f.header.HeadersOnly || f.header.Pod != "" {
		return 0, false
	}
	for _, node := range f.nodes {
		size += node.State.BlockBytes
	}
	_ = f.WriteBegin(func(b []byte) error { size += int64(len(b)); return nil })
	return size + int64(len(f.AppendEnd(nil))), true
}

// pieceBytes is about how much WriteBegin hands over at a time.
const pieceBytes = 64 << 10

// WriteBegin hands over what comes before the packets, in pieces whose memory is used again: each interface has the text of the
// filter, and names are many, so that all of it may be much.
func (f *File) WriteBegin(write func([]byte) error) error {
	b := AppendSection(nil, f.header)
	for _, i := range f.interfaces {
		if b = AppendInterface(b, f.header, i.node, i.part); len(b) >= pieceBytes {
			if err := write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	for names := f.names; len(names) > 0; {
		if b, names = appendNames(b, names); len(b) >= pieceBytes {
			if err := write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	return write(b)
}

// AppendBegin appends what comes before the packets.
func (f *File) AppendBegin(b []byte) []byte {
	_ = f.WriteBegin(func(piece []byte) error { b = append(b, piece...); return nil })
	return b
}

// AppendEnd appends what comes after the packets.
func (f *File) AppendEnd(b []byte) []byte {
	for number, i := range f.interfaces {
		b = AppendStatistics(b, uint32(number), i.part)
	}
	return b
}

// AppendSection appends the Section Header Block of a file.
func AppendSection(b []byte, header Header) []byte {
	comment := "ClusterCapture " + escape(header.Name)
	if header.Namespace != "" {
		comment = "Capture " + escape(header.Namespace) + "/" + escape(header.Name)
	}
	if header.HeadersOnly {
		comment += ", headers only"
	}
	return pcapng.AppendSection(b, pcapng.Section{OS: "Linux", Application: "networkobservability", Comment: comment + ", UID " + escape(header.UID)})
}

// AppendInterface appends the Interface Description Block of a part.
func AppendInterface(b []byte, header Header, node string, part *agentv1.CapturePart) []byte {
	return pcapng.AppendInterface(b, pcapng.Interface{Name: InterfaceName(node, part), Filter: header.Filter, SnapLength: header.SnapLength})
}

// InterfaceName is what a part is called: node/namespace/pod/interface, or node/interface when it is the node's own.
func InterfaceName(node string, part *agentv1.CapturePart) string {
	if part.Pod == "" {
		return escape(node) + "/" + escape(part.Interface)
	}
	return escape(node) + "/" + escape(part.Namespace) + "/" + escape(part.Pod) + "/" + escape(part.Interface)
}

// AppendStatistics appends the Interface Statistics Block of a part that has ended. Its numbers are those of the status.
func AppendStatistics(b []byte, number uint32, part *agentv1.CapturePart) []byte {
	counts := part.GetCounts()
	comment := fmt.Sprintf("matched %d, recorded %d, dropped by the ring %d, by the disk %d, by a limit %d, at the other vantage point %d",
		counts.GetMatched(), counts.GetPackets(), counts.GetRingDrops(), counts.GetDiskDrops(), counts.GetLimitDrops(), counts.GetOtherVantage())
	if part.Reason != agentv1.CaptureState_REASON_UNSPECIFIED {
		comment += "; ended: " + strings.ToLower(strings.TrimPrefix(part.Reason.String(), "REASON_"))
	}
	return pcapng.AppendStatistics(b, number, pcapng.Statistics{
		Time: part.EndUnixNano, Start: part.StartUnixNano, End: part.EndUnixNano, Comment: comment,
		Received: counts.GetMatched(), FilterAccepted: counts.GetMatched(), DroppedByOS: counts.GetRingDrops(),
		Dropped: counts.GetRingDrops() + counts.GetDiskDrops() + counts.GetLimitDrops(), Delivered: counts.GetPackets(),
	})
}

// escape makes a text of an agent fit for a name: what is not a printable character of ASCII becomes \xNN, and so do the
// backslash and the slash, which divides names. It is cut to maxText bytes before.
func escape(text string) string {
	text = text[:min(len(text), maxText)]
	plain := func(c byte) bool { return c > ' ' && c < 0x7f && c != '\\' && c != '/' }
	var escaped strings.Builder
	for i := range len(text) {
		if plain(text[i]) {
			escaped.WriteByte(text[i])
		} else {
			fmt.Fprintf(&escaped, `\x%02x`, text[i])
		}
	}
	return escaped.String()
}
