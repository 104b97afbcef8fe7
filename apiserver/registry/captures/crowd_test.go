package captures

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestCrowd: however many come at once, no more cluster captures are there than the operator allows.
func TestCrowd(t *testing.T) {
	most := 5
	w := newWorld(t, func(c *Config) { c.Policy.MaxClusterCaptures = &most })
	var running sync.WaitGroup
	codes := make(chan int, 50)
	for i := range 50 {
		running.Go(func() {
			name, query := fmt.Sprintf("c%d", i), ""
			if i%2 == 1 {
				query = "?dryRun=All"
			}
			answered := w.do(http.MethodPost, base+"/clustercaptures"+query, "application/yaml", manifest("ClusterCapture", name, "{nodes: {selector: {}}}"))
			if query == "" {
				codes <- answered.code
			}
			if answered.code == http.StatusForbidden && !strings.Contains(answered.body, "there are 5 already, and the operator of the cluster allows 5: delete one") {
				t.Errorf("answered %s", answered.body)
			}
		})
	}
	running.Wait()
	close(codes)
	count := map[int]int{}
	for code := range codes {
		count[code]++
	}
	if count[http.StatusCreated] != most || count[http.StatusForbidden] != 25-most {
		t.Errorf("answered %v", count)
	}
	// One that goes makes room.
	if got := w.do(http.MethodDelete, base+"/clustercaptures?", "", ""); got.code != http.StatusOK {
		t.Fatalf("deleting all answered %d: %s", got.code, got.body)
	}
	if got := w.do(http.MethodPatch, base+"/clustercaptures/new?fieldManager=a", apply, manifest("ClusterCapture", "new", "{nodes: {selector: {}}}")); got.code != http.StatusCreated {
		t.Errorf("answered %d: %s", got.code, got.body)
	}
}

// TestCrowdIsLeft: who fails, or waits for nothing, keeps nobody out.
func TestCrowdIsLeft(t *testing.T) {
	list := func(context.Context) (runtime.Object, error) { return &v1alpha1.ClusterCaptureList{}, nil }
	c := &crowd{resource: "clustercaptures", most: 1, creating: make(chan struct{}, 1), list: func(context.Context) (runtime.Object, error) {
		return nil, errors.New("no storage")
	}}
	if _, err := c.enter(t.Context(), "a"); err == nil {
		t.Error("entered without storage")
	}
	c.list = list
	leave, err := c.enter(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.enter(ctx, "b"); !apierrors.IsTimeout(err) {
		t.Errorf("entered twice: %v", err)
	}
	leave(t.Context(), true)
	if leave, err = c.enter(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	leave(t.Context(), false)
}
