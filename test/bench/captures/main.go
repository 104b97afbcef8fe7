// This program measures captures on a local cluster that runs hack/demo/workloads.yaml: how long after the request the first packet
// is there, what a download through kube-apiserver costs beside reading the same bytes from the agent, and what memory streams
// take that nobody reads.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/networkobservability/download"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/test/bench/paired"
)

const namespace = "shop"

func main() {
	kubeconfig := flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "kubeconfig `FILE`")
	firsts := flag.Int("firsts", 20, "how many times the first packet is waited for; 0 for none")
	pairs := flag.Int("pairs", 24, "how many pairs of downloads")
	streams := flag.Int("streams", 20, "how many streams are open at a time whose clients do not read; 0 for none")
	seconds := flag.Int64("seconds", 40, "for how long the file that is downloaded is recorded")
	upgrade := flag.Bool("upgrade", true, "download as kubectl-network does, over connections of their own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *kubeconfig, *firsts, *pairs, *streams, *seconds, *upgrade); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig string, firsts, pairs, streams int, seconds int64, upgrade bool) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	config = download.Config(config) // As kubectl-network reads streams.
	b := &bench{config: config, upgrade: upgrade}
	if b.client, err = rest.HTTPClientFor(config); err != nil {
		return err
	}
	if b.api, err = versioned.NewForConfig(config); err != nil {
		return err
	}
	if b.kube, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if firsts > 0 {
		if err := b.firstPackets(ctx, firsts); err != nil {
			return fmt.Errorf("waiting for first packets: %w", err)
		}
	}
	return b.downloads(ctx, pairs, streams, seconds)
}

type bench struct {
	config *rest.Config
	// client reads downloads, with upgrade over connections of their own.
	client  *http.Client
	upgrade bool
	api     versioned.Interface
	kube    kubernetes.Interface
}

// create begins a capture of the pods of an application.
func (b *bench) create(ctx context.Context, application string, seconds int64) (*v1alpha1.Capture, error) {
	return b.api.NetworkobservabilityV1alpha1().Captures(namespace).Create(ctx, &v1alpha1.Capture{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"},
		Spec: v1alpha1.CaptureSpec{
			Pods:            v1alpha1.CapturePods{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": application}}},
			CaptureSettings: v1alpha1.CaptureSettings{DurationSeconds: &seconds},
		},
	}, metav1.CreateOptions{})
}

func (b *bench) delete(ctx context.Context, name string) error {
	return b.api.NetworkobservabilityV1alpha1().Captures(namespace).Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{})
}

// read opens a stream of packets as kubectl-network does.
func (b *bench) read(ctx context.Context, name, subresource string) (io.ReadCloser, error) {
	url := b.api.NetworkobservabilityV1alpha1().RESTClient().Get().Namespace(namespace).Resource("captures").Name(name).SubResource(subresource).URL()
	response, err := download.Get(ctx, b.client, url.String(), b.upgrade && subresource == "pcap")
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		const longest = 1 << 10
		text, err := io.ReadAll(io.LimitReader(response.Body, longest))
		return nil, errors.Join(fmt.Errorf("%s: %s", response.Status, text), err)
	}
	return response.Body, nil
}

// firstPackets measures from the request that creates a capture to the first packet that a follower reads. The pods
// exchange packets all the time: tens a second.
func (b *bench) firstPackets(ctx context.Context, times int) error {
	var waits []float64
	for range times {
		wait, err := b.firstPacket(ctx)
		if err != nil {
			return err
		}
		waits = append(waits, wait.Seconds()*1000)
	}
	fmt.Printf("first packet after the request: median %.0f ms, p95 %.0f ms, of %d captures (aim: the median below 1000 ms)\n",
		paired.Percentile(waits, 50), paired.Percentile(waits, 95), len(waits))
	return nil
}

func (b *bench) firstPacket(ctx context.Context) (wait time.Duration, err error) {
	began := time.Now()
	capture, err := b.create(ctx, "web", 60)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.delete(ctx, capture.Name)) }()
	stream, err := b.read(ctx, capture.Name, "attach")
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	return time.Since(began), toPacket(stream, &began, &wait)
}

// toPacket reads blocks up to the first packet.
func toPacket(stream io.Reader, began *time.Time, wait *time.Duration) error {
	for {
		var head [8]byte
		if _, err := io.ReadFull(stream, head[:]); err != nil {
			return err
		}
		if head[0] == pcapng.TypePacket && head[1] == 0 && head[2] == 0 && head[3] == 0 {
			*wait = time.Since(*began)
			return nil
		}
		size := int64(head[4]) | int64(head[5])<<8 | int64(head[6])<<16 | int64(head[7])<<24
		if _, err := io.CopyN(io.Discard, stream, size-8); err != nil {
			return err
		}
	}
}

// downloads compares reading a file through kube-apiserver and our server with reading the packets from the agent. Before, it
// leaves streams of the same packets unread: later, what downloads left would hide what they take.
func (b *bench) downloads(ctx context.Context, pairs, streams int, seconds int64) (err error) {
	capture, err := b.create(ctx, "backup", seconds)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.delete(ctx, capture.Name)) }()
	if capture, err = b.ended(ctx, capture.Name); err != nil {
		return err
	}
	if len(capture.Status.Targets) != 1 || capture.Status.File == nil {
		return fmt.Errorf("want the capture of one pod: %+v", capture.Status)
	}
	subresources := []string{"pcap", "attach"}
	if streams == 0 {
		subresources = nil
	}
	for _, subresource := range subresources {
		if err := b.streams(ctx, capture.Name, subresource, streams); err != nil {
			return fmt.Errorf("leaving streams of %s unread: %w", subresource, err)
		}
	}
	agent, err := b.dialAgent(ctx, capture.Status.Targets[0].Node)
	if err != nil {
		return err
	}
	defer agent.close()
	var direct, through ledger
	comparison, err := paired.Measure(pairs,
		func() (float64, error) {
			return direct.measure(ctx, b, func() (int64, error) { return agent.read(ctx, string(capture.UID)) })
		},
		func() (float64, error) {
			return through.measure(ctx, b, func() (int64, error) { return b.download(ctx, capture) })
		})
	if err != nil {
		return fmt.Errorf("downloading: %w", err)
	}
	median, low, high := comparison.RatioInterval()
	fmt.Printf("download of %d MB through kube-apiserver to reading it from the agent: ratio %.2f (95%%: %.2f to %.2f), %d pairs; medians %.0f and %.0f MB/s (aim: 0.5)\n",
		capture.Status.File.Bytes/1e6, median, low, high, pairs, paired.Percentile(comparison.Changed, 50), paired.Percentile(comparison.Base, 50))
	fmt.Printf("processor time of each program for a gigabyte of them, in seconds: through kube-apiserver %v; from the agent %v\n", &through, &direct)
	return nil
}

// download reads the whole file of a capture and says how many bytes it has.
func (b *bench) download(ctx context.Context, capture *v1alpha1.Capture) (int64, error) {
	stream, err := b.read(ctx, capture.Name, "pcap")
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	n, err := io.Copy(io.Discard, stream)
	if err == nil && n != capture.Status.File.Bytes {
		err = fmt.Errorf("read %d bytes of %d", n, capture.Status.File.Bytes)
	}
	return n, err
}

// ended waits until a capture has ended.
func (b *bench) ended(ctx context.Context, name string) (*v1alpha1.Capture, error) {
	watching, err := b.api.NetworkobservabilityV1alpha1().Captures(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return nil, err
	}
	defer watching.Stop()
	for event := range watching.ResultChan() {
		capture, ok := event.Object.(*v1alpha1.Capture)
		if !ok {
			return nil, fmt.Errorf("watching: %v", event.Object)
		}
		for _, condition := range capture.Status.Conditions {
			if condition.Status == metav1.ConditionTrue && condition.Type == v1alpha1.CaptureComplete {
				return capture, nil
			}
			if condition.Status == metav1.ConditionTrue && condition.Type == v1alpha1.CaptureFailed {
				return nil, fmt.Errorf("the capture failed: %s", condition.Message)
			}
		}
	}
	return nil, errors.New("the watch ended")
}
