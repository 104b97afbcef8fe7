package outputs

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// The API server has checked what users wrote. The agent checks again whatever becomes part of a path, a URL or a header.
var (
	uids       = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z]{0,63}$`)
	labels     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	segments   = regexp.MustCompile(`^[A-Za-z0-9._=-]{1,512}$`)
	buckets    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,221}$`)
	regions    = regexp.MustCompile(`^[a-z0-9-]{0,63}$`)
	accounts   = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	containers = regexp.MustCompile(`^[a-z0-9$][a-z0-9-]{2,62}$`)
	secrets    = regexp.MustCompile(`^[\x21-\x7e]*$`)
)

const (
	prefixBytes = 512
	keyBytes    = 1024 // the least that a store takes
	maxOutputs  = 16
	maxFiles    = 16
)

func validate(uid string, outputs []*v1alpha1.CaptureOutput, files []File) error {
	if !uids.MatchString(uid) {
		return errors.New("uid: is not a UID")
	}
	if len(outputs) > maxOutputs {
		return fmt.Errorf("outputs: are %d; at most %d are possible", len(outputs), maxOutputs)
	}
	if len(files) == 0 || len(files) > maxFiles {
		return fmt.Errorf("files: are %d; 1 to %d are possible", len(files), maxFiles)
	}
	for i, o := range outputs {
		if err := validateOutput(o); err != nil {
			return fmt.Errorf("outputs[%d].%w", i, err)
		}
	}
	for i, f := range files {
		if err := validateFile(uid, f); err != nil {
			return fmt.Errorf("files[%d].%w", i, err)
		}
	}
	return nil
}

// validateFile wants the UID in the name: what has another one's name could replace what is another one's.
func validateFile(uid string, f File) error {
	parts := strings.Split(f.Name, "/")
	if err := validatePath(f.Name); err != nil || len(f.Name) > keyBytes-prefixBytes-1 {
		return fmt.Errorf("name: %.300q is not a name that ObjectName makes", f.Name)
	}
	if !slices.Contains(parts[:len(parts)-1], uid) {
		return errors.New("name: has to be in a folder that is named by the UID")
	}
	if f.Open == nil {
		return errors.New("open: is missing")
	}
	return nil
}

func validatePath(name string) error {
	for _, segment := range strings.Split(name, "/") {
		if !segments.MatchString(segment) || segment == "." || segment == ".." {
			return errors.New("is no path of letters, digits and . _ = - between single slashes, without leading slash and without .. in it")
		}
	}
	return nil
}

func validateOutput(o *v1alpha1.CaptureOutput) error {
	if !labels.MatchString(o.GetName()) {
		return fmt.Errorf("name: %.100q is not a DNS label", o.GetName())
	}
	if o.Prefix != "" {
		if err := validatePath(o.Prefix); err != nil {
			return fmt.Errorf("prefix: %.100q %w", o.Prefix, err)
		}
		if len(o.Prefix) > prefixBytes {
			return fmt.Errorf("prefix: is longer than %d bytes", prefixBytes)
		}
	}
	for i, network := range o.AllowedNetworks {
		if _, err := netip.ParsePrefix(network); err != nil {
			return fmt.Errorf("allowed_networks[%d]: %.100q is no network such as 192.0.2.0/24", i, network)
		}
	}
	switch to := o.To.(type) {
	case *v1alpha1.CaptureOutput_S3:
		return inField("s3", validateS3(to.S3))
	case *v1alpha1.CaptureOutput_AzureBlob:
		return inField("azure_blob", validateAzure(to.AzureBlob))
	case *v1alpha1.CaptureOutput_Gcs:
		return inField("gcs", validateGCS(to.Gcs))
	case *v1alpha1.CaptureOutput_Volume:
		if !labels.MatchString(to.Volume.GetName()) {
			return fmt.Errorf("volume.name: %.100q is not a DNS label", to.Volume.GetName())
		}
		return nil
	default:
		return errors.New("to: is missing: it has to be one of s3, azure_blob, gcs, volume")
	}
}

func inField(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s.%w", name, err)
}

// checked is a field and whether it is as it should be. Values of secrets are never named.
type checked struct {
	field string
	good  bool
	want  string
}

func firstBad(all ...checked) error {
	for _, c := range all {
		if !c.good {
			return fmt.Errorf("%s: %s", c.field, c.want)
		}
	}
	return nil
}

func validateEndpoint(text string) error {
	if text == "" {
		return nil
	}
	if _, err := parseEndpoint(text); err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	return nil
}

const (
	secretBytes = 8192
	badSecret   = "is longer than 8192 bytes, or holds blanks, line ends or bytes that are no ASCII"
)

func isSecret(text string) bool { return len(text) <= secretBytes && secrets.MatchString(text) }

func validateS3(o *v1alpha1.S3Output) error {
	if err := validateEndpoint(o.GetEndpoint()); err != nil {
		return err
	}
	return firstBad(
		checked{"bucket", buckets.MatchString(o.GetBucket()) && !strings.Contains(o.GetBucket(), ".."), "is not the name of a bucket"},
		checked{"region", regions.MatchString(o.GetRegion()), "is not the name of a region"},
		checked{"access_key_id", isSecret(o.GetAccessKeyId()), badSecret},
		checked{"secret_access_key", isSecret(o.GetSecretAccessKey()), badSecret},
		checked{"session_token", isSecret(o.GetSessionToken()), badSecret},
		checked{"secret_access_key", (o.GetAccessKeyId() == "") == (o.GetSecretAccessKey() == ""), "has to be given with access_key_id, or neither"},
	)
}

func validateAzure(o *v1alpha1.AzureBlobOutput) error {
	if err := validateEndpoint(o.GetEndpoint()); err != nil {
		return err
	}
	_, err := base64.StdEncoding.DecodeString(o.GetAccountKey())
	query, queryErr := url.ParseQuery(strings.TrimPrefix(o.GetSasToken(), "?"))
	return firstBad(
		checked{"account", accounts.MatchString(o.GetAccount()), "is not the name of a storage account"},
		checked{"container", containers.MatchString(o.GetContainer()), "is not the name of a container"},
		checked{"account_key", err == nil && len(o.GetAccountKey()) <= secretBytes, "is not in base64"},
		checked{"sas_token", isSecret(o.GetSasToken()), badSecret},
		checked{"sas_token", o.GetSasToken() == "" || queryErr == nil && query.Has("sig"), "has no signature (sig=)"},
		checked{"sas_token", o.GetSasToken() == "" || o.GetAccountKey() == "", "cannot be given with account_key"},
	)
}

func validateGCS(o *v1alpha1.GCSOutput) error {
	if err := validateEndpoint(o.GetEndpoint()); err != nil {
		return err
	}
	if !buckets.MatchString(o.GetBucket()) {
		return errors.New("bucket: is not the name of a bucket")
	}
	if o.GetServiceAccountKey() == "" {
		return nil
	}
	if _, err := parseGoogleKey(o); err != nil {
		return fmt.Errorf("service_account_key: %w", err)
	}
	return nil
}
