package captures

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestTable reads as kubectl get -o wide prints testdata/table.yaml; testdata/table.txt is what it has to print.
// UPDATE=1 writes it anew.
func TestTable(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "table.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var list v1alpha1.CaptureList
	if err := yaml.UnmarshalStrict(data, &list); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		list.Items[i].CreationTimestamp = metav1.Time{Time: time.Now().Add(-90 * time.Minute)}
	}
	convertor := tableConvertor{testingclock.NewFakePassiveClock(now)}
	table, err := convertor.ConvertToTable(t.Context(), &list, nil)
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	writer := tabwriter.NewWriter(&printed, 0, 0, 3, ' ', 0)
	var names []string
	for _, column := range table.ColumnDefinitions {
		names = append(names, strings.ToUpper(column.Name))
	}
	fmt.Fprintln(writer, strings.Join(names, "\t"))
	for _, row := range table.Rows {
		var cells []string
		for _, cell := range row.Cells {
			cells = append(cells, fmt.Sprint(cell))
		}
		fmt.Fprintln(writer, strings.Join(cells, "\t"))
	}
	if err := writer.Flush(); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "table.txt")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, []byte(printed.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if printed.String() != string(want) {
		t.Errorf("printed\n%s\nwant\n%s", printed.String(), want)
	}
}

func TestTableOfOne(t *testing.T) {
	w := newWorld(t)
	w.create("web", "", everyPod).capture(t)
	cluster := &v1alpha1.ClusterCapture{ObjectMeta: metav1.ObjectMeta{Name: "all", ResourceVersion: "5"}}
	table, err := w.storage.ClusterCaptures.ConvertToTable(t.Context(), cluster, &metav1.TableOptions{NoHeaders: true})
	if err != nil || len(table.Rows) != 1 || table.ResourceVersion != "5" || table.ColumnDefinitions != nil {
		t.Errorf("%+v, %v", table, err)
	}
	if got := w.storage.Captures.ShortNames(); len(got) != 1 || got[0] != "pcap" {
		t.Errorf("short names %q", got)
	}
}
