package serve

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc/credentials"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

var errNoCertificate = errors.New("there is no serving certificate yet")

// Transport lets in the API server only. The bundle of client CAs is read from caDir at each handshake, so a new one
// holds as soon as the kubelet has put it there; connections that are open stay open.
func Transport(caDir string, current func() *tls.Certificate) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return configure(caDir, current())
		},
	})
}

func configure(caDir string, own *tls.Certificate) (*tls.Config, error) {
	if own == nil {
		return nil, errNoCertificate
	}
	clients, err := readBundle(filepath.Join(caDir, v1alpha1.ClientCAKey))
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		NextProtos:       []string{"h2"},
		Certificates:     []tls.Certificate{*own},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        clients,
		VerifyConnection: verifyClient,
		// A resumed session would not ask the bundle again.
		SessionTicketsDisabled: true,
	}, nil
}

func verifyClient(state tls.ConnectionState) error {
	if len(state.VerifiedChains) == 0 {
		return errors.New("the client's certificate was not verified")
	}
	if name := state.VerifiedChains[0][0].Subject.CommonName; name != v1alpha1.ClientCommonName {
		return fmt.Errorf("the client's certificate is for %q, only %q may ask", name, v1alpha1.ClientCommonName)
	}
	return nil
}

func readBundle(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a CA bundle: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading a CA bundle: %s has no certificate", path)
	}
	return pool, nil
}

// chains tells whether a serving certificate is one that the API server would accept now.
func chains(own *tls.Certificate, caDir, node string) error {
	pool, err := readBundle(filepath.Join(caDir, v1alpha1.ServingCAKey))
	if err != nil {
		return err
	}
	leaf := own.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(own.Certificate[0]); err != nil {
			return fmt.Errorf("parsing the serving certificate: %w", err)
		}
	}
	intermediates := x509.NewCertPool()
	for _, der := range own.Certificate[1:] {
		if certificate, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(certificate)
		}
	}
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: v1alpha1.DNSName(node), Roots: pool, Intermediates: intermediates})
	return err
}
