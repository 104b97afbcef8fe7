package server

import (
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/discovery"
	"k8s.io/klog/v2"
)

// admissionGroup is the one API that plugins are configured by.
const admissionGroup = "admissionregistration.k8s.io/v1"

// configuredBy names the resources that each plugin watches in admissionGroup.
var configuredBy = map[string][]string{
	mutatingwebhook.PluginName:   {"mutatingwebhookconfigurations"},
	validatingwebhook.PluginName: {"validatingwebhookconfigurations"},
	validatingpolicy.PluginName:  {"validatingadmissionpolicies", "validatingadmissionpolicybindings"},
	// In v1 since Kubernetes 1.36.
	mutatingpolicy.PluginName: {"mutatingadmissionpolicies", "mutatingadmissionpolicybindings"},
}

// leaveOutUnservedPlugins switches plugins off that would wait for ever for an API that the cluster does not have.
func leaveOutUnservedPlugins(admission *genericoptions.AdmissionOptions, cluster discovery.ServerResourcesInterface) error {
	served, err := servedResources(cluster)
	if err != nil {
		return err
	}
	var out []string
	for plugin, resources := range configuredBy {
		for _, resource := range resources {
			if !served[resource] && !slices.Contains(out, plugin) {
				out = append(out, plugin)
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	slices.Sort(out)
	admission.DisablePlugins = append(admission.DisablePlugins, out...)
	klog.InfoS("Leaving out admission plugins, since the cluster does not serve what they are configured by", "plugins", out, "api", admissionGroup)
	return nil
}

func servedResources(cluster discovery.ServerResourcesInterface) (map[string]bool, error) {
	list, err := cluster.ServerResourcesForGroupVersion(admissionGroup)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("discovering %s: %w", admissionGroup, err)
	}
	served := map[string]bool{}
	for _, resource := range list.APIResources {
		served[resource.Name] = true
	}
	return served, nil
}
