package captures

import (
	"context"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/utils/clock"

	"github.com/networkobservability/networkobservability/apis/networkobservability/install"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// none is the cell of what there is not.
const none = "-"

var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "Name of the capture."},
	{Name: "Status", Type: "string", Description: "Pending, Running, Stopping, Storing (what was recorded is sealed or copied), Complete, or Failed with the reason."},
	{Name: "Nodes", Type: "integer", Description: "Nodes that record, or did."},
	{Name: "Pods", Type: "integer", Description: "Pods that are, or were, recorded."},
	{Name: "Packets", Type: "string", Description: "Packets recorded, with decimal prefixes."},
	{Name: "Bytes", Type: "string", Description: "Bytes of them that were kept, with binary prefixes."},
	{Name: "Dropped", Type: "string", Description: "Packets that matched and were lost: by the kernel's ring, by the disk, or beyond a limit."},
	{Name: "Duration", Type: "string", Description: "For how long packets are, or were, recorded."},
	{Name: "Age", Type: "string", Description: "Time since the capture was created."},
	{Name: "Filter", Type: "string", Priority: 1, Description: "The filter, and how many items match has."},
	{Name: "Requester", Type: "string", Priority: 1, Description: "Who created the capture."},
	{Name: "File", Type: "string", Priority: 1, Description: "Size of the merged file, once there is one."},
	{Name: "Stored", Type: "string", Priority: 1, Description: "Whether everything was copied to the outputs."},
}

type tableConvertor struct {
	clock clock.PassiveClock
}

// ConvertToTable is part of rest.TableConvertor.
func (c tableConvertor) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return live.Table(object, options, columns, c.cells)
}

func (c tableConvertor) cells(object runtime.Object) []any {
	capture := partsOf(object)
	status := capture.status
	requester, file := live.Unknown, none
	if capture.settings.Requester != nil {
		requester = printable(capture.settings.Requester.Username)
	}
	if status.File != nil {
		file = live.BytesCell(status.File.Bytes)
	}
	dropped := status.Totals.DroppedByRing + status.Totals.DroppedByDisk + status.Totals.DroppedByLimit
	return []any{
		capture.meta.Name, statusCell(object), int64(status.Nodes), int64(status.Pods),
		live.CountCell(status.Totals.Packets), live.BytesCell(status.Totals.Bytes), live.CountCell(dropped), c.durationCell(status),
		live.AgeCell(capture.meta.CreationTimestamp), filterCell(capture.settings), requester, file, storedCell(capture),
	}
}

// phase sums up the conditions.
func phase(object runtime.Object) string {
	capture := partsOf(object)
	switch conditions := capture.status.Conditions; {
	case meta.IsStatusConditionTrue(conditions, v1alpha1.CaptureFailed):
		return install.PhaseFailed
	case meta.IsStatusConditionTrue(conditions, v1alpha1.CaptureComplete):
		return install.PhaseComplete
	case capture.status.CompletionTime != nil:
		return install.PhaseStoring
	case capture.settings.Stop:
		return install.PhaseStopping
	case meta.IsStatusConditionTrue(conditions, v1alpha1.CaptureStarted):
		return install.PhaseRunning
	}
	return install.PhasePending
}

// ended says that nothing changes any more but the state of outputs.
func ended(object runtime.Object) bool {
	is := phase(object)
	return is == install.PhaseComplete || is == install.PhaseFailed
}

func statusCell(object runtime.Object) string {
	is := phase(object)
	if failed := meta.FindStatusCondition(partsOf(object).status.Conditions, v1alpha1.CaptureFailed); is == install.PhaseFailed && failed.Reason != "" {
		return is + ":" + failed.Reason
	}
	return is
}

func (c tableConvertor) durationCell(status *v1alpha1.CaptureStatus) string {
	if status.StartTime == nil {
		return none
	}
	end := c.clock.Now()
	if status.CompletionTime != nil {
		end = status.CompletionTime.Time
	}
	return duration.HumanDuration(max(0, end.Sub(status.StartTime.Time)))
}

func filterCell(settings *v1alpha1.CaptureSettings) string {
	const most = 80
	text := printable(strings.Join(strings.Fields(settings.Filter), " "))
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "..."
	}
	if len(settings.Match) > 0 {
		text = strings.TrimSpace(text + " +" + strconv.Itoa(len(settings.Match)) + " match")
	}
	if text == "" {
		return none
	}
	return text
}

func storedCell(capture parts) string {
	if len(capture.settings.Outputs) == 0 {
		return none
	}
	stored := meta.FindStatusCondition(capture.status.Conditions, v1alpha1.CaptureStored)
	if stored == nil {
		return live.Unknown
	}
	return string(stored.Status)
}

// printable escapes what would move a terminal's cursor.
func printable(text string) string {
	quoted := strconv.Quote(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
