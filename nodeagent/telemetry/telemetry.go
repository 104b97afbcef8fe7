package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	fileName = "telemetry.json"
	// keepEvery is how often pods that came or went are written to the file.
	keepEvery = 5 * time.Second
)

// Config is what Open needs.
type Config struct {
	// Dir is the folder of the file, which is made when it is missing.
	Dir string
	// Report adds to a report what others know: exporters, series. It must be quick. nil adds nothing.
	Report func(*v1alpha1.TelemetryReport)
	// APIServers is told where the Kubernetes API is served. nil when nobody wants to know.
	APIServers func([]string)
	// Failed is told what goes wrong beside calls.
	Failed func(error)
}

// State is safe for concurrent use.
type State struct {
	config Config

	mu      sync.RWMutex
	current *v1alpha1.TelemetryConfig
	changed chan struct{}
	pods    map[string]*v1alpha1.TelemetryPod
	refused string
	unkept  bool               // pods differ from the file
	keeping string             // why the file could not be written; empty when it could
	stream  context.CancelFunc // ends the stream that is open; nil when there is none
	streams uint64             // the number of the last one
	ended   bool

	addresses *addresses

	writing sync.Mutex // held while the file is written
}

// Open takes over what an earlier agent has kept. A file that cannot be read is told of and taken for none.
func Open(config Config) (*State, error) {
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	s := &State{
		config: config, current: &v1alpha1.TelemetryConfig{}, changed: make(chan struct{}), pods: map[string]*v1alpha1.TelemetryPod{},
		addresses: newAddresses(),
	}
	kept, err := s.read()
	if err != nil {
		config.Failed(fmt.Errorf("reading what telemetry was configured: %w", err))
		return s, nil
	}
	if kept.GetConfig() != nil {
		s.current = kept.GetConfig()
	}
	for _, pod := range kept.GetPods() {
		s.pods[pod.GetKey()] = pod
	}
	return s, nil
}

// Config is the configuration in force, never nil. It must not be changed.
func (s *State) Config() *v1alpha1.TelemetryConfig {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.current
}

// Changed is closed when another configuration is put in force.
func (s *State) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// Pod is what is known of a pod of this node; nil when nothing is. It must not be changed.
func (s *State) Pod(key string) *v1alpha1.TelemetryPod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.pods[key]
}

// Connected says whether the API server's stream is open.
func (s *State) Connected() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.stream != nil
}

// Run keeps the file up to date until the context ends, and then ends the stream.
func (s *State) Run(ctx context.Context) {
	ticker := time.NewTicker(keepEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
		s.addresses.forget(time.Now())
		s.keep(false)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.stream != nil {
		s.stream()
	}
}

// apply takes over one message of a stream, unless that was replaced: what the other one says is newer. named are the pods
// that the stream has named, which are all when it says so.
func (s *State) apply(replaced context.Context, update *v1alpha1.TelemetryUpdate, named map[string]bool) error {
	changed, err := s.replace(replaced, update.GetConfig())
	if err != nil {
		return err
	}
	if changed {
		// Before it is reported: after a restart it has to be in force, too.
		s.keep(true)
	}
	if err := s.applyPods(replaced, update, named); err != nil {
		return err
	}
	s.addresses.answer(update.GetNames(), time.Now())
	if addresses := update.GetApiServers(); len(addresses) > 0 && s.config.APIServers != nil {
		s.config.APIServers(addresses)
	}
	return nil
}

func (s *State) applyPods(replaced context.Context, update *v1alpha1.TelemetryUpdate, named map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := context.Cause(replaced); err != nil { // under the lock: afterwards the other one has begun
		return err
	}
	for _, pod := range update.GetPods() {
		named[pod.GetKey()] = true
		if !proto.Equal(s.pods[pod.GetKey()], pod) {
			s.pods[pod.GetKey()], s.unkept = pod, true
		}
	}
	for _, key := range update.GetGonePods() {
		delete(named, key)
		s.forgetPod(key)
	}
	if update.GetPodsComplete() {
		for key := range s.pods {
			if !named[key] {
				s.forgetPod(key)
			}
		}
	}
	return nil
}

func (s *State) forgetPod(key string) {
	if _, known := s.pods[key]; known {
		delete(s.pods, key)
		s.unkept = true
	}
}

// replace puts a configuration in force, if there is one and it is not older than the present one. It says whether
// anything changed.
func (s *State) replace(replaced context.Context, config *v1alpha1.TelemetryConfig) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := context.Cause(replaced); err != nil || config == nil {
		return false, err
	}
	present := s.current.GetRevision()
	if config.GetRevision() < present && config.GetSupersedes() != present {
		s.refused = fmt.Sprintf("revision %d is in force, which is later than %d", present, config.GetRevision())
		return false, nil
	}
	s.refused = ""
	config = proto.CloneOf(config)
	config.Supersedes = 0
	if proto.Equal(config, s.current) {
		return false, nil
	}
	s.current = config
	close(s.changed)
	s.changed = make(chan struct{})
	return true, nil
}

// report says what is in force.
func (s *State) report() *v1alpha1.TelemetryReport {
	s.mu.RLock()
	report := &v1alpha1.TelemetryReport{
		Revision: s.current.GetRevision(), Generation: s.current.GetGeneration(), Refused: s.refused, Unkept: s.keeping,
	}
	s.mu.RUnlock()
	if s.config.Report != nil {
		s.config.Report(report)
	}
	return report
}

// Unkept is why what is in force would be lost in a restart; empty when it would not.
func (s *State) Unkept() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.keeping
}

// keep writes the file if anything has changed, or always. Why it could not is told once: it is tried again every few seconds.
func (s *State) keep(always bool) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	if !always && !s.unkept {
		s.mu.Unlock()
		return
	}
	s.unkept = false
	kept := &v1alpha1.TelemetryUpdate{Config: withoutSecrets(s.current)}
	kept.Pods = slices.SortedFunc(maps.Values(s.pods), func(a, b *v1alpha1.TelemetryPod) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	s.mu.Unlock()

	content, err := protojson.Marshal(kept)
	if err == nil {
		err = replaceFile(filepath.Join(s.config.Dir, fileName), content)
	}
	if s.settle(err) {
		s.config.Failed(fmt.Errorf("keeping what telemetry is configured: %w", err))
	}
}

// settle notes what became of writing the file, and says whether it is a failure that was not told yet.
func (s *State) settle(err error) (tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.keeping = ""
		return false
	}
	before := s.keeping
	s.unkept, s.keeping = true, err.Error()
	return s.keeping != before
}

// withoutSecrets leaves out what may not be on disk.
func withoutSecrets(config *v1alpha1.TelemetryConfig) *v1alpha1.TelemetryConfig {
	config = proto.CloneOf(config)
	for _, exporter := range config.GetExporters() {
		if to := exporter.GetOtlp(); to != nil {
			to.Headers, to.ClientCertificate, to.ClientKey = nil, nil, nil
		}
	}
	return config
}

func (s *State) read() (*v1alpha1.TelemetryUpdate, error) {
	content, err := os.ReadFile(filepath.Join(s.config.Dir, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return &v1alpha1.TelemetryUpdate{}, nil
	}
	if err != nil {
		return nil, err
	}
	kept := &v1alpha1.TelemetryUpdate{}
	return kept, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(content, kept)
}

// replaceFile leaves either the old content or the new one, whatever happens.
func replaceFile(path string, content []byte) error {
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
