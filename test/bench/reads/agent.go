package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

const (
	nodeName      = "bench"
	listenAddress = "127.0.0.1:10261"
)

// An agent is the program, and a connection to it.
type agent struct {
	process *sandbox.Process
	bpffs   string
	scraper *scraper
	*connection
}

// startAgent starts the agent with a certificate, so that it asks its cluster only who may scrape.
func startAgent(ctx context.Context, died context.CancelCauseFunc, o options, dir string) (*agent, error) {
	client, roots, err := writeKeys(dir)
	if err != nil {
		return nil, fmt.Errorf("writing keys: %w", err)
	}
	if err := writeKubeconfig(dir); err != nil {
		return nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	bpffs := filepath.Join(dir, "bpf")
	if err := os.Mkdir(bpffs, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("bpffs", bpffs, "bpf", 0, ""); err != nil {
		return nil, fmt.Errorf("mounting a BPF file system: %w", err)
	}
	logs := filepath.Join(o.output, "reads")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	const name = "networkobservability-nodeagent"
	process, err := sandbox.Start(ctx, died, logs, name, filepath.Join(o.bin, name), nil,
		"--node-name="+nodeName, "--listen="+listenAddress, "--metrics-address="+metricsAddress, "--bpffs="+bpffs, "--ca-dir="+dir, "--data-dir="+dir,
		"--kubeconfig="+filepath.Join(dir, "kubeconfig"))
	if err != nil {
		return nil, err
	}
	conn, err := connect(client, roots)
	return &agent{process, bpffs, newScraper(roots), conn}, err
}

// servingFile is where the agent keeps its certificate and key.
const servingFile = "agent-serving-current.pem"

// writeKeys makes one authority for both sides, the agent's certificate where it keeps its own, and ours.
func writeKeys(dir string) (client tls.Certificate, roots *x509.CertPool, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return client, nil, err
	}
	ca := template(pkix.Name{CommonName: "bench"})
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		return client, nil, err
	}
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return client, nil, err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	issue := func(leaf *x509.Certificate) []byte {
		leafDER, issueErr := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
		err = errors.Join(err, issueErr)
		return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}), keyPEM...)
	}
	serving := template(pkix.Name{CommonName: agentv1.SubjectPrefix + nodeName, Organization: []string{agentv1.SubjectOrganization}})
	serving.DNSNames, serving.ExtKeyUsage = []string{agentv1.DNSName(nodeName), agentv1.MetricsDNSName}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	own := template(pkix.Name{CommonName: agentv1.ClientCommonName})
	own.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	servingPEM, ownPEM := issue(serving), issue(own)
	for name, content := range map[string][]byte{
		agentv1.ClientCAKey: bundle, agentv1.ServingCAKey: bundle, servingFile: servingPEM,
	} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	if err != nil {
		return client, nil, err
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	client, err = tls.X509KeyPair(ownPEM, ownPEM)
	return client, roots, err
}

func template(name pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: name, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

// idle is the part of a core that the agent takes while nobody asks.
func (a *agent) idle(ctx context.Context, during time.Duration) (float64, error) {
	before, err := a.process.CPU()
	if err != nil {
		return 0, err
	}
	timer := time.NewTimer(during)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	after, err := a.process.CPU()
	return float64(after-before) / float64(during), err
}
