package captures

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestLife follows a capture from its creation to its deletion.
func TestLife(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.pod("n1", "a", web)
	w.pod("n2", "other", map[string]string{"app": "other"})
	w.controller("one")
	w.capture("web")
	w.eventually("recording", func() bool { return w.condition("web", v1alpha1.CaptureStarted) == "True Recording" })
	if on := w.fleet.capturesOn("n2"); len(on) != 0 {
		t.Errorf("n2, which hosts nothing that matches, records %v", on)
	}

	w.pod("n2", "b", web)
	w.eventually("joining", func() bool { return w.get("web").Status.Pods == 2 })

	w.stop("web")
	w.eventually("the end", func() bool { return w.condition("web", v1alpha1.CaptureComplete) == "True Stopped" })
	status := w.get("web").Status
	if status.File == nil || len(status.File.Digest) != 32 || status.File.Bytes <= 200 || status.CompletionTime == nil {
		t.Errorf("the file is %+v", status.File)
	}
	if len(status.Targets) != 2 || status.Targets[0].Phase != v1alpha1.CaptureEnded || status.Control.Ending != endStopped {
		t.Errorf("the status is %+v", status)
	}
	w.eventually("an Event about the end", func() bool {
		events, err := w.kube.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
		must(t, err)
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "Completed" && e.InvolvedObject.Name == "web" })
	})

	w.delete("web")
	w.eventually("removal from the nodes", func() bool { return len(w.fleet.capturesOn("n1"))+len(w.fleet.capturesOn("n2")) == 0 })
}

// TestTakeover: another replica goes on where the first one left off.
func TestTakeover(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.pod("n1", "a", web)
	w.pod("n2", "b", web)
	_, stop := w.controller("one")
	w.capture("web", func(s *v1alpha1.CaptureSpec) { s.Limits.Packets = new(int64(1000)) })
	w.eventually("recording", func() bool { return w.get("web").Status.Pods == 2 })
	stop()
	first := w.get("web").Status.Control.Revision
	w.controller("two")
	w.eventually("the takeover", func() bool { return w.get("web").Status.Control.Revision > first })
	w.eventually("requests of the new leader", func() bool {
		state, err := w.fleet.with("n1", "uid-of-web", func(*storyAgent) error { return nil })
		return err == nil && state.Revision > first+revisions
	})
	w.stop("web")
	w.eventually("the end", func() bool { return w.condition("web", v1alpha1.CaptureComplete) == "True Stopped" })
}

// TestOrphans: what was recorded for captures that are gone, or for another one of the same name, is deleted; what belongs to one
// that exists is not.
func TestOrphans(t *testing.T) {
	w := newWorld(t, "n1")
	w.pod("n1", "a", web)
	w.capture("web")
	for _, uid := range []string{"gone", "older", "nameless"} {
		name := map[string]string{"gone": "nobody", "older": "web"}[uid]
		_, err := w.fleet.Ensure(t.Context(), "n1", &agentv1.EnsureCaptureRequest{Uid: uid, Namespace: "shop", Name: name})
		must(t, err)
	}
	w.controller("one")
	w.eventually("the sweep", func() bool {
		return slices.Equal(w.fleet.capturesOn("n1"), []string{"nameless", "uid-of-web"})
	})
}

// TestStore: credentials are read for the requester, and only while it may.
func TestStore(t *testing.T) {
	output := func(s *v1alpha1.CaptureSpec) {
		s.Outputs = []v1alpha1.CaptureOutput{{Name: "bucket", S3: &v1alpha1.CaptureOutputS3{Bucket: "b", Prefix: "p", SecretName: "keys"}}}
	}
	for name, test := range map[string]struct {
		denied string
		want   string
	}{
		"allowed":    {"", "True Stored"},
		"no secret":  {"secrets", "False UploadFailed"},
		"no packets": {"captures", "False UploadFailed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1")
			w.mayDo(func(spec *authorizationv1.SubjectAccessReviewSpec) bool {
				return spec.User == "alice" && spec.ResourceAttributes.Resource != test.denied
			})
			must(t, w.kube.Tracker().Add(&corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "keys"},
				Data:       map[string][]byte{"accessKeyID": []byte("canary-id"), "secretAccessKey": []byte("canary-key")},
			}))
			w.pod("n1", "a", web)
			w.controller("one")
			w.capture("web", output)
			w.eventually("recording", func() bool { return w.condition("web", v1alpha1.CaptureStarted) == "True Recording" })
			w.stop("web")
			w.eventually("storing", func() bool { return w.condition("web", v1alpha1.CaptureStored) == test.want })
			complete := w.condition("web", v1alpha1.CaptureComplete)
			if stored := strings.HasPrefix(test.want, "True"); stored != strings.HasPrefix(complete, "True") {
				t.Errorf("Complete is %s", complete)
			}
			if text := fmt.Sprint(w.get("web")); strings.Contains(text, "canary") {
				t.Errorf("credentials are in the object: %s", text)
			}
			w.fleet.mu.Lock()
			defer w.fleet.mu.Unlock()
			for _, request := range w.fleet.stored {
				to := request.Outputs[0]
				if test.denied != "" || to.GetS3().SecretAccessKey != "canary-key" || to.Prefix != "p" || !slices.Equal(to.AllowedNetworks, []string{"192.0.2.0/24"}) {
					t.Errorf("told to store to %v", to)
				}
			}
		})
	}
}

// TestNames: what a filter or match names is looked up for the requester when the capture starts, and only while it may get it.
func TestNames(t *testing.T) {
	peer := func(peer v1alpha1.CapturePeer) func(*v1alpha1.CaptureSpec) {
		return func(s *v1alpha1.CaptureSpec) {
			s.Match = []v1alpha1.CaptureMatch{{Peers: []v1alpha1.CapturePeer{peer}}}
		}
	}
	db := &v1alpha1.CapturePeerName{Namespace: "bank", Name: "db"}
	filter := func(s *v1alpha1.CaptureSpec) { s.Filter = "host a" }
	for name, test := range map[string]struct {
		change func(*v1alpha1.CaptureSpec)
		denied string
		// lacks is the right that is missing, when there is one.
		lacks string
	}{
		"allowed":                  {filter, "", ""},
		"a pod":                    {peer(v1alpha1.CapturePeer{Pod: db}), "pods", "get pods db in namespace bank"},
		"a Service":                {peer(v1alpha1.CapturePeer{Service: db}), "services", "get services db in namespace bank"},
		"a host that may be one":   {filter, "services", "get services a in namespace shop"},
		"a host that may be a pod": {filter, "pods", "get pods a in namespace shop"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1")
			w.mayDo(func(spec *authorizationv1.SubjectAccessReviewSpec) bool {
				return spec.User == "alice" && spec.ResourceAttributes.Resource != test.denied
			})
			w.pod("n1", "a", web)
			w.controller("one")
			w.capture("web", test.change)
			if test.lacks == "" {
				w.eventually("recording", func() bool { return w.condition("web", v1alpha1.CaptureStarted) == "True Recording" })
				if names := w.get("web").Status.Control.Names; len(names) != 1 || !slices.Equal(names[0].Addresses, []string{"10.0.0.1"}) {
					t.Errorf("names stand for %v", names)
				}
				return
			}
			w.eventually("the end", func() bool { return w.condition("web", v1alpha1.CaptureFailed) != "" })
			if got := w.condition("web", v1alpha1.CaptureFailed); got != "True NotAuthorized" {
				t.Errorf("Failed is %s", got)
			}
			if got := w.message("web", v1alpha1.CaptureFailed); !strings.HasSuffix(got, ": this needs the right to "+test.lacks+".") {
				t.Errorf("it says %q", got)
			}
			if on := w.fleet.capturesOn("n1"); len(on) != 0 {
				t.Errorf("n1 records %v", on)
			}
		})
	}
}

// TestUnansweredNames: while it is not known whether the requester may get what is named, that is asked again and nothing is recorded.
func TestUnansweredNames(t *testing.T) {
	w := newWorld(t, "n1")
	var answers atomic.Bool
	w.kube.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if answers.Load() {
			return false, nil, nil
		}
		return true, nil, errors.New("the API server is being upgraded")
	})
	w.pod("n1", "a", web)
	_, stop := w.controller("one")
	w.capture("web", func(s *v1alpha1.CaptureSpec) { s.Filter = "host a" })
	w.eventually("word of it", func() bool { return w.condition("web", v1alpha1.CaptureStarted) == "False Authorizing" })
	if got := w.condition("web", v1alpha1.CaptureFailed); got != "" {
		t.Errorf("Failed is %s", got)
	}
	if on := w.fleet.capturesOn("n1"); len(on) != 0 {
		t.Errorf("n1 records %v", on)
	}
	answers.Store(true)
	w.eventually("recording", func() bool { return w.condition("web", v1alpha1.CaptureStarted) == "True Recording" })

	stop()
	asked := func() int {
		return len(slices.DeleteFunc(w.kube.Actions(), func(action clienttesting.Action) bool { return action.GetResource().Resource != "subjectaccessreviews" }))
	}
	before, first := asked(), w.get("web").Status.Control.Revision
	w.controller("two")
	w.eventually("requests of the new leader", func() bool {
		state, err := w.fleet.with("n1", "uid-of-web", func(*storyAgent) error { return nil })
		return err == nil && state.Revision > first+revisions
	})
	if after := asked(); after != before {
		t.Errorf("%d more rights are asked for, of names whose addresses are known", after-before)
	}
}

// TestUnknownRights: that the cluster could not find out is not that it said no.
func TestUnknownRights(t *testing.T) {
	w := newWorld(t, "n1")
	w.kube.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		review.Status.EvaluationError = "the webhook did not answer"
		return true, review, nil
	})
	allowed, err := newRights(w.kube, clock.RealClock{}).mayCaptureNodes(t.Context(), &v1alpha1.CaptureRequester{Username: "alice"})
	if allowed || err == nil || !strings.Contains(err.Error(), "the webhook did not answer") {
		t.Errorf("allowed is %t, %v", allowed, err)
	}
}

// TestVastRevision: what an agent says of revisions does not make those of the leader run over.
func TestVastRevision(t *testing.T) {
	s, err := subjectOf(&v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1"}})
	must(t, err)
	m := newMachine(s, &selection{})
	for _, revision := range []int64{math.MaxInt64, math.MaxInt64 - revisions, 5 * revisions} {
		m.answer(fmt.Sprint("n", revision), &agentv1.CaptureState{Uid: "u1", Phase: agentv1.CaptureState_PHASE_RUNNING, Revision: revision}, time.Now())
		if m.base < 0 || m.base > maxRevision+revisions {
			t.Errorf("an agent says %d, and the leader goes on from %d", revision, m.base)
		}
	}
	if m.base != 6*revisions {
		t.Errorf("the leader goes on from %d", m.base)
	}
}

// TestEmptySecret: a Secret without anything in it is not the absence of one, for which agents would use their own identity.
func TestEmptySecret(t *testing.T) {
	w := newWorld(t, "n1")
	must(t, w.kube.Tracker().Add(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "keys"}}))
	w.pod("n1", "a", web)
	w.controller("one")
	w.capture("web", func(s *v1alpha1.CaptureSpec) {
		s.Outputs = []v1alpha1.CaptureOutput{
			{Name: "s3", S3: &v1alpha1.CaptureOutputS3{Bucket: "b", SecretName: "keys"}},
			{Name: "azure", AzureBlob: &v1alpha1.CaptureOutputAzureBlob{Account: "a", Container: "c", SecretName: "keys"}},
			{Name: "google", GoogleCloudStorage: &v1alpha1.CaptureOutputGoogleCloudStorage{Bucket: "b", SecretName: "keys"}},
		}
	})
	w.eventually("recording", func() bool { return w.condition("web", v1alpha1.CaptureStarted) == "True Recording" })
	w.stop("web")
	stored := func() []*agentv1.StoreCaptureRequest {
		w.fleet.mu.Lock()
		defer w.fleet.mu.Unlock()
		return w.fleet.stored
	}
	w.eventually("word of the Secret", func() bool {
		return len(stored()) > 0 || strings.Count(fmt.Sprint(w.get("web").Status.Conditions), "the Secret keys has no ") == 3
	})
	if told := stored(); len(told) > 0 {
		t.Errorf("told to store to %v", told)
	}
}

// TestRefusedOutput: an output that the agent does not take keeps it from no other, and it is said why.
func TestRefusedOutput(t *testing.T) {
	w := newWorld(t, "n1")
	w.fleet.refusedOutput = "bad"
	w.pod("n1", "a", web)
	w.controller("one")
	w.capture("web", func(s *v1alpha1.CaptureSpec) {
		for _, name := range []string{"bad", "good"} {
			s.Outputs = append(s.Outputs, v1alpha1.CaptureOutput{Name: name, Volume: &v1alpha1.CaptureOutputVolume{Volume: "v"}})
		}
	})
	w.eventually("recording", func() bool { return w.condition("web", v1alpha1.CaptureStarted) == "True Recording" })
	w.stop("web")
	phase := func(name string) v1alpha1.CaptureOutputPhase {
		rows := w.get("web").Status.Outputs
		if i := slices.IndexFunc(rows, func(row v1alpha1.CaptureOutputStatus) bool { return row.Name == name }); i >= 0 {
			return rows[i].Phase
		}
		return ""
	}
	w.eventually("the other output, and word of this one", func() bool {
		return phase("good") == v1alpha1.CaptureOutputStored && phase("bad") == v1alpha1.CaptureOutputPending &&
			strings.Contains(fmt.Sprint(w.get("web").Status.Conditions), "bad: n1: the agent does not accept the request")
	})
}

// TestHostNetwork: a pod in its node's network is recorded for those who may record nodes.
func TestHostNetwork(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		w := newWorld(t, "n1")
		w.mayDo(func(spec *authorizationv1.SubjectAccessReviewSpec) bool {
			return allowed && spec.ResourceAttributes.Resource == "clustercaptures" && spec.ResourceAttributes.Verb == "create"
		})
		must(t, w.kube.Tracker().Add(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "host", UID: "uid-host", Labels: web},
			Spec:       corev1.PodSpec{NodeName: "n1", HostNetwork: true}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
		}))
		w.controller("one")
		w.capture("web")
		want := v1alpha1.CaptureTargetFailed
		if allowed {
			want = v1alpha1.CaptureRunning
		}
		w.eventually(string(want), func() bool {
			rows := w.get("web").Status.Targets
			return len(rows) == 1 && rows[0].Phase == want
		})
		if !allowed && len(w.fleet.capturesOn("n1")) != 0 {
			t.Error("it is recorded")
		}
	}
}

// TestForeignPods: an agent that tells of pods that it cannot have recorded is not believed.
func TestForeignPods(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.pod("n1", "a", web)
	w.pod("n2", "c", nil)
	c, _ := w.controller("one")
	w.capture("web")
	w.eventually("recording", func() bool { return w.get("web").Status.Pods == 1 })
	s, err := subjectOf(w.get("web"))
	must(t, err)
	for name, part := range map[string]*agentv1.CapturePart{
		"another namespace": {Namespace: "bank", Pod: "a", PodUid: "uid-x"},
		"another node":      {Namespace: "shop", Pod: "c", PodUid: "uid-c"},
	} {
		if err := c.check(s, "n1", &agentv1.CaptureState{Parts: []*agentv1.CapturePart{part}}); err == nil {
			t.Errorf("a pod of %s is believed", name)
		}
	}
}

// TestFresh: a single get shows what agents say now, in a replica that does not lead, too, and stored rows of those that do not answer.
func TestFresh(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.pod("n1", "a", web)
	w.pod("n2", "b", web)
	w.controller("one")
	w.capture("web")
	w.eventually("recording", func() bool { return w.get("web").Status.Pods == 2 })
	other, _ := w.controller("two")
	w.fleet.mu.Lock()
	w.fleet.nodes["n1"].captures["uid-of-web"].state.Parts[0].Counts = &agentv1.CaptureCounts{Matched: 9, Packets: 9, Bytes: 900}
	w.fleet.nodes["n2"].silent = true
	w.fleet.mu.Unlock()
	stored := w.get("web")
	status, err := other.Fresh(t.Context(), stored)
	must(t, err)
	if status.Totals.Packets < 9 || len(status.Targets) != 2 || status.Targets[0].Packets != 9 || status.Targets[1].Pod != "b" {
		t.Errorf("fresh is %+v", status)
	}
}

// TestExpiry deletes what has ended when its time is over.
func TestExpiry(t *testing.T) {
	w := newWorld(t, "n1")
	w.pod("n1", "a", web)
	w.controller("one")
	w.capture("web", func(s *v1alpha1.CaptureSpec) { s.TTLSecondsAfterFinished = new(int32(0)) })
	w.eventually("recording", func() bool { return w.condition("web", v1alpha1.CaptureStarted) == "True Recording" })
	w.stop("web")
	w.eventually("deletion", func() bool {
		_, err := w.captures.NetworkobservabilityV1alpha1().Captures("shop").Get(t.Context(), "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err) && len(w.fleet.capturesOn("n1")) == 0
	})
}

// TestMatches: a dry run is told what would be recorded.
func TestMatches(t *testing.T) {
	w := newWorld(t, "n1")
	w.pod("n1", "a", web)
	w.pod("", "unscheduled", web)
	c, _ := w.controller("one")
	w.eventually("knowing the cluster", func() bool { return c.Synced() == nil })
	capture := &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	capture.Spec.Pods.Selector = &metav1.LabelSelector{}
	matches, err := c.Matches(capture)
	if err != nil || len(matches) != 1 || matches[0] != (Match{Node: "n1", Namespace: "shop", Pod: "a", UID: "uid-a"}) {
		t.Errorf("matches are %v, %v", matches, err)
	}
	nodes := &v1alpha1.ClusterCapture{Spec: v1alpha1.ClusterCaptureSpec{Nodes: &v1alpha1.CaptureNodes{Selector: &metav1.LabelSelector{}}}}
	if matches, err := c.Matches(nodes); err != nil || len(matches) != 1 || matches[0] != (Match{Node: "n1"}) {
		t.Errorf("nodes that match are %v, %v", matches, err)
	}
	if addresses, err := c.Resolve(filtertext.Host, "shop", "a"); err != nil || len(addresses) != 1 {
		t.Errorf("resolved %v, %v", addresses, err)
	}
	if _, err := c.Resolve(filtertext.Host, "shop", "nobody"); err == nil || !strings.Contains(err.Error(), "nobody in namespace shop") {
		t.Errorf("resolved nobody: %v", err)
	}
}

// A hookedClock calls now when it is asked for the time.
type hookedClock struct {
	clock.RealClock
	now func()
}

func (c *hookedClock) Now() time.Time {
	if now := c.now; now != nil {
		c.now = nil
		now()
	}
	return c.RealClock.Now()
}

// TestOneListAtATime: all that a node's list says is taken over before it is asked for another one.
func TestOneListAtATime(t *testing.T) {
	w := newWorld(t, "n1")
	w.pod("n1", "a", web)
	c, stop := w.controller("one")
	w.capture("c")
	w.eventually("recording", func() bool { return w.get("c").Status.Pods == 1 })
	stop()
	s, err := subjectOf(w.get("c"))
	must(t, err)
	term := newTerm(c)
	defer term.openQueues()()
	hooked := &hookedClock{}
	c.cfg.Clock = hooked // not the queues'
	e := term.entryFor(s)
	asked := func() bool { return len(term.whereToLook()["n1"]) == 1 }
	if !asked() {
		t.Fatal("the node is not asked")
	}
	again := false
	hooked.now = func() { again = asked() }
	term.lookAt(t.Context(), "n1", []*entry{e})
	if hooked.now != nil || again {
		t.Error("the node is asked again before what it said is taken over")
	}
	if !asked() {
		t.Error("the node is not asked again")
	}
}

// TestCrowd: a thousand captures at once, all of which are recorded and end, with lists that are shared.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("a thousand captures take a while")
	}
	w := newWorld(t, "n1", "n2", "n3")
	for i := range 30 {
		w.pod(fmt.Sprintf("n%d", 1+i%3), fmt.Sprintf("p%d", i), web)
	}
	w.controller("one")
	const captures = 1000
	for i := range captures {
		w.capture(fmt.Sprintf("c%d", i))
	}
	count := func(is func(*v1alpha1.CaptureStatus) bool) (n int) {
		list, err := w.captures.NetworkobservabilityV1alpha1().Captures("shop").List(context.Background(), metav1.ListOptions{})
		must(t, err)
		for i := range list.Items {
			if is(&list.Items[i].Status) {
				n++
			}
		}
		return n
	}
	// To list them all is itself much of the work. All of it takes 20 s of a CPU, and a machine that is busy may have little for it.
	w.within(10*time.Minute, 2*time.Second, "recording", func() bool {
		recorded := count(func(s *v1alpha1.CaptureStatus) bool { return s.Pods == 30 })
		t.Logf("%d of %d are recorded", recorded, captures)
		return recorded == captures
	})
	for i := range captures {
		w.delete(fmt.Sprintf("c%d", i))
	}
	w.eventually("removal", func() bool {
		return len(w.fleet.capturesOn("n1"))+len(w.fleet.capturesOn("n2"))+len(w.fleet.capturesOn("n3")) == 0
	})
}
