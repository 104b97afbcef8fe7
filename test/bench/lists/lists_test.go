package main

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func TestSpreadIsEvenAndWide(t *testing.T) {
	places := spread(100, step{1000, 100})
	pods := map[int]int{}
	for _, node := range places {
		pods[node]++
	}
	for node := 100; node < 1000; node++ {
		if pods[node] != 100 {
			t.Fatalf("node %d has %d pods", node, pods[node])
		}
	}
	asked := map[int]bool{}
	for _, node := range places[:podsPerNamespace] {
		asked[node] = true
	}
	if len(pods) != 900 || len(asked) < 85 {
		t.Errorf("pods are on %d nodes, those of a namespace on %d", len(pods), len(asked))
	}
}

func TestSteps(t *testing.T) {
	var s steps
	if err := s.Set(full); err != nil || s.String() != full {
		t.Errorf("%s became %v, %v", full, s, err)
	}
	for _, text := range []string{"", "1", "1x", "10x100,10x100", "1001x100", "1x50"} {
		if s.Set(text) == nil {
			t.Errorf("%q was taken for %v", text, s)
		}
	}
}

func TestReadTable(t *testing.T) {
	rows, next, err := readTable([]byte(`{"kind":"Table","metadata":{"continue":"abc"},"rows":[{"cells":["x"],"object":{}},{"cells":["y"]}]}`))
	if rows != 2 || next != "abc" || err != nil {
		t.Errorf("read %d rows, %q, %v", rows, next, err)
	}
	for _, text := range []string{`{"kind":"Status"}`, `{"kind":`} {
		if _, _, err := readTable([]byte(text)); err == nil {
			t.Errorf("%s was read as a table", text)
		}
	}
}

// Agents' certificates are of the authority that our API server keeps in its Secret.
func TestAgentsCertificatesAreValid(t *testing.T) {
	made, err := newAuthority("serving")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := made.issue(subject{name: "agent", hosts: []string{agentv1.DNSName("node-0001")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(made.certificate)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: agentv1.DNSName("node-0001")}); err != nil {
		t.Error(err)
	}
}
