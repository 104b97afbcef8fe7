package capture

import "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"

// Totals are of all captures of this node.
type Totals struct {
	// Captures that are here now.
	Running, Ended int64
	// Packets since the agent began, those of captures that were deleted included. They do not fall.
	Packets, RingDrops, DiskDrops, LimitDrops, OtherVantage int64
	// Bytes on disk now, and how many there may be.
	Bytes, Quota int64
}

// Totals adds up.
func (m *Manager) Totals() Totals {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.past
	for _, c := range m.captures {
		t.add(c)
		if c.running() {
			t.Running++
		} else {
			t.Ended++
		}
	}
	for c := range m.leaving {
		t.add(c)
	}
	t.Bytes, t.Quota = m.disk.used.Load(), m.disk.quota
	return t
}

// left adds the counts of a capture, which has ended, to those of the past.
func (m *Manager) left(c *capture) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.past.add(c)
	delete(m.leaving, c)
}

// startTotals has what was recorded before the agent began not count: counters begin at 0 with it.
func (m *Manager) startTotals() {
	for _, c := range m.captures {
		m.past.add(c)
	}
	m.past = Totals{
		Packets: -m.past.Packets, RingDrops: -m.past.RingDrops, DiskDrops: -m.past.DiskDrops,
		LimitDrops: -m.past.LimitDrops, OtherVantage: -m.past.OtherVantage,
	}
}

func (t *Totals) add(c *capture) {
	for _, part := range c.state().GetParts() {
		t.count(part.GetCounts())
	}
}

func (t *Totals) count(counts *v1alpha1.CaptureCounts) {
	t.Packets += counts.GetPackets()
	t.RingDrops += counts.GetRingDrops()
	t.DiskDrops += counts.GetDiskDrops()
	t.LimitDrops += counts.GetLimitDrops()
	t.OtherVantage += counts.GetOtherVantage()
}
