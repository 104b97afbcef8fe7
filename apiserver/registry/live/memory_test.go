package live

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// TestMemory: what is remembered of a reading is all of it, and a change of any part is one.
func TestMemory(t *testing.T) {
	record := &Record{HostUID: "uid"}
	for _, empty := range []proto.Message{&agentv1.PodStats{}, &agentv1.NodeStats{}} {
		full := proto.Clone(empty)
		fields := full.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			full.ProtoReflect().Set(fields.Get(i), something(full, fields.Get(i)))
		}
		before := remember(record, readingOf(full))
		if got := before.of(record); !proto.Equal(messageOf(got), full) {
			t.Errorf("%T: got %v back, want %v", full, got, full)
		}
		for i := range fields.Len() {
			field := fields.Get(i)
			without := proto.Clone(full)
			without.ProtoReflect().Clear(field)
			if field.Name() != "measurement" && before.same(remember(record, readingOf(without))) {
				t.Errorf("%T: a change of %s is none", full, field.Name())
			}
		}
	}
}

// something is a value of a field that is there.
func something(of proto.Message, field protoreflect.FieldDescriptor) protoreflect.Value {
	switch {
	case field.IsList():
		list := of.ProtoReflect().NewField(field)
		list.List().Append(list.List().NewElement())
		return list
	case field.Kind() == protoreflect.MessageKind:
		return of.ProtoReflect().NewField(field)
	}
	return protoreflect.ValueOfString("key")
}

func readingOf(message proto.Message) Reading {
	if node, ok := message.(*agentv1.NodeStats); ok {
		return Reading{Node: node}
	}
	return Reading{Pod: message.(*agentv1.PodStats)}
}

func messageOf(reading Reading) proto.Message {
	if reading.Node != nil {
		return reading.Node
	}
	return reading.Pod
}
