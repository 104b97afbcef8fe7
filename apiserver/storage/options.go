package storage

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	etcdPrefix = "/registry"
	// deleteWorkers is how many objects are deleted at a time when a namespace is.
	deleteWorkers = 10
)

// Options say where captures are stored. Without servers of etcd it is in custom resources of the host cluster.
type Options struct {
	etcd *genericoptions.EtcdOptions
}

// NewOptions holds the defaults. The codec writes and reads the stored version; its form has to be text.
func NewOptions(codec runtime.Codec) *Options {
	o := &Options{etcd: genericoptions.NewEtcdOptions(storagebackend.NewDefaultConfig(etcdPrefix, unkinded{codec}))}
	o.etcd.DeleteCollectionWorkers = deleteWorkers
	return o
}

// AddFlags adds the flags of etcd that are of use to us.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	transport := &o.etcd.StorageConfig.Transport
	fs.StringSliceVar(&transport.ServerList, "etcd-servers", transport.ServerList,
		"URLs of etcd servers to store captures and the NetworkTelemetry in, separated by commas. If omitted, they are stored in custom resources of the cluster.")
	fs.StringVar(&o.etcd.StorageConfig.Prefix, "etcd-prefix", o.etcd.StorageConfig.Prefix, "What keys in etcd begin with.")
	fs.StringVar(&transport.TrustedCAFile, "etcd-cafile", transport.TrustedCAFile, "File with the CA of --etcd-servers.")
	fs.StringVar(&transport.CertFile, "etcd-certfile", transport.CertFile, "File with the certificate for --etcd-servers.")
	fs.StringVar(&transport.KeyFile, "etcd-keyfile", transport.KeyFile, "File with the private key of --etcd-certfile.")
}

// Validate checks what flags do not check by themselves. Each error names the flag.
func (o *Options) Validate() []error {
	transport := o.etcd.StorageConfig.Transport
	var errs []error
	if (transport.CertFile == "") != (transport.KeyFile == "") {
		errs = append(errs, errors.New("--etcd-certfile and --etcd-keyfile must be given together"))
	}
	if len(transport.ServerList) > 0 {
		return append(errs, o.etcd.Validate()...)
	}
	if transport.CertFile != "" || transport.TrustedCAFile != "" {
		errs = append(errs, errors.New("--etcd-servers must be given with --etcd-cafile, --etcd-certfile and --etcd-keyfile"))
	}
	return errs
}

// ApplyTo sets the server's RESTOptionsGetter and, for etcd, its health checks. The host is where envelopes are kept.
func (o *Options) ApplyTo(config *genericapiserver.Config, host *rest.Config) error {
	if len(o.etcd.StorageConfig.Transport.ServerList) > 0 {
		return o.etcd.ApplyTo(config)
	}
	storageConfig := o.etcd.StorageConfig
	storageConfig.StorageObjectCountTracker = config.StorageObjectCountTracker
	config.RESTOptionsGetter = &envelopes{host: host, config: storageConfig}
	return nil
}

// envelopes stores resources in custom resources of the host.
type envelopes struct {
	host   *rest.Config
	config storagebackend.Config
}

var _ generic.RESTOptionsGetter = (*envelopes)(nil)

func (e *envelopes) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	kind, ok := kinds[resource.Resource]
	if !ok {
		return generic.RESTOptions{}, fmt.Errorf("there is no custom resource to store %s in", resource)
	}
	host, err := newHost(e.host, kind)
	if err != nil {
		return generic.RESTOptions{}, err
	}
	return generic.RESTOptions{
		StorageConfig:             e.config.ForResource(resource),
		Decorator:                 decorator(host),
		EnableGarbageCollection:   true,
		DeleteCollectionWorkers:   deleteWorkers,
		ResourcePrefix:            "/" + resource.Resource,
		CountMetricPollPeriod:     time.Minute,
		StorageObjectCountTracker: e.config.StorageObjectCountTracker,
	}, nil
}

// decorator makes the storage of a resource as the generic server's Store asks for it.
func decorator(host *host) generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, prefix string, keyFunc func(runtime.Object) (string, error),
		newFunc, newList func() runtime.Object, attrs apistorage.AttrFunc, trigger apistorage.IndexerFuncs, indexers *cache.Indexers,
	) (apistorage.Interface, factory.DestroyFunc, error) {
		host, end := host.until()
		store := &store{host: host, codec: config.Codec, prefix: prefix, newFunc: newFunc, newList: newList}
		watchCache, err := cacher.NewCacherFromConfig(cacher.Config{
			Storage: store, Versioner: store.versioner, GroupResource: config.GroupResource,
			EventsHistoryWindow: config.EventsHistoryWindow, ResourcePrefix: prefix, KeyFunc: keyFunc,
			GetAttrsFunc: attrs, IndexerFuncs: trigger, Indexers: indexers,
			NewFunc: newFunc, NewListFunc: newList, Codec: config.Codec,
		})
		if err != nil {
			end()
			return nil, nil, fmt.Errorf("making the cache of %s: %w", config.GroupResource, err)
		}
		delegator := cacher.NewCacheDelegator(watchCache, store)
		destroy := sync.OnceFunc(func() {
			end()
			delegator.Stop()
			watchCache.Stop()
		})
		return &cached{store: store, cache: delegator}, destroy, nil
	}
}

// An unkinded codec reads objects without kind and apiVersion, as objects of an internal version are. Ours are of the
// same types in all versions, so that they keep them in some ways through the generic server's storage, and not in others.
type unkinded struct{ runtime.Codec }

func (c unkinded) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	object, kind, err := c.Codec.Decode(data, defaults, into)
	if object != nil {
		object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return object, kind, err
}
