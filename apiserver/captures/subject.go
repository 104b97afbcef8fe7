package captures

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A subject is a Capture or a ClusterCapture, as far as it does not matter which. It is not changed.
type subject struct {
	// object is shared with the informer.
	object runtime.Object
	meta   *metav1.ObjectMeta
	// namespace is empty for a ClusterCapture, which cluster says, too.
	cluster  bool
	settings *v1alpha1.CaptureSettings
	status   *v1alpha1.CaptureStatus
}

// subjectOf is an object as a subject, of which it becomes part.
func subjectOf(object any) (*subject, error) {
	switch c := object.(type) {
	case *v1alpha1.Capture:
		return &subject{object: c, meta: &c.ObjectMeta, settings: &c.Spec.CaptureSettings, status: &c.Status}, nil
	case *v1alpha1.ClusterCapture:
		return &subject{object: c, meta: &c.ObjectMeta, cluster: true, settings: &c.Spec.CaptureSettings, status: &c.Status}, nil
	}
	return nil, fmt.Errorf("%T is no capture", object)
}

func (s *subject) uid() types.UID { return s.meta.UID }

// begin is when the capture is to begin.
func (s *subject) begin() time.Time {
	if s.settings.StartTime != nil && s.settings.StartTime.After(s.meta.CreationTimestamp.Time) {
		return s.settings.StartTime.Time
	}
	return s.meta.CreationTimestamp.Time
}

// What the server's defaults say, for objects that were never defaulted.
const (
	defaultDuration    = 300 * time.Second
	defaultPacketBytes = 262_144
	defaultTTL         = 24 * time.Hour
)

func (s *subject) duration() time.Duration {
	if s.settings.DurationSeconds == nil {
		return defaultDuration
	}
	return time.Duration(*s.settings.DurationSeconds) * time.Second
}

func (s *subject) packetBytes() uint32 {
	if s.settings.PacketBytes == nil {
		return defaultPacketBytes
	}
	return uint32(*s.settings.PacketBytes)
}

func (s *subject) timeToLive() time.Duration {
	if s.settings.TTLSecondsAfterFinished == nil {
		return defaultTTL
	}
	return time.Duration(*s.settings.TTLSecondsAfterFinished) * time.Second
}

// packets and bytes are the limits of all nodes together, negative when there is none.
func (s *subject) packets() int64 {
	if s.settings.Limits.Packets == nil {
		return none
	}
	return *s.settings.Limits.Packets
}

func (s *subject) bytes() int64 {
	if s.settings.Limits.Bytes == nil {
		return none
	}
	return s.settings.Limits.Bytes.Value()
}

// shared says that there is a limit of all nodes together.
func (s *subject) shared() bool { return s.packets() != none || s.bytes() != none }

// none is a limit that there is not.
const none = -1

// withStatus is the object with another status, to be written.
func (s *subject) withStatus(status *v1alpha1.CaptureStatus) runtime.Object {
	copied := s.object.DeepCopyObject()
	switch c := copied.(type) {
	case *v1alpha1.Capture:
		c.Status = *status
	case *v1alpha1.ClusterCapture:
		c.Status = *status
	}
	return copied
}

// key is how work queues name a capture. A namespace and a name are those of another capture once it is deleted, so
// the UID is what counts everywhere else.
type key struct {
	cluster         bool
	namespace, name string
}

func (s *subject) key() key { return key{s.cluster, s.meta.Namespace, s.meta.Name} }

func (k key) String() string {
	if k.cluster {
		return k.name
	}
	return k.namespace + "/" + k.name
}
