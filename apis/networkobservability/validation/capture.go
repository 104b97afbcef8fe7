// Package validation checks captures and telemetry as far as their text alone tells. What the operator allows, what the requester
// may do and whether names resolve and the filter compiles is checked by the API server.
//
// Every message says what to write instead, and none repeats what may be a credential or is very long.
package validation

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	maxNames      = 1000
	maxInterfaces = 32
)

// Capture checks a Capture that is to be created at now.
func Capture(capture *v1alpha1.Capture, now time.Time) field.ErrorList {
	spec := field.NewPath("spec")
	errs := name(&capture.ObjectMeta, true)
	errs = append(errs, pods(&capture.Spec.Pods, spec.Child("pods"))...)
	return append(errs, settings(&capture.Spec.CaptureSettings, now, spec)...)
}

// ClusterCapture checks a ClusterCapture that is to be created at now.
func ClusterCapture(capture *v1alpha1.ClusterCapture, now time.Time) field.ErrorList {
	spec := field.NewPath("spec")
	errs := name(&capture.ObjectMeta, false)
	if capture.Spec.Nodes == nil && capture.Spec.Pods == nil {
		errs = append(errs, field.Required(spec.Child("pods"), "give pods, nodes or both; nodes: {selector: {}} is every node"))
	}
	if capture.Spec.Nodes != nil {
		errs = append(errs, nodes(capture.Spec.Nodes, spec.Child("nodes"))...)
	}
	if capture.Spec.Pods != nil {
		errs = append(errs, clusterPods(capture.Spec.Pods, spec.Child("pods"))...)
	}
	return append(errs, settings(&capture.Spec.CaptureSettings, now, spec)...)
}

// CaptureUpdate checks what has become of a Capture. Its metadata has been checked.
func CaptureUpdate(capture, old *v1alpha1.Capture) field.ErrorList {
	changed, before := capture.Spec.DeepCopy(), old.Spec.DeepCopy()
	changed.Stop, before.Stop = false, false
	return append(stop(capture.Spec.Stop, old.Spec.Stop), immutable(changed, before)...)
}

// ClusterCaptureUpdate checks what has become of a ClusterCapture. Its metadata has been checked.
func ClusterCaptureUpdate(capture, old *v1alpha1.ClusterCapture) field.ErrorList {
	changed, before := capture.Spec.DeepCopy(), old.Spec.DeepCopy()
	changed.Stop, before.Stop = false, false
	return append(stop(capture.Spec.Stop, old.Spec.Stop), immutable(changed, before)...)
}

func stop(now, before bool) field.ErrorList {
	if before && !now {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "stop"), "a capture that was stopped does not go on; create another")}
	}
	return nil
}

// immutable names each field of the spec that is another now.
func immutable(spec, old any) field.ErrorList {
	now, err := members(spec)
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
	}
	before, err := members(old)
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
	}
	var errs field.ErrorList
	names := sets.New[string]().Insert(slices.Collect(maps.Keys(now))...).Insert(slices.Collect(maps.Keys(before))...)
	for _, name := range sets.List(names) {
		if !reflect.DeepEqual(now[name], before[name]) {
			errs = append(errs, field.Forbidden(field.NewPath("spec", name), "cannot be changed, only stop can be set; delete the capture or create another"))
		}
	}
	return errs
}

// members are the members of an object in JSON, in which there is one way to write a quantity or a list without items.
func members(object any) (map[string]any, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("writing the spec: %w", err)
	}
	var all map[string]any
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("reading the spec: %w", err)
	}
	return all, nil
}

func name(meta *metav1.ObjectMeta, namespaced bool) field.ErrorList {
	return apivalidation.ValidateObjectMeta(meta, namespaced, apivalidation.NameIsDNSLabel, field.NewPath("metadata"))
}

func pods(pods *v1alpha1.CapturePods, path *field.Path) field.ErrorList {
	errs := selectorOrNames(pods.Selector, len(pods.Names), "every pod of the namespace", path)
	errs = append(errs, names(pods.Names, "a pod", path.Child("names"))...)
	return append(errs, interfaces(pods.Interfaces, path.Child("interfaces"))...)
}

func nodes(nodes *v1alpha1.CaptureNodes, path *field.Path) field.ErrorList {
	errs := selectorOrNames(nodes.Selector, len(nodes.Names), "every node", path)
	errs = append(errs, names(nodes.Names, "a node", path.Child("names"))...)
	return append(errs, interfaces(nodes.Interfaces, path.Child("interfaces"))...)
}

func clusterPods(pods *v1alpha1.ClusterCapturePods, path *field.Path) field.ErrorList {
	errs := selectorOrNames(pods.Selector, len(pods.Names), "every pod", path)
	if pods.NamespaceSelector != nil {
		errs = append(errs, selector(pods.NamespaceSelector, path.Child("namespaceSelector"))...)
		if len(pods.Names) > 0 {
			errs = append(errs, field.Forbidden(path.Child("namespaceSelector"), "goes with selector; leave it out, names have namespaces of their own"))
		}
	}
	if len(pods.Names) > maxNames {
		errs = append(errs, field.TooMany(path.Child("names"), len(pods.Names), maxNames))
	} else {
		errs = append(errs, podNames(pods.Names, path.Child("names"))...)
	}
	return append(errs, interfaces(pods.Interfaces, path.Child("interfaces"))...)
}

func podNames(names []v1alpha1.CapturePodName, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[v1alpha1.CapturePodName]()
	for i, one := range names {
		errs = append(errs, namespaceName(one.Namespace, path.Index(i).Child("namespace"))...)
		errs = append(errs, objectName(one.Name, "a pod", path.Index(i).Child("name"))...)
		if seen.Has(one) {
			errs = append(errs, field.Duplicate(path.Index(i), one.Namespace+"/"+one.Name))
		}
		seen.Insert(one)
	}
	return errs
}

// selectorOrNames: exactly one. A selector without terms is said to choose everything, an absent one is not.
func selectorOrNames(labels *metav1.LabelSelector, names int, everything string, path *field.Path) field.ErrorList {
	switch {
	case labels == nil && names == 0:
		return field.ErrorList{field.Required(path, fmt.Sprintf("give selector or names; selector: {} is %s", everything))}
	case labels != nil && names > 0:
		return field.ErrorList{field.Forbidden(path.Child("names"), "give selector or names, not both")}
	case labels != nil:
		return selector(labels, path.Child("selector"))
	}
	return nil
}

func selector(labels *metav1.LabelSelector, path *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelSelector(labels, metav1validation.LabelSelectorValidationOptions{}, path)
}

func names(names []string, what string, path *field.Path) field.ErrorList {
	if len(names) > maxNames {
		return field.ErrorList{field.TooMany(path, len(names), maxNames)}
	}
	errs := distinct(names, path)
	for i, one := range names {
		errs = append(errs, objectName(one, what, path.Index(i))...)
	}
	return errs
}

func objectName(name, what string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "give the name of "+what)}
	}
	var errs field.ErrorList
	for _, message := range apivalidation.NameIsDNSSubdomain(name, false) {
		errs = append(errs, field.Invalid(path, short(name), message))
	}
	return errs
}

func namespaceName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "give the name of a namespace")}
	}
	var errs field.ErrorList
	for _, message := range apivalidation.ValidateNamespaceName(name, false) {
		errs = append(errs, field.Invalid(path, short(name), message))
	}
	return errs
}

func distinct(values []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, value := range values {
		if seen.Has(value) {
			errs = append(errs, field.Duplicate(path.Index(i), short(value)))
		}
		seen.Insert(value)
	}
	return errs
}

// interfaces are held to what the kernel takes for a name.
func interfaces(names []string, path *field.Path) field.ErrorList {
	if len(names) > maxInterfaces {
		return field.ErrorList{field.TooMany(path, len(names), maxInterfaces)}
	}
	errs := distinct(names, path)
	for i, one := range names {
		if !interfaceName.MatchString(one) || one == "." || one == ".." {
			errs = append(errs, field.Invalid(path.Index(i), short(one), `must be the name of a network interface such as eth0: 1 to 15 printable characters without spaces, "/" and ":"`))
		}
	}
	return errs
}

// short cuts what is said back.
func short(text string) string {
	const most = 100
	if len(text) <= most {
		return text
	}
	return text[:most] + "..."
}
