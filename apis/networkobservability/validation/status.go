package validation

import (
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// MaxStatusRows is how many rows status.targets and status.outputs have at most.
	MaxStatusRows = 500

	maxConditions    = 16
	maxStatusObjects = 100
)

// CaptureStatus checks a status that is to be stored: that it is bounded, and that it says what the API says.
func CaptureStatus(status *v1alpha1.CaptureStatus) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	if len(status.Conditions) > maxConditions {
		errs = append(errs, field.TooMany(path.Child("conditions"), len(status.Conditions), maxConditions))
	} else {
		errs = append(errs, metav1validation.ValidateConditions(status.Conditions, path.Child("conditions"))...)
	}
	errs = append(errs, targetRows(status.Targets, path.Child("targets"))...)
	errs = append(errs, outputRows(status.Outputs, path.Child("outputs"))...)
	errs = append(errs, counts(&status.Totals, path.Child("totals"))...)
	for name, value := range map[string]int64{
		"observedGeneration": status.ObservedGeneration, "nodes": int64(status.Nodes), "pods": int64(status.Pods), "omittedTargets": int64(status.OmittedTargets),
	} {
		errs = append(errs, notNegative(value, path.Child(name))...)
	}
	if status.Expected != nil {
		errs = append(errs, field.Forbidden(path.Child("expected"), "is in the answer to a dry run only"))
	}
	return errs
}

func targetRows(rows []v1alpha1.CaptureTarget, path *field.Path) field.ErrorList {
	if len(rows) > MaxStatusRows {
		return field.ErrorList{field.TooMany(path, len(rows), MaxStatusRows)}
	}
	phases := []v1alpha1.CaptureTargetPhase{v1alpha1.CapturePending, v1alpha1.CaptureRunning, v1alpha1.CaptureEnded, v1alpha1.CaptureTargetFailed}
	var errs field.ErrorList
	for i := range rows {
		row, at := &rows[i], path.Index(i)
		if !sets.New(phases...).Has(row.Phase) {
			errs = append(errs, field.NotSupported(at.Child("phase"), row.Phase, phases))
		}
		if row.Node == "" && row.Pod == "" {
			errs = append(errs, field.Required(at.Child("node"), "a row is of a node or a pod"))
		}
		errs = append(errs, counts(&row.CaptureCounts, at)...)
	}
	return errs
}

func outputRows(rows []v1alpha1.CaptureOutputStatus, path *field.Path) field.ErrorList {
	if len(rows) > MaxStatusRows {
		return field.ErrorList{field.TooMany(path, len(rows), MaxStatusRows)}
	}
	phases := []v1alpha1.CaptureOutputPhase{v1alpha1.CaptureOutputPending, v1alpha1.CaptureOutputUploading, v1alpha1.CaptureOutputStored, v1alpha1.CaptureOutputFailed}
	var errs field.ErrorList
	for i := range rows {
		if !sets.New(phases...).Has(rows[i].Phase) {
			errs = append(errs, field.NotSupported(path.Index(i).Child("phase"), rows[i].Phase, phases))
		}
		if len(rows[i].Objects) > maxStatusObjects {
			errs = append(errs, field.TooMany(path.Index(i).Child("objects"), len(rows[i].Objects), maxStatusObjects))
		}
	}
	return errs
}

func counts(counts *v1alpha1.CaptureCounts, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, value := range map[string]int64{
		"packets": counts.Packets, "bytes": counts.Bytes, "matched": counts.Matched, "droppedByRing": counts.DroppedByRing,
		"droppedByDisk": counts.DroppedByDisk, "droppedByLimit": counts.DroppedByLimit, "atOtherVantagePoint": counts.AtOtherVantagePoint,
	} {
		errs = append(errs, notNegative(value, path.Child(name))...)
	}
	return errs
}

func notNegative(value int64, path *field.Path) field.ErrorList {
	if value < 0 {
		return field.ErrorList{field.Invalid(path, value, "must not be negative")}
	}
	return nil
}
