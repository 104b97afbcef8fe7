package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestQuotaController makes a quota and something that counts against it: with an API that cannot be
// discovered or watched, kube-controller-manager's quota controller would stand still.
func TestQuotaController(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	name := corev1.ResourceName("count/configmaps")
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "limits"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{name: resource.MustParse("10"), corev1.ResourcePods: resource.MustParse("5")}},
	}
	if _, err := c.kube.CoreV1().ResourceQuotas(namespace).Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func(want int64) func(context.Context) error {
		return func(ctx context.Context) error {
			now, err := c.kube.CoreV1().ResourceQuotas(namespace).Get(ctx, "limits", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got := now.Status.Used[name]; now.Status.Used == nil || got.Value() != want {
				return fmt.Errorf("used: %v, want %d", now.Status.Used, want)
			}
			return nil
		}
	}
	// Every namespace gets one with the cluster's CA.
	eventually(t, podDeadline, "the quota to be reckoned", used(1))
	mine := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "mine"}}
	if _, err := c.kube.CoreV1().ConfigMaps(namespace).Create(t.Context(), mine, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, podDeadline, "the quota to be used", used(2))
	// Use is given back only by the controller, not at admission.
	if err := c.kube.CoreV1().ConfigMaps(namespace).Delete(t.Context(), "mine", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, podDeadline, "the quota to be given back", used(1))
}

// TestNamespaceDeletion deletes a namespace with pods that are watched.
func TestNamespaceDeletion(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	created, err := c.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-gone-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	namespace := created.Name
	eventually(t, podDeadline, "the default service account", func(ctx context.Context) error {
		_, err := c.kube.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	c.start(t, namespace, sink("one", c.nodes(t)[0]), sink("two", c.nodes(t)[1]))
	f := c.follow(t, namespace)
	if err := c.kube.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, time.Minute, "the namespace to go", func(ctx context.Context) error {
		now, err := c.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v: %+v", err, now.Status)
	})
	t.Logf("the namespace was gone after %v", took.Round(time.Millisecond))
	eventually(t, podDeadline, "the informer to see both pods go", func(context.Context) error {
		if gone := f.deletions(); len(gone) != 2 {
			return fmt.Errorf("it saw %v", gone)
		}
		return nil
	})
	f.checkFaults(t)
}

// TestControllerManagerLog reads what kube-controller-manager has logged since the tests began: it has no
// complaint about our API, but for the times in which tests had killed API servers.
func TestControllerManagerLog(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	content, err := os.ReadFile(controllerManagerLog(c.output))
	if err != nil {
		t.Skipf("the log of kube-controller-manager is not here: %v", err)
	}
	for line := range strings.Lines(string(content[min(logStart, len(content)):])) {
		ours := strings.Contains(line, v1alpha1.GroupName)
		if ours && !excused(line) && (strings.HasPrefix(line, "E") || strings.Contains(line, "unable to retrieve the complete list of server APIs")) {
			t.Errorf("kube-controller-manager says: %s", line)
		}
	}
}

// killings are the moments at which tests killed an API server.
var killings struct {
	sync.Mutex
	times []time.Time
}

// excused is true for a line of the two discoveries after a killing: kube-controller-manager repeats its own every
// 30 s, and kube-apiserver, from which it has it, every 60 s.
func excused(line string) bool {
	const patience = 90 * time.Second
	header := strings.Fields(line)
	if len(header) < 2 || len(header[0]) != len("E0102") {
		return false
	}
	logged, err := time.ParseInLocation("20060102 15:04:05", time.Now().Format("2006")+header[0][1:]+" "+header[1], time.Local)
	if err != nil {
		return false
	}
	killings.Lock()
	defer killings.Unlock()
	return slices.ContainsFunc(killings.times, func(killed time.Time) bool {
		return logged.After(killed) && logged.Before(killed.Add(patience))
	})
}

func controllerManagerLog(output string) string {
	return filepath.Join(output, "log", "control", "kube-controller-manager.log")
}

// logStart is how long the log was when the tests began.
var logStart int

func TestMain(m *testing.M) {
	if info, err := os.Stat(controllerManagerLog(os.Getenv("E2E_OUTPUT"))); err == nil {
		logStart = int(info.Size())
	}
	os.Exit(m.Run())
}
