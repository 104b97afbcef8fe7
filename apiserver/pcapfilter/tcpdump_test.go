package pcapfilter

import (
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"slices"

	"golang.org/x/net/bpf"
)

// comparedPackets is how many packets every expression is judged on.
const comparedPackets = 20000

// lines returns the lines of a file that are no comments.
func lines(t testing.TB, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}

// TestAgainstTcpdump compiles every expression of the corpus with tcpdump and here, and lets both programs judge
// the same packets.
func TestAgainstTcpdump(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	packets := makePackets(comparedPackets, 1)
	expressions := lines(t, "testdata/expressions.txt")
	if len(expressions) < 500 {
		t.Fatalf("the corpus has %d expressions, 500 are promised", len(expressions))
	}
	var identical, accepted, longer atomic.Int64
	parallel(expressions, func(text string) {
		program, err := Compile(text, Options{})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			return
		}
		theirs := o.compile(text)
		if theirs.err != nil {
			t.Errorf("%s: tcpdump refuses it: %v", text, theirs.err)
			return
		}
		accepted.Add(int64(compareOn(t, text, o.exact, program.Instructions, theirs.program, packets)))
		longer.Add(int64(len(program.Instructions) - len(theirs.program)))
		if slices.Equal(program.Instructions, theirs.program) {
			identical.Add(1)
		}
	})
	judged := len(expressions) * len(packets)
	t.Logf("%s; packets too short for a test are compared: %v", o.version, o.exact)
	t.Logf("%d expressions on %d packets each, %d verdicts, %d%% of them to accept; %d programs are tcpdump's instruction for instruction and were run once, the others are %d instructions longer together",
		len(expressions), len(packets), judged, accepted.Load()*100/int64(judged), identical.Load(), longer.Load())
}

// TestAgainstTcpdumpOnRawIP does the same for a device without a link header.
func TestAgainstTcpdumpOnRawIP(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	if answer := o.compileFor(rawIPDevice, "ip"); answer.err != nil {
		t.Skipf("comparing with tcpdump on raw IP needs a tun device: %v", answer.err)
	}
	var packets []*packet
	for _, p := range makePackets(6000, 14) {
		if len(p.data) > 14 && !p.tagged {
			raw := *p
			raw.data = p.data[14:]
			packets = append(packets, &raw)
		}
	}
	var compared, refused, accepted atomic.Int64
	parallel(lines(t, "testdata/expressions.txt"), func(text string) {
		program, err := Compile(text, Options{Link: RawIP})
		theirs := o.compileFor(rawIPDevice, text)
		if err != nil || theirs.err != nil {
			if (err == nil) != (theirs.err == nil) {
				t.Errorf("%s: we say %v, tcpdump says %v", text, err, theirs.err)
			}
			refused.Add(1)
			return
		}
		compared.Add(1)
		accepted.Add(int64(compareOn(t, text, o.exact, program.Instructions, theirs.program, packets)))
	})
	t.Logf("%d expressions on %d packets each, %d%% of them to accept; both refuse %d for this link",
		compared.Load(), len(packets), accepted.Load()*100/(compared.Load()*int64(len(packets))), refused.Load())
}

// TestNamesOfPortsAndProtocols compares the built-in names with those that tcpdump reads from the machine's files.
func TestNamesOfPortsAndProtocols(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	if o.compile("port http or ip proto gre").err != nil {
		t.Skip("this machine has no names of ports and protocols (netbase)")
	}
	var texts []string
	for name := range ports {
		texts = append(texts, "port "+name)
		if !strings.Contains(name, "-") { // both cut a range at the first hyphen
			texts = append(texts, "portrange "+name+"-10000")
		}
	}
	for name := range ipProtocols {
		texts = append(texts, `ip proto \`+name)
	}
	for name := range etherProtocols {
		texts = append(texts, `ether proto \`+name)
	}
	for name := range llcTypes {
		texts = append(texts, "llc "+name)
	}
	packets := makePackets(3000, 15)
	parallel(texts, func(text string) {
		program, err := Compile(text, Options{})
		theirs := o.compile(text)
		if err != nil || theirs.err != nil {
			t.Errorf("%s: we say %v, tcpdump says %v", text, err, theirs.err)
			return
		}
		compareOn(t, text, o.exact, program.Instructions, theirs.program, packets)
	})
}

// parallel calls f for every text, from as many goroutines as tcpdump has keepers.
func parallel(texts []string, f func(text string)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range keepers {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(texts)); i = next.Add(1) - 1 {
				f(texts[i])
			}
		})
	}
	all.Wait()
}

// compareOn returns how many packets both programs accept, and fails if they differ on any. Programs that are the
// same instruction for instruction are run once. Unless exact, packets that are too short for a test are left out.
func compareOn(t testing.TB, text string, exact bool, ours, theirs []bpf.RawInstruction, packets []*packet) (accepted int) {
	t.Helper()
	same := slices.Equal(ours, theirs)
	for i, p := range packets {
		a, short := judge(ours, p)
		b := a
		if !same {
			var alsoShort bool
			b, alsoShort = judge(theirs, p)
			short = short || alsoShort
		}
		if a != b && (exact || !short) {
			t.Errorf("%s: packet %d (%s, %d bytes, tag beside it %v): %d, tcpdump says %d\n% x", text, i, p.kind, len(p.data), p.tagged, a, b, p.data)
			return accepted
		}
		if a != 0 {
			accepted++
		}
	}
	return accepted
}
