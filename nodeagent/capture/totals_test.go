package capture

import (
	"testing"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

func TestTotalsOutliveCapturesAndBeginWithTheAgent(t *testing.T) {
	dir := t.TempDir()
	e := start(t, dir)
	quota := e.Totals().Quota
	c := connect(t, 1)
	r := request(c.pod)
	r.EthernetFilter = udp
	e.recording(r, 1)
	c.send(t, 1, 50, 100, "hello")
	fakepod.Eventually(t, "packets to be counted", func() bool { return e.Totals().Packets == 50 })
	if got := e.Totals(); got.Running != 1 || got.Ended != 0 || got.Bytes == 0 || got.Quota != quota || quota == 0 {
		t.Errorf("while it runs the totals are %+v", got)
	}
	e.end(r.Uid)
	if got := e.Totals(); got.Running != 0 || got.Ended != 1 || got.Packets != 50 {
		t.Errorf("when it has ended they are %+v", got)
	}
	next := recovered(t, copyFolder(t, dir), func(err error) { t.Error(err) })
	if got := next.Totals(); got.Packets != 0 || got.Ended != 1 || got.Bytes == 0 {
		t.Errorf("with the next agent they are %+v", got)
	}
	e.delete(r.Uid)
	if got := e.Totals(); got != (Totals{Packets: 50, Quota: quota}) {
		t.Errorf("when it was deleted they are %+v", got)
	}
}
