package captures

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/validation"
)

// A kind is what tells the two kinds of capture apart.
type kind struct {
	name, resource, singular string
	shortNames               []string
	namespaced               bool
	newObject, newList       func() runtime.Object
}

var captureKind = kind{
	name: "Capture", resource: "captures", singular: "capture", shortNames: []string{"pcap"}, namespaced: true,
	newObject: func() runtime.Object { return &v1alpha1.Capture{} },
	newList:   func() runtime.Object { return &v1alpha1.CaptureList{} },
}

var clusterCaptureKind = kind{
	name: "ClusterCapture", resource: "clustercaptures", singular: "clustercapture", shortNames: []string{"cpcap"},
	newObject: func() runtime.Object { return &v1alpha1.ClusterCapture{} },
	newList:   func() runtime.Object { return &v1alpha1.ClusterCaptureList{} },
}

// parts are what both kinds have.
type parts struct {
	meta     *metav1.ObjectMeta
	settings *v1alpha1.CaptureSettings
	status   *v1alpha1.CaptureStatus
}

// partsOf panics over other objects: the store holds no others.
func partsOf(object runtime.Object) parts {
	switch capture := object.(type) {
	case *v1alpha1.Capture:
		return parts{&capture.ObjectMeta, &capture.Spec.CaptureSettings, &capture.Status}
	case *v1alpha1.ClusterCapture:
		return parts{&capture.ObjectMeta, &capture.Spec.CaptureSettings, &capture.Status}
	}
	panic(fmt.Sprintf("%T is no capture", object))
}

func validate(object runtime.Object, now time.Time) field.ErrorList {
	if capture, ok := object.(*v1alpha1.Capture); ok {
		return validation.Capture(capture, now)
	}
	return validation.ClusterCapture(object.(*v1alpha1.ClusterCapture), now)
}

func validateUpdate(object, old runtime.Object) field.ErrorList {
	if capture, ok := object.(*v1alpha1.Capture); ok {
		return validation.CaptureUpdate(capture, old.(*v1alpha1.Capture))
	}
	return validation.ClusterCaptureUpdate(object.(*v1alpha1.ClusterCapture), old.(*v1alpha1.ClusterCapture))
}
