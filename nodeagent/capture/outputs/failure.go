package outputs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
)

// A failure is why copying did not go on, in words of our own: what stores, libraries and name servers say may hold URLs
// with credentials in them, and is not passed on.
type failure struct {
	reason string
	// lasting: trying for longer will hardly help.
	lasting bool
	// code is what a store calls the failure; empty when it gave none.
	code string
	// status of HTTP; 0 when there was no answer.
	status int
}

func (f *failure) Error() string { return f.reason }

// errAnew is wrapped by failures after which a file has to be sent again from its beginning.
var errAnew = errors.New("begins again")

func lasting(format string, arguments ...any) error {
	return &failure{reason: fmt.Sprintf(format, arguments...), lasting: true}
}

func passing(format string, arguments ...any) error {
	return &failure{reason: fmt.Sprintf(format, arguments...)}
}

// explain makes a failure of whatever went wrong.
func explain(err error) *failure {
	var known *failure
	var name *net.DNSError
	var number syscall.Errno
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &name) && name.IsNotFound:
		return &failure{reason: "the store's name has no address"}
	case errors.As(err, &name):
		return &failure{reason: "the address of the store could not be looked up"}
	case isTimeout(err):
		return &failure{reason: "the store did not go on for too long"}
	case isCertificate(err):
		return &failure{reason: "the store's certificate is not trusted, or not for its name", lasting: true}
	case isTLS(err):
		return &failure{reason: "the store does not speak TLS as it should", lasting: true}
	case errors.As(err, &number):
		return &failure{reason: "the connection to the store: " + number.Error()}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &failure{reason: "the store ended the connection"}
	default:
		return &failure{reason: "the connection to the store broke"}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

func isCertificate(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}

func isTLS(err error) bool {
	var alert tls.AlertError
	var record tls.RecordHeaderError
	return errors.As(err, &alert) || errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch)
}

// storeCode is what names of failures look like at all three stores. Anything else is not repeated.
var storeCode = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{1,63}$`)

// Codes of failures of a request that may go well the next time, although the status says that the client is at fault.
var passingCodes = map[string]bool{
	"BadDigest": true, "XAmzContentSHA256Mismatch": true, "XAmzContentChecksumMismatch": true, "InvalidDigest": true,
	"IncompleteBody": true, "RequestTimeout": true, "Md5Mismatch": true, "Crc64Mismatch": true, "OperationAborted": true,
	"ServerBusy": true, "SlowDown": true, "RequestTimeTooSkewed": true, "ExpiredToken": true,
}

// refusal is the failure that an answer with the given status and code means.
func refusal(what string, status int, code string) *failure {
	if !storeCode.MatchString(code) {
		code = ""
	}
	f := &failure{code: code, status: status}
	said := fmt.Sprintf("%d", status)
	if code != "" {
		said += " " + code
	}
	f.reason = fmt.Sprintf("%s: the store answered %s", what, said)
	switch {
	case status >= 300 && status < 400:
		f.reason += "; redirects are not followed: give the store's own endpoint and region"
		f.lasting = true
	case status == 408, status == 425, status == 429, status >= 500 && status != 501, passingCodes[code]:
	default:
		f.lasting = true
	}
	return f
}

// localFailure is about the files of this node, whose paths are nobody's business.
func localFailure(what string, err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return lasting("%s: %s", what, number.Error())
	}
	return lasting("%s: %s", what, strings.ReplaceAll(strings.ToValidUTF8(fmt.Sprintf("%.100q", err.Error()), "?"), `"`, "'"))
}
