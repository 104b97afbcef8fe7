package telemetry

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

func nowhere(string) labels.Set { return nil }

func addressOf(i int) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24|uint32(i))))
}

// TestFollowed: no more addresses are followed than there may be, the latest; each change of one that is followed is told.
func TestFollowed(t *testing.T) {
	n, owners := &names{}, map[netip.Addr]Owner{}
	owner := func(address netip.Addr) Owner { return owners[address] }
	const all = maxFollowed + 5000
	for i := range all {
		n.ask([][]byte{addressOf(i).AsSlice()})
		n.tell(&outbox{limit: agentv1.MaxTelemetryBytes}, owner, epoch, 0)
	}
	if len(n.told) != maxFollowed || len(n.order) != maxFollowed {
		t.Fatalf("%d and %d are followed", len(n.told), len(n.order))
	}
	for i := range all {
		owners[addressOf(i)] = Owner{Kind: NodeOwner, Name: "n"}
	}
	to := &outbox{limit: agentv1.MaxTelemetryBytes}
	for range maxFollowed / fewLookups {
		n.tell(to, owner, epoch, fewLookups)
	}
	changed := map[string]bool{}
	for _, update := range to.updates {
		for _, name := range update.Names {
			changed[string(name.Address)] = true
			if name.SinceUnixNano != epoch.UnixNano() {
				t.Fatalf("%v does not say since when", name)
			}
		}
	}
	if len(changed) != maxFollowed || changed[string(addressOf(0).AsSlice())] || !changed[string(addressOf(all-1).AsSlice())] {
		t.Errorf("%d changes were told", len(changed))
	}
	// All are forgotten when nobody asks, however they are looked at.
	for range maxFollowed/fewLookups + 1 {
		n.tell(to, owner, epoch.Add(followFor+time.Second), fewLookups)
	}
	if len(n.told)+len(n.order) != 0 {
		t.Errorf("%d are still followed", len(n.order))
	}
}

// TestAddressForms: an IPv4 address that came as an IPv6 one is looked up as itself, and answered as it came.
func TestAddressForms(t *testing.T) {
	n, to := &names{}, &outbox{limit: agentv1.MaxTelemetryBytes}
	mapped := netip.AddrFrom16(netip.MustParseAddr("10.0.0.1").As16())
	n.ask([][]byte{mapped.AsSlice(), {1, 2, 3}})
	n.tell(to, func(address netip.Addr) Owner {
		if address != netip.MustParseAddr("10.0.0.1") {
			t.Errorf("looked up %v", address)
		}
		return Owner{Kind: ServiceOwner, Namespace: "a", Name: "b"}
	}, epoch, 0)
	if len(to.updates) != 1 || len(to.updates[0].Names) != 1 || len(to.updates[0].Names[0].Address) != 16 {
		t.Errorf("got %v", to.updates)
	}
}

// TestMessages: no message is larger than allowed, nothing is left out, and the order is kept.
func TestMessages(t *testing.T) {
	c := &conversation{want: newDesired(point{revision: 7}, nil), accepted: true}
	var there []Pod
	for i := range 3000 {
		there = append(there, Pod{Key: fmt.Sprintf("key-%d", i), Namespace: strings.Repeat("n", 63), Name: strings.Repeat("p", 253), Record: i})
	}
	for i := range maxFollowed {
		c.names.asked = append(c.names.asked, addressOf(i))
	}
	around := &surroundings{
		now: epoch, synced: true, pods: slices.Values(there), namespace: nowhere,
		owner: func(netip.Addr) Owner {
			return Owner{Kind: PodOwner, Namespace: strings.Repeat("n", 63), Name: strings.Repeat("p", 253), WorkloadKind: "Deployment", WorkloadName: strings.Repeat("w", 253)}
		},
	}
	pods, names, complete := 0, 0, 0
	for i, update := range c.says(around) {
		if size := proto.Size(update); size > agentv1.MaxTelemetryBytes {
			t.Errorf("a message has %d bytes", size)
		}
		if (update.Config != nil) != (i == 0) {
			t.Error("the configuration is not first")
		}
		pods, names = pods+len(update.Pods), names+len(update.Names)
		if update.PodsComplete {
			complete = pods
		}
	}
	if pods != 3000 || names != maxFollowed || complete != 3000 {
		t.Errorf("%d pods, complete after %d, and %d names were told", pods, complete, names)
	}
	around.pods = slices.Values(there[:1])
	gone := 0
	for _, update := range c.says(around) {
		gone += len(update.GonePods)
	}
	if gone != 2999 || len(c.pods.told) != 1 {
		t.Errorf("%d are gone, %d are kept", gone, len(c.pods.told))
	}
}

// TestConfig: every field of the spec arrives, and every default.
func TestConfig(t *testing.T) {
	full := &v1alpha1.NetworkTelemetrySpec{
		PodMetrics: []v1alpha1.PodMetrics{{
			Group: v1alpha1.PodAPIServer, Labels: []v1alpha1.PodMetricLabel{v1alpha1.LabelPort, v1alpha1.LabelDNSName, v1alpha1.LabelService, v1alpha1.LabelPeerWorkload},
			LabelValuesLimit: new(int32(9)), IntervalSeconds: new(int32(15)),
		}},
		SeriesLimit: new(int32(500)), RetinaMetrics: true,
		FlowLogs: &v1alpha1.FlowLogs{
			Verdicts: []v1alpha1.FlowVerdict{v1alpha1.Forwarded, v1alpha1.Dropped, v1alpha1.Rejected}, IntervalSeconds: new(int32(5)), SampleOneIn: new(int32(100)),
		},
		Exporters: []v1alpha1.TelemetryExporter{
			{Name: "a", Signals: []v1alpha1.TelemetrySignal{v1alpha1.SignalMetrics, v1alpha1.SignalFlowLogs}, OTLP: &v1alpha1.OTLPExporter{
				Endpoint: "https://c:4318/x", Protocol: v1alpha1.OTLPHTTP, CABundle: []byte("pem"), ServerName: "c.example", Compression: v1alpha1.CompressionNone,
				HeadersSecret: &v1alpha1.TelemetrySecretReference{Name: "s"}, IntervalSeconds: new(int32(60)), TimeoutSeconds: new(int32(5)), QueueMebibytes: new(int32(2)),
			}},
			{Name: "b", Signals: []v1alpha1.TelemetrySignal{v1alpha1.SignalFlowLogs}, File: &v1alpha1.FileExporter{MaxMebibytes: new(int32(1)), MaxFiles: new(int32(2))}},
			{Name: "c", Signals: []v1alpha1.TelemetrySignal{v1alpha1.SignalFlowLogs}, Stdout: &v1alpha1.StdoutExporter{}},
		},
	}
	sparse := &v1alpha1.NetworkTelemetrySpec{
		PodMetrics: []v1alpha1.PodMetrics{{Group: v1alpha1.PodTraffic}}, FlowLogs: &v1alpha1.FlowLogs{},
		Exporters: []v1alpha1.TelemetryExporter{
			{Name: "a", Signals: []v1alpha1.TelemetrySignal{v1alpha1.SignalMetrics}, OTLP: &v1alpha1.OTLPExporter{Endpoint: "https://c:4317"}},
			{Name: "b", File: &v1alpha1.FileExporter{}},
		},
	}
	second := int64(time.Second)
	for spec, want := range map[*v1alpha1.NetworkTelemetrySpec]*agentv1.TelemetryConfig{
		full: {
			SeriesLimit: 500, RetinaMetrics: true,
			Groups:   []*agentv1.TelemetryGroup{{Name: agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_API_SERVER, Labels: []agentv1.TelemetryLabel{3, 4, 2, 1}, LabelValuesLimit: 9, IntervalNano: 15 * second}},
			FlowLogs: &agentv1.TelemetryFlowLogs{Verdicts: []agentv1.Verdict{1, 2, 3}, IntervalNano: 5 * second, SampleOneIn: 100},
			Exporters: []*agentv1.TelemetryExporter{
				{Name: "a", Metrics: true, FlowLogs: true, To: &agentv1.TelemetryExporter_Otlp{Otlp: &agentv1.OTLPDestination{
					Endpoint: "https://c:4318/x", Http: true, CaBundle: []byte("pem"), ServerName: "c.example", NeedsHeaders: true, Headers: map[string]string{"x": "y"},
					IntervalNano: 60 * second, TimeoutNano: 5 * second, QueueBytes: 2 << 20,
				}}},
				{Name: "b", FlowLogs: true, To: &agentv1.TelemetryExporter_File{File: &agentv1.FileDestination{MaxBytes: 1 << 20, MaxFiles: 2}}},
				{Name: "c", FlowLogs: true, To: &agentv1.TelemetryExporter_Stdout{Stdout: &agentv1.StdoutDestination{}}},
			},
		},
		sparse: {
			SeriesLimit: 50_000, Groups: []*agentv1.TelemetryGroup{{Name: 1, LabelValuesLimit: 50}},
			FlowLogs: &agentv1.TelemetryFlowLogs{IntervalNano: 60 * second, SampleOneIn: 1},
			Exporters: []*agentv1.TelemetryExporter{
				{Name: "a", Metrics: true, To: &agentv1.TelemetryExporter_Otlp{Otlp: &agentv1.OTLPDestination{
					Endpoint: "https://c:4317", Gzip: true, IntervalNano: 30 * second, TimeoutNano: 10 * second, QueueBytes: 8 << 20,
				}}},
				{Name: "b", To: &agentv1.TelemetryExporter_File{File: &agentv1.FileDestination{MaxBytes: 100 << 20, MaxFiles: 5}}},
			},
		},
	} {
		object := &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Generation: 4}, Spec: *spec}
		want.Revision, want.Generation = 7, 4
		if got := newDesired(point{object: object, revision: 7}, map[use]secret{{name: "s"}: {headers: map[string]string{"x": "y"}}}); !proto.Equal(got.config, want) {
			t.Errorf("got %v\nwant %v", got.config, want)
		}
	}
}

func TestCronJobs(t *testing.T) {
	scheduled := time.Unix(29922475*60, 0)
	for name, test := range map[string]struct {
		kind    string
		created time.Time
		want    string
	}{
		"nightly-29922475":  {"Job", scheduled.Add(time.Second), "CronJob/nightly"},
		"late-29922475":     {"Job", scheduled.Add(25 * time.Hour), "Job/late-29922475"},
		"early-29922475":    {"Job", scheduled.Add(-time.Hour), "Job/early-29922475"},
		"-29922475":         {"Job", scheduled, "Job/-29922475"},
		"import-7":          {"Job", scheduled, "Job/import-7"},
		"import":            {"Job", scheduled, "Job/import"},
		"other-29922475":    {"Workflow", scheduled, "Workflow/other-29922475"},
		"big-2992247500000": {"Job", scheduled, "Job/big-2992247500000"},
	} {
		if kind, workload := workloadOf(test.kind, name, test.created); kind+"/"+workload != test.want {
			t.Errorf("%s is %s/%s", name, kind, workload)
		}
	}
}

// BenchmarkLook is what a stream costs every second at a node of 110 pods and 500 addresses, while nothing changes.
func BenchmarkLook(b *testing.B) {
	object := &v1alpha1.NetworkTelemetry{Spec: metricsOf(v1alpha1.PodTraffic, map[string]string{"team": "a"})}
	c := &conversation{want: newDesired(point{object: object, revision: 7}, nil), accepted: true}
	var there []Pod
	for i := range 110 {
		there = append(there, Pod{Key: fmt.Sprint("key-", i), Namespace: "n", Name: fmt.Sprint("p-", i), Record: new(int)})
	}
	for i := range 500 {
		c.names.asked = append(c.names.asked, addressOf(i))
	}
	around := &surroundings{now: epoch, synced: true, pods: slices.Values(there), namespace: nowhere, budget: 500, owner: func(netip.Addr) Owner {
		return Owner{Kind: PodOwner, Namespace: "namespace", Name: "pod-0", WorkloadKind: "Deployment", WorkloadName: "workload"}
	}}
	c.says(around)
	b.ReportAllocs()
	for b.Loop() {
		if len(c.says(around)) != 0 {
			b.Fatal("something has changed")
		}
	}
}

func TestAddressesOfTheAPIAreSaidWhenTheyChange(t *testing.T) {
	c := &conversation{want: newDesired(point{revision: 5}, nil)}
	around := &surroundings{now: epoch}
	said := func() (addresses [][]string) {
		for _, update := range c.says(around) {
			if len(update.ApiServers) > 0 {
				addresses = append(addresses, update.ApiServers)
			}
		}
		return addresses
	}
	if got := said(); got != nil {
		t.Errorf("while none are known, %v are said", got)
	}
	for _, known := range [][]string{{"192.0.2.1:6443"}, {"192.0.2.1:6443", "192.0.2.2:6443"}} {
		around.apiServers = known
		if got := said(); len(got) != 1 || !slices.Equal(got[0], known) {
			t.Errorf("of %v, %v are said", known, got)
		}
		if got := said(); got != nil {
			t.Errorf("%v are said again", got)
		}
	}
	around.apiServers = nil // this replica does not know any more
	if got := said(); got != nil {
		t.Errorf("%v are said when none are known", got)
	}
}
