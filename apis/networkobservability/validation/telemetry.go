package validation

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// MaxTelemetryExporters is how many exporters there are at most, in the spec and in the status.
	MaxTelemetryExporters = 8
	// MaxTelemetryProblems is how many problems of nodes a status has at most.
	MaxTelemetryProblems = 50
	// MaxTelemetryMessageBytes is how long a message of a problem or of an exporter is at most.
	MaxTelemetryMessageBytes = 1024

	maxLabelValues       = 10_000
	minSeries, maxSeries = 100, 1_000_000
	// seriesOfOthers is how many series agents keep at most for pods that are added up, though never more than half of all.
	seriesOfOthers        = 300
	maxMetricAgeSeconds   = 300
	minTelemetryInterval  = 5
	maxTelemetryInterval  = 3600
	maxSampleOneIn        = 1_000_000
	maxSelectorTerms      = 16
	maxSelectorTermValues = 64
	// maxSelectorTextBytes is the longest key of a label: a prefix, a slash and a name.
	maxSelectorTextBytes = 253 + 1 + 63
)

var podMetricGroups = []v1alpha1.PodMetricGroup{v1alpha1.PodTraffic, v1alpha1.PodDrops, v1alpha1.PodTCP, v1alpha1.PodDNS, v1alpha1.PodAPIServer}

// labelsOf are the labels that can be asked for, by group. The others have none.
var labelsOf = map[v1alpha1.PodMetricGroup][]v1alpha1.PodMetricLabel{
	v1alpha1.PodTraffic: {v1alpha1.LabelPeerWorkload, v1alpha1.LabelService, v1alpha1.LabelPort, v1alpha1.LabelDNSName},
	v1alpha1.PodDrops:   {v1alpha1.LabelPort},
	v1alpha1.PodDNS:     {v1alpha1.LabelDNSName},
}

// seriesOf is how many series a busy pod has of a group (a histogram's are 11), and for each combination of values of
// labels that were asked for.
var seriesOf = map[v1alpha1.PodMetricGroup]struct{ pod, combination int64 }{
	v1alpha1.PodTraffic: {6, 4}, v1alpha1.PodDrops: {10, 1}, v1alpha1.PodTCP: {28, 0}, v1alpha1.PodDNS: {30, 2}, v1alpha1.PodAPIServer: {24, 0},
}

// NetworkTelemetry checks a NetworkTelemetry that is to be created.
func NetworkTelemetry(telemetry *v1alpha1.NetworkTelemetry) field.ErrorList {
	var errs field.ErrorList
	if telemetry.Name != v1alpha1.NetworkTelemetryName {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), short(telemetry.Name),
			fmt.Sprintf("must be %q: a cluster has one NetworkTelemetry", v1alpha1.NetworkTelemetryName)))
	} else {
		errs = name(&telemetry.ObjectMeta, false)
	}
	return append(errs, telemetrySpec(&telemetry.Spec, field.NewPath("spec"))...)
}

// NetworkTelemetryUpdate checks what has become of a NetworkTelemetry. Its metadata has been checked. A spec that stays
// as it is passes, also where a later release is stricter.
func NetworkTelemetryUpdate(telemetry, old *v1alpha1.NetworkTelemetry) field.ErrorList {
	if equality.Semantic.DeepEqual(telemetry.Spec, old.Spec) {
		return nil
	}
	return telemetrySpec(&telemetry.Spec, field.NewPath("spec"))
}

// NetworkTelemetryWarnings tells who writes a spec what of it does nothing.
func NetworkTelemetryWarnings(telemetry *v1alpha1.NetworkTelemetry) []string {
	var warnings []string
	for i := range telemetry.Spec.PodMetrics {
		if group := &telemetry.Spec.PodMetrics[i]; group.LabelValuesLimit != nil && len(group.Labels) == 0 {
			warnings = append(warnings, fmt.Sprintf("spec.podMetrics[%d].labelValuesLimit: limits the values of labels, and none are asked for", i))
		}
	}
	if telemetry.Spec.FlowLogs != nil && !slices.ContainsFunc(telemetry.Spec.Exporters, logsFlows) {
		warnings = append(warnings, "spec.flowLogs: no exporter has FlowLogs among its signals, so flows are logged nowhere")
	}
	return warnings
}

func logsFlows(exporter v1alpha1.TelemetryExporter) bool {
	return slices.Contains(exporter.Signals, v1alpha1.SignalFlowLogs)
}

func telemetrySpec(spec *v1alpha1.NetworkTelemetrySpec, path *field.Path) field.ErrorList {
	errs := podMetrics(spec.PodMetrics, path.Child("podMetrics"))
	errs = append(errs, seriesLimit(spec, path.Child("seriesLimit"))...)
	if spec.FlowLogs != nil {
		errs = append(errs, flowLogs(spec.FlowLogs, path.Child("flowLogs"))...)
	}
	return append(errs, exporters(spec.Exporters, spec.FlowLogs != nil, path.Child("exporters"))...)
}

func podMetrics(groups []v1alpha1.PodMetrics, path *field.Path) field.ErrorList {
	if len(groups) > len(podMetricGroups) {
		return field.ErrorList{field.TooMany(path, len(groups), len(podMetricGroups))}
	}
	var errs field.ErrorList
	seen := sets.New[v1alpha1.PodMetricGroup]()
	for i := range groups {
		at := path.Index(i)
		switch group := groups[i].Group; {
		case group == "":
			errs = append(errs, field.Required(at.Child("group"), "give Traffic, Drops, TCP, DNS or APIServer"))
		case seen.Has(group):
			errs = append(errs, field.Duplicate(at.Child("group"), v1alpha1.PodMetricGroup(short(string(group)))))
		default:
			errs = append(errs, oneOf(group, at.Child("group"), podMetricGroups...)...)
		}
		seen.Insert(groups[i].Group)
		errs = append(errs, podMetric(&groups[i], at)...)
	}
	return errs
}

func podMetric(group *v1alpha1.PodMetrics, path *field.Path) field.ErrorList {
	errs := telemetryPods(group.Pods, path.Child("pods"))
	errs = append(errs, metricLabels(group, path.Child("labels"))...)
	if limit := group.LabelValuesLimit; limit != nil {
		errs = append(errs, between(int64(*limit), 1, maxLabelValues, "combinations of values", path.Child("labelValuesLimit"))...)
	}
	if seconds := group.IntervalSeconds; seconds != nil {
		errs = append(errs, between(int64(*seconds), 0, maxMetricAgeSeconds, "seconds", path.Child("intervalSeconds"))...)
	}
	return errs
}

func metricLabels(group *v1alpha1.PodMetrics, path *field.Path) field.ErrorList {
	known, labels := labelsOf[group.Group], group.Labels
	switch {
	case len(labels) == 0 || !sets.New(podMetricGroups...).Has(group.Group): // which is said of the group
		return nil
	case len(known) == 0:
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("group %s has no labels that can be asked for; leave them out", group.Group))}
	case len(labels) > len(known):
		return field.ErrorList{field.TooMany(path, len(labels), len(known))}
	}
	return distinctOf(labels, path, known...)
}

// distinctOf are known values, none of them twice.
func distinctOf[T ~string](values []T, path *field.Path, known ...T) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[T]()
	for i, value := range values {
		switch {
		case seen.Has(value):
			errs = append(errs, field.Duplicate(path.Index(i), T(short(string(value)))))
		case !sets.New(known...).Has(value):
			errs = append(errs, field.NotSupported(path.Index(i), T(short(string(value))), known))
		}
		seen.Insert(value)
	}
	return errs
}

// seriesLimit has to leave room for one pod with all that was asked for, or not even one would be offered as it is.
func seriesLimit(spec *v1alpha1.NetworkTelemetrySpec, path *field.Path) field.ErrorList {
	if spec.SeriesLimit == nil {
		return nil
	}
	limit := int64(*spec.SeriesLimit)
	if errs := between(limit, minSeries, maxSeries, "series", path); len(errs) > 0 {
		return errs
	}
	pod := int64(1) // that tells of the pod itself
	for i := range spec.PodMetrics {
		group := &spec.PodMetrics[i]
		pod += seriesOf[group.Group].pod
		if len(group.Labels) > 0 && group.LabelValuesLimit != nil {
			pod += min(maxLabelValues, max(0, int64(*group.LabelValuesLimit))) * seriesOf[group.Group].combination
		}
	}
	if needed := pod + min(pod, seriesOfOthers); limit < needed {
		return field.ErrorList{field.Invalid(path, limit, fmt.Sprintf(
			"must be at least %d: with these groups and labels one pod has up to %d series, and room is kept for pods that are added up; raise it, or lower labelValuesLimit", needed, pod))}
	}
	return nil
}

func telemetryPods(pods *v1alpha1.TelemetryPods, path *field.Path) field.ErrorList {
	if pods == nil {
		return nil
	}
	errs := boundedSelector(pods.NamespaceSelector, path.Child("namespaceSelector"))
	return append(errs, boundedSelector(pods.Selector, path.Child("selector"))...)
}

func boundedSelector(labels *metav1.LabelSelector, path *field.Path) field.ErrorList {
	if labels == nil {
		return nil
	}
	if terms := len(labels.MatchLabels) + len(labels.MatchExpressions); terms > maxSelectorTerms {
		return field.ErrorList{field.TooMany(path, terms, maxSelectorTerms)}
	}
	longest := 0
	for key, value := range labels.MatchLabels {
		longest = max(longest, len(key), len(value))
	}
	for i, expression := range labels.MatchExpressions {
		if len(expression.Values) > maxSelectorTermValues {
			return field.ErrorList{field.TooMany(path.Child("matchExpressions").Index(i).Child("values"), len(expression.Values), maxSelectorTermValues)}
		}
		for _, text := range append([]string{expression.Key, string(expression.Operator)}, expression.Values...) {
			longest = max(longest, len(text))
		}
	}
	if longest > maxSelectorTextBytes { // it would be said back
		return field.ErrorList{field.TooLong(path, "", maxSelectorTextBytes)}
	}
	return selector(labels, path)
}

func flowLogs(logs *v1alpha1.FlowLogs, path *field.Path) field.ErrorList {
	verdicts := []v1alpha1.FlowVerdict{v1alpha1.Forwarded, v1alpha1.Dropped, v1alpha1.Rejected}
	errs := telemetryPods(logs.Pods, path.Child("pods"))
	if len(logs.Verdicts) > len(verdicts) {
		errs = append(errs, field.TooMany(path.Child("verdicts"), len(logs.Verdicts), len(verdicts)))
	} else {
		errs = append(errs, distinctOf(logs.Verdicts, path.Child("verdicts"), verdicts...)...)
	}
	if seconds := logs.IntervalSeconds; seconds != nil {
		errs = append(errs, between(int64(*seconds), minTelemetryInterval, maxTelemetryInterval, "seconds", path.Child("intervalSeconds"))...)
	}
	if flows := logs.SampleOneIn; flows != nil {
		errs = append(errs, between(int64(*flows), 1, maxSampleOneIn, "flows; 1 logs every flow", path.Child("sampleOneIn"))...)
	}
	return errs
}

// NetworkTelemetryStatus checks a status that is to be stored: that it is bounded, and says what the API says.
func NetworkTelemetryStatus(status *v1alpha1.NetworkTelemetryStatus) field.ErrorList {
	path := field.NewPath("status")
	errs := notNegative(status.ObservedGeneration, path.Child("observedGeneration"))
	if len(status.Conditions) > maxConditions {
		errs = append(errs, field.TooMany(path.Child("conditions"), len(status.Conditions), maxConditions))
	} else {
		errs = append(errs, metav1validation.ValidateConditions(status.Conditions, path.Child("conditions"))...)
	}
	nodes := path.Child("nodes")
	errs = append(errs, notNegative(int64(status.Nodes.Total), nodes.Child("total"))...)
	errs = append(errs, notNegative(int64(status.Nodes.Applied), nodes.Child("applied"))...)
	errs = append(errs, notNegative(int64(status.Nodes.WithProblems), nodes.Child("withProblems"))...)
	errs = append(errs, nodeProblems(status.Problems, path.Child("problems"))...)
	return append(errs, exporterStatuses(status.Exporters, path.Child("exporters"))...)
}

func nodeProblems(problems []v1alpha1.TelemetryNodeProblem, path *field.Path) field.ErrorList {
	if len(problems) > MaxTelemetryProblems {
		return field.ErrorList{field.TooMany(path, len(problems), MaxTelemetryProblems)}
	}
	var errs field.ErrorList
	for i := range problems {
		errs = append(errs, objectName(problems[i].Node, "a node", path.Index(i).Child("node"))...)
		errs = append(errs, statusMessage(problems[i].Message, path.Index(i).Child("message"))...)
	}
	return errs
}

func exporterStatuses(rows []v1alpha1.TelemetryExporterStatus, path *field.Path) field.ErrorList {
	if len(rows) > MaxTelemetryExporters {
		return field.ErrorList{field.TooMany(path, len(rows), MaxTelemetryExporters)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range rows {
		row, at := &rows[i], path.Index(i)
		errs = append(errs, label(row.Name, at.Child("name"))...)
		if seen.Has(row.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), short(row.Name)))
		}
		seen.Insert(row.Name)
		errs = append(errs, notNegative(int64(row.Reaching), at.Child("reaching"))...)
		errs = append(errs, notNegative(int64(row.Failing), at.Child("failing"))...)
		errs = append(errs, notNegative(row.Sent, at.Child("sent"))...)
		errs = append(errs, notNegative(row.Dropped, at.Child("dropped"))...)
		errs = append(errs, statusMessage(row.Message, at.Child("message"))...)
	}
	return errs
}

func statusMessage(text string, path *field.Path) field.ErrorList {
	if len(text) > MaxTelemetryMessageBytes {
		return field.ErrorList{field.TooLong(path, "", MaxTelemetryMessageBytes)}
	}
	return nil
}
