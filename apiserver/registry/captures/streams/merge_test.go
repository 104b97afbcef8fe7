package streams

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A textSink writes down what a merge makes: number of the interface, "@" and the time of each packet.
type textSink struct {
	parted map[string]uint32
	text   []string
}

func (s *textSink) parts(from *input, parts []*agentv1.CapturePart) error {
	for _, part := range parts {
		name := from.node + "/" + part.Interface
		if _, ok := s.parted[name]; !ok {
			s.parted[name] = uint32(len(s.parted))
		}
		from.number(part.Number, s.parted[name])
	}
	return nil
}

func (s *textSink) packets(run []byte) error {
	for len(run) > 0 {
		packet, rest, err := pcapng.Next(run)
		if err != nil {
			return err
		}
		s.text, run = append(s.text, fmt.Sprintf("%d@%d", packet.Number(), packet.Time())), rest
	}
	return nil
}

func (s *textSink) before(pcapng.Packet) []byte { return nil }
func (s *textSink) idle() error                 { return nil }

func (s *textSink) take() string {
	text := strings.Join(s.text, " ")
	s.text = nil
	return text
}

// TestTranscripts plays what comes when into merges, and compares what they write. UPDATE=1 rewrites the answers.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts: ", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(script))
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(script) {
				t.Errorf("got\n%s", got)
			}
		})
	}
}

// play reads lines of a transcript: comments (#), answers (>), and
//
//	window 250ms       live, with this window; otherwise the capture has ended
//	wait NODE          the node is waited for from the beginning
//	NODE PART@TIME ... a batch, with a watermark where an item is w@TIME
//	NODE broken|again  the stream broke; the next begins with the place of the last packet, or with the first packet
//	NODE end           nothing more comes
//	step 100ms         time passes
func play(t *testing.T, script string) string {
	fake := clocktesting.NewFakeClock(time.Unix(1, 0))
	to := &textSink{parted: map[string]uint32{}}
	m := &merge{clock: fake, sink: to, maxCaptured: 100}
	inputs := map[string]*input{}
	var b strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, ">") {
			continue
		}
		b.WriteString(line + "\n")
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		var err error
		switch words[0] {
		case "window":
			m.window = duration(t, words[1])
			continue
		case "wait":
			inputs[words[1]] = newInput(words[1], 100)
			m.register(inputs[words[1]])
			continue
		case "step":
			fake.Step(duration(t, words[1]))
		default:
			in := inputs[words[0]]
			if in == nil {
				in = newInput(words[0], 100)
				inputs[words[0]] = in
			}
			for len(in.taken) > 0 {
				<-in.taken
			}
			err = m.take(eventOf(t, in, words[1:]))
		}
		if err == nil {
			err = m.write()
		}
		switch answer := to.take(); {
		case err != nil:
			fmt.Fprintf(&b, "> error: %v\n", err)
		case answer != "":
			fmt.Fprintf(&b, "> %s\n", answer)
		case m.over():
			b.WriteString("> over\n")
		}
	}
	return b.String()
}

func duration(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func eventOf(t *testing.T, in *input, words []string) event {
	switch words[0] {
	case "end":
		return event{from: in}
	case "broken", "again":
		return event{from: in, broken: true, again: words[0] == "again"}
	}
	response := &agentv1.ReadCaptureResponse{}
	for _, word := range words {
		part, at, ok := strings.Cut(word, "@")
		time, err := strconv.ParseInt(at, 10, 64)
		if !ok || err != nil {
			t.Fatalf("%q is no packet", word)
		}
		if part == "w" {
			response.WatermarkUnixNano = time
			continue
		}
		number, err := strconv.Atoi(part)
		if err != nil {
			t.Fatal(err)
		}
		response.Parts = append(response.Parts, &agentv1.CapturePart{Number: uint32(number), Interface: "eth" + part})
		response.Blocks = pcapng.AppendPacket(response.Blocks, uint32(number), time, []byte("data"), 4, pcapng.Outbound)
	}
	return event{from: in, response: response}
}

// hostile are ways in which an agent may lie about packets.
var hostile = map[string]func(*agentv1.ReadCaptureResponse){
	"a part that was not announced": func(r *agentv1.ReadCaptureResponse) { binary.LittleEndian.PutUint32(r.Blocks[8:], 77) },
	"a part far away":               func(r *agentv1.ReadCaptureResponse) { binary.LittleEndian.PutUint32(r.Blocks[8:], math.MaxUint32) },
	"a time before the epoch":       func(r *agentv1.ReadCaptureResponse) { binary.LittleEndian.PutUint32(r.Blocks[12:], 1<<31) },
	"a time far away":               func(r *agentv1.ReadCaptureResponse) { binary.LittleEndian.PutUint32(r.Blocks[12:], 1<<30) },
	"a batch that is cut":           func(r *agentv1.ReadCaptureResponse) { r.Blocks = r.Blocks[:len(r.Blocks)-4] },
	"another block":                 func(r *agentv1.ReadCaptureResponse) { binary.LittleEndian.PutUint32(r.Blocks, pcapng.TypeSection) },
	"a size of 0":                   func(r *agentv1.ReadCaptureResponse) { binary.LittleEndian.PutUint32(r.Blocks[4:], 0) },
	"more captured than there is":   func(r *agentv1.ReadCaptureResponse) { binary.LittleEndian.PutUint32(r.Blocks[20:], 1<<31) },
	"original shorter":              func(r *agentv1.ReadCaptureResponse) { binary.LittleEndian.PutUint32(r.Blocks[24:], 1) },
	"an option of no meaning": func(r *agentv1.ReadCaptureResponse) {
		packet, _, _ := pcapng.Next(r.Blocks)
		binary.LittleEndian.PutUint16(r.Blocks[len(packet)-16:], 1)
	},
	"a packet longer than asked for": func(r *agentv1.ReadCaptureResponse) {
		r.Blocks = pcapng.AppendPacket(nil, 0, 1000, make([]byte, 3000), 3000, pcapng.Inbound)
	},
	"all again": func(r *agentv1.ReadCaptureResponse) { r.Blocks = append(r.Blocks, r.Blocks...) },
}

// TestHostileAgents wants the stream broken off, with the node's name in the error.
func TestHostileAgents(t *testing.T) {
	for name, spoil := range hostile {
		for _, subresource := range []string{"pcap", "attach"} {
			t.Run(subresource+"/"+name, func(t *testing.T) {
				agents := randomAgents(t, 4, 3, 20)
				w := newWorld(t, agents)
				agents["b"].spoil = func(r *agentv1.ReadCaptureResponse) {
					if len(r.Blocks) > 0 {
						spoil(r)
					}
				}
				c := w.open(subresource, readOptions)
				if err := c.end(); err == nil || !strings.HasPrefix(err.Error(), "b: ") {
					t.Errorf("ended with %v", err)
				}
			})
		}
	}
	for name, spoil := range map[string]func(*agentv1.ReadCaptureResponse){
		"packets left out":       func(r *agentv1.ReadCaptureResponse) { r.Blocks = nil },
		"no state at the end":    func(r *agentv1.ReadCaptureResponse) { r.End = nil; r.Blocks = nil },
		"another end":            func(r *agentv1.ReadCaptureResponse) { r.End.Digest = []byte("other") },
		"bytes skipped unbidden": func(r *agentv1.ReadCaptureResponse) { r.SkippedBytes = 100 },
	} {
		t.Run("pcap/"+name, func(t *testing.T) {
			agents := randomAgents(t, 4, 3, 20)
			w := newWorld(t, agents)
			agents["b"].batch = 1000
			agents["b"].spoil = spoil
			c := w.open("pcap", readOptions)
			if name == "no state at the end" {
				// The fake ends when the state is sent; so does the stream of a client that has enough.
				c.leave()
			}
			if err := c.end(); err == nil {
				t.Error("a clean end")
			}
		})
	}
}

// TestHostileTargets wants packets of what is no target refused in a live stream, too.
func TestHostileTargets(t *testing.T) {
	for name, part := range map[string]*agentv1.CapturePart{
		"namespace": partOf(0, "bank", "web-a", "eth0"), "pod": partOf(0, "shop", "other", "eth0"), "node": partOf(0, "", "", "eth0"),
	} {
		t.Run(name, func(t *testing.T) {
			clock := clocktesting.NewFakeClock(time.Unix(100, 0))
			w := newWorld(t, runningAgents(), func(c *Config) { c.Clock = clock })
			stop := runClock(t, clock)
			defer stop()
			w.agents["a"].change(func() { w.agents["a"].state.Parts[0] = part })
			c := w.open("attach", readOptions)
			if err := c.end(); err == nil || !strings.Contains(err.Error(), "a: ") || !strings.Contains(err.Error(), "no target") {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// FuzzMerge takes whatever an agent may send as blocks: it is refused, or written as it came but for the interface.
func FuzzMerge(f *testing.F) {
	var good []byte
	for i := range 4 {
		good = pcapng.AppendPacket(good, uint32(i%2), int64(1000-i), frame(1, 2, 3, 42+i), 60, pcapng.Inbound)
	}
	f.Add(good, uint16(60))
	for _, spoil := range hostile {
		r := &agentv1.ReadCaptureResponse{Blocks: append([]byte(nil), good...)}
		spoil(r)
		f.Add(r.Blocks, uint16(len(r.Blocks)/2))
	}
	f.Fuzz(func(t *testing.T, blocks []byte, cut uint16) {
		to := &textSink{parted: map[string]uint32{}}
		m := &merge{clock: clock.RealClock{}, sink: to, events: make(chan event, 10), maxCaptured: 2000}
		first, second := newInput("a", 10), newInput("b", 10)
		for _, in := range []*input{first, second} {
			for len(in.taken) > 0 {
				<-in.taken
			}
			m.register(in)
		}
		parts := []*agentv1.CapturePart{{Number: 0, Interface: "eth0"}, {Number: 1, Interface: "eth1"}}
		at := min(int(cut), len(blocks))
		m.events <- event{from: first, response: &agentv1.ReadCaptureResponse{Parts: parts, Blocks: append([]byte(nil), blocks[:at]...)}}
		m.events <- event{from: second, response: &agentv1.ReadCaptureResponse{Parts: parts, Blocks: append([]byte(nil), blocks[at:]...)}}
		m.events <- event{from: first}
		m.events <- event{from: second}
		err := m.run(t.Context())
		if err != nil && !strings.HasPrefix(err.Error(), "a: ") && !strings.HasPrefix(err.Error(), "b: ") {
			t.Fatalf("an error that blames nobody: %v", err)
		}
		if err == nil && int64(len(to.text)) != first.received+second.received {
			t.Fatalf("%d packets written of %d and %d", len(to.text), first.received, second.received)
		}
	})
}

// A countSink counts what is written, and copies it as a connection would.
type countSink struct {
	*textSink
	buffer []byte
	bytes  int64
}

func (s *countSink) packets(run []byte) error {
	s.bytes += int64(copy(s.buffer[:min(len(run), len(s.buffer))], run))
	return nil
}

// BenchmarkMerge is megabytes a second that go through a merge, beside that of copying the same bytes.
func BenchmarkMerge(b *testing.B) {
	for _, size := range []int{64, 1400} {
		for _, nodes := range []int{1, 2, 8} {
			b.Run(fmt.Sprintf("packet=%d/nodes=%d", size, nodes), func(b *testing.B) { benchmarkMerge(b, nodes, size) })
		}
	}
	b.Run("copy", func(b *testing.B) {
		from, to := make([]byte, 256<<10), make([]byte, 256<<10)
		b.SetBytes(int64(len(from)))
		for b.Loop() {
			copy(to, from)
		}
	})
}

func benchmarkMerge(b *testing.B, nodes, size int) {
	batches := make([][]byte, nodes)
	total := int64(0)
	for n := range batches {
		for i := 0; len(batches[n]) < 256<<10; i++ {
			batches[n] = pcapng.AppendPacket(batches[n], uint32(n), int64(i*nodes+n), make([]byte, size), uint32(size), pcapng.Inbound)
		}
		total += int64(len(batches[n]))
	}
	b.SetBytes(total)
	to := &countSink{textSink: &textSink{parted: map[string]uint32{}}, buffer: make([]byte, 1<<20)}
	for b.Loop() {
		m := &merge{clock: clock.RealClock{}, sink: to, events: make(chan event, 2*nodes), maxCaptured: 2000}
		for n := range nodes {
			in := newInput(strconv.Itoa(n), 2)
			<-in.taken
			m.register(in)
			parts := []*agentv1.CapturePart{{Number: uint32(n), Interface: "eth0"}}
			m.events <- event{from: in, response: &agentv1.ReadCaptureResponse{Parts: parts, Blocks: batches[n]}}
			m.events <- event{from: in}
		}
		if err := m.run(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	if to.bytes == 0 {
		b.Fatal(errors.New("nothing was written"))
	}
}
