package outputs

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Config says how an Uploader works. The zero value of each field is its default.
type Config struct {
	// VolumesDir is the folder below which the operator's volumes are mounted, by name. Empty: there are none.
	VolumesDir string
	// Workers is how many stores are copied to at a time, beside one volume; each holds a buffer of 8 MiB. Default 2.
	Workers int
	// RetryFor is for how long an output is tried without anything getting there before it is given up. Default 10 min.
	RetryFor time.Duration
	// RetryAfter is the pause after a first failure; it doubles up to RetryAtMost. Defaults 1 s and 1 min.
	RetryAfter, RetryAtMost time.Duration
	// Patience is how long a store may take to connect, to take more bytes, or to answer. Default 30 s.
	Patience time.Duration
	// Roots are the authorities that a store's certificate may be from. Default those of the system, or Mozilla's where it has none.
	Roots *x509.CertPool
	// Lookup finds the addresses of a host. Default the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// What follows is other than its default in tests only.

	// podIdentity is where Amazon's pod identities are given out on each node.
	podIdentity []netip.AddrPort
	// tokenHosts are the ends of names of hosts that tokens of the agent's own identity may be sent to.
	tokenHosts []string
}

// A File is one of the files that a node adds to a capture.
type File struct {
	// Name is its name below the output's prefix, as ObjectName makes it.
	Name string
	// Size in bytes; negative when it is not known.
	Size int64
	// Open opens the content at an offset. It is the same at every call, until Forget has returned. It is called from
	// the Uploader's goroutines, one at a time for each output.
	Open func(offset int64) (io.ReadCloser, error)
}

// ObjectName is the name of a file below an output's prefix, such as "NAMESPACE/NAME/UID/NODE.pcapng". The namespace of a
// cluster's capture is empty.
func ObjectName(namespace, name, uid, file string) string {
	if namespace == "" {
		namespace = "_cluster" // no namespace is called so
	}
	return namespace + "/" + name + "/" + uid + "/" + file
}

// ErrClosed is what Ensure answers after Close, and for a capture that is being forgotten.
var ErrClosed = errors.New("copying to outputs has been ended")

// An Uploader copies files to outputs, in the background. Its methods are safe for concurrent use.
type Uploader struct {
	config Config
	// Each holds one for every worker that is busy. A volume whose server is gone may block its worker for ever; stores
	// are not held up by it.
	stores, volumes chan struct{}

	mu       sync.Mutex
	closed   bool
	captures map[string]map[string]*job // by UID and name of output
	leaving  map[string]int             // by UID: how many calls of Forget are under way
}

// New makes an Uploader. It has to be closed.
func New(config Config) *Uploader {
	config = config.withDefaults()
	return &Uploader{
		config: config, stores: make(chan struct{}, config.Workers), volumes: make(chan struct{}, 1),
		captures: map[string]map[string]*job{}, leaving: map[string]int{},
	}
}

func (c Config) withDefaults() Config {
	if c.Workers <= 0 {
		c.Workers = 2
	}
	for _, d := range []struct {
		value *time.Duration
		or    time.Duration
	}{
		{&c.RetryFor, 10 * time.Minute}, {&c.RetryAfter, time.Second},
		{&c.RetryAtMost, time.Minute}, {&c.Patience, 30 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	if c.Lookup == nil {
		c.Lookup = systemLookup
	}
	if c.podIdentity == nil {
		c.podIdentity = podIdentity
	}
	if c.tokenHosts == nil {
		c.tokenHosts = tokenHosts
	}
	return c
}

// Ensure copies files, in their order, to each of the outputs, unless that is done or under way. An output that failed is
// tried again. Credentials are replaced by those given now. An error names a field that is wrong; then nothing was begun.
func (u *Uploader) Ensure(uid string, outputs []*v1alpha1.CaptureOutput, files []File) error {
	if err := validate(uid, outputs, files); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || u.leaving[uid] > 0 {
		return ErrClosed
	}
	jobs := u.captures[uid]
	if jobs == nil {
		jobs = map[string]*job{}
		u.captures[uid] = jobs
	}
	for _, o := range outputs {
		o = proto.CloneOf(o)
		if j := jobs[o.Name]; j == nil {
			jobs[o.Name] = newJob(u, o, files)
		} else if err := j.ensure(o); err != nil {
			return err
		}
	}
	return nil
}

// State tells how far each output of a capture is, sorted by name; none when Ensure was not called for it since the
// agent started.
func (u *Uploader) State(uid string) []*v1alpha1.CaptureOutputState {
	u.mu.Lock()
	defer u.mu.Unlock()
	var states []*v1alpha1.CaptureOutputState
	for _, name := range slices.Sorted(maps.Keys(u.captures[uid])) {
		states = append(states, u.captures[uid][name].snapshot())
	}
	return states
}

// Forget ends copying of a capture, gives up what was begun and is not whole, and forgets credentials. What was stored
// stays. It returns when no file of the capture is being read any more, which takes some seconds; a volume whose server is
// gone is not waited for longer than 15 s.
func (u *Uploader) Forget(uid string) {
	u.mu.Lock()
	u.leaving[uid]++ // none is added meanwhile
	jobs := maps.Clone(u.captures[uid])
	u.mu.Unlock()
	endAll(slices.Collect(maps.Values(jobs)))
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.captures, uid)
	if u.leaving[uid]--; u.leaving[uid] == 0 {
		delete(u.leaving, uid)
	}
}

// Close ends everything, as Forget does for each capture.
func (u *Uploader) Close() {
	u.mu.Lock()
	u.closed = true
	var all []*job
	for _, jobs := range u.captures {
		all = slices.AppendSeq(all, maps.Values(jobs))
	}
	u.mu.Unlock()
	endAll(all)
}

func endAll(jobs []*job) {
	for _, j := range jobs {
		j.end()
	}
	late := time.NewTimer(endWithin)
	defer late.Stop()
	for _, j := range jobs {
		select {
		case <-j.ended():
		case <-late.C:
			return
		}
	}
}
