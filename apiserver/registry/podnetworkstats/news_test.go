package podnetworkstats

import (
	"testing"
	"time"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/labels"
)

// TestNewsForAll: one who begins to watch, and so is the first to see that something changed, takes no news away
// from those who watched before.
func TestNewsForAll(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		r.put("x", "a", "n1", nil)
		w := r.watch(in("x"), initially())
		defer w.Stop()
		w.want("ADDED x/a Measured 0", `BOOKMARK end="true"`)
		time.Sleep(12 * time.Second)
		w.want()
		for _, silence := range []string{"no answer", ""} {
			want := "Measured 0"
			if silence != "" {
				want = "NodeSilent"
			}
			r.agents.Silence("n1", silence)
			other := r.watch(in("x"), initially())
			other.want("ADDED x/a "+want, `BOOKMARK end="true"`)
			other.Stop()
			time.Sleep(20 * time.Second)
			w.want("MODIFIED x/a " + want)
		}
	})
}

// TestNewsWhileAway: a client that comes back is told the numbers that others were told while it was away.
func TestNewsWhileAway(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		uid := r.put("x", "a", "n1", nil)
		stays := r.watch(in("x"), initially())
		defer stays.Stop()
		w := r.watch(in("x"), initially())
		w.want("ADDED x/a Measured 0", `BOOKMARK end="true"`)
		w.Stop()
		r.agents.Count(uid, 9)
		time.Sleep(11 * time.Second)
		w = r.watch(in("x"), metainternalversion.ListOptions{ResourceVersion: w.last.ResourceVersion})
		defer w.Stop()
		time.Sleep(30 * time.Second)
		w.want("MODIFIED x/a Measured 9")
	})
}

// TestDeletedShowsLastNumbers: what is deleted is shown as it last was.
func TestDeletedShowsLastNumbers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		r.agents.Count(r.put("x", "a", "n1", nil), 9)
		w := r.watch(in("x"), initially())
		defer w.Stop()
		w.want("ADDED x/a Measured 9", `BOOKMARK end="true"`)
		r.delete("x", "a")
		w.want("DELETED x/a")
		if w.last.Traffic == nil || w.last.Traffic.Receive.NonIP.Packets != 9 {
			t.Errorf("%s %q, %+v", w.last.State, w.last.Message, w.last.Traffic)
		}
	})
}

// TestLeftWhileAway: what left the selection while a client was away is shown to it with numbers, too.
func TestLeftWhileAway(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		r.agents.Count(r.put("x", "a", "n1", map[string]string{"app": "web"}), 9)
		options := initially()
		options.LabelSelector = labels.SelectorFromSet(labels.Set{"app": "web"})
		w := r.watch(in("x"), options)
		w.want("ADDED x/a Measured 9", `BOOKMARK end="true"`)
		w.Stop()
		r.put("x", "a", "n1", map[string]string{"app": "other"})
		w = r.watch(in("x"), metainternalversion.ListOptions{ResourceVersion: w.last.ResourceVersion, LabelSelector: options.LabelSelector})
		defer w.Stop()
		w.want("DELETED x/a")
		if w.last.Traffic == nil || w.last.Traffic.Receive.NonIP.Packets != 9 {
			t.Errorf("%s %q, %+v", w.last.State, w.last.Message, w.last.Traffic)
		}
	})
}
