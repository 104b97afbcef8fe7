package networkflows

import (
	"context"
	"errors"
	"slices"
	"testing"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// TestArrivalsAreReadAgain: what pods had before they were asked for is told of, also when the agent does not answer at first.
func TestArrivalsAreReadAgain(t *testing.T) {
	w := newWorld(t)
	w.pod("x", "a", "n1", nil)
	b := w.pod("x", "b", "n1", nil)
	w.agents.Record("n1", w.flow(b, "198.51.100.1", 1))
	f := &feed{node: "n1", known: true, instance: w.agents.Instance("n1"), revision: 1}
	if err := w.rest.hub.catchUpArrivals(t.Context(), f, []string{"x/a"}); err != nil {
		t.Fatal(err)
	}
	both := []string{"x/a", "x/b"}
	silence := errors.New("no answer")
	w.agents.Silence("n1", silence)
	if err := w.rest.hub.catchUpArrivals(t.Context(), f, both); !errors.Is(err, silence) {
		t.Fatalf("a silent agent: %v", err)
	}
	w.agents.Silence("n1", nil)
	w.agents.Asked()
	for _, want := range []int{1, 0} {
		if err := w.rest.hub.catchUpArrivals(t.Context(), f, both); err != nil {
			t.Fatal(err)
		}
		asked := w.agents.Asked()
		if len(asked) != want || want > 0 && !slices.Equal(asked[0].Request.PodKeys, []string{"x/b"}) {
			t.Errorf("asked %v, want %d reads of x/b", asked, want)
		}
	}
}

// held is a source whose answers wait, once they are there, until let.
type held struct {
	Source
	answered, let chan struct{}
}

func (h held) Read(ctx context.Context, node string, request *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error {
	var batches []*agentv1.ReadFlowsResponse
	err := h.Source.Read(ctx, node, request, func(batch *agentv1.ReadFlowsResponse) error {
		batches = append(batches, batch)
		return nil
	})
	h.answered <- struct{}{}
	<-h.let
	for _, batch := range batches {
		if err := take(batch); err != nil {
			return err
		}
	}
	return err
}

// late is a source whose streams begin once begin is closed.
type late struct {
	Source
	begin chan struct{}
}

func (l late) Read(ctx context.Context, node string, request *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error {
	if request.Follow {
		select {
		case <-l.begin:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return l.Source.Read(ctx, node, request, take)
}

// TestFlowGoesBeforeTheStream: a flow that was read and went between a history being found empty and it being followed is told to be gone.
func TestFlowGoesBeforeTheStream(t *testing.T) {
	w := newWorld(t)
	source := late{w.agents, make(chan struct{})}
	w.rest.hub.source = source
	a := w.pod("x", "a", "n1", nil)
	w.watch("x", streaming()).want("BOOKMARK true")
	first := w.agents.Record("n1", w.flow(a, "198.51.100.1", 1))
	c := w.watch("x", streaming())
	c.want("ADDED a 3", "BOOKMARK true")
	w.agents.Remove("n1", first)
	close(source.begin)
	c.want("DELETED a")
}

// TestFlowGoesWhileItIsRead: of a flow that goes while a watch begins the client is not told, and after a list the books
// know that it went.
func TestFlowGoesWhileItIsRead(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	record := func() int64 { return w.agents.Record("n1", w.flow(a, "198.51.100.1", 1)) }
	first, second := record(), record()
	no := false
	other := w.watch("x", &metainternalversion.ListOptions{SendInitialEvents: &no})
	source := held{w.agents, make(chan struct{}), make(chan struct{})}
	w.rest.source = source
	// goes removes a flow that was read, and returns when the hub has heard of it.
	goes := func(position int64) {
		<-source.answered
		w.agents.Remove("n1", position)
		record()
		other.want("ADDED a 3")
		source.let <- struct{}{}
	}

	c := w.watch("x", streaming())
	goes(first)
	c.want("ADDED a 3", "BOOKMARK true", "ADDED a 3") // the second one, and what was recorded meanwhile
	w.agents.Remove("n1", second)
	c.want("DELETED a")
	other.want("DELETED a")

	third := w.agents.Positions("n1")[0]
	w.rest.hub.mu.Lock()
	w.rest.hub.closeBook("n1") // as if nobody had been told yet
	w.rest.hub.mu.Unlock()
	listed := make(chan error)
	go func() {
		_, err := w.rest.List(w.request("x"), nil)
		listed <- err
	}()
	goes(third)
	if err := <-listed; err != nil {
		t.Fatal(err)
	}
	w.rest.hub.mu.Lock()
	defer w.rest.hub.mu.Unlock()
	b := w.rest.hub.books["n1"]
	if _, told := b.pods[third]; !told || !slices.ContainsFunc(b.gone, func(d departed) bool { return d.position == third }) {
		t.Errorf("of flow %d the books say %v, and that %v have gone", third, b.pods, b.gone)
	}
}
