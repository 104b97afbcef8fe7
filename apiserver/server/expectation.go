package server

import (
	"context"
	"errors"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/captures"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

const (
	// maxSample is of how many targets the rates are read; those of the others are taken to be alike.
	maxSample = 100
	// readsAtOnce is how many are read at a time. Those of one node share a call.
	readsAtOnce = 16
)

// errNoRates: an agent tells rates from the second sample on.
var errNoRates = errors.New("rates are known some seconds after the statistics are first read")

// An expectation tells from live statistics what a capture would see.
type expectation struct {
	pods, nodes *live.REST
}

// of is how much matches send and receive now, in all. A target that cannot be read counts as none.
func (e expectation) of(ctx context.Context, matches []captures.Match) (captures.Rates, error) {
	sample := matches[:min(len(matches), maxSample)]
	rates := make([]captures.Rates, len(sample))
	var known atomic.Bool
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readsAtOnce)
	for i, match := range sample {
		group.Go(func() error {
			var ok bool
			if rates[i], ok = e.read(ctx, match); ok {
				known.Store(true)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return captures.Rates{}, err
	}
	var sum captures.Rates
	for _, one := range rates {
		sum.Packets += one.Packets
		sum.Bytes += one.Bytes
	}
	if !known.Load() && len(sample) > 0 {
		return sum, errNoRates
	}
	if len(sample) > 0 {
		share := float64(len(matches)) / float64(len(sample))
		sum.Packets, sum.Bytes = sum.Packets*share, sum.Bytes*share
	}
	return sum, nil
}

func (e expectation) read(ctx context.Context, match captures.Match) (sum captures.Rates, known bool) {
	add := func(packets, bytes *resource.Quantity) {
		if packets != nil && bytes != nil {
			known = true
			sum.Packets += packets.AsApproximateFloat64()
			sum.Bytes += bytes.AsApproximateFloat64()
		}
	}
	if match.Pod == "" || match.HostNetwork {
		object, err := e.nodes.Get(ctx, match.Node, &metav1.GetOptions{})
		if node, ok := object.(*v1alpha1.NodeNetworkStats); err == nil && ok {
			for _, one := range node.Interfaces {
				if one.Uplink {
					add(one.Receive.PacketsPerSecond, one.Receive.BytesPerSecond)
					add(one.Transmit.PacketsPerSecond, one.Transmit.BytesPerSecond)
				}
			}
		}
		return sum, known
	}
	object, err := e.pods.Get(request.WithNamespace(ctx, match.Namespace), match.Pod, &metav1.GetOptions{})
	if pod, ok := object.(*v1alpha1.PodNetworkStats); err == nil && ok && pod.Traffic != nil {
		for _, one := range []*v1alpha1.DirectionTraffic{&pod.Traffic.Receive, &pod.Traffic.Transmit} {
			add(one.PacketsPerSecond, one.BytesPerSecond)
		}
	}
	return sum, known
}
