// Command traffic makes and takes known amounts of network traffic. The end-to-end tests and the demo run
// it in pods.
//
//	traffic serve                      TCP and UDP sink on :9000, HTTP on :8080, until it is ended
//	traffic udp ADDR:PORT COUNT SIZE [PAUSE]
//	                                   COUNT datagrams (0: until ended) of SIZE bytes, PAUSE apart
//	traffic ports ADDR COUNT           COUNT datagrams, each to another port of ADDR or from another port of ours
//	traffic tcp ADDR:PORT BYTES        one connection; waits until the sink has confirmed every byte
//	traffic connect ADDR:PORT COUNT TIMEOUT
//	                                   COUNT connections, each closed when it is there; says how many were not
//	traffic http URL COUNT PAUSE       COUNT requests (0: until ended), PAUSE apart
//	traffic dns NAME COUNT PAUSE       COUNT look-ups (0: until ended), PAUSE apart
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve(ctx)
	case len(args) == 4 && args[0] == "udp":
		return sendUDP(ctx, args[1], args[2], args[3], "0s")
	case len(args) == 5 && args[0] == "udp":
		return sendUDP(ctx, args[1], args[2], args[3], args[4])
	case len(args) == 3 && args[0] == "ports":
		return sendPorts(args[1], args[2])
	case len(args) == 3 && args[0] == "tcp":
		return sendTCP(args[1], args[2])
	case len(args) == 4 && args[0] == "connect":
		return connect(args[1], args[2], args[3])
	case len(args) == 4 && args[0] == "http":
		return repeat(ctx, args[2], args[3], func() error { return get(ctx, args[1]) })
	case len(args) == 4 && args[0] == "dns":
		return repeat(ctx, args[2], args[3], func() error {
			_, err := net.DefaultResolver.LookupHost(ctx, args[1])
			return err
		})
	}
	return errors.New("usage: traffic serve | udp ADDR:PORT COUNT SIZE [PAUSE] | ports ADDR COUNT | tcp ADDR:PORT BYTES | connect ADDR:PORT COUNT TIMEOUT | http URL COUNT PAUSE | dns NAME COUNT PAUSE")
}

func serve(ctx context.Context) error {
	listener, err := net.Listen("tcp", ":9000")
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", ":9000")
	if err != nil {
		return err
	}
	failed := make(chan error, 3)
	go func() { failed <- sinkTCP(listener) }()
	go func() { failed <- sinkUDP(packets) }()
	go func() { failed <- serveHTTP() }()
	fmt.Println("serving TCP and UDP on :9000, HTTP on :8080")
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func serveHTTP() error {
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	answer := hostname + "\n" + strings.Repeat("x", 1000) + "\n"
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) })
	server := &http.Server{Addr: ":8080", Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}

// sinkTCP reads each connection to its end and answers with the number of bytes that it got.
func sinkTCP(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			n, err := io.Copy(struct{ io.Writer }{io.Discard}, conn)
			if err == nil {
				binary.Write(conn, binary.BigEndian, n)
			}
		}()
	}
}

func sinkUDP(packets net.PacketConn) error {
	buffer := make([]byte, 64<<10)
	for {
		if _, _, err := packets.ReadFrom(buffer); err != nil {
			return err
		}
	}
}

func sendUDP(ctx context.Context, address, countText, sizeText, pauseText string) error {
	size, err := strconv.Atoi(sizeText)
	if err != nil {
		return fmt.Errorf("reading SIZE: %w", err)
	}
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	datagram := make([]byte, size)
	return repeat(ctx, countText, pauseText, func() error {
		_, err := conn.Write(datagram)
		for errors.Is(err, syscall.ECONNREFUSED) {
			_, err = conn.Write(datagram) // the refusal was of an earlier one, and this one was not sent
		}
		return err
	})
}

// sendPorts sends to ports 10000 to 59999, over and over, each time from a new port.
func sendPorts(address, countText string) error {
	count, err := strconv.Atoi(countText)
	if err != nil {
		return fmt.Errorf("reading COUNT: %w", err)
	}
	to := &net.UDPAddr{IP: net.ParseIP(address)}
	if to.IP == nil {
		return fmt.Errorf("reading ADDR: %q is no address", address)
	}
	const first, ports = 10_000, 50_000
	var conns []net.PacketConn // open until the end: a port that is closed may be given again
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	for sent := range count {
		if sent%ports == 0 {
			conn, err := net.ListenPacket("udp", ":0")
			if err != nil {
				return err
			}
			conns = append(conns, conn)
		}
		to.Port = first + sent%ports
		if _, err := conns[len(conns)-1].WriteTo([]byte("port"), to); err != nil {
			return err
		}
	}
	return nil
}

func sendTCP(address, bytesText string) error {
	total, err := strconv.ParseInt(bytesText, 10, 64)
	if err != nil {
		return fmt.Errorf("reading BYTES: %w", err)
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.CopyN(conn, zeros{}, total); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var received int64
	if err := binary.Read(conn, binary.BigEndian, &received); err != nil {
		return fmt.Errorf("waiting for the sink's count: %w", err)
	}
	if received != total {
		return fmt.Errorf("the sink got %d of %d bytes", received, total)
	}
	// Whoever closes before the peer's FIN is there leaves its acknowledgment to the kernel, and in no cgroup.
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return fmt.Errorf("waiting for the sink to close: %w", err)
	}
	fmt.Printf("sent %d bytes\n", total)
	return nil
}

func connect(address, countText, timeoutText string) error {
	count, err := strconv.Atoi(countText)
	if err != nil {
		return fmt.Errorf("reading COUNT: %w", err)
	}
	timeout, err := time.ParseDuration(timeoutText)
	if err != nil {
		return fmt.Errorf("reading TIMEOUT: %w", err)
	}
	failed := 0
	for range count {
		conn, err := net.DialTimeout("tcp", address, timeout)
		if err != nil {
			failed++
			continue
		}
		conn.Close()
	}
	fmt.Printf("%d connected, %d failed\n", count-failed, failed)
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func get(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	return nil
}

// repeat calls do count times, or until ctx ends when count is 0. A failure in the endless form is printed
// and does not end it: the demo's clients outlive their servers' restarts.
func repeat(ctx context.Context, countText, pauseText string, do func() error) error {
	count, err := strconv.Atoi(countText)
	if err != nil {
		return fmt.Errorf("reading COUNT: %w", err)
	}
	pause, err := time.ParseDuration(pauseText)
	if err != nil {
		return fmt.Errorf("reading PAUSE: %w", err)
	}
	for done := 0; ctx.Err() == nil && (count == 0 || done < count); done++ {
		if err := do(); err != nil && count != 0 {
			return err
		} else if err != nil {
			fmt.Fprintln(os.Stderr, "traffic:", err)
		}
		if pause == 0 {
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	fmt.Printf("done %d times\n", count)
	return nil
}
