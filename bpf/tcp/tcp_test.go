package tcp

import (
	"encoding/binary"
	"testing"
)

// TestLayouts: both halves agree on how large everything is.
func TestLayouts(t *testing.T) {
	spec, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := spec.Maps[MapTotals].ValueSize, binary.Size(Totals{}); int(got) != want {
		t.Errorf("totals are %d bytes in C and %d in Go", got, want)
	}
	if got, want := spec.Maps[MapAPIServers].KeySize, binary.Size(Endpoint{}); int(got) != want {
		t.Errorf("endpoints are %d bytes in C and %d in Go", got, want)
	}
	if got, want := spec.Maps[MapLive].ValueSize, binary.Size(Live{}); int(got) != want {
		t.Errorf("what there is of a pod's sockets is %d bytes in C and %d in Go", got, want)
	}
	for _, name := range []string{ProgramStateChanges, ProgramResetSent, ProgramResetReceived, ProgramRead, ProgramCount, ProgramSeed} {
		if spec.Programs[name] == nil {
			t.Errorf("there is no program %s", name)
		}
	}
}

func TestDecode(t *testing.T) {
	record := [SocketSize]byte{0: 1, 8: 2, 16: 3, 20: 4, 24: 5, 28: byte(FinWait2), 29: 1}
	var got Socket
	got.Decode(&record)
	want := Socket{ByNamespace: 1, ByCgroup: 2, SmoothedRTT: 3, MinimumRTT: 4, Requests: 5, State: FinWait2, API: true}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	open := map[State]bool{Established: true, FinWait1: true, FinWait2: true, CloseWait: true, LastAck: true, Closing: true}
	for state := Established; state <= Closing; state++ {
		if state == 6 || state == 7 {
			continue // of no Socket
		}
		if got := (&Socket{State: state}).Open(); got != open[state] {
			t.Errorf("state %d: open is %v", state, got)
		}
	}
}
