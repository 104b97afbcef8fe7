package agents

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// FuzzDecodeBatch compares with proto.Unmarshal.
func FuzzDecodeBatch(f *testing.F) {
	for _, batch := range []*agentv1.ReadCaptureResponse{
		{},
		{Blocks: []byte("packets")},
		{Parts: []*agentv1.CapturePart{{Number: 1, Pod: "web"}}, SkippedBytes: 7, Blocks: []byte("packets"), WatermarkUnixNano: 8, End: endOf("u")},
	} {
		message, err := proto.Marshal(batch)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message)
		f.Add(append(message, message...))
	}
	f.Add([]byte{0x1b, 0x1c})       // A group of the number of blocks.
	f.Add([]byte{0x18, 0x01})       // A number where blocks are.
	f.Add([]byte{0x1a, 0x7f, 0x00}) // Blocks that are cut.
	f.Fuzz(func(t *testing.T, message []byte) {
		var want, got agentv1.ReadCaptureResponse
		wanted, err := proto.Unmarshal(message, &want), decodeBatch(bytes.Clone(message), &got)
		if (wanted == nil) != (err == nil) {
			t.Fatalf("decoded with %v, by protobuf with %v", err, wanted)
		}
		if err == nil && !proto.Equal(&want, &got) {
			t.Fatalf("%v, by protobuf %v", &got, &want)
		}
	})
}

// TestBatchCodec wants as many messages to be kept as there is memory for, and no more memory for large ones.
func TestBatchCodec(t *testing.T) {
	codec := newBatchCodec(2)
	decode := func(fill byte, size int) []byte {
		t.Helper()
		message, err := codec.Marshal(&agentv1.ReadCaptureResponse{Blocks: bytes.Repeat([]byte{fill}, size)})
		if err != nil {
			t.Fatal(err)
		}
		defer message.Free()
		// As frames bring it.
		var frames mem.BufferSlice
		for rest := message.Materialize(); len(rest) > 0; rest = rest[min(len(rest), 1000):] {
			frames = append(frames, mem.SliceBuffer(rest[:min(len(rest), 1000)]))
		}
		var batch agentv1.ReadCaptureResponse
		if err := codec.Unmarshal(frames, &batch); err != nil {
			t.Fatal(err)
		}
		return batch.Blocks
	}
	first, second := decode(1, 5000), decode(2, 3000)
	large := decode(9, keptBatch)
	if len(first) != 5000 || len(second) != 3000 || len(large) != keptBatch || first[4999] != 1 || second[2999] != 2 || large[keptBatch-1] != 9 {
		t.Fatal("a batch has changed")
	}
	third := decode(3, 5000)
	if &third[0] != &first[0] || third[4999] != 3 || second[2999] != 2 {
		t.Error("the memory of the first batch is not that of the third, or the second has changed")
	}
}

// TestManyRows: what would become very many objects is refused before it does; as much as agents may say is not.
func TestManyRows(t *testing.T) {
	codec := boundedCodec{encoding.GetCodecV2(protocodec.Name)}
	for name, of := range map[string]proto.Message{
		"a state":       &agentv1.CaptureState{Parts: make([]*agentv1.CapturePart, maxMessages+1)},
		"one inside":    &agentv1.ReadCaptureResponse{End: &agentv1.CaptureState{Missing: make([]*agentv1.CaptureMissing, maxMessages)}},
		"a description": &agentv1.DescribeCaptureResponse{Marks: make([]*agentv1.CaptureMark, maxMessages+1)},
	} {
		message, err := proto.Marshal(of)
		if err != nil {
			t.Fatal(err)
		}
		if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(message)}, of); err == nil {
			t.Errorf("%s of %d bytes is decoded", name, len(message))
		}
		if batch, ok := of.(*agentv1.ReadCaptureResponse); ok && newBatchCodec(1).Unmarshal(mem.BufferSlice{mem.SliceBuffer(message)}, batch) == nil {
			t.Error("it is, as a batch")
		}
	}
	whole := &agentv1.CaptureState{}
	for range maxParts {
		whole.Parts = append(whole.Parts, &agentv1.CapturePart{Counts: &agentv1.CaptureCounts{}})
		whole.Missing = append(whole.Missing, &agentv1.CaptureMissing{Target: &agentv1.CaptureTarget{}})
	}
	message, err := proto.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	got := &agentv1.CaptureState{}
	if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(message)}, got); err != nil || len(got.Parts) != maxParts {
		t.Errorf("%d parts: %v", len(got.Parts), err)
	}
}
