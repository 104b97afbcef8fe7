package captures

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	contract "github.com/networkobservability/networkobservability/apis/networkobservability/validation"
)

// A Policy is what the operator of the cluster decides about captures. The zero value allows no outputs: packets stay on
// the nodes.
type Policy struct {
	// Outputs are the stores that packets may be copied to.
	Outputs []AllowedOutput `json:"outputs,omitempty"`
	// Volumes are the names of volumes that are mounted into the agents and may be written to.
	Volumes []string `json:"volumes,omitempty"`
	// MaxClusterCaptures is how many ClusterCaptures there may be, which no ResourceQuota counts. By default 100.
	MaxClusterCaptures *int `json:"maxClusterCaptures,omitempty"`
}

// An AllowedOutput is a store of one kind.
type AllowedOutput struct {
	S3                 *AllowedStore `json:"s3,omitempty"`
	AzureBlob          *AllowedStore `json:"azureBlob,omitempty"`
	GoogleCloudStorage *AllowedStore `json:"googleCloudStorage,omitempty"`
}

// An AllowedStore is an endpoint and what may be written to behind it.
type AllowedStore struct {
	// Endpoint is the URL; without it the provider's own is meant. http is allowed where it says so.
	Endpoint string `json:"endpoint,omitempty"`
	// Accounts are storage accounts (Azure only).
	Accounts []string `json:"accounts,omitempty"`
	// Buckets are buckets or containers. "*" is any.
	Buckets []string `json:"buckets"`
	// Networks are ranges (CIDR) that the endpoint's address may be in beside public ones. Agents connect to no others.
	Networks []string `json:"networks,omitempty"`
	// AgentIdentity lets captures that name no Secret be copied with the rights that the agents themselves have.
	AgentIdentity bool `json:"agentIdentity,omitempty"`
}

const (
	anyBucket                 = "*"
	defaultMaxClusterCaptures = 100
)

// ParsePolicy reads the part captures of the file that --config names. Errors name the field.
func ParsePolicy(data []byte) (Policy, error) {
	var file struct {
		Captures Policy `json:"captures"`
	}
	object, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return Policy{}, err
	}
	unknown, err := json.UnmarshalStrict(object, &file)
	if err != nil {
		return Policy{}, err
	}
	path := field.NewPath("captures")
	var errs field.ErrorList
	for i := range file.Captures.Outputs {
		errs = append(errs, file.Captures.Outputs[i].complete(path.Child("outputs").Index(i))...)
	}
	for i, volume := range file.Captures.Volumes {
		for _, message := range validation.IsDNS1123Label(volume) {
			errs = append(errs, field.Invalid(path.Child("volumes").Index(i), volume, message))
		}
	}
	if most := file.Captures.MaxClusterCaptures; most != nil && (*most < 0 || *most > 10_000) {
		errs = append(errs, field.Invalid(path.Child("maxClusterCaptures"), *most, "must be 0 to 10000"))
	}
	return file.Captures, errors.Join(append(unknown, errs.ToAggregate())...)
}

// complete checks an output and writes its endpoint in the form that is compared.
func (o *AllowedOutput) complete(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	given := 0
	for name, store := range map[string]*AllowedStore{"s3": o.S3, "azureBlob": o.AzureBlob, "googleCloudStorage": o.GoogleCloudStorage} {
		if store == nil {
			continue
		}
		given++
		errs = append(errs, store.complete(path.Child(name))...)
		if azure := name == "azureBlob"; azure != (len(store.Accounts) > 0) {
			errs = append(errs, field.Invalid(path.Child(name, "accounts"), store.Accounts, "must name accounts for azureBlob, and only there"))
		}
	}
	if given != 1 {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "give exactly one of s3, azureBlob and googleCloudStorage"))
	}
	return errs
}

func (s *AllowedStore) complete(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Endpoint != "" {
		endpoint, err := contract.ParseEndpoint(s.Endpoint)
		if err != nil {
			return field.ErrorList{field.Invalid(path.Child("endpoint"), field.OmitValueType{}, err.Error())}
		}
		s.Endpoint = endpoint.String()
	}
	if len(s.Buckets) == 0 {
		errs = append(errs, field.Required(path.Child("buckets"), `name buckets; "*" is any`))
	}
	if s.AgentIdentity && slices.Contains(s.Buckets, anyBucket) {
		errs = append(errs, field.Forbidden(path.Child("agentIdentity"), `name the buckets instead of "*": with the agents' identity every user could write to whatever the agents can`))
	}
	for i, text := range s.Networks {
		if _, err := netip.ParsePrefix(text); err != nil {
			errs = append(errs, field.Invalid(path.Child("networks").Index(i), text, "must be a range of addresses such as 10.0.0.0/8"))
		}
	}
	return errs
}

// Allow says whether captures may be copied to an output, and if so which networks its endpoint may be in beside public
// ones. The error is for the user. It is asked when a capture is created and again when it is copied.
func (p *Policy) Allow(output *v1alpha1.CaptureOutput) (networks []string, err error) {
	store, err := p.allowing(destinationOf(output))
	if err != nil || store == nil {
		return nil, err
	}
	return store.Networks, nil
}

// A destination is where an output copies to, in words that kinds of stores share.
type destination struct {
	kind                      string
	endpoint, account, bucket string
	secretName                string
}

func destinationOf(output *v1alpha1.CaptureOutput) destination {
	switch {
	case output.S3 != nil:
		return destination{"s3", output.S3.Endpoint, "", output.S3.Bucket, output.S3.SecretName}
	case output.AzureBlob != nil:
		return destination{"azureBlob", output.AzureBlob.Endpoint, output.AzureBlob.Account, output.AzureBlob.Container, output.AzureBlob.SecretName}
	case output.GoogleCloudStorage != nil:
		return destination{"googleCloudStorage", output.GoogleCloudStorage.Endpoint, "", output.GoogleCloudStorage.Bucket, output.GoogleCloudStorage.SecretName}
	case output.Volume != nil:
		return destination{kind: "volume", bucket: output.Volume.Volume}
	}
	return destination{}
}

// allowing finds the rule that allows a destination; a volume has none. The error is for the user.
func (p *Policy) allowing(to destination) (*AllowedStore, error) {
	if to.kind == "volume" {
		if slices.Contains(p.Volumes, to.bucket) {
			return nil, nil
		}
		return nil, fmt.Errorf("the operator of the cluster allows %s", listed("no volumes", p.Volumes))
	}
	if to.endpoint != "" {
		endpoint, err := contract.ParseEndpoint(to.endpoint)
		if err != nil {
			return nil, err
		}
		to.endpoint = endpoint.String()
	}
	var others []string
	identity := false
	for _, store := range p.stores(to.kind) {
		if !store.covers(to) {
			others = append(others, store.String())
			continue
		}
		if to.secretName != "" || store.AgentIdentity {
			return store, nil
		}
		identity = true
	}
	if identity {
		return nil, errors.New("the operator of the cluster allows this output with credentials only: give secretName")
	}
	return nil, fmt.Errorf("the operator of the cluster allows %s", listed("no outputs of this kind", others))
}

func (p *Policy) stores(kind string) []*AllowedStore {
	var stores []*AllowedStore
	for _, output := range p.Outputs {
		store := map[string]*AllowedStore{"s3": output.S3, "azureBlob": output.AzureBlob, "googleCloudStorage": output.GoogleCloudStorage}[kind]
		if store != nil {
			stores = append(stores, store)
		}
	}
	return stores
}

func (s *AllowedStore) covers(to destination) bool {
	return s.Endpoint == to.endpoint &&
		(to.account == "" || slices.Contains(s.Accounts, to.account)) &&
		(slices.Contains(s.Buckets, anyBucket) || slices.Contains(s.Buckets, to.bucket))
}

// String is how a rule is shown to users.
func (s *AllowedStore) String() string {
	where := "the provider's own endpoint"
	if endpoint, err := url.Parse(s.Endpoint); err == nil && s.Endpoint != "" {
		where = endpoint.String()
	}
	text := where + " with " + strings.Join(s.Buckets, ", ")
	if len(s.Accounts) > 0 {
		text += " of " + strings.Join(s.Accounts, ", ")
	}
	return text
}

// listed is what there is, or the words for nothing.
func listed(nothing string, all []string) string {
	const most = 10
	if len(all) == 0 {
		return nothing
	}
	if more := len(all) - most; more > 0 {
		return fmt.Sprintf("only %s and %d more", strings.Join(all[:most], "; "), more)
	}
	return "only " + strings.Join(all, "; ")
}
