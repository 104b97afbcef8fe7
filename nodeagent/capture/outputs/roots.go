package outputs

import (
	"crypto/x509"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// trusted are the authorities that a store's certificate may be from: the given ones, or those of the system (SSL_CERT_FILE
// and SSL_CERT_DIR among them), or, in an image that holds nothing but the program, Mozilla's as they were when it was built.
func trusted(given *x509.CertPool) *x509.CertPool {
	if given != nil {
		return given
	}
	if system, err := x509.SystemCertPool(); err == nil && !system.Equal(x509.NewCertPool()) {
		return system
	}
	return mozilla()
}

func mozilla() *x509.CertPool {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue // it could vouch for nobody
		}
		if root.Constraint == nil {
			pool.AddCert(certificate)
		} else {
			pool.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	return pool
}
