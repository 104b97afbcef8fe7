package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	restclient "k8s.io/client-go/rest"

	downloads "github.com/networkobservability/networkobservability/apis/networkobservability/download"
)

// A portion is what to read of a capture.
type portion struct {
	node, namespace, pod string
	headersOnly          bool
}

// whole is true for everything that was recorded.
func (p portion) whole() bool { return p == portion{} }

// narrowed says of which part of a capture a file is.
func (p portion) narrowed() string {
	var of []string
	if p.pod != "" {
		of = append(of, "pod "+p.namespace+"/"+p.pod)
	}
	if p.node != "" {
		of = append(of, "node "+p.node)
	}
	if of == nil {
		return ""
	}
	return "; only what is of " + strings.Join(of, " on ") + " was written"
}

func (p portion) apply(request *restclient.Request) *restclient.Request {
	for key, value := range map[string]string{"node": p.node, "namespace": p.namespace, "pod": p.pod} {
		if value != "" {
			request = request.Param(key, value)
		}
	}
	return request
}

// open begins a stream, over a connection to the server that serves nothing else; over one to the API server behind it, too,
// when upgrade is true. Errors are the server's own.
func (c *captures) open(ctx context.Context, request *restclient.Request, upgrade bool) (*http.Response, error) {
	if c.client == nil {
		client, err := restclient.HTTPClientFor(downloads.Config(c.config))
		if err != nil {
			return nil, err
		}
		c.client = client
	}
	response, err := downloads.Get(ctx, c.client, request.URL().String(), upgrade)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		return nil, statusError(response)
	}
	return response, nil
}

func statusError(response *http.Response) error {
	const longest = 64 << 10
	body, err := io.ReadAll(io.LimitReader(response.Body, longest))
	if err != nil {
		return err
	}
	var status metav1.Status
	if json.Unmarshal(body, &status) == nil && status.Status == metav1.StatusFailure {
		status.Code = int32(response.StatusCode)
		return &apierrors.StatusError{ErrStatus: status}
	}
	return fmt.Errorf("the server answered %s: %s", response.Status, strings.TrimSpace(string(body)))
}

// attach copies packets as they come, until the capture has ended.
func (c *captures) attach(ctx context.Context, name string, what portion, out io.Writer) error {
	request := what.apply(c.to(c.rest.Get(), name).SubResource("attach"))
	if what.headersOnly {
		request = request.Param("headersOnly", "true")
	}
	response, err := c.open(ctx, request, false)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = copyTo(out, response.Body, 1)
	return err
}

// errSink wraps what went wrong where the packets go to.
var errSink = errors.New("writing packets")

// copyTo is io.Copy that tells the two sides' errors apart, and writes so many bytes at a time at least.
func copyTo(out io.Writer, in io.Reader, least int) (n int64, err error) {
	buffer := make([]byte, 256<<10)
	for {
		got, err := readAtLeast(in, buffer, least)
		if got > 0 {
			wrote, err := out.Write(buffer[:got])
			n += int64(wrote)
			if err != nil {
				return n, fmt.Errorf("%w: %w", errSink, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// readAtLeast is io.ReadAtLeast that keeps the reader's error.
func readAtLeast(in io.Reader, buffer []byte, least int) (n int, err error) {
	for n < least && err == nil {
		var got int
		got, err = in.Read(buffer[n:])
		n += got
	}
	return n, err
}

const (
	// written is how much of a file is written at a time.
	written = 128 << 10
	// attempts without a byte more are given up after.
	attempts   = 6
	firstPause = 200 * time.Millisecond
)

// A download reads the file of a capture that has ended. kube-apiserver ends every answer after a minute, so it goes on
// where it was.
type download struct {
	*captures
	name string
	what portion
	out  io.Writer
	// at is how much there is already, and digest of what file.
	at     int64
	digest string
	// plain is whether answers are asked for that need no upgrade of the connection.
	plain bool
	// moved is told of every byte; it may be nil.
	moved func(at int64)
}

func (d *download) run(ctx context.Context) error {
	for failed, pause := 0, firstPause; ; {
		before := d.at
		err := d.once(ctx)
		if err == nil || errors.Is(err, errSink) || final(err) || ctx.Err() != nil {
			return err
		}
		if d.at > before {
			failed, pause = 0, firstPause
			continue
		}
		if failed++; failed == attempts {
			return fmt.Errorf("downloading %s: no further byte after %s in %d attempts: %w", d.name, size(d.at), attempts, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause *= 2
	}
}

// final is true for an answer that will not change.
func final(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout
}

// once reads as much as one answer brings.
func (d *download) once(ctx context.Context) error {
	subresource := "pcap"
	if d.what.headersOnly {
		subresource = "headers"
	}
	request := d.what.apply(d.to(d.rest.Get(), d.name).SubResource(subresource))
	if d.at > 0 {
		request = request.Param("offset", strconv.FormatInt(d.at, 10)).Param("digest", d.digest)
	}
	response, err := d.open(ctx, request, d.upgrades())
	if err != nil {
		var status apierrors.APIStatus
		// Something on the way that does not pass connections on has an answer of its own.
		d.plain = d.plain || !errors.As(err, &status)
		return err
	}
	defer response.Body.Close()
	if d.digest == "" {
		d.digest = strings.Trim(response.Header.Get("ETag"), `"`)
	}
	_, err = copyTo(writerFunc(func(b []byte) (int, error) {
		n, err := d.out.Write(b)
		d.at += int64(n)
		if d.moved != nil {
			d.moved(d.at)
		}
		return n, err
	}), response.Body, written)
	return err
}

// upgrades is whether to ask for a connection of its own, which is for what has a known size.
func (d *download) upgrades() bool { return !d.plain && !d.what.headersOnly && d.what.pod == "" }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
