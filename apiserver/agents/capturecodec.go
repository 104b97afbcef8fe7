package agents

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	protobuf "google.golang.org/protobuf/proto"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// blocksField is the number of ReadCaptureResponse.blocks.
	blocksField = 3
	// keptBatch is the largest message for which memory is kept: two of the largest packets beside a batch.
	keptBatch = 3 * agentv1.MaxBatchBytes
	// batchStep is by how much that memory grows.
	batchStep = 64 << 10
)

// A batchCodec decodes batches of packets for one call. The packets are not copied out of a message, and the memory of messages
// is used in turns: what gRPC's own codec does takes a sixth of this program's processor time in a download.
type batchCodec struct {
	encoding.CodecV2
	messages [][]byte
	next     int
}

// newBatchCodec has memory for so many messages.
func newBatchCodec(messages int) *batchCodec {
	return &batchCodec{CodecV2: encoding.GetCodecV2(proto.Name), messages: make([][]byte, messages)}
}

// Unmarshal implements encoding.CodecV2.
func (c *batchCodec) Unmarshal(data mem.BufferSlice, v any) error {
	batch, ok := v.(*agentv1.ReadCaptureResponse)
	if !ok || data.Len() > keptBatch {
		return c.CodecV2.Unmarshal(data, v)
	}
	message := c.memory(data.Len())
	data.CopyTo(message)
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
