package validation

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// maxCABundleBytes leaves room for eight exporters in one message to an agent.
	maxCABundleBytes = 32 << 10

	maxTimeoutSeconds   = 60
	maxQueueMebibytes   = 64
	maxFileMebibytes    = 1024
	maxTelemetryFiles   = 100
	secureEndpoint      = "https://"
	ownSecrets          = "networkobservability-"
	secretsForExporters = ownSecrets + "telemetry"
	endpointForm        = "must be https://HOST:PORT, or http://HOST:PORT for a connection without TLS, such as https://collector.example.com:4317"
	certificatePEMType  = "CERTIFICATE"
)

func exporters(all []v1alpha1.TelemetryExporter, flowLogs bool, path *field.Path) field.ErrorList {
	if len(all) > MaxTelemetryExporters {
		return field.ErrorList{field.TooMany(path, len(all), MaxTelemetryExporters)}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range all {
		errs = append(errs, label(all[i].Name, path.Index(i).Child("name"))...)
		if all[i].Name != "" && names.Has(all[i].Name) {
			errs = append(errs, field.Duplicate(path.Index(i).Child("name"), short(all[i].Name)))
		}
		names.Insert(all[i].Name)
		errs = append(errs, exporter(&all[i], flowLogs, path.Index(i))...)
	}
	return errs
}

func exporter(exporter *v1alpha1.TelemetryExporter, flowLogs bool, path *field.Path) field.ErrorList {
	errs := signals(exporter, flowLogs, path.Child("signals"))
	given := 0
	for _, one := range []bool{exporter.OTLP != nil, exporter.File != nil, exporter.Stdout != nil} {
		if one {
			given++
		}
	}
	switch {
	case given == 0:
		return append(errs, field.Required(path, "give otlp, file or stdout; stdout: {} is the agent's standard output"))
	case given > 1:
		return append(errs, field.Forbidden(path, "give one of otlp, file and stdout; others are exporters of their own"))
	case exporter.OTLP != nil:
		return append(errs, otlp(exporter.OTLP, path.Child("otlp"))...)
	case exporter.File != nil:
		return append(errs, fileExporter(exporter.File, path.Child("file"))...)
	}
	return errs
}

func signals(exporter *v1alpha1.TelemetryExporter, flowLogs bool, path *field.Path) field.ErrorList {
	known := []v1alpha1.TelemetrySignal{v1alpha1.SignalMetrics, v1alpha1.SignalFlowLogs}
	switch count := len(exporter.Signals); {
	case count == 0:
		return field.ErrorList{field.Required(path, "give Metrics, FlowLogs or both")}
	case count > len(known):
		return field.ErrorList{field.TooMany(path, count, len(known))}
	}
	errs := distinctOf(exporter.Signals, path, known...)
	for i, signal := range exporter.Signals {
		switch {
		case signal == v1alpha1.SignalMetrics && exporter.OTLP == nil && (exporter.File != nil || exporter.Stdout != nil):
			errs = append(errs, field.Forbidden(path.Index(i), "metrics are sent by otlp only; leave Metrics out here"))
		case signal == v1alpha1.SignalFlowLogs && !flowLogs:
			errs = append(errs, field.Forbidden(path.Index(i), "no flows are logged; say which in spec.flowLogs (flowLogs: {} is all), or leave FlowLogs out"))
		}
	}
	return errs
}

func fileExporter(file *v1alpha1.FileExporter, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if size := file.MaxMebibytes; size != nil {
		errs = append(errs, between(int64(*size), 1, maxFileMebibytes, "mebibytes", path.Child("maxMebibytes"))...)
	}
	if files := file.MaxFiles; files != nil {
		errs = append(errs, between(int64(*files), 1, maxTelemetryFiles, "files", path.Child("maxFiles"))...)
	}
	return errs
}

func otlp(to *v1alpha1.OTLPExporter, path *field.Path) field.ErrorList {
	errs := oneOf(to.Protocol, path.Child("protocol"), v1alpha1.OTLPGRPC, v1alpha1.OTLPHTTP)
	errs = append(errs, oneOf(to.Compression, path.Child("compression"), v1alpha1.CompressionGzip, v1alpha1.CompressionNone)...)
	if to.Endpoint == "" {
		errs = append(errs, field.Required(path.Child("endpoint"), endpointForm))
	} else if err := checkCollector(to.Endpoint, to.Protocol); err != nil {
		errs = append(errs, field.Invalid(path.Child("endpoint"), field.OmitValueType{}, err.Error()))
	} else if !strings.HasPrefix(to.Endpoint, secureEndpoint) {
		errs = append(errs, withoutTLS(to, path)...)
	}
	if len(to.CABundle) > 0 {
		if err := checkCABundle(to.CABundle); err != nil {
			errs = append(errs, field.Invalid(path.Child("caBundle"), field.OmitValueType{}, err.Error()))
		}
	}
	errs = append(errs, serverName(to.ServerName, path.Child("serverName"))...)
	if to.HeadersSecret != nil {
		errs = append(errs, exporterSecret(to.HeadersSecret.Name, secretsForExporters, path.Child("headersSecret", "name"))...)
	}
	if to.ClientCertificateSecret != nil {
		errs = append(errs, exporterSecret(to.ClientCertificateSecret.Name, secretsForExporters+"-tls", path.Child("clientCertificateSecret", "name"))...)
	}
	return append(errs, pace(to, path)...)
}

// withoutTLS refuses what is for TLS, and credentials that everybody on the way would read.
func withoutTLS(to *v1alpha1.OTLPExporter, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(to.CABundle) > 0 {
		errs = append(errs, field.Forbidden(path.Child("caBundle"), "is for an endpoint with https://; change the endpoint, or leave it out"))
	}
	if to.ServerName != "" {
		errs = append(errs, field.Forbidden(path.Child("serverName"), "is for an endpoint with https://; change the endpoint, or leave it out"))
	}
	if to.HeadersSecret != nil {
		errs = append(errs, field.Forbidden(path.Child("headersSecret"), "would be sent in the clear; give an endpoint with https://, or leave it out"))
	}
	if to.ClientCertificateSecret != nil {
		errs = append(errs, field.Forbidden(path.Child("clientCertificateSecret"), "is for an endpoint with https://; change the endpoint, or leave it out"))
	}
	return errs
}

func pace(to *v1alpha1.OTLPExporter, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if seconds := to.IntervalSeconds; seconds != nil {
		errs = append(errs, between(int64(*seconds), minTelemetryInterval, maxTelemetryInterval, "seconds", path.Child("intervalSeconds"))...)
	}
	if seconds := to.TimeoutSeconds; seconds != nil {
		errs = append(errs, between(int64(*seconds), 1, maxTimeoutSeconds, "seconds", path.Child("timeoutSeconds"))...)
	}
	if size := to.QueueMebibytes; size != nil {
		errs = append(errs, between(int64(*size), 1, maxQueueMebibytes, "mebibytes", path.Child("queueMebibytes"))...)
	}
	return errs
}

// checkCollector checks the URL of a collector. The error does not repeat it, since a password may be in it.
func checkCollector(text string, protocol v1alpha1.OTLPProtocol) error {
	if len(text) > maxEndpointBytes {
		return fmt.Errorf("must be at most %d bytes long", maxEndpointBytes)
	}
	parsed, err := url.Parse(text)
	switch {
	case err != nil || !strings.HasPrefix(text, secureEndpoint) && !strings.HasPrefix(text, "http://"):
		return errors.New(endpointForm)
	case parsed.User != nil:
		return errors.New("must not have a user or password; put a header with them into a Secret and name it in headersSecret")
	case parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "" || strings.Contains(text, "#"):
		return errors.New("must not have a query or fragment; put credentials into a Secret and name it in headersSecret")
	case parsed.Port() == "":
		return errors.New("must have a port; " + endpointForm)
	}
	if err := checkHostPort(parsed); err != nil {
		return err
	}
	return checkFolder(strings.Trim(parsed.EscapedPath(), "/"), protocol)
}

func checkHostPort(parsed *url.URL) error {
	if port, err := strconv.ParseUint(parsed.Port(), 10, 16); err != nil || port == 0 || strconv.FormatUint(port, 10) != parsed.Port() {
		return errors.New("must have a port from 1 to 65535")
	}
	host := parsed.Hostname()
	if address, err := netip.ParseAddr(host); err == nil {
		if address.Zone() != "" || address.IsUnspecified() || address.IsMulticast() {
			return errors.New("must be at the address of one host, without a zone")
		}
		return nil
	}
	if len(validation.IsDNS1123Subdomain(strings.ToLower(host))) > 0 {
		return errors.New("must be at the name or address of a host; " + endpointForm)
	}
	return nil
}

func checkFolder(folder string, protocol v1alpha1.OTLPProtocol) error {
	if folder == "" {
		return nil
	}
	if protocol != v1alpha1.OTLPHTTP {
		return errors.New("must have no path; set protocol: HTTP if the collector is at one")
	}
	for _, added := range []string{"v1/metrics", "v1/logs"} {
		if folder == added || strings.HasSuffix(folder, "/"+added) {
			return fmt.Errorf("must end before /%s, which is added", added)
		}
	}
	if len(key(folder, nil)) > 0 {
		return errors.New("must have no path, or one of plain names such as https://collector.example.com:4318/team")
	}
	return nil
}

// checkCABundle wants certificates in PEM and nothing else but comments. The error repeats nothing, since a key may be in it.
func checkCABundle(bundle []byte) error {
	if len(bundle) > maxCABundleBytes {
		return fmt.Errorf("must be at most %d bytes long", maxCABundleBytes)
	}
	const form = "must be certificates in PEM (in YAML and JSON, in base64)"
	certificates := 0
	for rest := bundle; ; certificates++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != certificatePEMType {
			return errors.New(form + " only; it has something else, perhaps a key: remove it")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("%s; number %d is none", form, certificates+1)
		}
	}
	if certificates == 0 || certificates != bytes.Count(bundle, []byte("-----BEGIN ")) {
		return errors.New(form + "; it has none, or one is not whole")
	}
	return nil
}

func serverName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return nil
	}
	if address, err := netip.ParseAddr(name); err == nil && address.Zone() == "" {
		return nil
	}
	if len(validation.IsDNS1123Subdomain(strings.ToLower(name))) > 0 {
		return field.ErrorList{field.Invalid(path, short(name), "must be the name or address in the collector's certificate, such as collector.example.com")}
	}
	return nil
}

// exporterSecret is never one of our own, such as that of the CA. suggested is how it may be called.
func exporterSecret(name, suggested string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "give the name of a Secret in namespace network-observability, such as "+suggested)}
	}
	if strings.HasPrefix(name, ownSecrets) && !strings.HasPrefix(name, secretsForExporters) {
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("names that begin with %q are of this program's own Secrets; name it %s, or another way", ownSecrets, suggested))}
	}
	return secret(name, path)
}
