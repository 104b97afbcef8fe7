package networktelemetry

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/validation"
)

// An admission decides about what only some may write: where the content of a Secret is sent. Its methods are the hooks
// of the Store that may answer 403. They run before the strategy.
type admission struct {
	authorizer authorizer.Authorizer
}

func (a admission) create(ctx context.Context, object runtime.Object, _ *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
	telemetry := of(object)
	return a.decide(ctx, telemetry, nil, validation.NetworkTelemetry(telemetry))
}

func (a admission) update(ctx context.Context, object, old runtime.Object, _ *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
	telemetry, before := of(object), of(old)
	return a.decide(ctx, telemetry, before.Spec.Exporters, validation.NetworkTelemetryUpdate(telemetry, before))
}

// decide has what is wrong said before what is not allowed: the strategy would come to it only afterwards.
func (a admission) decide(ctx context.Context, telemetry *v1alpha1.NetworkTelemetry, before []v1alpha1.TelemetryExporter, wrong field.ErrorList) (genericregistry.FinishFunc, error) {
	if len(wrong) > 0 {
		return nil, apierrors.NewInvalid(v1alpha1.SchemeGroupVersion.WithKind("NetworkTelemetry").GroupKind(), telemetry.Name, wrong)
	}
	path := field.NewPath("spec", "exporters")
	for i := range telemetry.Spec.Exporters {
		exporter := &telemetry.Spec.Exporters[i]
		if exporter.OTLP == nil || asBefore(exporter, before) {
			continue
		}
		otlp := path.Index(i).Child("otlp")
		if err := a.needSecret(ctx, telemetry.Name, exporter.OTLP.HeadersSecret, otlp.Child("headersSecret")); err != nil {
			return nil, err
		}
		if err := a.needSecret(ctx, telemetry.Name, exporter.OTLP.ClientCertificateSecret, otlp.Child("clientCertificateSecret")); err != nil {
			return nil, err
		}
	}
	return func(context.Context, bool) {}, nil
}

// asBefore says that an exporter sends the same to the same place: only its pace may be another.
func asBefore(exporter *v1alpha1.TelemetryExporter, before []v1alpha1.TelemetryExporter) bool {
	for i := range before {
		if before[i].Name != exporter.Name || before[i].OTLP == nil {
			continue
		}
		now, then := exporter.DeepCopy(), before[i].DeepCopy()
		for _, otlp := range []*v1alpha1.OTLPExporter{now.OTLP, then.OTLP} {
			otlp.Compression, otlp.IntervalSeconds, otlp.TimeoutSeconds, otlp.QueueMebibytes = "", nil, nil, nil
		}
		return equality.Semantic.DeepEqual(now, then)
	}
	return false
}

// needSecret answers 403 to who may not get a Secret of ours, and 503 when that is not known. A reference to none needs nothing.
func (a admission) needSecret(ctx context.Context, object string, to *v1alpha1.TelemetrySecretReference, path *field.Path) error {
	if to == nil {
		return nil
	}
	name := to.Name
	requester, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(errors.New("writing networktelemetries: the request has no user"))
	}
	allowed, err := a.may(ctx, requester, name)
	switch {
	case err != nil:
		return apierrors.NewServiceUnavailable(fmt.Sprintf("asking for the right to get secrets %s in namespace %s: %v", name, agentv1.Namespace, err))
	case !allowed:
		return apierrors.NewForbidden(v1alpha1.Resource(resource), object, fmt.Errorf(
			"%s: what is in the Secret is used at the endpoint in your name; this needs the right to get secrets %s in namespace %s", path, name, agentv1.Namespace))
	}
	return nil
}

func (a admission) may(ctx context.Context, requester user.Info, name string) (bool, error) {
	decision, _, err := a.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: requester, ResourceRequest: true, Verb: "get", APIVersion: "v1", Resource: "secrets", Namespace: agentv1.Namespace, Name: name,
	})
	if decision == authorizer.DecisionAllow {
		return true, nil
	}
	return false, err
}
