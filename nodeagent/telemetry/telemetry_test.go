package telemetry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *State {
	t.Helper()
	state, err := Open(Config{Dir: dir, Failed: func(err error) { t.Errorf("failed: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func config(revision int64) *v1alpha1.TelemetryConfig {
	return &v1alpha1.TelemetryConfig{Revision: revision, Generation: revision / 10, SeriesLimit: 1000}
}

func pod(key string) *v1alpha1.TelemetryPod {
	return &v1alpha1.TelemetryPod{Key: key, Namespace: "shop", Name: "pod-" + key}
}

// A conversation is a stream with a State, of which the test is the API server.
type conversation struct {
	t       *testing.T
	updates chan *v1alpha1.TelemetryUpdate
	reports chan *v1alpha1.TelemetryReport
	ended   chan error
	hangUp  context.CancelFunc
}

var errHungUp = errors.New("the API server hung up")

func talk(t *testing.T, state *State) *conversation {
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &conversation{
		t: t, updates: make(chan *v1alpha1.TelemetryUpdate), reports: make(chan *v1alpha1.TelemetryReport, 100),
		ended: make(chan error, 1), hangUp: func() { cancel(errHungUp) },
	}
	over, stop := context.WithCancel(context.Background())
	go func() {
		// As in gRPC, receiving fails once the handler has returned.
		defer stop()
		c.ended <- state.Follow(ctx, func() (*v1alpha1.TelemetryUpdate, error) {
			select {
			case update := <-c.updates:
				return update, nil
			case <-over.Done():
				return nil, over.Err()
			}
		}, func(report *v1alpha1.TelemetryReport) error {
			c.reports <- report
			return nil
		})
	}()
	return c
}

func (c *conversation) say(update *v1alpha1.TelemetryUpdate) {
	c.t.Helper()
	select {
	case c.updates <- update:
	case err := <-c.ended:
		c.t.Fatalf("the stream ended: %v", err)
	}
}

// hear waits for a report that is as wanted.
func (c *conversation) hear(what string, wanted func(*v1alpha1.TelemetryReport) bool) *v1alpha1.TelemetryReport {
	c.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case report := <-c.reports:
			if wanted(report) {
				return report
			}
		case err := <-c.ended:
			c.t.Fatalf("waiting for %s: the stream ended: %v", what, err)
		case <-timeout:
			c.t.Fatalf("no report: %s", what)
		}
	}
}

func (c *conversation) inForce(revision int64) {
	c.t.Helper()
	c.hear(fmt.Sprint("revision ", revision), func(r *v1alpha1.TelemetryReport) bool { return r.GetRevision() == revision })
}

func (c *conversation) end() error {
	c.hangUp()
	return <-c.ended
}

func TestConfigurationIsKeptOverRestarts(t *testing.T) {
	dir := t.TempDir()
	state := open(t, dir)
	c := talk(t, state)
	secret := config(70)
	secret.Exporters = []*v1alpha1.TelemetryExporter{{Name: "out", To: &v1alpha1.TelemetryExporter_Otlp{Otlp: &v1alpha1.OTLPDestination{
		Endpoint: "https://collector:4317", Headers: map[string]string{"authorization": "canary"}, NeedsHeaders: true,
		ClientCertificate: []byte("certificate"), ClientKey: []byte("canary"), NeedsClientCertificate: true,
	}}}}
	changed := state.Changed()
	c.say(&v1alpha1.TelemetryUpdate{Config: secret})
	c.say(&v1alpha1.TelemetryUpdate{Pods: []*v1alpha1.TelemetryPod{pod("a"), pod("b")}, PodsComplete: true})
	c.inForce(70)
	<-changed
	if got := state.Config().GetExporters()[0].GetOtlp().GetHeaders()["authorization"]; got != "canary" {
		t.Errorf("the header is %q", got)
	}
	c.say(&v1alpha1.TelemetryUpdate{GonePods: []string{"b"}})
	c.say(&v1alpha1.TelemetryUpdate{Config: config(71)}) // by now what came before has been taken over
	c.inForce(71)
	c.say(&v1alpha1.TelemetryUpdate{Config: &v1alpha1.TelemetryConfig{Revision: 72, Exporters: secret.Exporters}})
	c.inForce(72)
	if err := c.end(); !errors.Is(err, errHungUp) {
		t.Errorf("the stream ended with %v", err)
	}

	content, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "canary") || strings.Contains(string(content), base64.StdEncoding.EncodeToString([]byte("canary"))) {
		t.Error("the Secret's value is on disk")
	}
	if info, err := os.Stat(filepath.Join(dir, fileName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v", info.Mode(), err)
	}
	next := open(t, dir)
	if got := next.Config(); got.GetRevision() != 72 || !got.GetExporters()[0].GetOtlp().GetNeedsHeaders() || !got.GetExporters()[0].GetOtlp().GetNeedsClientCertificate() {
		t.Errorf("after a restart: %v", got)
	}
	if next.Pod("a").GetName() != "pod-a" || next.Pod("b") != nil {
		t.Errorf("after a restart the pods are %v and %v", next.Pod("a"), next.Pod("b"))
	}
}

func TestOlderConfigurationIsRefused(t *testing.T) {
	dir := t.TempDir()
	c := talk(t, open(t, dir))
	c.say(&v1alpha1.TelemetryUpdate{Config: config(100)})
	c.inForce(100)
	c.end()

	state := open(t, dir) // also over a restart
	c = talk(t, state)
	c.say(&v1alpha1.TelemetryUpdate{Config: config(99)})
	report := c.hear("a refusal", func(r *v1alpha1.TelemetryReport) bool { return r.GetRefused() != "" })
	if report.GetRevision() != 100 || report.GetRefused() != "revision 100 is in force, which is later than 99" {
		t.Errorf("the report is %v", report)
	}
	wrong := config(99)
	wrong.Supersedes = 98
	c.say(&v1alpha1.TelemetryUpdate{Config: wrong})
	c.hear("a refusal", func(r *v1alpha1.TelemetryReport) bool { return r.GetRefused() != "" && r.GetRevision() == 100 })
	right := config(99)
	right.Supersedes = 100
	c.say(&v1alpha1.TelemetryUpdate{Config: right})
	c.hear("the lower revision", func(r *v1alpha1.TelemetryReport) bool { return r.GetRefused() == "" && r.GetRevision() == 99 })
	c.end()
}

func TestSameConfigurationChangesNothing(t *testing.T) {
	state := open(t, t.TempDir())
	c := talk(t, state)
	c.say(&v1alpha1.TelemetryUpdate{Config: config(5)})
	c.inForce(5)
	changed := state.Changed()
	c.say(&v1alpha1.TelemetryUpdate{Config: config(5)})
	c.inForce(5)
	select {
	case <-changed:
		t.Error("the same configuration counted as a change")
	default:
	}
	c.end()
}

func TestFileThatCannotBeReadIsNone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte(`{"config": {"revision`), 0o600); err != nil {
		t.Fatal(err)
	}
	var failed []error
	state, err := Open(Config{Dir: dir, Failed: func(err error) { failed = append(failed, err) }})
	if err != nil || len(failed) != 1 {
		t.Fatalf("opening: %v, told: %v", err, failed)
	}
	if state.Config().GetRevision() != 0 {
		t.Errorf("the configuration is %v", state.Config())
	}
}

func TestNewStreamEndsTheOneBefore(t *testing.T) {
	state := open(t, t.TempDir())
	old := talk(t, state)
	old.say(&v1alpha1.TelemetryUpdate{Config: config(1), Pods: []*v1alpha1.TelemetryPod{pod("old")}, PodsComplete: true})
	old.inForce(1)
	next := talk(t, state)
	if err := <-old.ended; !errors.Is(err, ErrReplaced) {
		t.Errorf("the old stream ended with %v", err)
	}
	if !state.Connected() {
		t.Error("not connected while the new stream is open")
	}
	next.say(&v1alpha1.TelemetryUpdate{Pods: []*v1alpha1.TelemetryPod{pod("new")}})
	next.say(&v1alpha1.TelemetryUpdate{PodsComplete: true})
	next.say(&v1alpha1.TelemetryUpdate{Config: config(2)})
	next.inForce(2)
	if state.Pod("old") != nil || state.Pod("new") == nil {
		t.Error("the pods are not those of the new stream")
	}
	next.end()
	if state.Connected() {
		t.Error("connected without a stream")
	}
}

func TestEndOfTheAgentEndsTheStream(t *testing.T) {
	state := open(t, t.TempDir())
	ctx, stop := context.WithCancel(context.Background())
	running := make(chan struct{})
	go func() { state.Run(ctx); close(running) }()
	c := talk(t, state)
	c.say(&v1alpha1.TelemetryUpdate{Config: config(1)})
	c.inForce(1)
	stop()
	<-running
	if err := <-c.ended; !errors.Is(err, ErrEnding) {
		t.Errorf("the stream ended with %v", err)
	}
	if err := <-talk(t, state).ended; !errors.Is(err, ErrEnding) {
		t.Errorf("a stream after the end ended with %v", err)
	}
}

func TestNamesAreAskedForAndAnswered(t *testing.T) {
	state := open(t, t.TempDir())
	web, mapped := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.1")
	if state.Name(web) != nil {
		t.Fatal("a name is known before anybody could tell")
	}
	for round := range 2 { // the second stream is asked again, and meanwhile what is known stays
		c := talk(t, state)
		c.say(&v1alpha1.TelemetryUpdate{}) // by now the stream has begun
		known := state.Name(mapped)
		if (known != nil) != (round > 0) {
			t.Fatalf("stream %d: the name is %v", round, known)
		}
		report := c.hear("the address", func(r *v1alpha1.TelemetryReport) bool { return len(r.GetWantedAddresses()) > 0 })
		if got, _ := netip.AddrFromSlice(report.GetWantedAddresses()[0]); got != web || len(report.GetWantedAddresses()) != 1 {
			t.Fatalf("wanted are %v", report.GetWantedAddresses())
		}
		name := &v1alpha1.TelemetryName{Address: web.AsSlice(), Owner: &v1alpha1.TelemetryName_Node{Node: fmt.Sprint("node-", round)}}
		stranger := &v1alpha1.TelemetryName{Address: []byte{1, 2, 3, 4}, Owner: &v1alpha1.TelemetryName_Node{Node: "nobody asked"}}
		broken := &v1alpha1.TelemetryName{Address: []byte{1}}
		c.say(&v1alpha1.TelemetryUpdate{Names: []*v1alpha1.TelemetryName{name, stranger, broken}})
		c.say(&v1alpha1.TelemetryUpdate{Config: config(int64(round + 1))})
		c.inForce(int64(round + 1))
		if !proto.Equal(state.Name(web), name) {
			t.Errorf("the name is %v", state.Name(web))
		}
		c.end()
	}
}

func TestAddressesAreBounded(t *testing.T) {
	a := newAddresses()
	stream := a.begin()
	now := time.Unix(1000, 0)
	of := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range maxAddresses + 10 {
		a.name(of(i), now)
	}
	if len(a.known) != maxAddresses || a.unasked != 10 {
		t.Errorf("%d are known, %d were not asked for", len(a.known), a.unasked)
	}
	asked := 0
	for more := true; more; {
		var wanted [][]byte
		wanted, more = a.take(stream)
		if len(wanted) > v1alpha1.MaxWantedAddresses {
			t.Fatalf("%d addresses in a message", len(wanted))
		}
		asked += len(wanted)
	}
	if asked != maxAddresses {
		t.Errorf("asked for %d", asked)
	}
	later := now.Add(forgetAfter / 2)
	a.name(of(1), later)
	a.forget(now.Add(forgetAfter + time.Second))
	if len(a.known) != 1 {
		t.Errorf("%d are known after nobody asked for a while", len(a.known))
	}
}

// A stream that was replaced takes nothing from the one that replaced it, whatever it still does.
func TestReplacedStreamTakesNothing(t *testing.T) {
	state := open(t, t.TempDir())
	replaced, old, endOld := state.begin()
	_, number, end := state.begin()
	defer end()

	state.Name(netip.MustParseAddr("10.0.0.1"))
	<-state.addresses.wake // by the old one, which was about to ask
	if wanted, _ := state.addresses.take(old); len(wanted) > 0 {
		t.Errorf("the old stream asks for %v", wanted)
	}
	<-state.addresses.wake // the new one is told
	state.Name(netip.MustParseAddr("10.0.0.2"))
	<-state.addresses.wake // by the old one, which ends instead
	endOld()
	<-state.addresses.wake
	if wanted, _ := state.addresses.take(number); len(wanted) != 2 {
		t.Errorf("the new stream asks for %v", wanted)
	}

	update := &v1alpha1.TelemetryUpdate{Config: config(7), Pods: []*v1alpha1.TelemetryPod{pod("old")}}
	if err := state.apply(replaced, update, map[string]bool{}); !errors.Is(err, ErrReplaced) {
		t.Errorf("applying what the old stream said: %v", err)
	}
	if state.Config().GetRevision() != 0 || state.Pod("old") != nil {
		t.Errorf("in force is %v, the pod is %v", state.Config(), state.Pod("old"))
	}
}

func TestReportsComeAlsoWhenNothingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := int64(0)
		state, err := Open(Config{Dir: t.TempDir(), Failed: func(err error) { t.Error(err) }, Report: func(r *v1alpha1.TelemetryReport) {
			counts++
			r.Series = counts
		}})
		if err != nil {
			t.Fatal(err)
		}
		c := talk(t, state)
		defer c.end()
		time.Sleep(10*aliveEvery + time.Millisecond) // of the bubble's own clock
		if n := len(c.reports); n < 9 || n > 11 {
			t.Errorf("%d reports in the time for ten", n)
		}
	})
}

func TestNamesThatNobodyConfirmsAreForgotten(t *testing.T) {
	a := newAddresses()
	stream := a.begin()
	of, now := netip.MustParseAddr("10.0.0.1"), time.Unix(1000, 0)
	a.name(of, now)
	a.take(stream)
	name := &v1alpha1.TelemetryName{Address: of.AsSlice(), Owner: &v1alpha1.TelemetryName_Node{Node: "node-1"}}
	a.answer([]*v1alpha1.TelemetryName{name}, now)
	a.begin() // and nobody answers on it
	if got := a.name(of, now.Add(forgetAfter)); got != name {
		t.Errorf("a name that was confirmed lately is %v", got)
	}
	if got := a.name(of, now.Add(forgetAfter+time.Second)); got != nil {
		t.Errorf("a name that nobody confirms is %v", got)
	}
}

func TestAddressesOfTheAPIAreHandedOn(t *testing.T) {
	told := make(chan []string, 1)
	state, err := Open(Config{Dir: t.TempDir(), Failed: func(err error) { t.Error(err) }, APIServers: func(addresses []string) { told <- addresses }})
	if err != nil {
		t.Fatal(err)
	}
	c := talk(t, state)
	c.say(&v1alpha1.TelemetryUpdate{ApiServers: []string{"192.0.2.1:6443"}})
	if got := <-told; len(got) != 1 || got[0] != "192.0.2.1:6443" {
		t.Errorf("told are %v", got)
	}
	c.end()
}

// A full disk is told once, is said to the API server, and ends with the next write.
func TestFullDisk(t *testing.T) {
	fakepod.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	filler := filepath.Join(dir, "filler")
	var told []string
	state, err := Open(Config{Dir: dir, Failed: func(err error) { told = append(told, err.Error()) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk does not fill up")
	}
	c := talk(t, state)
	c.say(&v1alpha1.TelemetryUpdate{Config: config(7)})
	report := c.hear("the configuration, which is in force", func(r *v1alpha1.TelemetryReport) bool { return r.GetRevision() == 7 })
	if !strings.HasSuffix(report.GetUnkept(), "no space left on device") || state.Unkept() != report.GetUnkept() {
		t.Errorf("the report says %q", report.GetUnkept())
	}
	for range 3 {
		state.keep(false) // as every few seconds
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	state.keep(false)
	if state.Unkept() != "" || open(t, dir).Config().GetRevision() != 7 {
		t.Errorf("with room again: %q", state.Unkept())
	}
	if err := c.end(); !errors.Is(err, errHungUp) {
		t.Error(err)
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "keeping what telemetry is configured: ") {
		t.Errorf("told %q", told)
	}
}
