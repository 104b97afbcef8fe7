package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of every resource in this package.
const GroupName = "networkobservability.k8s.io"

// SchemeGroupVersion is the group and version of every resource in this package.
var SchemeGroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

var (
	// SchemeBuilder collects what AddToScheme registers.
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)
	// AddToScheme registers the types of this package, for clients and servers.
	AddToScheme = SchemeBuilder.AddToScheme
)

// Resource qualifies the name of a resource, such as "podnetworkstats", with the group.
func Resource(resource string) schema.GroupResource {
	return SchemeGroupVersion.WithResource(resource).GroupResource()
}

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(SchemeGroupVersion,
		&PodNetworkStats{}, &PodNetworkStatsList{},
		&NodeNetworkStats{}, &NodeNetworkStatsList{},
		&NetworkFlow{}, &NetworkFlowList{},
		&Capture{}, &CaptureList{}, &ClusterCapture{}, &ClusterCaptureList{}, &CaptureReadOptions{},
		&NetworkTelemetry{}, &NetworkTelemetryList{},
	)
	metav1.AddToGroupVersion(scheme, SchemeGroupVersion)
	return nil
}
