package agents

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/bulk"
)

// TLSSource gives the two halves of the trust between the API server and the agents. Both are asked at each
// handshake, so either may change at any time; methods must be safe for concurrent use.
type TLSSource interface {
	// ClientCertificate is the API server's certificate for agents.
	ClientCertificate() (*tls.Certificate, error)
	// ServingCAs are the authorities of which an agent's certificate must be.
	ServingCAs() (*x509.CertPool, error)
}

// Sizes that keep a connection small: a thousand of them are held open. Reading is unbuffered because the TLS
// layer beneath already holds a decrypted record; gRPC shares write buffers between the connections.
const (
	readBuffer  = 0
	writeBuffer = 16 << 10
	// window bounds what an agent can send ahead of our reading.
	window = agentv1.MaxBatchBytes
	// headerList bounds headers and trailers, an agent's error message among them.
	headerList = 16 << 10
)

// connecting bounds a TCP connect and a TLS handshake that no call waits for. It is longer than any deadline of a call, which
// includes connecting and after which the connection is given up: an agent that is slow has all of that deadline.
const connecting = time.Minute

// errRedial ends calls on a connection that was given up; they are repeated once on a new one.
var errRedial = errors.New("the connection was given up for a new one")

// connection is one gRPC connection to an agent. Calls on it end with errRedial when it is closed.
type connection struct {
	agentv1.AgentClient
	conn   *grpc.ClientConn
	closed context.Context
	close  context.CancelCauseFunc
}

// dial prepares a connection to the agent of a node; the first call makes it. All places are tried, the two
// address families against each other (RFC 8305). further options come last, and win.
func dial(node string, places []place, source TLSSource, further ...grpc.DialOption) (*connection, error) {
	found := manual.NewBuilderWithScheme("agent")
	var state resolver.State
	for _, p := range places {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: p.address.String()}}})
	}
	found.InitialState(state)
	options := append([]grpc.DialOption{
		grpc.WithResolvers(found),
		grpc.WithTransportCredentials(&handshaker{node: node, source: source}),
		grpc.WithAuthority(agentv1.DNSName(node)),
		grpc.WithContextDialer(dialTCP),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDisableHealthCheck(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: connecting,
		}),
		grpc.WithReadBufferSize(readBuffer), grpc.WithWriteBufferSize(writeBuffer),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(2 * window),
		grpc.WithMaxHeaderListSize(headerList),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(agentv1.MaxBatchBytes), grpc.MaxCallSendMsgSize(agentv1.MaxRequestBytes)),
	}, further...)
	conn, err := grpc.NewClient("agent:///"+node, options...)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", node, err)
	}
	c := &connection{AgentClient: agentv1.NewAgentClient(conn), conn: conn}
	c.closed, c.close = context.WithCancelCause(context.Background())
	return c, nil
}

// giveUp ends the calls on the connection, for them to be repeated elsewhere, and closes it.
func (c *connection) giveUp() {
	c.close(errRedial)
	c.conn.Close()
}

// dialTCP finds out within 30 s that an idle connection's other end is gone.
func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return dialer.DialContext(ctx, "tcp", address)
}

// handshaker makes each handshake with what its source gives at that moment. It is a client's half only.
type handshaker struct {
	node   string
	source TLSSource
	// ahead is how many bytes are read ahead from the system.
	ahead int
}

var _ credentials.TransportCredentials = &handshaker{}

// ClientHandshake implements credentials.TransportCredentials. The authority is not used: the name to verify
// is the node's, whatever was dialled.
func (h *handshaker) ClientHandshake(ctx context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := h.config()
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	if h.ahead > 0 {
		conn = bulk.New(conn, h.ahead)
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, agentv1.DNSName(h.node), conn)
}

func (h *handshaker) config() (*tls.Config, error) {
	roots, err := h.source.ServingCAs()
	if err != nil {
		return nil, fmt.Errorf("reading the serving CA bundle: %w", err)
	}
	certificate, err := h.source.ClientCertificate()
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots,
		ServerName: agentv1.DNSName(h.node),
		// Sent whatever authorities the agent hints at: it may not know of a new one yet.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil },
	}, nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (h *handshaker) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn.Close()
	return nil, nil, errors.New("agents are only dialled, not served")
}

// Info implements credentials.TransportCredentials.
func (h *handshaker) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (h *handshaker) Clone() credentials.TransportCredentials { clone := *h; return &clone }

// OverrideServerName implements credentials.TransportCredentials.
func (h *handshaker) OverrideServerName(string) error {
	return errors.New("an agent's name is its node's and cannot be overridden")
}
