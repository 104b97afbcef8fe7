package captures

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const policyFile = `
captures:
  outputs:
    - s3: {endpoint: "https://S3.example.com:443/", buckets: ["*"]}
    - s3: {buckets: [captures, archive], agentIdentity: true}
    - s3: {endpoint: "http://minio.storage.svc:9000", buckets: [captures], networks: [10.96.0.0/12]}
    - azureBlob: {accounts: [store1], buckets: [captures]}
    - googleCloudStorage: {buckets: [captures]}
  volumes: [archive]
`

func TestPolicy(t *testing.T) {
	policy, err := ParsePolicy([]byte(policyFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		output   string
		networks string
		says     string
	}{
		{output: `s3: {bucket: any, endpoint: "https://s3.example.com", secretName: keys}`},
		{output: `s3: {bucket: any, endpoint: "https://s3.example.com"}`, says: "with credentials only: give secretName"},
		{output: `s3: {bucket: any, endpoint: "https://s3.example.com:8443", secretName: keys}`, says: "the operator of the cluster allows only https://s3.example.com with *; the provider's own endpoint with captures, archive; http://minio"},
		{output: `s3: {bucket: any, endpoint: "http://s3.example.com", secretName: keys}`, says: "allows only https://s3.example.com"},
		{output: `s3: {bucket: any, endpoint: "https://s3.example.com.evil.example", secretName: keys}`, says: "allows only"},
		{output: `s3: {bucket: any, endpoint: "https://a:b@s3.example.com", secretName: keys}`, says: "must not have a user or password"},
		{output: `s3: {bucket: archive}`},
		{output: `s3: {bucket: archive, secretName: keys}`},
		{output: `s3: {bucket: other}`, says: "allows only"},
		{output: `s3: {bucket: captures, endpoint: "http://minio.storage.svc:9000", secretName: keys}`, networks: "10.96.0.0/12"},
		{output: `s3: {bucket: archive, endpoint: "http://minio.storage.svc:9000", secretName: keys}`, says: "allows only"},
		{output: `s3: {bucket: captures, endpoint: "https://minio.storage.svc:9000", secretName: keys}`, says: "allows only"},
		{output: `azureBlob: {account: store1, container: captures, secretName: keys}`},
		{output: `azureBlob: {account: store2, container: captures, secretName: keys}`, says: "allows only the provider's own endpoint with captures of store1"},
		{output: `googleCloudStorage: {bucket: captures, secretName: keys}`},
		{output: `volume: {volume: archive}`},
		{output: `volume: {volume: other}`, says: "allows only archive"},
		{output: `{}`, says: "no outputs of this kind"},
	} {
		var output v1alpha1.CaptureOutput
		if err := yaml.UnmarshalStrict([]byte(test.output), &output); err != nil {
			t.Fatal(err)
		}
		networks, err := policy.Allow(&output)
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", test.output, err, test.says)
		}
		if strings.Join(networks, " ") != test.networks {
			t.Errorf("%s: networks %q, want %q", test.output, networks, test.networks)
		}
		if _, err := (&Policy{}).Allow(&output); err == nil || !strings.Contains(err.Error(), "allows no") && err.Error() != errorOf(policy.Allow(&output)) {
			t.Errorf("%s: by default %v", test.output, err)
		}
	}
}

func errorOf(_ []string, err error) string { return fmt.Sprint(err) }

func TestPolicyFile(t *testing.T) {
	for text, says := range map[string]string{
		"":                                       "",
		"captures: {}":                           "",
		"captures: {output: []}":                 `unknown field "captures.output"`,
		"capture: {}":                            `unknown field "capture"`,
		"captures: {outputs: {}}":                "cannot unmarshal object",
		"captures: {volumes: [a], volumes: [b]}": `key "volumes" already set`,
		"captures: {outputs: [{}]}":              "captures.outputs[0]: Invalid value: give exactly one of s3, azureBlob and googleCloudStorage",
		"captures: {outputs: [{s3: {buckets: [a]}, googleCloudStorage: {buckets: [a]}}]}": "captures.outputs[0]: Invalid value: give exactly one",
		"captures: {outputs: [{s3: {}}]}":                                                 "captures.outputs[0].s3.buckets: Required value",
		`captures: {outputs: [{s3: {buckets: ["*"], agentIdentity: true}}]}`:              "captures.outputs[0].s3.agentIdentity: Forbidden: name the buckets",
		"captures: {outputs: [{s3: {buckets: [a], accounts: [b]}}]}":                      "captures.outputs[0].s3.accounts: Invalid value",
		"captures: {outputs: [{azureBlob: {buckets: [a]}}]}":                              "captures.outputs[0].azureBlob.accounts: Invalid value",
		"captures: {outputs: [{s3: {buckets: [a], networks: [10.0.0.1]}}]}":               "captures.outputs[0].s3.networks[0]: Invalid value",
		`captures: {outputs: [{s3: {buckets: [a], endpoint: "https://a:SECRET@b"}}]}`:     "captures.outputs[0].s3.endpoint: Invalid value: must not have a user",
		"captures: {maxClusterCaptures: -1}":                                              "captures.maxClusterCaptures: Invalid value: -1: must be 0 to 10000",
		"captures: {maxClusterCaptures: 0}":                                               "",
		"captures: {volumes: [../etc]}":                                                   "captures.volumes[0]: Invalid value",
	} {
		_, err := ParsePolicy([]byte(text))
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("repeats credentials: %v", err)
		}
	}
}

// FuzzPolicy: whatever is in the file, it is taken or refused, and what is taken says the same when it is read again.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(policyFile))
	f.Add([]byte("captures: {outputs: [{s3: {buckets: [a]}}], volumes: [b], maxClusterCaptures: 0}"))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		policy, err := ParsePolicy(text)
		if err != nil {
			return
		}
		written, err := yaml.Marshal(map[string]any{"captures": policy})
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePolicy(written)
		if err != nil || !equality.Semantic.DeepEqual(again, policy) {
			t.Errorf("%q is %+v, and again %+v, %v", text, policy, again, err)
		}
	})
}
