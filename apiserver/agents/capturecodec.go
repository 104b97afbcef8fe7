package agents

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	protobuf "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// blocksField is the number of ReadCaptureResponse.blocks.
	blocksField = 3
	// keptBatch is the largest message for which memory is kept: two of the largest packets beside a batch.
	keptBatch = 3 * agentv1.MaxBatchBytes
	// batchStep is by how much that memory grows.
	batchStep = 64 << 10
	// maxMessages is how many messages one that an agent sends may have in it, those of rows among them: more than any that is taken.
	maxMessages = 25_000
)

// A boundedCodec counts what is in a message before it is made into objects: what is two bytes on the wire may be hundreds in memory.
type boundedCodec struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (c boundedCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if message, ok := v.(protobuf.Message); ok {
		wire := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer wire.Free()
		if err := checkMessages(wire.ReadOnlyData(), message); err != nil {
			return err
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

func checkMessages(wire []byte, of protobuf.Message) error {
	if left := countMessages(wire, of.ProtoReflect().Descriptor(), maxMessages); left < 0 {
		return fmt.Errorf("a message of more than %d rows", maxMessages)
	}
	return nil
}

// countMessages is what is left of a number of messages. What cannot be decoded is found when it is.
func countMessages(wire []byte, of protoreflect.MessageDescriptor, left int) int {
	for len(wire) > 0 && left >= 0 {
		number, kind, head := protowire.ConsumeTag(wire)
		if head < 0 {
			return left
		}
		size := protowire.ConsumeFieldValue(number, kind, wire[head:])
		if size < 0 {
			return left
		}
		if field := of.Fields().ByNumber(number); field != nil && field.Message() != nil && kind == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(wire[head:])
			left = countMessages(inner, field.Message(), left-1)
		}
		wire = wire[head+size:]
	}
	return left
}

// A batchCodec decodes batches of packets for one call. The packets are not copied out of a message, and the memory of messages
// is used in turns: what gRPC's own codec does takes a sixth of this program's processor time in a download.
type batchCodec struct {
	encoding.CodecV2
	messages [][]byte
	next     int
}

// newBatchCodec has memory for so many messages.
func newBatchCodec(messages int) *batchCodec {
	return &batchCodec{CodecV2: boundedCodec{encoding.GetCodecV2(proto.Name)}, messages: make([][]byte, messages)}
}

// Unmarshal implements encoding.CodecV2.
func (c *batchCodec) Unmarshal(data mem.BufferSlice, v any) error {
	batch, ok := v.(*agentv1.ReadCaptureResponse)
	if !ok || data.Len() > keptBatch {
		return c.CodecV2.Unmarshal(data, v)
	}
	message := c.memory(data.Len())
	data.CopyTo(message)
	if err := checkMessages(message, batch); err != nil {
		return err
	}
	return decodeBatch(message, batch)
}

// memory is that of the message before the last ones.
func (c *batchCodec) memory(size int) []byte {
	at := c.next % len(c.messages)
	c.next++
	if cap(c.messages[at]) < size {
		c.messages[at] = make([]byte, (size+batchStep-1)/batchStep*batchStep)
	}
	return c.messages[at][:size]
}

// decodeBatch is proto.Unmarshal, but that blocks stay where they are.
func decodeBatch(message []byte, batch *agentv1.ReadCaptureResponse) error {
	var others, blocks []byte
	for len(message) > 0 {
		number, kind, head := protowire.ConsumeTag(message)
		if head < 0 {
			return fmt.Errorf("decoding a batch: %w", protowire.ParseError(head))
		}
		size := protowire.ConsumeFieldValue(number, kind, message[head:])
		if size < 0 {
			return fmt.Errorf("decoding a batch: %w", protowire.ParseError(size))
		}
		if number == blocksField && kind == protowire.BytesType {
			blocks, _ = protowire.ConsumeBytes(message[head:])
		} else {
			others = append(others, message[:head+size]...)
		}
		message = message[head+size:]
	}
	if err := protobuf.Unmarshal(others, batch); err != nil {
		return fmt.Errorf("decoding a batch: %w", err)
	}
	batch.Blocks = blocks
	return nil
}
