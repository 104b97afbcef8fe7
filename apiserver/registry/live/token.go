package live

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A token is where a list goes on. Any replica can read it; clients must not. It grants nothing: the request that
// brings it is authorized by itself, and a key outside of the request's namespace only skips objects.
type token struct {
	// Version is that of the first page, from which a client watches when it has the last.
	Version string `json:"v"`
	// Namespace and Name are the key of the last object on the page before.
	Namespace string `json:"ns,omitempty"`
	Name      string `json:"n"`
}

// maxToken, in bytes, is above every token: a namespace has 63 and a name 253.
const maxToken = 1024

func (t token) encode() string {
	text, err := json.Marshal(t)
	if err != nil {
		// Three texts always marshal.
		panic(fmt.Sprintf("encoding a continue token: %v", err))
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// parseToken reads a token and the version in it.
func parseToken(text string) (token, version, error) {
	if len(text) > maxToken {
		return token{}, version{}, fmt.Errorf("longer than %d bytes", maxToken)
	}
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return token{}, version{}, err
	}
	var t token
	decoder := json.NewDecoder(bytes.NewReader(decoded))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&t); err != nil {
		return token{}, version{}, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return token{}, version{}, errors.New("more than one value")
	}
	if t.Name == "" {
		return token{}, version{}, errors.New("no name")
	}
	v, err := parseVersion(t.Version)
	return t, v, err
}
