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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

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

// A slowWriter stores nothing of updates before it may.
type slowWriter struct {
	storage.Interface
	writing, written chan struct{}
}

func (w *slowWriter) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions,
	try storage.UpdateFunc, cached runtime.Object) error {
	return w.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, preconditions, func(input runtime.Object, meta storage.ResponseMeta) (runtime.Object, *uint64, error) {
		object, ttl, err := try(input, meta)
		if err == nil {
			w.writing <- struct{}{}
			<-w.written
		}
		return object, ttl, err
	}, cached)
}

// TestCrowdByApply: server-side apply makes captures by an update, which is told of the end before anything is stored.
func TestCrowdByApply(t *testing.T) {
	most := 1
	w := newWorld(t, func(c *Config) { c.Policy.MaxClusterCaptures = &most })
	slow := &slowWriter{Interface: w.storage.ClusterCaptures.Storage.Storage, writing: make(chan struct{}, 100), written: make(chan struct{})}
	w.storage.ClusterCaptures.Storage.Storage = slow
	applied := func(ctx context.Context, name string) error {
		object := &v1alpha1.ClusterCapture{ObjectMeta: metav1.ObjectMeta{Name: name}}
		object.Spec.Nodes = &v1alpha1.CaptureNodes{Selector: &metav1.LabelSelector{}}
		ctx = genericapirequest.WithNamespace(genericapirequest.WithUser(ctx, &user.DefaultInfo{Name: "alice"}), "")
		_, _, err := w.storage.ClusterCaptures.Update(ctx, name, rest.DefaultUpdatedObjectInfo(object), nil, nil, true, &metav1.UpdateOptions{})
		return err
	}
	first := make(chan error, 1)
	go func() { first <- applied(t.Context(), "first") }()
	select {
	case <-slow.writing:
	case err := <-first:
		t.Fatal(err)
	}
	// Nobody gets in by now. Who comes does not wait for it.
	late, cancel := context.WithCancel(t.Context())
	cancel()
	var others sync.WaitGroup
	defer others.Wait()
	refused := make(chan error, 20)
	for i := range 20 {
		others.Go(func() { refused <- applied(late, fmt.Sprintf("c%d", i)) })
	}
	for range 20 {
		select {
		case err := <-refused:
			if !apierrors.IsTimeout(err) {
				t.Errorf("another is made: %v", err)
			}
		case <-slow.writing:
			t.Error("another is being stored")
		}
	}
	close(slow.written)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := applied(t.Context(), "next"); !apierrors.IsForbidden(err) {
		t.Errorf("one too many: %v", err)
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
