package install

import (
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// addTelemetry registers what servers need of NetworkTelemetry beside its types.
func addTelemetry(scheme *runtime.Scheme) {
	scheme.AddTypeDefaultingFunc(&v1alpha1.NetworkTelemetry{}, func(object any) { defaultTelemetry(&object.(*v1alpha1.NetworkTelemetry).Spec) })
	addFields(scheme, "NetworkTelemetry", NameField)
}

// defaultTelemetry writes down what goes without saying, so that it can be seen and stays when a release changes it.
func defaultTelemetry(spec *v1alpha1.NetworkTelemetrySpec) {
	spec.SeriesLimit = orDefault(spec.SeriesLimit, 50_000)
	for i := range spec.PodMetrics {
		if group := &spec.PodMetrics[i]; len(group.Labels) > 0 {
			group.LabelValuesLimit = orDefault(group.LabelValuesLimit, 50)
		}
	}
	if logs := spec.FlowLogs; logs != nil {
		logs.IntervalSeconds = orDefault(logs.IntervalSeconds, 60)
		logs.SampleOneIn = orDefault(logs.SampleOneIn, 1)
	}
	for i := range spec.Exporters {
		defaultExporter(&spec.Exporters[i])
	}
}

func defaultExporter(exporter *v1alpha1.TelemetryExporter) {
	if otlp := exporter.OTLP; otlp != nil {
		if otlp.Protocol == "" {
			otlp.Protocol = v1alpha1.OTLPGRPC
		}
		if otlp.Compression == "" {
			otlp.Compression = v1alpha1.CompressionGzip
		}
		otlp.IntervalSeconds = orDefault(otlp.IntervalSeconds, 30)
		otlp.TimeoutSeconds = orDefault(otlp.TimeoutSeconds, 10)
		otlp.QueueMebibytes = orDefault(otlp.QueueMebibytes, 8)
	}
	if file := exporter.File; file != nil {
		file.MaxMebibytes = orDefault(file.MaxMebibytes, 100)
		file.MaxFiles = orDefault(file.MaxFiles, 5)
	}
}
