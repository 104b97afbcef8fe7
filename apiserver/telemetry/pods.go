package telemetry

import (
	"hash/maphash"
	"iter"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// pods are those of a node that its agent was told of. The zero value is of a new stream.
type pods struct {
	told map[string]*toldPod
	// chosen and version are the selection and the namespaces' labels by which they were told; round counts looks.
	chosen   *selection
	version  uint64
	round    uint64
	complete bool
	// chose is what any of them has.
	chose choice
}

// A toldPod is what is kept of a pod that was told: enough to see what changes.
type toldPod struct {
	record any
	has    choice
	sum    uint64
	round  uint64
}

// tell says what is new among the pods of the node, and what went.
func (p *pods) tell(to *outbox, now iter.Seq[Pod], chosen *selection, namespace func(string) labels.Set, version uint64) {
	if p.told == nil {
		p.told = map[string]*toldPod{}
	}
	same := p.chosen == chosen && p.version == version
	p.chosen, p.version = chosen, version
	p.round++
	p.chose = 0
	for pod := range now {
		told := p.told[pod.Key]
		if told == nil {
			told = &toldPod{}
			p.told[pod.Key] = told
		}
		told.round = p.round
		if !same || told.record != pod.Record {
			told.record = pod.Record
			told.has = chosen.choose(pod.Labels, namespace(pod.Namespace))
			if sum := sumOfPod(&pod, told.has); sum != told.sum {
				told.sum = sum
				to.pod(podOf(&pod, told.has))
			}
		}
		p.chose |= told.has
	}
	for key, told := range p.told {
		if told.round != p.round {
			delete(p.told, key)
			to.gone(key)
		}
	}
	if !p.complete {
		p.complete = true
		to.complete()
	}
}

// sumOfPod is of what an agent is told of a pod.
func sumOfPod(pod *Pod, has choice) uint64 {
	type comparable struct {
		key, namespace, name, uid, workloadKind, workloadName string
		has                                                   choice
	}
	return maphash.Comparable(seed, comparable{pod.Key, pod.Namespace, pod.Name, pod.UID, pod.WorkloadKind, pod.WorkloadName, has})
}

func podOf(pod *Pod, has choice) *agentv1.TelemetryPod {
	kind, workload := workloadOf(pod.WorkloadKind, pod.WorkloadName, pod.Created)
	return &agentv1.TelemetryPod{
		Key: pod.Key, Namespace: pod.Namespace, Name: pod.Name, Uid: pod.UID, WorkloadKind: kind, WorkloadName: workload,
		Groups: has.groups(), FlowLogs: has&choosesFlowLogs != 0,
	}
}

// A CronJob's Job is called after it and the minute for which it was scheduled, counted since the Unix epoch. Its pods
// are created soon after, unless the Job waits or they are created anew.
const afterSchedule = 24 * time.Hour

// workloadOf is a workload, or the CronJob of a Job that is called like one and of that time. Jobs' owners are not known
// here, and metrics of a Job that nobody can tell from a CronJob's are better off with the name that stays.
func workloadOf(kind, name string, created time.Time) (string, string) {
	if kind != "Job" {
		return kind, name
	}
	i := strings.LastIndexByte(name, '-')
	if i <= 0 {
		return kind, name
	}
	minutes, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil {
		return kind, name
	}
	late := created.Sub(time.Unix(minutes*60, 0))
	if late < -time.Minute || late > afterSchedule {
		return kind, name
	}
	return "CronJob", name[:i]
}
