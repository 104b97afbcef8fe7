package certificates

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// apiServiceName is the APIService by which the aggregator finds the API server.
	apiServiceName = "v1alpha1.networkobservability.k8s.io"
	// fieldManager owns what the leader writes into objects that others apply.
	fieldManager = "networkobservability-certificates"
)

// publishToAgents makes the ConfigMap say which authorities there are. found is the ConfigMap as it is known,
// nil when there is none; keys that are not ours are left alone.
func publishToAgents(ctx context.Context, configMaps corev1client.ConfigMapInterface, found *corev1.ConfigMap, servingCA, clientCA []byte) error {
	data := map[string]string{agentv1.ServingCAKey: string(servingCA), agentv1.ClientCAKey: string(clientCA)}
	if found == nil {
		_, err := configMaps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: agentv1.CAConfigMapName, Namespace: agentv1.Namespace},
			Data:       data,
		}, metav1.CreateOptions{FieldManager: fieldManager})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("creating ConfigMap %s: %w", agentv1.CAConfigMapName, err)
		}
		return nil
	}
	if found.Data[agentv1.ServingCAKey] == data[agentv1.ServingCAKey] && found.Data[agentv1.ClientCAKey] == data[agentv1.ClientCAKey] {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		return fmt.Errorf("encoding ConfigMap %s: %w", agentv1.CAConfigMapName, err)
	}
	_, err = configMaps.Patch(ctx, agentv1.CAConfigMapName, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("patching ConfigMap %s: %w", agentv1.CAConfigMapName, err)
	}
	return nil
}

// publishToAggregator makes the APIService trust the serving authority. found is the APIService as it is known,
// nil when there is none: making it is the deployment's.
func publishToAggregator(ctx context.Context, apiServices apiregistrationclient.APIServiceInterface, found *apiregistrationv1.APIService, servingCA []byte) error {
	if found == nil {
		return fmt.Errorf("APIService %s does not exist", apiServiceName)
	}
	if found.Spec.InsecureSkipTLSVerify {
		return fmt.Errorf("APIService %s says insecureSkipTLSVerify, with which it can have no CA bundle", apiServiceName)
	}
	if bytes.Equal(found.Spec.CABundle, servingCA) {
		return nil
	}
	// A merge patch of the one field: what others apply to the rest is not touched. []byte becomes base64.
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"caBundle": servingCA}})
	if err != nil {
		return fmt.Errorf("encoding the CA bundle of APIService %s: %w", apiServiceName, err)
	}
	_, err = apiServices.Patch(ctx, apiServiceName, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("patching the CA bundle of APIService %s: %w", apiServiceName, err)
	}
	return nil
}
