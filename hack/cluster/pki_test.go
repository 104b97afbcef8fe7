package main

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
)

func TestIssueVerifies(t *testing.T) {
	dir := t.TempDir()
	ca, err := loadAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	other, err := loadAuthority(dir, "front-proxy-ca")
	if err != nil {
		t.Fatal(err)
	}
	client := Subject{Name: "system:node:demo-node-1", Groups: []string{"system:nodes"}}
	server := client
	server.Hosts = []string{"198.18.0.11", "fd6e:6f62::b", "demo-node-1"}
	for _, test := range []struct {
		name    string
		subject Subject
		by      *Authority
		usage   x509.ExtKeyUsage
		host    string
		want    bool
	}{
		{"client", client, ca, x509.ExtKeyUsageClientAuth, "", true},
		{"client as server", client, ca, x509.ExtKeyUsageServerAuth, "", false},
		{"server by IPv4", server, ca, x509.ExtKeyUsageServerAuth, "198.18.0.11", true},
		{"server by IPv6", server, ca, x509.ExtKeyUsageServerAuth, "fd6e:6f62::b", true},
		{"server by name", server, ca, x509.ExtKeyUsageServerAuth, "demo-node-1", true},
		{"server by another's address", server, ca, x509.ExtKeyUsageServerAuth, "198.18.0.12", false},
		{"client of another authority", client, other, x509.ExtKeyUsageClientAuth, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			pair, err := test.by.Issue(test.subject)
			if err != nil {
				t.Fatal(err)
			}
			pool := x509.NewCertPool()
			pool.AddCert(ca.cert)
			_, err = parseCertificate(t, pair.Cert).Verify(x509.VerifyOptions{Roots: pool, DNSName: test.host, KeyUsages: []x509.ExtKeyUsage{test.usage}})
			if (err == nil) != test.want {
				t.Errorf("verifying: %v, want success %t", err, test.want)
			}
		})
	}
}

// What is on disk stays: a cluster that is mended keeps its keys.
func TestKeysStay(t *testing.T) {
	dir := t.TempDir()
	first, err := loadAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	second, err := loadAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	if !first.cert.Equal(second.cert) {
		t.Error("the authority changed between two loads")
	}
	var serials []string
	for range 2 {
		if err := second.ensureKeyPair(dir, "leaf", Subject{Name: "leaf"}); err != nil {
			t.Fatal(err)
		}
		pair, err := readKeyPair(dir, "leaf")
		if err != nil {
			t.Fatal(err)
		}
		serials = append(serials, parseCertificate(t, pair.Cert).SerialNumber.String())
	}
	if serials[0] != serials[1] {
		t.Errorf("the certificate changed: serial numbers %v", serials)
	}
}

func parseCertificate(t *testing.T, b []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("no PEM: %q", b)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
