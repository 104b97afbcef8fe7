package podmap

import (
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
