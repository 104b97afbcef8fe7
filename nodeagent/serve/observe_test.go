package serve

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/status"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// observer gathers what it is told.
type observer chan string

func (o observer) Began(kind string) func(error) {
	o <- "began " + kind
	return func(err error) { o <- fmt.Sprint("ended ", kind, " ", status.Code(err)) }
}

func TestStreamsAreObserved(t *testing.T) {
	told := make(observer, 100)
	s := newSetupWith(t, Config{Reader: &rows{}, Observer: told})
	client := s.asAPIServer()
	if _, err := ask(t, client, &v1alpha1.ReadStatsRequest{PodKeys: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, client, &v1alpha1.ReadStatsRequest{PodKeys: []string{""}}); err == nil {
		t.Fatal("an empty key was taken")
	}
	captures, err := client.ListCaptures(t.Context(), &v1alpha1.ListCapturesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = captures.Recv()
	flows, err := client.ReadFlows(t.Context(), &v1alpha1.ReadFlowsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = flows.Recv()
	for _, want := range []string{
		"began stats", "ended stats OK", "began stats", "ended stats InvalidArgument", "began flows", "ended flows FailedPrecondition",
	} {
		if got := <-told; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
}
