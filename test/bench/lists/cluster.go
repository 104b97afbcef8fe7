package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

// Every address of benchmarkNet (RFC 2544) belongs to the sandbox; EndpointSlices refuse those of loopback.
const (
	benchmarkNet  = "198.18.0.0/15"
	serverAddress = "198.18.0.1"
	serverName    = "networkobservability-apiserver"
	startDeadline = 3 * time.Minute
)

func addAddresses() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	_, all, err := net.ParseCIDR(benchmarkNet)
	if err != nil {
		return err
	}
	err = netlink.RouteAdd(&netlink.Route{
		Dst: all, LinkIndex: loopback.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
	})
	if err != nil {
		return fmt.Errorf("adding addresses: %w", err)
	}
	return nil
}

type clients struct {
	config     *restclient.Config
	kubernetes kubernetes.Interface
	aggregator aggregator.Interface
}

// start returns when our API server answers through kube-apiserver.
func (w *world) start(ctx context.Context) error {
	if err := w.writeKeys(); err != nil {
		return fmt.Errorf("writing keys: %w", err)
	}
	if err := w.startControlPlane(ctx); err != nil {
		return err
	}
	if err := w.register(ctx); err != nil {
		return fmt.Errorf("registering our API server: %w", err)
	}
	var err error
	w.apiserver, err = w.run(ctx, serverName, []string{"GOMEMLIMIT=900MiB"}, // as artifacts/deploy has it
		"--kubeconfig="+w.file("kubeconfig"), "--bind-address="+serverAddress, "--secure-port=10250")
	if err != nil {
		return err
	}
	return sandbox.Await(ctx, startDeadline, "our API server", func() error { return w.available(ctx) })
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

func (w *world) writeKeys() error {
	var err error
	if w.authority, err = newAuthority("cluster"); err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(w.file("ca.crt"), w.authority.pem, 0o600),
		w.authority.write(w.dir, "server", subject{name: "kube-apiserver", hosts: []string{serverAddress, "localhost", "127.0.0.1"}}),
		w.authority.write(w.dir, "admin", subject{name: "admin", group: "system:masters"}),
		w.authority.write(w.dir, "accounts", subject{name: "accounts"}),
	)
	if err != nil {
		return err
	}
	frontProxy, err := newAuthority("front-proxy")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(w.file("front-proxy-ca.crt"), frontProxy.pem, 0o600),
		frontProxy.write(w.dir, "front-proxy", subject{name: "front-proxy"}),
		w.writeKubeconfig())
}

func (w *world) writeKubeconfig() error {
	config := clientcmdapi.NewConfig()
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: "https://" + serverAddress + ":6443", CertificateAuthority: w.file("ca.crt")}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificate: w.file("admin.crt"), ClientKey: w.file("admin.key")}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: "admin"}
	config.CurrentContext = "bench"
	return clientcmd.WriteToFile(*config, w.file("kubeconfig"))
}

func (w *world) startControlPlane(ctx context.Context) error {
	var err error
	w.etcd, err = w.run(ctx, "etcd", nil,
		"--data-dir="+w.file("etcd"), "--unsafe-no-fsync", "--quota-backend-bytes=8589934592",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--log-level=warn")
	if err != nil {
		return err
	}
	w.kubeAPIServer, err = w.run(ctx, "kube-apiserver", nil,
		"--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", "--advertise-address="+serverAddress,
		"--service-cluster-ip-range=198.19.255.0/24", "--authorization-mode=RBAC",
		"--disable-admission-plugins=ServiceAccount", // nobody makes accounts here
		"--client-ca-file="+w.file("ca.crt"), "--tls-cert-file="+w.file("server.crt"), "--tls-private-key-file="+w.file("server.key"),
		"--service-account-issuer=https://bench", "--service-account-key-file="+w.file("accounts.key"),
		"--service-account-signing-key-file="+w.file("accounts.key"),
		"--enable-aggregator-routing=true",
		"--proxy-client-cert-file="+w.file("front-proxy.crt"), "--proxy-client-key-file="+w.file("front-proxy.key"),
		"--requestheader-client-ca-file="+w.file("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-")
	if err != nil {
		return err
	}
	if err := w.connect(); err != nil {
		return err
	}
	return sandbox.Await(ctx, startDeadline, "kube-apiserver", func() error {
		return w.clients.kubernetes.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// connect makes clients that are not throttled.
func (w *world) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", w.file("kubeconfig"))
	if err != nil {
		return err
	}
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf
	w.clients.config = config
	if w.clients.kubernetes, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	w.clients.aggregator, err = aggregator.NewForConfig(config)
	return err
}

// register says where our API server is, as artifacts/deploy does.
func (w *world) register(ctx context.Context) error {
	core := w.clients.kubernetes.CoreV1()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: agentv1.Namespace}}
	if _, err := core.Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serverName},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(10250)}}},
	}
	if _, err := core.Services(agentv1.Namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return err
	}
	slice := sliceOf(serverName, serverName, "https", 10250)
	slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{serverAddress}}}
	if _, err := w.clients.kubernetes.DiscoveryV1().EndpointSlices(agentv1.Namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := w.clients.aggregator.ApiregistrationV1().APIServices().Create(ctx, &apiregistration.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: apiServiceName},
		Spec: apiregistration.APIServiceSpec{
			Group: v1alpha1.GroupName, Version: v1alpha1.SchemeGroupVersion.Version, GroupPriorityMinimum: 2000, VersionPriority: 100,
			Service: &apiregistration.ServiceReference{Namespace: agentv1.Namespace, Name: serverName},
		},
	}, metav1.CreateOptions{})
	return err
}

var apiServiceName = v1alpha1.SchemeGroupVersion.Version + "." + v1alpha1.GroupName

func sliceOf(name, service, port string, number int32) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &port, Port: &number}},
	}
}

func (w *world) available(ctx context.Context) error {
	service, err := w.clients.aggregator.ApiregistrationV1().APIServices().Get(ctx, apiServiceName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range service.Status.Conditions {
		if condition.Type == apiregistration.Available && condition.Status == apiregistration.ConditionTrue {
			return nil
		} else if condition.Type == apiregistration.Available {
			return fmt.Errorf("%s: %s", condition.Reason, condition.Message)
		}
	}
	return errors.New("the APIService has no condition yet")
}
