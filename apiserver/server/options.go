package server

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/storage"
)

const (
	// port is the one that managed clouds let their control planes reach on nodes and pods.
	port = 10250
	// minWatchInterval keeps watches from loading the nodes more than a person who looks would.
	minWatchInterval = time.Second
	// maxAgentTimeout is the longest call that the wire allows (apis/agent/v1alpha1/PROTOCOL.md).
	maxAgentTimeout = 30 * time.Second
)

// Options are what can be set by flags.
type Options struct {
	SecureServing  *genericoptions.SecureServingOptionsWithLoopback
	Authentication *genericoptions.DelegatingAuthenticationOptions
	Authorization  *genericoptions.DelegatingAuthorizationOptions
	Audit          *genericoptions.AuditOptions
	Features       *genericoptions.FeatureOptions
	CoreAPI        *genericoptions.CoreAPIOptions
	Admission      *genericoptions.AdmissionOptions
	// Storage is where captures are kept.
	Storage *storage.Options
	// Config is a file with what the operator decides about captures.
	Config string

	// WatchInterval is how often watched objects are read.
	WatchInterval time.Duration
	// AgentTimeout bounds one call of one agent, ReadTimeout the read of all that a request needs.
	AgentTimeout, ReadTimeout time.Duration
	// CALifetime and CAPropagation are those of certificates.Config.
	CALifetime, CAPropagation time.Duration

	MaxInFlight, MaxMutatingInFlight int
	RequestTimeout                   time.Duration
	ShutdownDelay                    time.Duration
	ShutdownWatchGrace               time.Duration

	// Identity names this replica among the others.
	Identity string
}

// NewOptions holds the defaults.
func NewOptions() *Options {
	serving := genericoptions.NewSecureServingOptions()
	serving.BindPort = port
	serving.Required = true
	// Certificates are our own unless files are named; none is generated on disk.
	serving.ServerCert.CertDirectory, serving.ServerCert.PairName = "", ""
	// The aggregator sends all users' requests and watches over one connection.
	serving.HTTP2MaxStreamsPerConnection = 2000

	authorization := genericoptions.NewDelegatingAuthorizationOptions()
	// Telemetry, and later payload, is nobody's by a hard-coded group: system:masters is asked for too.
	authorization.AlwaysAllowGroups = nil

	identity := os.Getenv("POD_NAME")
	if identity == "" {
		identity, _ = os.Hostname()
	}
	admission := genericoptions.NewAdmissionOptions()
	addQuota(admission)
	return &Options{
		SecureServing:  serving.WithLoopback(),
		Authentication: genericoptions.NewDelegatingAuthenticationOptions(),
		Authorization:  authorization,
		Audit:          genericoptions.NewAuditOptions(),
		Features:       genericoptions.NewFeatureOptions(),
		CoreAPI:        genericoptions.NewCoreAPIOptions(),
		Admission:      admission,
		Storage:        storage.NewOptions(codecs.LegacyCodec(v1alpha1.SchemeGroupVersion)),

		WatchInterval: 10 * time.Second,
		AgentTimeout:  3 * time.Second,
		ReadTimeout:   8 * time.Second,
		CALifetime:    365 * 24 * time.Hour,
		CAPropagation: time.Hour,

		MaxInFlight:         200,
		MaxMutatingInFlight: 100,
		RequestTimeout:      time.Minute,
		ShutdownDelay:       10 * time.Second,
		ShutdownWatchGrace:  10 * time.Second,
		Identity:            identity,
	}
}

func (o *Options) addFlags(sets *cliflag.NamedFlagSets) {
	o.addReadingFlags(sets.FlagSet("reading"))
	o.addCertificateFlags(sets.FlagSet("certificates"))
	o.addServingFlags(sets.FlagSet("serving"))
	o.Storage.AddFlags(sets.FlagSet("captures"))
	sets.FlagSet("captures").StringVar(&o.Config, "config", o.Config,
		"File that says where packets of captures may be copied to. If omitted, they stay on the nodes.")
	o.CoreAPI.AddFlags(sets.FlagSet("cluster"))
	o.Authentication.AddFlags(sets.FlagSet("authentication"))
	o.Authorization.AddFlags(sets.FlagSet("authorization"))
	o.Admission.AddFlags(sets.FlagSet("admission"))
	o.Audit.AddFlags(sets.FlagSet("audit"))
	o.Features.AddFlags(sets.FlagSet("features"))
	utilfeature.DefaultMutableFeatureGate.AddFlag(sets.FlagSet("features"))
}

func (o *Options) addReadingFlags(fs *pflag.FlagSet) {
	fs.DurationVar(&o.WatchInterval, "watch-interval", o.WatchInterval,
		"How often watched objects are read from their nodes, however many clients watch them. At least 1s.")
	fs.DurationVar(&o.AgentTimeout, "agent-timeout", o.AgentTimeout,
		"How long one node's agent may take to answer. At most 30s.")
	fs.DurationVar(&o.ReadTimeout, "read-timeout", o.ReadTimeout,
		"How long reading from all nodes that a request needs may take. Nodes that were not read by then are reported as silent.")
}

func (o *Options) addCertificateFlags(fs *pflag.FlagSet) {
	fs.DurationVar(&o.CALifetime, "ca-lifetime", o.CALifetime,
		"How long a generation of the certificate authorities is valid. Certificates end with it.")
	fs.DurationVar(&o.CAPropagation, "ca-propagation", o.CAPropagation,
		"How long a new generation of the certificate authorities is trusted before it signs.")
}

func (o *Options) addServingFlags(fs *pflag.FlagSet) {
	o.SecureServing.AddFlags(fs)
	// Never used: see NewOptions.
	_ = fs.MarkHidden("cert-dir")
	for name, usage := range map[string]string{
		"tls-cert-file": "File with the certificate for HTTPS, the CA's behind it. If omitted, the server uses a certificate of its own " +
			"authority and keeps the authority's bundle in its APIService.",
		"tls-private-key-file": "File with the private key of --tls-cert-file.",
	} {
		fs.Lookup(name).Usage = usage
	}
	fs.IntVar(&o.MaxInFlight, "max-requests-inflight", o.MaxInFlight,
		"How many requests that change nothing are served at a time, watches aside. "+
			"With priority and fairness, it and --max-mutating-requests-inflight are summed and shared out by the cluster's flow schemas.")
	fs.IntVar(&o.MaxMutatingInFlight, "max-mutating-requests-inflight", o.MaxMutatingInFlight,
		"How many requests that change something are served at a time.")
	fs.DurationVar(&o.RequestTimeout, "request-timeout", o.RequestTimeout,
		"How long a request may take, watches aside.")
	fs.DurationVar(&o.ShutdownDelay, "shutdown-delay-duration", o.ShutdownDelay,
		"How long everything is served on after SIGTERM, while the cluster takes this replica out of the Service.")
	fs.DurationVar(&o.ShutdownWatchGrace, "shutdown-watch-termination-grace-period", o.ShutdownWatchGrace,
		"Over how long watches are closed after that, so that not all come back to the other replica at once.")
}

// Validate checks what flags do not check by themselves. Each error names the flag.
func (o *Options) Validate() error {
	var errs []error
	for _, generic := range [][]error{
		o.SecureServing.Validate(), o.Authentication.Validate(), o.Authorization.Validate(), o.Audit.Validate(),
		o.Features.Validate(), o.CoreAPI.Validate(), o.Admission.Validate(), o.Storage.Validate(),
	} {
		errs = append(errs, generic...)
	}
	errs = append(errs, o.validateDurations()...)
	cert, key := o.SecureServing.ServerCert.CertKey.CertFile, o.SecureServing.ServerCert.CertKey.KeyFile
	if (cert == "") != (key == "") {
		errs = append(errs, errors.New("--tls-cert-file and --tls-private-key-file must be given together"))
	}
	if o.MaxInFlight <= 0 {
		errs = append(errs, fmt.Errorf("--max-requests-inflight is %d, must be positive", o.MaxInFlight))
	}
	if o.MaxMutatingInFlight <= 0 {
		errs = append(errs, fmt.Errorf("--max-mutating-requests-inflight is %d, must be positive", o.MaxMutatingInFlight))
	}
	if namespace := os.Getenv("POD_NAMESPACE"); namespace != "" && namespace != agentv1.Namespace {
		errs = append(errs, fmt.Errorf("this pod is in namespace %s; names in certificates and the agents' Service are fixed to namespace %s", namespace, agentv1.Namespace))
	}
	return utilerrors.NewAggregate(errs)
}

func (o *Options) validateDurations() []error {
	var errs []error
	for _, one := range []struct {
		flag            string
		value, min, max time.Duration
	}{
		{"watch-interval", o.WatchInterval, minWatchInterval, time.Hour},
		{"agent-timeout", o.AgentTimeout, 100 * time.Millisecond, maxAgentTimeout},
		{"read-timeout", o.ReadTimeout, o.AgentTimeout, o.RequestTimeout},
		{"ca-lifetime", o.CALifetime, time.Minute, 100 * 365 * 24 * time.Hour},
		{"ca-propagation", o.CAPropagation, time.Second, o.CALifetime},
		{"request-timeout", o.RequestTimeout, time.Second, time.Hour},
		{"shutdown-delay-duration", o.ShutdownDelay, 0, time.Hour},
		{"shutdown-watch-termination-grace-period", o.ShutdownWatchGrace, 0, time.Hour},
	} {
		if one.value < one.min || one.value > one.max {
			errs = append(errs, fmt.Errorf("--%s is %v, must be between %v and %v", one.flag, one.value, one.min, one.max))
		}
	}
	return errs
}
