// Package download is how a file of packets comes over a connection of its own. A client asks for subresource pcap of a capture, with
// or without node, as for any answer, but with the headers
//
//	Connection: Upgrade
//	Upgrade: pcapng.networkobservability.k8s.io
//
// over HTTP/1.1, as for the streams of kubectl exec. The server's answer is 101 with the same header Upgrade, an ETag, and Size: how many
// bytes of the file follow. Behind them the connection is closed; a connection that ends earlier was broken off. Every other
// answer is one as without upgrade. kube-apiserver passes such a connection on as it is, which takes two thirds of the processor
// time of an answer, from it and from the server behind it.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	restclient "k8s.io/client-go/rest"

	"github.com/networkobservability/networkobservability/apis/bulk"
)

const (
	// Protocol is the value of header Upgrade.
	Protocol = "pcapng.networkobservability.k8s.io"
	// Size is the header with the number of bytes that follow a 101.
	Size = "X-Pcapng-Size"
	// readAhead is how much is read at a time.
	readAhead = 256 << 10
)

// Asked is whether a request asks for a connection of its own. Without Connection, what is between may not know of it, and takes what
// comes for answers to others.
func Asked(request *http.Request) bool {
	return request.ProtoMajor == 1 && request.ProtoAtLeast(1, 1) &&
		httpguts.HeaderValuesContainsToken(request.Header["Connection"], "Upgrade") && strings.EqualFold(request.Header.Get("Upgrade"), Protocol)
}

// Config is a copy of a client's configuration for reading packets: over HTTP/1.1, of which kube-apiserver makes half the work
// of HTTP/2, and with few system calls.
func Config(config *restclient.Config) *restclient.Config {
	config = restclient.CopyConfig(config)
	config.NextProtos = []string{"http/1.1"}
	dial := config.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return bulk.New(conn, readAhead), nil
	}
	return config
}

// Get asks for a file of packets, with a client of a Config, over a connection of its own when upgrade is true. A response with
// 200 or 101 has the file's bytes as its body, and reading it fails when these are not all that were announced. Others are
// answers of the Kubernetes API.
func Get(ctx context.Context, client *http.Client, url string, upgrade bool) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if upgrade {
		request.Header.Set("Connection", "Upgrade")
		request.Header.Set("Upgrade", Protocol)
	}
	response, err := client.Do(request)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		return response, err
	}
	left, err := strconv.ParseInt(response.Header.Get(Size), 10, 64)
	if err != nil || left < 0 || !strings.EqualFold(response.Header.Get("Upgrade"), Protocol) {
		response.Body.Close()
		return nil, fmt.Errorf("the server upgraded to %q with %d bytes of %q, which is not what was asked for", response.Header.Get("Upgrade"), left, response.Header.Get(Size))
	}
	response.ContentLength = left
	response.Body = newBody(ctx, response.Body, left)
	return response, nil
}

// A body ends after the bytes that were announced, and with its context, which net/http no longer looks at behind a 101.
type body struct {
	io.ReadCloser
	ctx   context.Context
	leave func() bool
	left  int64
}

func newBody(ctx context.Context, from io.ReadCloser, left int64) *body {
	leave := context.AfterFunc(ctx, func() { from.Close() })
	return &body{ReadCloser: from, ctx: ctx, leave: leave, left: left}
}

// Read implements io.Reader.
func (b *body) Read(to []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(to[:min(int64(len(to)), b.left)])
	b.left -= int64(n)
	switch {
	case err == nil, b.left == 0:
		return n, nil
	case b.ctx.Err() != nil:
		err = context.Cause(b.ctx)
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.leave()
	return b.ReadCloser.Close()
}
