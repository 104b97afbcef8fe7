package e2e

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestCaptureSlowClient has clients read a byte a second, of a capture that runs and of a file. The server reads no further ahead of
// them than buffers on the way hold, others get everything meanwhile, and no packet is dropped because of them.
func TestCaptureSlowClient(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	namespace := b.sink.Namespace
	const (
		name = "slow"
		sent = 60_000_000
		// buffered is more than the windows of two connections of HTTP/2 (4 MiB each) and our own 1.2 MiB.
		buffered = 12_000_000
		seconds  = 4
	)
	capture := newCapture(name, "tcp port "+sinkPort)
	capture.Spec.Pods = v1alpha1.CapturePods{Names: []string{b.sink.Name}}
	c.capture(t, namespace, capture, 1)
	live := c.slowly(t, namespace, name, "attach")
	c.exec(t, b.far.Pod, "/bin/traffic", "tcp", target(t, b.sink.Pod, "ipv4"), strconv.Itoa(sent))
	done := c.finish(t, namespace, name)
	checkCounts(t, done.Status.Totals)
	if done.Status.Totals.DroppedByDisk != 0 {
		t.Errorf("packets waited for a reader: %+v", done.Status.Totals)
	}
	if done.Status.File.Bytes <= buffered {
		t.Skipf("this machine lost too much before it was recorded: %+v", done.Status.Totals)
	}
	file := c.slowly(t, namespace, name, "pcap")
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range seconds {
		for _, stream := range []io.Reader{live, file} {
			if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
				t.Fatalf("reading slowly: %v", err)
			}
		}
		<-tick.C
	}
	digest := digestOf(t, c.download(t, namespace, name))
	if again := digestOf(t, c.download(t, namespace, name)); digest != again {
		t.Error("two downloads differ")
	}
	live.Close()
	file.Close()
	for _, subresource := range []string{"attach", "pcap"} {
		line := regexp.MustCompile(fmt.Sprintf(`"Stream of packets ended" .*resource="captures/%s".* uid="%s".* bytes=(\d+) .*how="the client went away"`, subresource, done.UID))
		eventually(t, captureDeadline, "the server to log the end of the stream", func(context.Context) error {
			for _, server := range c.servers(t) {
				if found := line.FindStringSubmatch(c.logOf(t, &server)); found != nil {
					if bytes, err := strconv.Atoi(found[1]); err != nil || bytes > buffered {
						t.Errorf("%s: %s bytes were sent to a client that read %d", subresource, found[1], seconds)
					}
					t.Logf("%s: %s of %d bytes were sent", subresource, found[1], done.Status.File.Bytes)
					return nil
				}
			}
			return fmt.Errorf("no line %s", line)
		})
	}
}

// slowly opens a stream that the caller reads, and closes.
func (c *cluster) slowly(t *testing.T, namespace, name, subresource string) io.ReadCloser {
	t.Helper()
	stream, err := c.stats.NetworkobservabilityV1alpha1().RESTClient().Get().Namespace(namespace).
		Resource("captures").Name(name).SubResource(subresource).MaxRetries(0).Stream(t.Context())
	if err != nil {
		t.Fatalf("reading %s: %v", subresource, err)
	}
	t.Cleanup(func() { stream.Close() })
	return stream
}
