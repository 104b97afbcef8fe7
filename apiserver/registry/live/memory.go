package live

import (
	"bytes"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A memory is the last reading of a watched object: by it a watch knows that numbers changed, and what the numbers
// were when something else does. It is kept as on the wire, in a fifth of the space.
type memory struct {
	hostUID types.UID
	// wire holds everything but the times of the reading, which differ each time.
	wire             []byte
	time, windowNano int64
	isNode           bool
	silent           error
	// untold marks what some watches have been told and others not.
	untold bool
}

func rememberAll(records []*Record, readings []Reading) []memory {
	memories := make([]memory, len(records))
	for i := range records {
		memories[i] = remember(records[i], readings[i])
	}
	return memories
}

func remember(record *Record, reading Reading) memory {
	m := memory{hostUID: record.HostUID, silent: reading.Err}
	switch {
	case reading.Pod != nil:
		pod := shallow(reading.Pod)
		pod.Measurement = m.withoutTimes(pod.Measurement)
		m.wire = marshal(pod)
	case reading.Node != nil:
		node := shallow(reading.Node)
		node.Measurement = m.withoutTimes(node.Measurement)
		m.isNode = true
		m.wire = marshal(node)
	}
	return m
}

// shallow is a message of its own with the same fields, also those that come to be: readings are shared.
func shallow[M proto.Message](message M) M {
	copied := message.ProtoReflect().New()
	message.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		copied.Set(field, value)
		return true
	})
	return copied.Interface().(M)
}

func (m *memory) withoutTimes(measurement *agentv1.Measurement) *agentv1.Measurement {
	m.time, m.windowNano = measurement.GetTimeUnixNano(), measurement.GetWindowNano()
	return &agentv1.Measurement{
		State: measurement.GetState(), Message: measurement.GetMessage(), StartUnixNano: measurement.GetStartUnixNano(),
	}
}

func marshal(message proto.Message) []byte {
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		// Only a text that is not UTF-8 can do this, and a message with one is refused when it is read.
		return nil
	}
	return wire
}

// same says whether two memories tell the same. A node that stays silent tells nothing new by another cause.
func (m memory) same(other memory) bool {
	if m.silent != nil || other.silent != nil {
		return m.hostUID == other.hostUID && m.silent != nil && other.silent != nil
	}
	return m.hostUID == other.hostUID && bytes.Equal(m.wire, other.wire)
}

// of returns the reading, if it is one of this record.
func (m memory) of(record *Record) Reading {
	if m.hostUID != record.HostUID || m.silent != nil || m.wire == nil {
		return Reading{Err: m.silent}
	}
	if m.isNode {
		node := &agentv1.NodeStats{}
		if err := proto.Unmarshal(m.wire, node); err != nil {
			return Reading{}
		}
		m.restoreTimes(node.Measurement)
		return Reading{Node: node}
	}
	pod := &agentv1.PodStats{}
	if err := proto.Unmarshal(m.wire, pod); err != nil {
		return Reading{}
	}
	m.restoreTimes(pod.Measurement)
	return Reading{Pod: pod}
}

func (m memory) restoreTimes(measurement *agentv1.Measurement) {
	measurement.TimeUnixNano, measurement.WindowNano = m.time, m.windowNano
}
