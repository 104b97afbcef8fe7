// This program shows how to record and read packets from Go: it creates a Capture with the generated client, reads its
// packets as they come with gopacket, and deletes it.
//
//	go run ./test/examples/capture -kubeconfig FILE -namespace shop -selector app=web -packets 10
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

func main() {
	kubeconfig := flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "kubeconfig `FILE`")
	namespace := flag.String("namespace", "default", "namespace of the pods")
	selector := flag.String("selector", "", "labels of the pods, such as app=web")
	filter := flag.String("filter", "", "packets to record, in tcpdump's grammar")
	packets := flag.Int("packets", 10, "end after so many packets")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *kubeconfig, *namespace, *selector, *filter, *packets); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, kubeconfig, namespace, selector, filter string, packets int) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return err
	}
	labels, err := metav1.ParseToLabelSelector(selector)
	if err != nil {
		return fmt.Errorf("-selector: %w", err)
	}
	captures := client.NetworkobservabilityV1alpha1().Captures(namespace)
	created, err := captures.Create(ctx, &v1alpha1.Capture{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "example-"},
		Spec: v1alpha1.CaptureSpec{
			Pods:            v1alpha1.CapturePods{Selector: labels},
			CaptureSettings: v1alpha1.CaptureSettings{Filter: filter},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	defer func() {
		// Also when the program was interrupted.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := captures.Delete(ctx, created.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			fmt.Fprintln(os.Stderr, "error: deleting the capture:", err)
		}
	}()

	// The subresource attach answers with pcapng, live and merged over all nodes.
	stream, err := client.NetworkobservabilityV1alpha1().RESTClient().Get().
		Namespace(namespace).Resource("captures").Name(created.Name).SubResource("attach").Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	return show(out, stream, packets)
}

// show prints packets of a stream of pcapng.
func show(out io.Writer, stream io.Reader, packets int) error {
	reader, err := pcapgo.NewNgReader(stream, pcapgo.NgReaderOptions{})
	if err != nil {
		return fmt.Errorf("reading the beginning of the stream: %w", err)
	}
	for range packets {
		data, about, err := reader.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return nil // the capture has ended
		}
		if err != nil {
			return fmt.Errorf("reading a packet: %w", err)
		}
		from, err := reader.Interface(about.InterfaceIndex)
		if err != nil {
			return err
		}
		packet := gopacket.NewPacket(data, layers.LinkTypeEthernet, gopacket.NoCopy)
		what := "not IP"
		if network := packet.NetworkLayer(); network != nil {
			what = network.NetworkFlow().String()
			if transport := packet.TransportLayer(); transport != nil {
				what += fmt.Sprintf(" %v %v", transport.LayerType(), transport.TransportFlow())
			}
		}
		fmt.Fprintf(out, "%s %s %s, %d bytes\n", about.Timestamp.Format("15:04:05.000000"), from.Name, what, about.Length)
	}
	return nil
}
