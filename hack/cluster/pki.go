package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The cluster is for days, not for years; certificates are made anew with it.
const validity = 365 * 24 * time.Hour

// An Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	PEM  KeyPair
}

// A KeyPair is a certificate and its private key, in PEM.
type KeyPair struct{ Cert, Key []byte }

// A Subject is whom a certificate is for. Hosts make it good for serving under those names and addresses;
// every certificate is good for a client.
type Subject struct {
	Name   string
	Groups []string
	Hosts  []string
}

// loadAuthority reads an authority from DIR/NAME.crt and .key, making it when it is not there.
func loadAuthority(dir, name string) (*Authority, error) {
	pair, err := readKeyPair(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		pair, err = newAuthority(name)
		if err == nil {
			err = writeKeyPair(dir, name, pair)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("preparing certificate authority %s: %w", name, err)
	}
	return parseAuthority(pair)
}

func newAuthority(name string) (KeyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return KeyPair{}, err
	}
	template := newTemplate(pkix.Name{CommonName: name})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage |= x509.KeyUsageCertSign
	return sign(template, template, key, key)
}

func parseAuthority(pair KeyPair) (*Authority, error) {
	certBlock, _ := pem.Decode(pair.Cert)
	keyBlock, _ := pem.Decode(pair.Key)
	if certBlock == nil || keyBlock == nil {
		return nil, errors.New("parsing certificate authority: no PEM")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing certificate authority: %w", err)
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing certificate authority's key: %w", err)
	}
	return &Authority{cert: cert, key: key, PEM: pair}, nil
}

// Issue makes a key and signs a certificate for it.
func (a *Authority) Issue(s Subject) (KeyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return KeyPair{}, err
	}
	template := newTemplate(pkix.Name{CommonName: s.Name, Organization: s.Groups})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(s.Hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range s.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return sign(template, a.cert, key, a.key)
}

func newTemplate(name pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetInt64(time.Now().UnixNano()),
		Subject:      name,
		NotBefore:    time.Now().Add(-time.Hour), // clocks of one machine agree, but its user may turn them back
		NotAfter:     time.Now().Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (KeyPair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return KeyPair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return KeyPair{}, err
	}
	return KeyPair{Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Key: keyPEM}, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// ensureSigningKey keeps a bare key pair, DIR/NAME.key and .pub, with which tokens are signed.
func ensureSigningKey(dir, name string) error {
	if _, err := os.Stat(filepath.Join(dir, name+".key")); err == nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if err := writeFile(filepath.Join(dir, name+".pub"), public, 0o644); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, name+".key"), private, 0o600) // last: it says that both are there
}

// ensureKeyPair keeps a certificate at DIR/NAME.crt and .key.
func (a *Authority) ensureKeyPair(dir, name string, s Subject) error {
	if _, err := readKeyPair(dir, name); err == nil {
		return nil
	}
	pair, err := a.Issue(s)
	if err != nil {
		return fmt.Errorf("issuing certificate %s: %w", name, err)
	}
	return writeKeyPair(dir, name, pair)
}

func readKeyPair(dir, name string) (KeyPair, error) {
	cert, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return KeyPair{}, err
	}
	key, err := os.ReadFile(filepath.Join(dir, name+".key"))
	return KeyPair{Cert: cert, Key: key}, err
}

func writeKeyPair(dir, name string, pair KeyPair) error {
	if err := writeFile(filepath.Join(dir, name+".key"), pair.Key, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, name+".crt"), pair.Cert, 0o644)
}

// writeFile makes a file and the folders above it, whole or not at all.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
