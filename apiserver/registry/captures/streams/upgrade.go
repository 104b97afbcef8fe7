package streams

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/networkobservability/networkobservability/apis/networkobservability/download"
)

// errGone says that the client has left a connection that was taken over. It is told apart from other ends as net/http does it.
var errGone = fmt.Errorf("the connection was closed: %w", context.Canceled)

// upgrades is whether a request asks for the connection itself. Only files whose size is known before can be had so: nothing
// else would tell their end.
func (s *session) upgrades(request *http.Request) (bool, error) {
	if !download.Asked(request) {
		return false, nil
	}
	if !s.exact() {
		return false, apierrors.NewBadRequest(fmt.Sprintf("Upgrade: %s is for subresource pcap without parameter pod", download.Protocol))
	}
	return true, nil
}

// takeOver takes the connection from the HTTP server, and answers on it. The headers of the answer are set.
func (o *output) takeOver() error {
	header := o.response.Header()
	conn, _, err := http.NewResponseController(o.response).Hijack()
	if err != nil {
		return fmt.Errorf("taking over the connection: %w", err)
	}
	o.began = true
	o.mu.Lock()
	o.conn = conn
	late := o.late
	o.mu.Unlock()
	if late {
		o.abort()
	}
	o.watching.Go(func() {
		_, _ = io.Copy(io.Discard, conn) // Clients send nothing; it ends when they leave.
		o.gone()
	})
	header.Set(download.Size, header.Get("Content-Length"))
	header.Del("Content-Length")
	header.Set("Connection", "Upgrade")
	header.Set("Upgrade", download.Protocol)
	var answer bytes.Buffer
	fmt.Fprintf(&answer, "HTTP/1.1 %d %s\r\n", http.StatusSwitchingProtocols, http.StatusText(http.StatusSwitchingProtocols))
	_ = header.Write(&answer) // A buffer takes everything.
	answer.WriteString("\r\n")
	if _, err := conn.Write(answer.Bytes()); err != nil {
		return clientError{err}
	}
	return nil
}

// leave closes a connection that was taken over. One that is not whole is broken off: its end must not wait for the client.
func (o *output) leave(whole bool) {
	if o.conn == nil {
		return
	}
	if over, ok := o.conn.(*tls.Conn); ok && !whole {
		over.NetConn().Close()
	}
	o.conn.Close()
	o.watching.Wait()
}
