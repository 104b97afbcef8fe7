package capture

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
)

// Errors by which a caller tells what went wrong.
var (
	// ErrInvalid is wrapped by errors about what a request holds.
	ErrInvalid = errors.New("invalid request")
	// ErrNotFound: there is no such capture.
	ErrNotFound = errors.New("there is no such capture on this node")
	// ErrPrecondition: not in this state of the capture.
	ErrPrecondition = errors.New("not now")
	// ErrExhausted: too many of something.
	ErrExhausted = errors.New("too many")
	// ErrLost: packets were let go before they were sent.
	ErrLost = errors.New("packets were let go before they could be sent")
	// ErrEnding: the agent ends.
	ErrEnding = errors.New("the agent ends")
)

// What a request may hold; PROTOCOL.md names these.
const (
	maxKept       = 1000
	maxParts      = 2000
	maxMissing    = 200
	maxInterfaces = 64
	maxReaders    = 32

	minSnap       = 64
	minRenew      = 10 * time.Second
	maxFilterText = 64 << 10 // what the API server compiles
	maxDuration   = 7 * 24 * time.Hour
	maxRingFiles  = 1000
	minRingFile   = 1 << 20
	maxName       = 253
	maxInterface  = 15
	nameBytes     = 1 << 10
)

var uids = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z]{0,62}$`)

func invalid(field, format string, arguments ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrInvalid, field, fmt.Sprintf(format, arguments...))
}

func validateUID(uid string) error {
	if !uids.MatchString(uid) {
		return invalid("uid", "%q is not a UID", cut(uid, 64))
	}
	return nil
}

func validateEnsure(r *v1alpha1.EnsureCaptureRequest) error {
	if err := validateUID(r.GetUid()); err != nil {
		return err
	}
	if err := validateText("namespace", r.GetNamespace(), 63); err != nil {
		return err
	}
	if err := validateText("name", r.GetName(), maxName); err != nil {
		return err
	}
	if err := validateText("filter_text", r.GetFilterText(), maxFilterText); err != nil {
		return err
	}
	if snap := r.GetSnapLength(); snap < minSnap || snap > ring.MaxSnapLength {
		return invalid("snap_length", "%d is not between %d and %d", snap, minSnap, ring.MaxSnapLength)
	}
	if err := validateNumbers(r); err != nil {
		return err
	}
	if err := validateTargets(r.GetTargets()); err != nil {
		return err
	}
	if n := len(r.GetPeers()); n > v1alpha1.MaxCapturePeers {
		return invalid("peers", "%d addresses, at most %d may be given", n, v1alpha1.MaxCapturePeers)
	}
	for i, peer := range r.GetPeers() {
		if len(peer) != 4 && len(peer) != 16 {
			return invalid(fmt.Sprintf("peers[%d]", i), "%d bytes, 4 or 16 are allowed", len(peer))
		}
	}
	if err := validateFilter("ethernet_filter", r.GetEthernetFilter()); err != nil {
		return err
	}
	return validateFilter("raw_filter", r.GetRawFilter())
}

func validateNumbers(r *v1alpha1.EnsureCaptureRequest) error {
	for _, field := range []struct {
		name        string
		value       int64
		least, most int64
	}{
		{"revision", r.GetRevision(), 0, 1<<63 - 1},
		{"duration_nano", r.GetDurationNano(), 1, int64(maxDuration)},
		{"renew_within_nano", r.GetRenewWithinNano(), int64(minRenew), int64(24 * time.Hour)},
		{"packets_limit", r.GetPacketsLimit(), 0, 1<<63 - 1},
		{"bytes_limit", r.GetBytesLimit(), 0, 1<<63 - 1},
		{"packets_lease", r.GetPacketsLease(), 0, 1<<63 - 1},
		{"bytes_lease", r.GetBytesLease(), 0, 1<<63 - 1},
		{"ring_files", int64(r.GetRingFiles()), 0, maxRingFiles},
	} {
		if field.value < field.least || field.value > field.most {
			return invalid(field.name, "%d is not between %d and %d", field.value, field.least, field.most)
		}
	}
	if files := r.GetRingFiles(); files == 1 {
		return invalid("ring_files", "a ring has at least 2 files; 0 is no ring")
	} else if size := r.GetRingFileBytes(); files > 0 && (size < minRingFile || size > 1<<40) {
		return invalid("ring_file_bytes", "%d is not between %d and %d", size, minRingFile, int64(1)<<40)
	}
	return nil
}

func validateTargets(targets []*v1alpha1.CaptureTarget) error {
	if n := len(targets); n > v1alpha1.MaxCaptureTargets {
		return invalid("targets", "%d targets, at most %d may be given", n, v1alpha1.MaxCaptureTargets)
	}
	seen := map[string]bool{}
	for i, t := range targets {
		field := fmt.Sprintf("targets[%d]", i)
		if seen[t.GetKey()] {
			return invalid(field+".key", "%q is there twice", t.GetKey())
		}
		seen[t.GetKey()] = true
		for _, text := range []struct {
			name, value string
			most        int
		}{{"key", t.GetKey(), 63}, {"namespace", t.GetNamespace(), 63}, {"pod", t.GetPod(), maxName}, {"pod_uid", t.GetPodUid(), 63}} {
			if err := validateText(field+"."+text.name, text.value, text.most); err != nil {
				return err
			}
		}
		if n := len(t.GetInterfaces()); n > maxInterfaces {
			return invalid(field+".interfaces", "%d interfaces, at most %d may be given", n, maxInterfaces)
		}
		for j, name := range t.GetInterfaces() {
			if name == "" || len(name) > maxInterface {
				return invalid(fmt.Sprintf("%s.interfaces[%d]", field, j), "%q has %d bytes, 1 to %d are allowed", cut(name, 64), len(name), maxInterface)
			}
		}
	}
	return nil
}

func validateText(field, text string, most int) error {
	if len(text) > most {
		return invalid(field, "%d bytes, at most %d are allowed", len(text), most)
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return invalid(field, "the text is not valid UTF-8 without NUL")
	}
	return nil
}

// validateFilter bounds a program; the kernel checks the rest when it is attached.
func validateFilter(field string, program []uint64) error {
	if n := len(program); n > ring.MaxInstructions {
		return invalid(field, "%d instructions, at most %d may be given", n, ring.MaxInstructions)
	}
	return nil
}

func validateSeal(r *v1alpha1.SealCaptureRequest) error {
	if err := validateUID(r.GetUid()); err != nil {
		return err
	}
	if n := len(r.GetNames()); n > v1alpha1.MaxCaptureNames {
		return invalid("names", "%d addresses, at most %d may be given", n, v1alpha1.MaxCaptureNames)
	}
	for i, name := range r.GetNames() {
		field := fmt.Sprintf("names[%d]", i)
		if n := len(name.GetAddress()); n != 4 && n != 16 {
			return invalid(field+".address", "%d bytes, 4 or 16 are allowed", n)
		}
		if n := len(name.GetNames()); n > v1alpha1.MaxNamesPerAddress {
			return invalid(field+".names", "%d names, at most %d may be given", n, v1alpha1.MaxNamesPerAddress)
		}
		for j, text := range name.GetNames() {
			if err := validateText(fmt.Sprintf("%s.names[%d]", field, j), text, nameBytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// cut keeps the first bytes of a text.
func cut(text string, most int) string { return text[:min(len(text), most)] }

// printable makes a text fit for the wire: no control bytes, at most so many bytes.
func printable(text string, most int) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, text)
	return strings.ToValidUTF8(cut(clean, most), "")
}
