// Package install registers networkobservability.k8s.io for servers: the versioned types, the same types
// as the internal version (there is one version, so there is nothing to convert), and the field selectors
// that each resource knows.
package install

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// The labels of field selectors. SpecNodeNameField is the name that users know from pods.
const (
	NameField         = "metadata.name"
	NamespaceField    = "metadata.namespace"
	NodeNameField     = "nodeName"
	SpecNodeNameField = "spec.nodeName"
)

// Install registers the group with a server's scheme.
func Install(scheme *runtime.Scheme) {
	internal := schema.GroupVersion{Group: v1alpha1.GroupName, Version: runtime.APIVersionInternal}
	scheme.AddKnownTypes(internal,
		&v1alpha1.PodNetworkStats{}, &v1alpha1.PodNetworkStatsList{},
		&v1alpha1.NodeNetworkStats{}, &v1alpha1.NodeNetworkStatsList{},
		&v1alpha1.NetworkFlow{}, &v1alpha1.NetworkFlowList{},
		&v1alpha1.Capture{}, &v1alpha1.CaptureList{}, &v1alpha1.ClusterCapture{}, &v1alpha1.ClusterCaptureList{},
		&v1alpha1.CaptureReadOptions{},
		&v1alpha1.NetworkTelemetry{}, &v1alpha1.NetworkTelemetryList{},
	)
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	utilruntime.Must(scheme.SetVersionPriority(v1alpha1.SchemeGroupVersion))
	// Servers need the unversioned meta types in the group "" as well.
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})

	addFields(scheme, "PodNetworkStats", NameField, NamespaceField, NodeNameField, SpecNodeNameField)
	addFields(scheme, "NodeNetworkStats", NameField)
	addFlowFields(scheme)
	addCaptures(scheme)
	addTelemetry(scheme)
}

func addFields(scheme *runtime.Scheme, kind string, labels ...string) {
	known := map[string]bool{}
	for _, label := range labels {
		known[label] = true
	}
	convert := func(label, value string) (string, string, error) {
		if !known[label] {
			return "", "", fmt.Errorf("%q is not a field that %s can be selected by; known are %q", label, kind, labels)
		}
		if label == SpecNodeNameField {
			label = NodeNameField
		}
		return label, value, nil
	}
	utilruntime.Must(scheme.AddFieldLabelConversionFunc(v1alpha1.SchemeGroupVersion.WithKind(kind), convert))
}
