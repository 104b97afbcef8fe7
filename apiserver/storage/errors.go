package storage

import (
	"context"
	"errors"
	"net"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	apistorage "k8s.io/apiserver/pkg/storage"
)

// What a list and a watch say that are too old, in the words of the generic server's own storage.
const (
	listExpired     = "The resourceVersion for the provided list is too old."
	watchExpired    = "The resourceVersion for the provided watch is too old."
	continueExpired = "The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve " +
		"the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that " +
		"were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
)

var (
	errNotInstalled = errors.New("the cluster does not serve the custom resources that captures are stored in: apply artifacts/deploy/storage")
	errForbidden    = errors.New("the API server's service account may not store captures in the cluster: apply artifacts/deploy/storage, and look whether namespace network-observability is being deleted")
	errRefused      = errors.New("the cluster refuses to store the capture")
)

// translate makes an error of the storage, about the object at key, of one of the host about an envelope. Users never
// see what the host says of envelopes.
func translate(err error, key string) error {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err):
		return notFound(err, key)
	case apierrors.IsAlreadyExists(err):
		return apistorage.NewKeyExistsError(key, 0)
	case apierrors.IsConflict(err):
		return apistorage.NewResourceVersionConflictsError(key, 0)
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return apierrors.NewResourceExpired(listExpired)
	case isTooLarge(err):
		return apierrors.NewRequestEntityTooLargeError("the object is larger than the cluster can store")
	case apistorage.IsTooLargeResourceVersion(err):
		return err
	case apierrors.IsTooManyRequests(err):
		seconds, _ := apierrors.SuggestsClientDelay(err)
		return apierrors.NewTooManyRequests("the cluster that stores the object is busy, please try again", max(seconds, 1))
	case errors.Is(err, context.Canceled):
		return err
	case isUnreachable(err):
		return apistorage.NewUnreachableError(key, 0)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return apistorage.NewInternalError(errForbidden)
	case errors.As(err, &status):
		return apistorage.NewInternalError(errRefused)
	default:
		return apistorage.NewInternalError(errors.New("asking the cluster that stores the object failed"))
	}
}

// notFound tells an object that is not there from a custom resource, or a namespace, that is not.
func notFound(err error, key string) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Details != nil {
		details := status.Status().Details
		if details.Name != "" && details.Group == envelopeGroupVersion.Group {
			return apistorage.NewKeyNotFoundError(key, 0)
		}
	}
	return apistorage.NewInternalError(errNotInstalled)
}

// isTooLarge knows the limits of the host's requests, of etcd's, and of the messages between the two.
func isTooLarge(err error) bool {
	return apierrors.IsRequestEntityTooLargeError(err) ||
		apierrors.IsInternalError(err) && (strings.Contains(err.Error(), "request is too large") || strings.Contains(err.Error(), "message larger than max"))
}

func isUnreachable(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) ||
		utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) ||
		utilnet.IsHTTP2ConnectionLost(err) ||
		apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err)
}

// expiredPage answers a continue token that is too old with one that goes on inconsistently.
func expiredPage(startKey, prefix string) error {
	err := apierrors.NewResourceExpired(continueExpired)
	if token, encodeErr := apistorage.EncodeContinue(startKey, prefix, -1); encodeErr == nil {
		err.ErrStatus.ListMeta = metav1.ListMeta{Continue: token}
	}
	return err
}
