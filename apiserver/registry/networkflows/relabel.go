package networkflows

import (
	"context"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/watch"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// relabelAll tells of changes of pods' labels since the last time.
func (w *watcher) relabelAll(ctx context.Context) bool {
	before := w.relabelled
	w.relabelled = w.rest.names.Relabelled()
	return w.relabelled == before || w.relabel(ctx, before, "")
}

// relabel tells of flows that came into the selection, and left it, with their pods, by the changes of labels after the first so many:
// of those on one node, or on all when that is empty. What happens at the same time may be told twice.
func (w *watcher) relabel(ctx context.Context, changes uint64, node string) bool {
	if !w.selection.byLabels() {
		return true
	}
	pods, all := w.rest.names.RelabelledAfter(changes)
	if !all {
		w.expire("labels of more pods have changed since than are remembered", "version")
		return false
	}
	left, came := map[string]map[string]bool{}, map[string]map[string]bool{}
	for _, before := range pods {
		pod, known := w.rest.names.Pod(before.PodKey)
		if !known || node != "" && pod.Node != node || w.feeds[pod.Node] == nil || w.waiting[pod.Node] != nil {
			continue // Of nodes that are not read yet all is still to be told.
		}
		switch was, is := w.selection.matchesPod(before), w.selection.matchesPod(pod); {
		case was && !is:
			note(left, pod)
		case is && !was:
			note(came, pod)
		}
	}
	for node, keys := range left {
		for _, e := range w.rest.hub.of(node, keys, timeOf(w.last).Add(-replayMargin)) {
			if !w.sendGone(ctx, e, w.last) {
				return false
			}
		}
	}
	queries := map[string]*agentv1.ReadFlowsRequest{}
	for node, keys := range came {
		queries[node] = w.selection.query(slices.Collect(maps.Keys(keys)))
	}
	return len(queries) == 0 || w.sendListed(ctx, queries, watch.Added, false)
}

func note(pods map[string]map[string]bool, pod *live.Record) {
	if pods[pod.Node] == nil {
		pods[pod.Node] = map[string]bool{}
	}
	pods[pod.Node][pod.PodKey] = true
}

// selects says whether an event can be of the selection. What the pod is now counts: when that changes is told by itself. It may have
// changed there and back since that was told, so of flows that go meanwhile it is always told.
func (w *watcher) selects(e event) bool {
	pod := e.pod
	if w.selection.byLabels() {
		if now, known := w.rest.names.Pod(pod.PodKey); known {
			pod = now
		}
		if e.gone && w.rest.names.Relabelled() != w.relabelled && (w.selection.namespace == "" || w.selection.namespace == pod.Namespace) {
			return true
		}
	}
	return w.selection.matchesPod(pod)
}
