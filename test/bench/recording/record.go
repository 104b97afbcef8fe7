package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
)

// recordArgument makes this program a recorder: FILE SNAP.
const recordArgument = "record"

// chunk is how much is written at once.
const chunk = 256 << 10

// record writes the packets of device to a file until it is interrupted. It says when it is ready, and at the end how
// many packets there were, as tcpdump does.
func record(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: recording record FILE SNAP")
	}
	snap, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	file, err := os.Create(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	r, err := ring.Open(ring.Config{Interface: device, SnapLength: snap, Bytes: ringBytes})
	if err != nil {
		return err
	}
	defer r.Close()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT)
	stopped := make(chan error, 1)
	go func() {
		<-interrupted
		stopped <- r.Stop()
	}()
	fmt.Fprintf(os.Stderr, "listening on %s\n", device)
	err = write(r, file, snap)
	if err = errors.Join(err, <-stopped); err != nil {
		return err
	}
	_, dropped, err := r.Statistics()
	fmt.Fprintf(os.Stderr, "%d packets captured\n%d packets dropped by kernel\n", r.Delivered(), dropped)
	return err
}

// write encodes packets and writes them in chunks. A chunk that is not full is written when no more packets wait.
func write(r *ring.Ring, file *os.File, snap int) error {
	buffer := pcapng.AppendSection(make([]byte, 0, chunk+snap+1<<10), pcapng.Section{})
	buffer = pcapng.AppendInterface(buffer, pcapng.Interface{Name: device, SnapLength: uint32(snap)})
	flush := func() error {
		_, err := file.Write(buffer)
		buffer = buffer[:0]
		return err
	}
	err := r.Run(func(block *ring.Block) error {
		for packet, ok := block.Next(); ok; packet, ok = block.Next() {
			buffer = pcapng.AppendPacket(buffer, 0, packet.Time, packet.Data, packet.Original, packet.Direction)
			if len(buffer) >= chunk {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return errors.Join(err, flush())
}
