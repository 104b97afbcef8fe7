package certificates

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

const (
	// backdate is how long before now a certificate begins to be valid, for clocks that are behind ours.
	backdate = 5 * time.Minute

	certificateBlock = "CERTIFICATE"
	privateKeyBlock  = "PRIVATE KEY"
)

// pace is how an authority moves from one generation to the next.
type pace struct {
	// lifetime is how long a generation is valid. The next is made when a third of it is left.
	lifetime time.Duration
	// propagation is how long a generation is trusted before it signs: the time that bundles need to reach
	// everyone.
	propagation time.Duration
}

// generation is one key of an authority with its certificate.
type generation struct {
	certificate *x509.Certificate
	// key is nil for a generation that is only trusted still.
	key crypto.Signer
}

// authority is a certificate authority over time: its generations, oldest first. It is immutable.
type authority struct {
	generations []generation
}

// newGeneration makes a key and certifies it for one usage, which by RFC 5280 and Go's verifier then binds all
// that it signs.
func newGeneration(name string, usage x509.ExtKeyUsage, now time.Time, lifetime time.Duration) (generation, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return generation{}, fmt.Errorf("making the key of %s: %w", name, err)
	}
	template := &x509.Certificate{
		// The time tells generations apart, whose names would otherwise be equal.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%s@%d", name, now.Unix())},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{usage},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	certificate, err := sign(template, template, key.Public(), key)
	if err != nil {
		return generation{}, fmt.Errorf("signing %s: %w", name, err)
	}
	return generation{certificate: certificate, key: key}, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// issue signs a leaf, whose end is cut to the generation's own.
func (g generation) issue(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	if template.NotAfter.After(g.certificate.NotAfter) {
		template.NotAfter = g.certificate.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return sign(template, g.certificate, public, g.key)
}

func (g generation) valid(now time.Time) bool { return now.Before(g.certificate.NotAfter) }

// ready says that all that it signs now is taken. What a clock that was ahead has made is valid later only: Go and others
// refuse what is signed by it until then.
func (g generation) ready(now time.Time) bool {
	return g.key != nil && g.valid(now) && !now.Before(g.certificate.NotBefore)
}

func (g generation) made() time.Time { return g.certificate.NotBefore.Add(backdate) }

// compare orders generations by age.
func (g generation) compare(other generation) int {
	return g.certificate.NotBefore.Compare(other.certificate.NotBefore)
}

// signing is the generation that signs now: the newest that has been trusted for long enough, or while there
// is none the oldest that is ready. One that is valid later only signs where there is no other: perhaps it is our clock
// that is behind.
func (a authority) signing(now time.Time, propagation time.Duration) (generation, error) {
	for _, g := range slices.Backward(a.generations) {
		if g.ready(now) && !now.Before(g.made().Add(propagation)) {
			return g, nil
		}
	}
	for _, may := range []func(generation) bool{
		func(g generation) bool { return g.ready(now) },
		func(g generation) bool { return g.key != nil && g.valid(now) },
	} {
		if i := slices.IndexFunc(a.generations, may); i >= 0 {
			return a.generations[i], nil
		}
	}
	return generation{}, errors.New("the authority has no valid key")
}

// trusted are the certificates of all generations that have not expired.
func (a authority) trusted(now time.Time) []*x509.Certificate {
	var certificates []*x509.Certificate
	for _, g := range a.generations {
		if g.valid(now) {
			certificates = append(certificates, g.certificate)
		}
	}
	return certificates
}

// issuers are the certificates of which a leaf may be that need not be replaced: all that are trusted, but none that is
// valid later only if another generation can sign now.
func (a authority) issuers(now time.Time) []*x509.Certificate {
	trusted := a.trusted(now)
	if !slices.ContainsFunc(a.generations, func(g generation) bool { return g.ready(now) }) {
		return trusted
	}
	return slices.DeleteFunc(trusted, func(c *x509.Certificate) bool { return now.Before(c.NotBefore) })
}

// bundle is trusted as PEM.
func (a authority) bundle(now time.Time) []byte {
	var bundle []byte
	for _, certificate := range a.trusted(now) {
		bundle = append(bundle, encode(certificate)...)
	}
	return bundle
}

// tended is the authority as it should be now, and whether that differs: a new generation when the newest that is ready
// nears its end, without those that have expired, and without keys that sign no more. A generation that is valid later only
// stays: who trusts it need not be told anew when its time has come.
func (a authority) tended(name string, usage x509.ExtKeyUsage, now time.Time, p pace) (authority, bool, error) {
	kept := slices.DeleteFunc(slices.Clone(a.generations), func(g generation) bool { return !g.valid(now) })
	changed := len(kept) != len(a.generations)
	if !slices.ContainsFunc(kept, func(g generation) bool {
		return g.ready(now) && g.certificate.NotAfter.Sub(now) >= p.lifetime/3
	}) {
		next, err := newGeneration(name, usage, now, p.lifetime)
		if err != nil {
			return authority{}, false, err
		}
		kept, changed = append(kept, next), true
		slices.SortStableFunc(kept, generation.compare)
	}
	signing, err := authority{kept}.signing(now, p.propagation)
	if err != nil {
		return authority{}, false, err
	}
	for i := range kept {
		if kept[i].certificate == signing.certificate {
			break
		}
		if kept[i].key != nil {
			kept[i].key, changed = nil, true
		}
	}
	return authority{kept}, changed, nil
}

// marshal writes all certificates and all keys as PEM.
func (a authority) marshal() (certificates, keys []byte, err error) {
	for _, g := range a.generations {
		certificates = append(certificates, encode(g.certificate)...)
		if g.key == nil {
			continue
		}
		der, err := x509.MarshalPKCS8PrivateKey(g.key)
		if err != nil {
			return nil, nil, fmt.Errorf("encoding the key of %s: %w", g.certificate.Subject.CommonName, err)
		}
		keys = append(keys, pem.EncodeToMemory(&pem.Block{Type: privateKeyBlock, Bytes: der})...)
	}
	return certificates, keys, nil
}

// parseAuthority is the inverse of marshal. Keys may be in any order; each must belong to a certificate.
func parseAuthority(certificates, keys []byte) (authority, error) {
	var a authority
	err := eachBlock(certificates, certificateBlock, func(der []byte) error {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if !certificate.IsCA {
			return fmt.Errorf("%s is not an authority", certificate.Subject)
		}
		a.generations = append(a.generations, generation{certificate: certificate})
		return nil
	})
	if err != nil {
		return authority{}, fmt.Errorf("reading certificates: %w", err)
	}
	if err := eachBlock(keys, privateKeyBlock, a.adopt); err != nil {
		return authority{}, fmt.Errorf("reading keys: %w", err)
	}
	slices.SortStableFunc(a.generations, generation.compare)
	return a, nil
}

// adopt gives a key to the generation whose certificate has its public half.
func (a *authority) adopt(der []byte) error {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("a key is a %T, not ECDSA", parsed)
	}
	for i := range a.generations {
		if key.PublicKey.Equal(a.generations[i].certificate.PublicKey) {
			a.generations[i].key = key
			return nil
		}
	}
	return errors.New("a key belongs to no certificate")
}

func encode(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: certificate.Raw})
}

// eachBlock calls f with each PEM block, of which there must be at least one and all of one type.
func eachBlock(text []byte, blockType string, f func(der []byte) error) error {
	blocks := 0
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != blockType {
			return fmt.Errorf("a PEM block is a %q, not a %q", block.Type, blockType)
		}
		if err := f(block.Bytes); err != nil {
			return err
		}
		blocks++
		text = rest
	}
	if blocks == 0 || len(bytes.TrimSpace(text)) > 0 {
		return fmt.Errorf("not a list of PEM blocks of type %q", blockType)
	}
	return nil
}
