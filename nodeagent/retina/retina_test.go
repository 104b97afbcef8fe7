package retina

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

var rewrite = flag.Bool("rewrite", false, "write what is now made to testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func read(t testing.TB, path string) []*dto.MetricFamily {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var families []*dto.MetricFamily
	for _, family := range parsed {
		families = append(families, family)
	}
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return families
}

func write(t *testing.T, families []*dto.MetricFamily) string {
	t.Helper()
	var text strings.Builder
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}

// testdata/ours.txt is what an agent offers, and testdata/retina.txt what is made of it.
func TestConversion(t *testing.T) {
	ours := read(t, "testdata/ours.txt")
	before := make([]*dto.MetricFamily, len(ours))
	for i, family := range ours {
		before[i] = proto.Clone(family).(*dto.MetricFamily)
	}
	families, err := New(prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return ours, nil })).Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := write(t, families)
	if *rewrite {
		if err := os.WriteFile("testdata/retina.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/retina.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("it makes (go test -rewrite writes it)\n%s", got)
	}
	for i, family := range ours {
		if !proto.Equal(family, before[i]) {
			t.Errorf("%s was changed", family.GetName())
		}
	}
	// What Prometheus takes: each series once.
	if _, err := (prometheus.Gatherers{prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return families, nil })}).Gather(); err != nil {
		t.Error(err)
	}
	made := map[string]bool{}
	for _, family := range families {
		made[strings.TrimPrefix(family.GetName(), prefix)] = true
	}
	for _, r := range rules {
		if !made[r.to] {
			t.Errorf("testdata has nothing for %s", r.to)
		}
	}
}

func TestErrorsAndNothing(t *testing.T) {
	broken := errors.New("broken")
	families, err := New(prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, broken })).Gather()
	if len(families) > 0 || !errors.Is(err, broken) {
		t.Errorf("%v, %v", families, err)
	}
}

var row = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|[^|]*\\|[^|]*\\|[^|]*\\| `([a-z_]+)` \\|$")

// Every family has its line in docs/retina.md, with the family that it is made of, and the page promises no other.
func TestPageHasEveryName(t *testing.T) {
	text, err := os.ReadFile("../../docs/retina.md")
	if err != nil {
		t.Fatal(err)
	}
	page := map[string]string{}
	for _, match := range row.FindAllStringSubmatch(string(text), -1) {
		page[match[1]] = match[2]
	}
	for _, r := range rules {
		if page[r.to] != r.from {
			t.Errorf("docs/retina.md says of %s that it is made of %q; it is made of %s", r.to, page[r.to], r.from)
		}
		delete(page, r.to)
	}
	for name := range page {
		t.Errorf("docs/retina.md promises %s, which is not made", name)
	}
}

func BenchmarkFullNode(b *testing.B) {
	ours := read(b, "testdata/ours.txt")
	for _, family := range ours {
		if !strings.HasPrefix(family.GetName(), prefix+"pod_") {
			continue
		}
		one := family.Metric
		for i := range 109 {
			for _, metric := range one {
				another := proto.Clone(metric).(*dto.Metric)
				for _, label := range another.Label {
					if label.GetName() == "pod" {
						label.Value = new(label.GetValue() + "-" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
					}
				}
				family.Metric = append(family.Metric, another)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		convert(ours)
	}
}
