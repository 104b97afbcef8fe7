package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A connection to the agent, as the API server has it, that counts bytes.
type connection struct {
	client agentv1.AgentClient
	traffic
}

func connect(own tls.Certificate, roots *x509.CertPool) (*connection, error) {
	c := &connection{}
	conn, err := grpc.NewClient("passthrough:///"+listenAddress,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, RootCAs: roots, ServerName: agentv1.DNSName(nodeName),
		})),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.dial(ctx, "tcp", address) }))
	if err != nil {
		return nil, fmt.Errorf("dialling the agent: %w", err)
	}
	c.client = agentv1.NewAgentClient(conn)
	return c, nil
}

// traffic is the bytes of the connections that it has dialled.
type traffic struct{ sent, received atomic.Int64 }

func (t *traffic) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &countedConn{conn, t}, nil
}

type countedConn struct {
	net.Conn
	of *traffic
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.of.received.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.of.sent.Add(int64(n))
	return n, err
}

// read makes one read; measured counts the rows of pods that were measured.
func (c *connection) read(ctx context.Context, request *agentv1.ReadStatsRequest) (measured int, node *agentv1.NodeStats, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stream, err := c.client.ReadStats(ctx, request)
	if err != nil {
		return 0, nil, err
	}
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return measured, node, nil
		}
		if err != nil {
			return 0, nil, err
		}
		for _, row := range batch.Pods {
			if row.GetMeasurement().GetState() == agentv1.State_STATE_MEASURED {
				measured++
			}
		}
		if batch.Node != nil {
			node = batch.Node
		}
	}
}

// countsAll fails until the agent counts the traffic of all pods.
func (c *connection) countsAll(ctx context.Context, pods int) error {
	_, node, err := c.read(ctx, &agentv1.ReadStatsRequest{Node: true})
	if err != nil {
		return err
	}
	if got := int(node.GetAgent().GetPods()); got != pods {
		return fmt.Errorf("it counts %d of %d: %v", got, pods, node.GetAgent().GetCollectors())
	}
	return nil
}

// A result is what a read costs, in the mean where nothing else is said.
type result struct {
	what         string
	milliseconds []float64
	// cpu is in microseconds.
	cpu            float64
	sent, received int64
}

// measureAll measures the read of everything first.
func (a *agent) measureAll(ctx context.Context, keys []string, reads int) ([]result, error) {
	var results []result
	for _, one := range []struct {
		what    string
		request *agentv1.ReadStatsRequest
	}{
		{fmt.Sprintf("%d pods and the node", len(keys)), &agentv1.ReadStatsRequest{PodKeys: keys, Node: true}},
		{"the node", &agentv1.ReadStatsRequest{Node: true}},
		{"1 pod", &agentv1.ReadStatsRequest{PodKeys: keys[:1]}},
	} {
		r, err := a.measure(ctx, one.request, reads)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", one.what, err)
		}
		r.what = one.what
		results = append(results, *r)
	}
	return results, nil
}

func (a *agent) measure(ctx context.Context, request *agentv1.ReadStatsRequest, reads int) (*result, error) {
	r := &result{}
	before, err := a.process.CPU()
	if err != nil {
		return nil, err
	}
	sent, received := a.sent.Load(), a.received.Load()
	for range reads {
		began := time.Now()
		measured, _, err := a.read(ctx, request)
		if err != nil {
			return nil, err
		}
		if measured != len(request.PodKeys) {
			return nil, fmt.Errorf("%d of %d pods were measured", measured, len(request.PodKeys))
		}
		r.milliseconds = append(r.milliseconds, float64(time.Since(began).Microseconds())/1000)
	}
	after, err := a.process.CPU()
	n := int64(reads)
	r.cpu = float64((after - before).Microseconds()) / float64(reads)
	r.sent, r.received = (a.sent.Load()-sent)/n, (a.received.Load()-received)/n
	return r, err
}
