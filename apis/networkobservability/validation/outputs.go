package validation

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	maxOutputs = 8
	// maxPrefixBytes leaves room in the 1,024 bytes of an object's name for what the server adds: namespace, name, UID
	// and node.
	maxPrefixBytes   = 512
	maxEndpointBytes = 512
)

// Forms of names. They are narrower than what some stores take: what is left out are the characters that mean something
// to somebody on the way.
var (
	s3Bucket       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	gcsBucket      = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*$`)
	azureAccount   = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	azureContainer = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9])*$`)
	region         = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	keySegment     = regexp.MustCompile(`^[A-Za-z0-9_.=-]+$`)
)

func outputs(outputs []v1alpha1.CaptureOutput, path *field.Path) field.ErrorList {
	if len(outputs) > maxOutputs {
		return field.ErrorList{field.TooMany(path, len(outputs), maxOutputs)}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range outputs {
		errs = append(errs, output(&outputs[i], path.Index(i))...)
		if names.Has(outputs[i].Name) {
			errs = append(errs, field.Duplicate(path.Index(i).Child("name"), short(outputs[i].Name)))
		}
		names.Insert(outputs[i].Name)
	}
	return errs
}

func output(output *v1alpha1.CaptureOutput, path *field.Path) field.ErrorList {
	errs := label(output.Name, path.Child("name"))
	given := 0
	for _, one := range []bool{output.S3 != nil, output.AzureBlob != nil, output.GoogleCloudStorage != nil, output.Volume != nil} {
		if one {
			given++
		}
	}
	if given != 1 {
		return append(errs, field.Invalid(path, field.OmitValueType{}, "give exactly one of s3, azureBlob, googleCloudStorage and volume"))
	}
	switch {
	case output.S3 != nil:
		return append(errs, s3(output.S3, path.Child("s3"))...)
	case output.AzureBlob != nil:
		return append(errs, azureBlob(output.AzureBlob, path.Child("azureBlob"))...)
	case output.GoogleCloudStorage != nil:
		return append(errs, googleCloudStorage(output.GoogleCloudStorage, path.Child("googleCloudStorage"))...)
	}
	errs = append(errs, label(output.Volume.Volume, path.Child("volume", "volume"))...)
	return append(errs, key(output.Volume.Path, path.Child("volume", "path"))...)
}

func s3(to *v1alpha1.CaptureOutputS3, path *field.Path) field.ErrorList {
	errs := bucket(to.Bucket, s3Bucket, path.Child("bucket"))
	if to.Region == "" && to.Endpoint == "" {
		errs = append(errs, field.Required(path.Child("region"), "give the bucket's region, or an endpoint"))
	}
	if to.Region != "" && !region.MatchString(to.Region) {
		errs = append(errs, field.Invalid(path.Child("region"), short(to.Region), "must be a region such as eu-central-1"))
	}
	errs = append(errs, endpoint(to.Endpoint, path.Child("endpoint"))...)
	errs = append(errs, key(to.Prefix, path.Child("prefix"))...)
	return append(errs, secret(to.SecretName, path.Child("secretName"))...)
}

func azureBlob(to *v1alpha1.CaptureOutputAzureBlob, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !azureAccount.MatchString(to.Account) {
		errs = append(errs, field.Invalid(path.Child("account"), short(to.Account), "must be the name of a storage account: 3 to 24 lower-case letters and digits"))
	}
	if !azureContainer.MatchString(to.Container) || len(to.Container) < 3 || len(to.Container) > 63 {
		errs = append(errs, field.Invalid(path.Child("container"), short(to.Container), "must be the name of a container: 3 to 63 lower-case letters, digits and single hyphens between them"))
	}
	errs = append(errs, endpoint(to.Endpoint, path.Child("endpoint"))...)
	errs = append(errs, key(to.Prefix, path.Child("prefix"))...)
	return append(errs, secret(to.SecretName, path.Child("secretName"))...)
}

func googleCloudStorage(to *v1alpha1.CaptureOutputGoogleCloudStorage, path *field.Path) field.ErrorList {
	errs := bucket(to.Bucket, gcsBucket, path.Child("bucket"))
	errs = append(errs, endpoint(to.Endpoint, path.Child("endpoint"))...)
	errs = append(errs, key(to.Prefix, path.Child("prefix"))...)
	return append(errs, secret(to.SecretName, path.Child("secretName"))...)
}

func bucket(name string, form *regexp.Regexp, path *field.Path) field.ErrorList {
	if _, err := netip.ParseAddr(name); err != nil && form.MatchString(name) && len(name) >= 3 && len(name) <= 63 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, short(name), "must be the name of a bucket: 3 to 63 lower-case letters, digits, hyphens and dots, and no address")}
}

func label(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "give a name")}
	}
	var errs field.ErrorList
	for _, message := range validation.IsDNS1123Label(name) {
		errs = append(errs, field.Invalid(path, short(name), message))
	}
	return errs
}

func secret(name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name != "" {
		for _, message := range apivalidation.NameIsDNSSubdomain(name, false) {
			errs = append(errs, field.Invalid(path, short(name), message))
		}
	}
	return errs
}

// key is the beginning of objects' names, or a folder: segments that mean nothing but themselves.
func key(text string, path *field.Path) field.ErrorList {
	if text == "" {
		return nil
	}
	if len(text) > maxPrefixBytes {
		return field.ErrorList{field.TooLong(path, "", maxPrefixBytes)}
	}
	for segment := range strings.SplitSeq(text, "/") {
		if segment == "." || segment == ".." || !keySegment.MatchString(segment) {
			return field.ErrorList{field.Invalid(path, short(text), `must be names of letters, digits, "-", "_", "." and "=" with single slashes between them, none at the ends, and none of them "." or ".."`)}
		}
	}
	return nil
}

// endpoint says what is wrong and does not repeat the URL, in which a password may be.
func endpoint(text string, path *field.Path) field.ErrorList {
	if text == "" {
		return nil
	}
	if _, err := ParseEndpoint(text); err != nil {
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, err.Error())}
	}
	return nil
}

// ParseEndpoint reads the URL of a store: scheme, host, perhaps a port and a path, and nothing else. It answers with the
// form in which two URLs of the same place are equal. The error does not repeat the URL.
func ParseEndpoint(text string) (*url.URL, error) {
	if len(text) > maxEndpointBytes {
		return nil, errors.New("must be at most 512 bytes long")
	}
	parsed, err := url.Parse(text)
	switch {
	case err != nil || parsed.Opaque != "" || parsed.Scheme != "https" && parsed.Scheme != "http":
		return nil, errors.New("must be a URL such as https://s3.example.com")
	case parsed.User != nil:
		return nil, errors.New("must not have a user or password; put them into a Secret and give its name in secretName")
	case parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "" || strings.Contains(text, "#"):
		return nil, errors.New("must not have a query or fragment; put credentials into a Secret and give its name in secretName")
	}
	host, err := canonicalHost(parsed)
	if err != nil {
		return nil, err
	}
	folder := strings.TrimSuffix(strings.TrimPrefix(parsed.EscapedPath(), "/"), "/")
	if folder != "" && len(key(folder, nil)) > 0 {
		return nil, errors.New("must have no path, or one of plain names such as https://storage.example.com/account")
	}
	canonical := &url.URL{Scheme: parsed.Scheme, Host: host}
	if folder != "" {
		canonical.Path = "/" + folder
	}
	return canonical, nil
}

// canonicalHost is in lower case and has no port that goes without saying.
func canonicalHost(parsed *url.URL) (string, error) {
	host, port := strings.ToLower(parsed.Hostname()), parsed.Port()
	if address, err := netip.ParseAddr(host); err == nil {
		if address.Zone() != "" {
			return "", errors.New("must be at an address without a zone")
		}
		host = address.String()
	} else if len(validation.IsDNS1123Subdomain(host)) > 0 {
		return "", errors.New("must be at the name or address of a host, such as https://s3.example.com")
	}
	if port == "" && strings.HasSuffix(parsed.Host, ":") {
		return "", errors.New("must have a port behind its colon")
	}
	if port != "" {
		if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 || strconv.FormatUint(number, 10) != port {
			return "", errors.New("must have a port from 1 to 65535")
		}
	}
	if port == "" || parsed.Scheme == "https" && port == "443" || parsed.Scheme == "http" && port == "80" {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return host, nil
	}
	return net.JoinHostPort(host, port), nil
}
