package agents

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func TestMain(m *testing.M) {
	if os.Getenv(crowdVariable) != "" {
		serveCrowd()
		return
	}
	goleak.VerifyTestMain(m)
}

// ca is a certificate authority for tests.
type ca struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newCA(t testing.TB, name string) ca {
	key := newKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return ca{certify(t, template, template, key, key), key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certify(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func (c ca) issue(t testing.TB, name string, usage x509.ExtKeyUsage, dnsNames ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	leaf := certify(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: dnsNames, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, c.certificate, key, c.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (c ca) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.certificate)
	return pool
}

// fakeAgent is an agent on loopback, whose answer is a function.
type fakeAgent struct {
	agentv1.UnimplementedAgentServer
	node    string
	address netip.AddrPort
	server  *grpc.Server
	// calls counts the reads that reached it, ended those that are over.
	calls, ended atomic.Int64
	mu           sync.Mutex
	answer       answerFunc
}

type answerFunc func(*agentv1.ReadStatsRequest, grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error

func (a *fakeAgent) ReadStats(r *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
	a.calls.Add(1)
	defer a.ended.Add(1)
	a.mu.Lock()
	answer := a.answer
	a.mu.Unlock()
	return answer(r, s)
}

func (a *fakeAgent) now(answer answerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

// honest answers as PROTOCOL.md says, in batches of 100 rows.
func honest(r *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
	batch := &agentv1.ReadStatsResponse{}
	if r.Node {
		batch.Node = &agentv1.NodeStats{Measurement: &agentv1.Measurement{State: agentv1.State_STATE_MEASURED}}
	}
	for _, key := range r.PodKeys {
		batch.Pods = append(batch.Pods, row(key))
		if len(batch.Pods) == 100 {
			if err := s.Send(batch); err != nil {
				return err
			}
			batch = &agentv1.ReadStatsResponse{}
		}
	}
	return s.Send(batch)
}

// row is a row with every counter that a pod has.
func row(key string) *agentv1.PodStats {
	counters := func(n int64) *agentv1.Counters { return &agentv1.Counters{Packets: n, Bytes: 1000 * n, Buffers: n} }
	direction := func() *agentv1.DirectionTraffic {
		return &agentv1.DirectionTraffic{
			Ipv4Unicast: counters(1 << 30), Ipv4NonUnicast: counters(5), Ipv6Unicast: counters(1 << 20), Ipv6NonUnicast: counters(6),
			NonIp: counters(7), Rates: &agentv1.Rates{MilliBytes: 1 << 30, MilliPackets: 1 << 20},
		}
	}
	ip := func() *agentv1.IP { return &agentv1.IP{InReceives: 1 << 30, InDelivers: 1 << 30, OutRequests: 1 << 30} }
	return &agentv1.PodStats{
		Key: key,
		Measurement: &agentv1.Measurement{
			State: agentv1.State_STATE_MEASURED, TimeUnixNano: 1 << 60, WindowNano: 15e9, StartUnixNano: 1 << 60,
		},
		Traffic: &agentv1.Traffic{Receive: direction(), Transmit: direction()},
		Protocols: &agentv1.Protocols{
			Tcp: &agentv1.TCP{ActiveOpens: 1 << 20, PassiveOpens: 1 << 20, InSegments: 1 << 30, OutSegments: 1 << 30, CurrentlyEstablished: 9},
			Udp: &agentv1.UDP{InDatagrams: 1 << 20, OutDatagrams: 1 << 20}, Ipv4: ip(), Ipv6: ip(),
		},
	}
}

// silent answers nothing until the caller gives up.
func silent(_ *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
	<-s.Context().Done()
	return s.Context().Err()
}

// world is a control plane, two authorities, and agents on loopback.
type world struct {
	t               testing.TB
	serving, client ca
	kube            *fake.Clientset
	registry        metrics.KubeRegistry

	mu          sync.Mutex
	certificate tls.Certificate
	roots       *x509.CertPool
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, serving: newCA(t, "serving"), client: newCA(t, "client"), kube: fake.NewClientset(), registry: metrics.NewKubeRegistry()}
	w.certificate = w.client.issue(t, agentv1.ClientCommonName, x509.ExtKeyUsageClientAuth)
	w.roots = w.serving.pool()
	return w
}

func (w *world) ClientCertificate() (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &w.certificate, nil
}

func (w *world) ServingCAs() (*x509.CertPool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.roots, nil
}

// agent starts an honest agent with the right certificate and tells the control plane of it.
func (w *world) agent(node string) *fakeAgent {
	a := w.start(node, w.serving.issue(w.t, agentv1.SubjectPrefix+node, x509.ExtKeyUsageServerAuth, agentv1.DNSName(node)), "127.0.0.1:0")
	w.publish(node, a.address, "pod-of-"+node)
	return a
}

// start starts an honest agent with some certificate, unknown to the control plane.
func (w *world) start(node string, certificate tls.Certificate, address string) *fakeAgent {
	w.t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	a := newFakeAgent(node, listener.Addr(), certificate, w.client.pool())
	var serving sync.WaitGroup
	serving.Go(func() { a.server.Serve(listener) })
	w.t.Cleanup(func() {
		a.server.Stop()
		serving.Wait()
	})
	return a
}

func newFakeAgent(node string, address net.Addr, certificate tls.Certificate, clients *x509.CertPool) *fakeAgent {
	a := &fakeAgent{node: node, address: netip.MustParseAddrPort(address.String()), answer: honest}
	a.server = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		})),
		grpc.WriteBufferSize(4<<10), grpc.ReadBufferSize(4<<10))
	agentv1.RegisterAgentServer(a.server, a)
	return a
}

// publish makes an EndpointSlice say that a node's agent is at an address.
func (w *world) publish(node string, address netip.AddrPort, pod string) {
	w.t.Helper()
	if _, err := w.kube.DiscoveryV1().EndpointSlices(agentv1.Namespace).Create(w.t.Context(), sliceOf(node, address, pod), metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) republish(node string, address netip.AddrPort, pod string) {
	w.t.Helper()
	if _, err := w.kube.DiscoveryV1().EndpointSlices(agentv1.Namespace).Update(w.t.Context(), sliceOf(node, address, pod), metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func sliceOf(node string, address netip.AddrPort, pod string) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if address.Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: agentv1.Namespace, Name: "agent-" + node, Labels: map[string]string{discoveryv1.LabelServiceName: agentv1.ServiceName},
		},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Port: new(int32(address.Port()))}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{address.Addr().String()}, NodeName: &node,
			TargetRef: objectRef(types.UID(pod)),
		}},
	}
}

// fleet runs a Fleet over this world until the test ends. Its deadlines are long, since machines that test are
// busy and the race detector is slow.
func (w *world) fleet(change ...func(*Config)) *Fleet {
	w.t.Helper()
	cfg := Config{Client: w.kube, TLS: w, Register: w.registry.Register, NodeTimeout: 30 * time.Second, ReadTimeout: time.Minute}
	for _, c := range change {
		c(&cfg)
	}
	f, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	w.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return f
}

// metric is the value of one of the fleet's metrics.
func (w *world) metric(name string, labels map[string]string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if testutil.LabelsMatch(m, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// keysOf are n keys of pods on a node.
func keysOf(node string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s-%08x-0000-4000-8000-000000000000", node, i)
	}
	return keys
}

// patience is how long to wait for what happens in the background, on a machine that is busy and slow.
const patience = 2 * time.Minute

// eventually waits for something that happens in the background.
func eventually(t testing.TB, within time.Duration, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s did not happen within %v", what, within)
		}
	}
}
