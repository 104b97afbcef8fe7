package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	dnsPort, apiPort = 53, 6443
	// Each apiEvery-th pod talks to what is told to be the Kubernetes API.
	apiEvery = 10
)

// talk gives pods what they have no series without: lookups that succeed and fail, a dropped packet, and for some a
// connection to the Kubernetes API. The agent has to be counting.
func (a *agent) talk(ctx context.Context, l *load) error {
	resolver, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", dnsPort))
	if err != nil {
		return err
	}
	defer resolver.Close()
	go resolve(resolver)
	api, err := net.Listen("tcp4", fmt.Sprintf(":%d", apiPort))
	if err != nil {
		return err
	}
	defer api.Close()
	go echo(api)
	request := &agentv1.ReadStatsRequest{Node: true}
	for i := 0; i < len(l.pids); i += apiEvery {
		request.ApiServers = append(request.ApiServers, at(i, 1, apiPort))
	}
	if _, _, err := a.read(ctx, request); err != nil {
		return fmt.Errorf("telling where the API is: %w", err)
	}
	for i, pid := range l.pids {
		if err := inNamespace(pid, func() error { return talkFromPod(i) }); err != nil {
			return fmt.Errorf("talking from pod %d: %w", i, err)
		}
	}
	return nil
}

// at is a port at an end of a pod's link.
func at(i, end, port int) string { return fmt.Sprintf("10.88.%d.%d:%d", i, end, port) }

func talkFromPod(i int) error {
	for _, name := range []string{"checkout.team.svc.cluster.local.", "missing.example."} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
			if err := lookup(at(i, 1, dnsPort), name, kind); err != nil {
				return fmt.Errorf("looking up %s: %w", name, err)
			}
		}
	}
	nobody, err := net.Dial("udp4", at(i, 2, sinkPort))
	if err != nil {
		return err
	}
	defer nobody.Close()
	if _, err := nobody.Write([]byte("dropped")); err != nil {
		return err
	}
	if i%apiEvery != 0 {
		return nil
	}
	return send(at(i, 1, apiPort), make([]byte, 4<<10))
}

// lookup asks, and waits for the answer.
func lookup(server, name string, kind dnsmessage.Type) error {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}
	message := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(kind), RecursionDesired: true}, Questions: []dnsmessage.Question{question}}
	packed, err := message.Pack()
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp4", server)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write(packed); err != nil {
		return err
	}
	_, err = conn.Read(packed)
	return err
}

// resolve answers queries until the socket is closed: there is no such name, if its first letter is m.
func resolve(server net.PacketConn) {
	const flags, code, firstLetter = 2, 3, 13
	message := make([]byte, 512)
	for {
		n, from, err := server.ReadFrom(message)
		if err != nil {
			return
		}
		message[flags] |= 0x80 // it is a response
		if message[firstLetter] == 'm' {
			message[code] = byte(dnsmessage.RCodeNameError)
		}
		_, _ = server.WriteTo(message[:n], from)
	}
}
