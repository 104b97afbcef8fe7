package export

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// A writer writes protobuf. OTLP's messages are few and of one shape, so that writing them takes these lines, and neither
// an object a field nor the code that is generated for them; the tests read them back by that code.
type writer struct{ b []byte }

// begin begins a message that is a field of another. What end returns to is its argument.
func (w *writer) begin(field protowire.Number) int {
	w.b = protowire.AppendTag(w.b, field, protowire.BytesType)
	return len(w.b)
}

// end puts the message's length before it.
func (w *writer) end(start int) {
	size := len(w.b) - start
	var room [10]byte
	length := protowire.AppendVarint(room[:0], uint64(size))
	w.b = append(w.b, length...)
	copy(w.b[start+len(length):], w.b[start:start+size])
	copy(w.b[start:], length)
}

// text leaves out empty text, as proto3 does. It has to be UTF-8.
func (w *writer) text(field protowire.Number, s string) {
	if s != "" {
		w.b = protowire.AppendString(protowire.AppendTag(w.b, field, protowire.BytesType), s)
	}
}

func (w *writer) varint(field protowire.Number, v uint64) {
	w.b = protowire.AppendVarint(protowire.AppendTag(w.b, field, protowire.VarintType), v)
}

func (w *writer) fixed(field protowire.Number, v uint64) {
	w.b = protowire.AppendFixed64(protowire.AppendTag(w.b, field, protowire.Fixed64Type), v)
}

func (w *writer) double(field protowire.Number, v float64) { w.fixed(field, math.Float64bits(v)) }

// Fields of KeyValue and AnyValue (opentelemetry/proto/common/v1).
const (
	keyField, valueField                          = 1, 2
	stringValue, boolValue, intValue, doubleValue = 1, 2, 3, 4
)

func (w *writer) textAttribute(field protowire.Number, key, value string) {
	if value == "" {
		return
	}
	inner := protowire.SizeTag(stringValue) + protowire.SizeBytes(len(value))
	w.attribute(field, key, inner)
	w.text(stringValue, value)
}

func (w *writer) intAttribute(field protowire.Number, key string, value int64) {
	w.attribute(field, key, protowire.SizeTag(intValue)+protowire.SizeVarint(uint64(value)))
	w.varint(intValue, uint64(value))
}

func (w *writer) doubleAttribute(field protowire.Number, key string, value float64) {
	w.attribute(field, key, protowire.SizeTag(doubleValue)+protowire.SizeFixed64())
	w.double(doubleValue, value)
}

func (w *writer) boolAttribute(field protowire.Number, key string, value bool) {
	w.attribute(field, key, protowire.SizeTag(boolValue)+1)
	w.varint(boolValue, protowire.EncodeBool(value))
}

// attribute writes a KeyValue up to its AnyValue, whose size is known.
func (w *writer) attribute(field protowire.Number, key string, inner int) {
	w.b = protowire.AppendTag(w.b, field, protowire.BytesType)
	size := protowire.SizeTag(keyField) + protowire.SizeBytes(len(key)) + protowire.SizeTag(valueField) + protowire.SizeBytes(inner)
	w.b = protowire.AppendVarint(w.b, uint64(size))
	w.text(keyField, key)
	w.b = protowire.AppendTag(w.b, valueField, protowire.BytesType)
	w.b = protowire.AppendVarint(w.b, uint64(inner))
}
