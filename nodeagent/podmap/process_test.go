package podmap

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// The number of a process that has ended is used again, by force within seconds: whose process it was is not whose it is.
func TestNumberUsedAgain(t *testing.T) {
	fakepod.NeedRoot(t)
	m, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	other := fakepod.New(t, fakepod.Prefix())
	m.seen[other.PID] = sighting{since: time.Now(), key: podUID}
	if pod := m.pod(podUID, []int{other.PID}); pod != nil {
		t.Errorf("pod %s has the namespace of pod %s", pod.Key, other.UID)
		pod.process.close()
	}
	if pod := m.pod(other.UID, []int{other.PID}); pod == nil {
		t.Error("the process is not taken for one of its pod")
	} else {
		pod.process.close()
	}
}

// Whoever gives a namespace its number, everybody has it: without a number nothing is heard of a pod's interfaces.
func TestNumberedByMany(t *testing.T) {
	fakepod.NeedRoot(t)
	for range 20 {
		namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", fakepod.NewNamespace(t).PID))
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		begin := make(chan struct{})
		for range 4 {
			all.Go(func() {
				<-begin
				if number, err := numberOf(int(namespace.Fd())); err != nil || number < 0 {
					t.Errorf("its number is %d: %v", number, err)
				}
			})
		}
		close(begin)
		all.Wait()
		namespace.Close()
	}
}
