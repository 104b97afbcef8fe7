package ring_test

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
)

// What a packet that is in the ring costs of a processor (ns/packet; ns/op is of no interest), without waiting and
// without a disk: found, and found and encoded.
func BenchmarkConsume(b *testing.B) {
	const bytes, perPacket = 32 << 20, 160
	for _, bench := range []struct {
		name   string
		encode bool
	}{{"found", false}, {"encoded", true}} {
		b.Run(bench.name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			l := connect(b)
			buffer := make([]byte, 0, 1<<20)
			var spent time.Duration
			take := func(block *ring.Block) error {
				began := threadTime(b)
				defer func() { spent += threadTime(b) - began }()
				buffer = buffer[:0]
				for packet, ok := block.Next(); ok; packet, ok = block.Next() {
					if bench.encode {
						buffer = pcapng.AppendPacket(buffer, 0, packet.Time, packet.Data, packet.Original, packet.Direction)
					}
				}
				return nil
			}
			packets := int64(0)
			for range b.N {
				r := opened(b, l.near, ring.Config{Interface: nearName, SnapLength: 128, Bytes: bytes})
				flood(b, l.near, nearName, frame(64, 1), bytes/perPacket)
				if err := errors.Join(r.Stop(), r.Run(take)); err != nil {
					b.Fatal(err)
				}
				packets += r.Delivered()
				r.Close()
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(packets), "ns/packet")
		})
	}
}

// threadTime is the processor time that this thread has used.
func threadTime(b *testing.B) time.Duration {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Nano())
}
