package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const destinationHelp = `Where to copy the packets to when the capture has ended; can be given several times:
s3://BUCKET/PREFIX?endpoint=URL&region=REGION&secret=NAME,
azblob://ACCOUNT/CONTAINER/PREFIX?endpoint=URL&secret=NAME,
gs://BUCKET/PREFIX?endpoint=URL&secret=NAME, volume://NAME/PATH`

// parseDestinations reads the values of --to.
func parseDestinations(values []string) ([]v1alpha1.CaptureOutput, error) {
	var outputs []v1alpha1.CaptureOutput
	for i, value := range values {
		output, err := parseDestination(value)
		if err != nil {
			return nil, fmt.Errorf("--to %s: %w", redact(value), err)
		}
		output.Name = fmt.Sprintf("output-%d", i+1)
		outputs = append(outputs, output)
	}
	return outputs, nil
}

// redact keeps what may be a password out of messages.
func redact(value string) string {
	parsed, err := url.Parse(value)
	if err != nil || parsed.User != nil {
		scheme, _, _ := strings.Cut(value, "://")
		return scheme + "://..."
	}
	if parsed.RawQuery != "" {
		parsed.RawQuery = "..."
	}
	return parsed.String()
}

func parseDestination(value string) (output v1alpha1.CaptureOutput, err error) {
	to, err := url.Parse(value)
	if err != nil {
		return output, fmt.Errorf("is no URL such as s3://bucket/prefix")
	}
	if to.User != nil {
		return output, fmt.Errorf("has credentials in it; put them into a Secret and name it with ?secret=NAME")
	}
	if to.Fragment != "" {
		return output, fmt.Errorf("has a fragment (#), which means nothing here")
	}
	query, path := to.Query(), strings.TrimPrefix(to.Path, "/")
	allowed := map[string][]string{
		"s3": {"endpoint", "region", "secret"}, "azblob": {"endpoint", "secret"}, "gs": {"endpoint", "secret"}, "volume": {},
	}
	parameters, known := allowed[to.Scheme]
	if !known {
		return output, fmt.Errorf("begins with none of s3://, azblob://, gs:// and volume://")
	}
	for key, given := range query {
		if !slices.Contains(parameters, key) {
			return output, fmt.Errorf("parameter %q is not known; known are %q", key, parameters)
		}
		if len(given) > 1 {
			return output, fmt.Errorf("parameter %q is given twice", key)
		}
	}
	if to.Host == "" {
		return output, fmt.Errorf("names no bucket, account or volume behind %s://", to.Scheme)
	}
	endpoint, secret := query.Get("endpoint"), query.Get("secret")
	switch to.Scheme {
	case "s3":
		output.S3 = &v1alpha1.CaptureOutputS3{Bucket: to.Host, Prefix: path, Endpoint: endpoint, Region: query.Get("region"), SecretName: secret}
	case "azblob":
		container, prefix, _ := strings.Cut(path, "/")
		if container == "" {
			return output, fmt.Errorf("names no container: azblob://ACCOUNT/CONTAINER")
		}
		output.AzureBlob = &v1alpha1.CaptureOutputAzureBlob{Account: to.Host, Container: container, Prefix: prefix, Endpoint: endpoint, SecretName: secret}
	case "gs":
		output.GoogleCloudStorage = &v1alpha1.CaptureOutputGoogleCloudStorage{Bucket: to.Host, Prefix: path, Endpoint: endpoint, SecretName: secret}
	case "volume":
		output.Volume = &v1alpha1.CaptureOutputVolume{Volume: to.Host, Path: path}
	}
	return output, nil
}
