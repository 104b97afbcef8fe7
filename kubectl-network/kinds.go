package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	restclient "k8s.io/client-go/rest"

	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned/scheme"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// fieldManager owns the fields that this program sets.
const fieldManager = "kubectl-network"

// A kind is captures or clustercaptures. They differ in scope and in what they record, and are used alike.
type kind struct {
	singular, plural, name string
	namespaced             bool
	new                    func() runtime.Object
}

var kinds = []kind{
	{"capture", "captures", "Capture", true, func() runtime.Object { return &v1alpha1.Capture{} }},
	{"clustercapture", "clustercaptures", "ClusterCapture", false, func() runtime.Object { return &v1alpha1.ClusterCapture{} }},
}

// A view is what commands need of an object of either kind.
type view struct {
	*metav1.ObjectMeta
	object   runtime.Object
	settings *v1alpha1.CaptureSettings
	status   *v1alpha1.CaptureStatus
}

func viewOf(object runtime.Object) view {
	switch o := object.(type) {
	case *v1alpha1.Capture:
		return view{&o.ObjectMeta, o, &o.Spec.CaptureSettings, &o.Status}
	case *v1alpha1.ClusterCapture:
		return view{&o.ObjectMeta, o, &o.Spec.CaptureSettings, &o.Status}
	}
	panic(fmt.Sprintf("%T is no capture", object))
}

func (v view) condition(name string) *metav1.Condition {
	for i := range v.status.Conditions {
		if c := &v.status.Conditions[i]; c.Type == name && c.Status == metav1.ConditionTrue {
			return c
		}
	}
	return nil
}

// ended is true when nothing more will be recorded and the file, if there is one, is whole. Copying to outputs may go on.
func (v view) ended() bool {
	return v.status.File != nil || v.condition(v1alpha1.CaptureComplete) != nil || v.condition(v1alpha1.CaptureFailed) != nil
}

// copied is true when nothing more will be copied to outputs, now that it has ended.
func (v view) copied() bool {
	for _, c := range v.status.Conditions {
		if c.Type == v1alpha1.CaptureStored {
			return c.Status == metav1.ConditionTrue || c.Reason == "UploadFailed" || c.Reason == "NodeUnreachable"
		}
	}
	return v.condition(v1alpha1.CaptureComplete) != nil || v.condition(v1alpha1.CaptureFailed) != nil
}

// captures is the API as this program uses it, for one kind and namespace.
type captures struct {
	kind
	namespace string
	config    *restclient.Config
	rest      restclient.Interface
	// client reads streams; it is made when the first is read.
	client *http.Client
}

// connect reads the kubeconfig and the flags.
func (p *program) connect(k kind) (*captures, error) {
	config, err := p.config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config.WarningHandler = restclient.NewWarningWriter(p.streams.ErrOut, restclient.WarningWriterOptions{Deduplicate: true})
	namespace, _, err := p.config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &captures{kind: k, namespace: namespace, config: config, rest: client.NetworkobservabilityV1alpha1().RESTClient()}, nil
}

func (c *captures) to(request *restclient.Request, name string) *restclient.Request {
	request = request.NamespaceIfScoped(c.namespace, c.namespaced).Resource(c.plural)
	if name != "" {
		request = request.Name(name)
	}
	return request
}

func (c *captures) create(ctx context.Context, object runtime.Object, dryRun []string) (view, error) {
	created := c.new()
	err := c.to(c.rest.Post(), "").
		VersionedParams(&metav1.CreateOptions{FieldManager: fieldManager, DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict}, scheme.ParameterCodec).
		Body(object).Do(ctx).Into(created)
	return viewOf(created), err
}

func (c *captures) get(ctx context.Context, name string) (view, error) {
	found := c.new()
	err := c.to(c.rest.Get(), name).Do(ctx).Into(found)
	return viewOf(found), err
}

// list gives the names that there are.
func (c *captures) list(ctx context.Context) (names []string, err error) {
	list := &metav1.PartialObjectMetadataList{}
	err = c.to(c.rest.Get(), "").SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json").Do(ctx).Into(list)
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	return names, err
}

// later is the command by which the packets of a capture are had afterwards.
func (c *captures) later(name string) string {
	text := fmt.Sprintf("kubectl network %s download %s", c.singular, name)
	if c.namespaced {
		text += " -n " + c.namespace
	}
	return text
}

// again is the command that goes on with a download.
func (c *captures) again(name string, what portion, file string) string {
	text := c.later(name)
	for _, flag := range []struct{ name, value string }{{"--node", what.node}, {"--pod", what.pod}} {
		if flag.name == "--pod" && what.pod != "" && !c.namespaced {
			flag.value = what.namespace + "/" + what.pod
		}
		if flag.value != "" {
			text += " " + flag.name + " " + flag.value
		}
	}
	if what.headersOnly {
		text += " --headers-only"
	}
	return text + " -o " + file
}

// stop ends a capture. One that has ended is left as it is.
func (c *captures) stop(ctx context.Context, name string) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"stop": true}})
	if err != nil {
		return err
	}
	return c.to(c.rest.Patch(types.MergePatchType), name).Param("fieldManager", fieldManager).Body(patch).Do(ctx).Error()
}

func (c *captures) delete(ctx context.Context, name string) error {
	return c.to(c.rest.Delete(), name).Do(ctx).Error()
}
