package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// An agent is a connection to one, as the API server has it.
type agent struct {
	agentv1.AgentClient
	conn *grpc.ClientConn
}

func (a *agent) close() { a.conn.Close() }

// dialAgent makes a certificate with the API server's own authority, which an administrator of the cluster can read.
func (b *bench) dialAgent(ctx context.Context, node string) (*agent, error) {
	secret, err := b.kube.CoreV1().Secrets(agentv1.Namespace).Get(ctx, agentv1.CAConfigMapName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	authority, err := tls.X509KeyPair(secret.Data["client-ca.crt"], secret.Data["client-ca.key"])
	if err != nil {
		return nil, fmt.Errorf("reading the authority: %w", err)
	}
	certificate, err := issue(authority)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret.Data["serving-ca.crt"])
	object, err := b.kube.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if len(object.Status.Addresses) == 0 {
		return nil, fmt.Errorf("node %s has no address", node)
	}
	const largestBatch, window = 2 << 20, 1 << 20
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(object.Status.Addresses[0].Address, strconv.Itoa(agentv1.Port)),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: agentv1.DNSName(node), Certificates: []tls.Certificate{certificate},
		})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestBatch)), grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window))
	if err != nil {
		return nil, err
	}
	return &agent{agentv1.NewAgentClient(conn), conn}, nil
}

func issue(authority tls.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: agentv1.ClientCommonName},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority.Leaf, key.Public(), authority.PrivateKey)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// read reads all packets of a capture and says how many bytes their blocks are.
func (a *agent) read(ctx context.Context, uid string) (n int64, err error) {
	stream, err := a.ReadCapture(ctx, &agentv1.ReadCaptureRequest{Uid: uid})
	if err != nil {
		return 0, err
	}
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n += int64(len(batch.Blocks))
	}
}
