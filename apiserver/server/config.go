package server

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	basecompatibility "k8s.io/component-base/compatibility"
	baseversion "k8s.io/component-base/version"

	"github.com/networkobservability/networkobservability/apis/bulk"
	"github.com/networkobservability/networkobservability/apis/generated/openapi"
	"github.com/networkobservability/networkobservability/apis/networkobservability/install"
)

var (
	scheme         = runtime.NewScheme()
	codecs         = serializer.NewCodecFactory(scheme)
	parameterCodec = runtime.NewParameterCodec(scheme)
)

func init() { install.Install(scheme) }

// genericConfig tells the generic server who may call, what is admitted and how it stops. Its Cert is still open.
func genericConfig(o *Options) (*genericapiserver.RecommendedConfig, error) {
	config := genericapiserver.NewRecommendedConfig(codecs)
	config.Serializer = textSerializer{codecs}
	if err := setVersion(&config.Config); err != nil {
		return nil, err
	}
	setLimits(&config.Config, o)
	config.BuildHandlerChainFunc = buildHandlerChain
	o.followKubeconfig()
	if err := o.SecureServing.ApplyToConfig(&config.Config); err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	// Downloads write on it what they have at once.
	config.SecureServing.Listener = bulk.Listener{Listener: config.SecureServing.Listener}
	if err := o.Authentication.ApplyTo(&config.Authentication, config.SecureServing, config.OpenAPIConfig); err != nil {
		return nil, fmt.Errorf("setting up authentication: %w", err)
	}
	if err := o.Authorization.ApplyTo(&config.Authorization); err != nil {
		return nil, fmt.Errorf("setting up authorization: %w", err)
	}
	if err := o.Audit.ApplyTo(&config.Config); err != nil {
		return nil, fmt.Errorf("setting up audit: %w", err)
	}
	if err := o.CoreAPI.ApplyTo(config); err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	if err := o.Storage.ApplyTo(&config.Config, config.ClientConfig); err != nil {
		return nil, fmt.Errorf("setting up the storage of captures: %w", err)
	}
	return config, applyClusterOptions(o, config)
}

// applyClusterOptions sets what needs clients of the cluster: flow control and admission.
func applyClusterOptions(o *Options, config *genericapiserver.RecommendedConfig) error {
	client, err := kubernetes.NewForConfig(config.ClientConfig)
	if err != nil {
		return fmt.Errorf("making a client of the cluster: %w", err)
	}
	dynamicClient, err := dynamic.NewForConfig(config.ClientConfig)
	if err != nil {
		return fmt.Errorf("making a client of the cluster: %w", err)
	}
	if err := o.Features.ApplyTo(&config.Config, client, config.SharedInformerFactory); err != nil {
		return fmt.Errorf("setting up flow control: %w", err)
	}
	if err := leaveOutUnservedPlugins(o.Admission, client.Discovery()); err != nil {
		return err
	}
	err = o.Admission.ApplyTo(&config.Config, config.SharedInformerFactory, client, dynamicClient,
		utilfeature.DefaultFeatureGate, config.EffectiveVersion, quotaInitializer{})
	if err != nil {
		return fmt.Errorf("setting up admission: %w", err)
	}
	return nil
}

// followKubeconfig uses --kubeconfig for authentication and authorization too, unless they have their own.
func (o *Options) followKubeconfig() {
	if o.Authentication.RemoteKubeConfigFile == "" {
		o.Authentication.RemoteKubeConfigFile = o.CoreAPI.CoreAPIKubeconfigPath
	}
	if o.Authorization.RemoteKubeConfigFile == "" {
		o.Authorization.RemoteKubeConfigFile = o.CoreAPI.CoreAPIKubeconfigPath
	}
}

func setLimits(config *genericapiserver.Config, o *Options) {
	config.MaxRequestsInFlight = o.MaxInFlight
	config.MaxMutatingRequestsInFlight = o.MaxMutatingInFlight
	config.RequestTimeout = o.RequestTimeout
	config.ShutdownDelayDuration = o.ShutdownDelay
	config.ShutdownWatchTerminationGracePeriod = o.ShutdownWatchGrace
	// Requests behind the delay would be answered 429. There are none left by then: see shutdown.go.
	config.ShutdownSendRetryAfter = false
}

// An effectiveVersion is the Kubernetes release of the libraries, which decides what features there are and what
// expressions in policies may use, but which introduces itself by our own version. The libraries would take a
// version of ours that was stamped into the program for a release of Kubernetes and switch their features off.
type effectiveVersion struct {
	basecompatibility.EffectiveVersion
}

func (effectiveVersion) Info() *apimachineryversion.Info {
	info := baseversion.Get()
	return &info
}

func setVersion(config *genericapiserver.Config) error {
	release, err := utilversion.ParseGeneric(baseversion.DefaultKubeBinaryVersion)
	if err != nil {
		return fmt.Errorf("reading the libraries' version: %w", err)
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetEmulationVersion(release); err != nil {
		return fmt.Errorf("setting features to those of %v: %w", release, err)
	}
	config.EffectiveVersion = effectiveVersion{basecompatibility.NewEffectiveVersionFromString(release.String(), "", "")}
	config.FeatureGate = utilfeature.DefaultFeatureGate

	const title = "Network Observability"
	namer := apiopenapi.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title, config.OpenAPIConfig.Info.Version = title, baseversion.Get().GitVersion
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title, config.OpenAPIV3Config.Info.Version = title, baseversion.Get().GitVersion
	return nil
}

// A textSerializer offers JSON and YAML only. Our types have no protobuf form, and a client that prefers protobuf
// and takes JSON too must get JSON and not an error.
type textSerializer struct {
	runtime.NegotiatedSerializer
}

func (s textSerializer) SupportedMediaTypes() []runtime.SerializerInfo {
	return slices.DeleteFunc(slices.Clone(s.NegotiatedSerializer.SupportedMediaTypes()), func(info runtime.SerializerInfo) bool {
		return info.MediaType == runtime.ContentTypeProtobuf
	})
}
