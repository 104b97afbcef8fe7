package live

import (
	"fmt"
	"math"
	"strconv"
)

// A version is a resourceVersion: which events of the host an answer reflects, and a sequence behind it.
//
// It is written as one decimal number, the host's resourceVersion followed by sequenceDigits digits of the
// sequence. Versions of all replicas compare as numbers (KEP-5504), of any length; a sequence is told apart
// from a host version by its fixed width, so a host whose versions already fill 64 bits is no trouble.
type version struct {
	// host is the resourceVersion of the host's last event that is reflected, and with it all before it.
	host uint64
	// sequence counts what this replica answered and sent since. It orders; it says nothing of the host.
	sequence uint32
}

const (
	sequenceDigits = 8
	// maxSequence is never passed: a replica that reaches it repeats it, until the host has its next event.
	// Carrying into host instead would claim an event that nobody has seen.
	maxSequence uint32 = 99_999_999
	// maxAdopted is the highest sequence that a client can make a replica continue from.
	maxAdopted = maxSequence / 2
)

func (v version) String() string {
	if v.host == 0 {
		return strconv.FormatUint(uint64(v.sequence), 10)
	}
	return fmt.Sprintf("%d%0*d", v.host, sequenceDigits, v.sequence)
}

// next is the version of the next event or answer. It does not rise beyond maxSequence.
func (v version) next() version {
	if v.sequence < maxSequence {
		v.sequence++
	}
	return v
}

func (v version) less(other version) bool {
	if v.host != other.host {
		return v.host < other.host
	}
	return v.sequence < other.sequence
}

// parseVersion reads what String wrote. Shorter numbers, which no replica writes, are versions before every
// event, as from a client that starts at "1".
func parseVersion(text string) (version, error) {
	if !isDecimal(text) {
		return version{}, fmt.Errorf("%q is not a positive decimal number", text)
	}
	cut := max(0, len(text)-sequenceDigits)
	sequence, err := strconv.ParseUint(text[cut:], 10, 32)
	if err != nil {
		return version{}, fmt.Errorf("reading the sequence of %q: %w", text, err)
	}
	if cut == 0 {
		return version{sequence: uint32(sequence)}, nil
	}
	host, err := strconv.ParseUint(text[:cut], 10, 64)
	if err != nil {
		return version{}, fmt.Errorf("%q is larger than any version", text)
	}
	return version{host: host, sequence: uint32(sequence)}, nil
}

func isDecimal(text string) bool {
	if text == "" || text[0] == '0' || len(text) > len(strconv.FormatUint(math.MaxUint64, 10))+sequenceDigits {
		return false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}

// parseHostVersion reads a resourceVersion of the host, which is a decimal number since KEP-5504 says so and was
// one long before.
func parseHostVersion(text string) (uint64, error) {
	host, err := strconv.ParseUint(text, 10, 64)
	if err != nil || host == 0 {
		return 0, fmt.Errorf("reading the host's resourceVersion %q: not a positive number of 64 bits", text)
	}
	return host, nil
}
