package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/serve"
	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

// agentsCommand makes this program the agents.
const agentsCommand = "agents"

// readyFile is written when all agents listen.
const readyFile = "agents-ready"

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

func agentAddress(i int) string { return fmt.Sprintf("198.18.%d.%d", 1+i/250, 1+i%250) }

// startAgents gives the agents' process the keys that our API server made, and returns when all listen.
func (w *world) startAgents(ctx context.Context, count int) error {
	secret, err := w.clients.kubernetes.CoreV1().Secrets(agentv1.Namespace).Get(ctx, "networkobservability-ca", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the authorities: %w", err)
	}
	for _, name := range []string{"serving-ca.crt", "serving-ca.key", agentv1.ClientCAKey} {
		if err := os.WriteFile(w.file(name), secret.Data[name], 0o600); err != nil {
			return err
		}
	}
	w.agents, err = sandbox.Start(ctx, w.died, w.logs, "agents", "/proc/self/exe", nil, agentsCommand, w.dir, strconv.Itoa(count))
	if err != nil {
		return err
	}
	return sandbox.Await(ctx, startDeadline, "the agents", func() error {
		_, err := os.Stat(w.file(readyFile))
		return err
	})
}

// runAgents serves as the agents of count nodes.
func runAgents(dir string, count int) error {
	certificate, err := os.ReadFile(filepath.Join(dir, "serving-ca.crt"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(dir, "serving-ca.key"))
	if err != nil {
		return err
	}
	signer, err := parseAuthority(certificate, key)
	if err != nil {
		return err
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	var group errgroup.Group
	for i := range count {
		if err := startAgent(&group, signer, own, dir, i); err != nil {
			return fmt.Errorf("starting the agent of %s: %w", nodeName(i), err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, readyFile), nil, 0o600); err != nil {
		return err
	}
	return group.Wait()
}

// startAgent listens as one agent. All have one key, which is theirs to choose, and a certificate each.
func startAgent(group *errgroup.Group, signer *authority, key *ecdsa.PrivateKey, caDir string, i int) error {
	node := nodeName(i)
	certificate, privateKey, err := signer.issue(subject{name: agentv1.SubjectPrefix + node, hosts: []string{agentv1.DNSName(node)}}, key)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certificate, privateKey)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", agentAddress(i), agentv1.Port))
	if err != nil {
		return err
	}
	server := serve.NewServer(serve.Config{
		Reader: &reader{}, Transport: serve.Transport(caDir, func() *tls.Certificate { return &pair }),
	})
	group.Go(func() error { return server.Serve(listener) })
	return nil
}

// A reader makes counters up: all that a busy pod has, and other ones each time.
type reader struct{ reads atomic.Int64 }

var _ serve.Reader = &reader{}

func (r *reader) Read([]string) serve.Reading { return r }

func (r *reader) Pod(key string) *agentv1.PodStats {
	n := r.reads.Add(1)
	return &agentv1.PodStats{
		Key: key, Measurement: measured(),
		Traffic:   &agentv1.Traffic{Receive: direction(n), Transmit: direction(n)},
		Protocols: protocols(n),
	}
}

func (r *reader) Node() *agentv1.NodeStats {
	counters := &agentv1.InterfaceCounters{Bytes: 1 << 40, Packets: 1 << 30}
	return &agentv1.NodeStats{
		Measurement: measured(), Protocols: protocols(r.reads.Load()), Agent: &agentv1.AgentInfo{Version: "bench"},
		Interfaces: []*agentv1.Interface{{Name: "eth0", Kind: "device", State: "up", Mtu: 1500, Uplink: true, Receive: counters, Transmit: counters}},
	}
}

func measured() *agentv1.Measurement {
	now := time.Now().UnixNano()
	return &agentv1.Measurement{
		State: agentv1.State_STATE_MEASURED, TimeUnixNano: now, WindowNano: 10e9, StartUnixNano: now - int64(time.Hour),
	}
}

func direction(n int64) *agentv1.DirectionTraffic {
	counters := func(n int64) *agentv1.Counters { return &agentv1.Counters{Packets: n, Bytes: 1000 * n, Buffers: n} }
	return &agentv1.DirectionTraffic{
		Ipv4Unicast: counters(1<<30 + n), Ipv4NonUnicast: counters(1<<10 + n), Ipv6Unicast: counters(1<<20 + n), Ipv6NonUnicast: counters(n),
		NonIp: counters(n), Bypassed: new(int64(0)), Rates: &agentv1.Rates{MilliBytes: 1<<30 + n, MilliPackets: 1<<20 + n},
	}
}

func protocols(n int64) *agentv1.Protocols {
	ip := func() *agentv1.IP {
		return &agentv1.IP{InReceives: 1<<30 + n, InDelivers: 1<<30 + n, OutRequests: 1<<30 + n}
	}
	return &agentv1.Protocols{
		Tcp: &agentv1.TCP{
			ActiveOpens: 1<<20 + n, PassiveOpens: 1<<20 + n, CurrentlyEstablished: 9, InSegments: 1<<30 + n, OutSegments: 1<<30 + n,
			RetransmittedSegments: n, AttemptFails: n, EstablishedResets: n, OutResets: n,
		},
		Udp: &agentv1.UDP{InDatagrams: 1<<20 + n, OutDatagrams: 1<<20 + n, NoPorts: n}, Ipv4: ip(), Ipv6: ip(),
	}
}
