package capture

import (
	"context"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// BenchmarkTake is what a packet costs from the ring's block to the page cache.
func BenchmarkTake(b *testing.B) {
	for _, bench := range []struct {
		name string
		size int
		once bool
	}{{"64 bytes", 64, false}, {"1400 bytes", 1400, false}, {"64 bytes, once per flow", 64, true}} {
		b.Run(bench.name, func(b *testing.B) {
			e, _ := fake(b, b.TempDir(), 1)
			r := fakeRequest(fakepod.UID(), "a")
			r.RingFiles, r.RingFileBytes = 4, 16<<20
			if bench.once {
				r.OncePerFlow, r.Peers = true, [][]byte{{10, 0, 0, 1}, {10, 0, 0, 9}}
			}
			e.ensure(r)
			p := e.captures[r.Uid].parts[0]
			block := make([]ring.Packet, 1000)
			for i := range block {
				block[i] = packetAt(int64(i+1), bench.size)
			}
			b.SetBytes(int64(bench.size))
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += len(block) {
				_ = p.take(&fakeBlock{block[:min(len(block), b.N-n)]})
			}
		})
	}
}

// BenchmarkRead is what a stream of a whole capture costs, a packet each.
func BenchmarkRead(b *testing.B) {
	for _, bench := range []struct {
		name  string
		parts int
		size  int
	}{{"64 bytes", 1, 64}, {"1400 bytes", 1, 1400}, {"1400 bytes of 16 parts", 16, 1400}} {
		b.Run(bench.name, func(b *testing.B) {
			e, f := fake(b, b.TempDir(), bench.parts)
			r := fakeRequest(fakepod.UID(), "a")
			e.ensure(r)
			const packets = 64_000
			for n := range packets / 1000 {
				block := make([]ring.Packet, 1000)
				for i := range block {
					block[i] = packetAt(int64(n*1000+i+1), bench.size)
				}
				f.source(n % bench.parts).push(block...)
			}
			e.end(r.Uid)
			b.SetBytes(int64(pcapng.PacketSize(bench.size)))
			b.ResetTimer()
			for n := 0; n < b.N; n += packets {
				if err := e.Read(context.Background(), &v1alpha1.ReadCaptureRequest{Uid: r.Uid}, func(*v1alpha1.ReadCaptureResponse) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
