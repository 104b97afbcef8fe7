package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"
	restclient "k8s.io/client-go/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A connection is what a server does with one that it has taken over.
type connection func(t *testing.T, conn io.ReadWriter)

// serve answers every request by taking over its connection, and gives a client.
func serve(t *testing.T, then connection) (client *http.Client, url string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !Asked(r) {
			_, _ = io.WriteString(w, "plain") // The client sees what is missing.
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		then(t, conn)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	client, err := restclient.HTTPClientFor(Config(&restclient.Config{Host: server.URL, TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return client, server.URL
}

func head(protocol, size string) string {
	return fmt.Sprintf("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n", protocol, Size, size)
}

// sending is a server that sends some text and closes the connection.
func sending(text string) connection {
	return func(t *testing.T, conn io.ReadWriter) {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Error(err)
		}
	}
}

func TestGet(t *testing.T) {
	content := strings.Repeat("packet", 100_000)
	for _, test := range []struct {
		name, sent string
		want       error
	}{
		{"whole", head(Protocol, "600000") + content, nil},
		{"cut", head(Protocol, "600001") + content, io.ErrUnexpectedEOF},
		{"nothing", head(Protocol, "1"), io.ErrUnexpectedEOF},
		{"empty", head(Protocol, "0"), nil},
		{"more than announced", head(Protocol, "600000") + content + "more", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, url := serve(t, sending(test.sent))
			response, err := Get(t.Context(), client, url, true)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var got bytes.Buffer
			n, err := got.ReadFrom(response.Body)
			if !errors.Is(err, test.want) || err == nil && n != response.ContentLength || !strings.HasPrefix(content, got.String()) {
				t.Errorf("%d bytes of %d: %v, want %v", n, response.ContentLength, err, test.want)
			}
		})
	}
}

func TestGetRefuses(t *testing.T) {
	for _, sent := range []string{head("websocket", "1") + "x", head(Protocol, "") + "x", head(Protocol, "-1") + "x", head(Protocol, "9999999999999999999") + "x"} {
		client, url := serve(t, sending(sent))
		if response, err := Get(t.Context(), client, url, true); err == nil {
			response.Body.Close()
			t.Errorf("%q is taken", sent)
		}
	}
}

func TestGetPlain(t *testing.T) {
	client, url := serve(t, nil)
	response, err := Get(t.Context(), client, url, false)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "plain" || response.ProtoMajor != 1 {
		t.Errorf("%s %q: %v", response.Proto, body, err)
	}
}

// TestGetEnds: a context that ends leaves the connection, though nothing comes.
func TestGetEnds(t *testing.T) {
	left := make(chan struct{})
	client, url := serve(t, func(t *testing.T, conn io.ReadWriter) {
		sending(head(Protocol, "10")+"12345")(t, conn)
		_, _ = io.Copy(io.Discard, conn) // It ends when the client has left.
		close(left)
	})
	ctx, end := context.WithCancelCause(t.Context())
	response, err := Get(ctx, client, url, true)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadFull(response.Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	end(enough)
	if _, err := response.Body.Read(make([]byte, 5)); !errors.Is(err, enough) {
		t.Errorf("reading ended with %v", err)
	}
	<-left
}

// TestAsked wants an upgrade to be asked for as HTTP has it: whoever does not would take the file for answers to other requests.
func TestAsked(t *testing.T) {
	for _, test := range []struct {
		name                string
		major, minor        int
		connection, upgrade string
		want                bool
	}{
		{"as it is done", 1, 1, "keep-alive, upgrade", Protocol, true},
		{"without Connection", 1, 1, "", Protocol, false},
		{"another protocol", 1, 1, "Upgrade", "websocket", false},
		{"HTTP/1.0", 1, 0, "Upgrade", Protocol, false},
		{"HTTP/2", 2, 0, "Upgrade", Protocol, false},
	} {
		request := &http.Request{ProtoMajor: test.major, ProtoMinor: test.minor, Header: http.Header{"Upgrade": {test.upgrade}}}
		if test.connection != "" {
			request.Header.Set("Connection", test.connection)
		}
		if got := Asked(request); got != test.want {
			t.Errorf("%s: asked is %t", test.name, got)
		}
	}
}
