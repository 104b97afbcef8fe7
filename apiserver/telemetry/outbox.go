package telemetry

import (
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// fieldBytes is what a field of an update needs beside its content, at most: its tag and its length.
const fieldBytes = 6

// An outbox puts what an agent is to be told into as few messages as there can be, in order.
type outbox struct {
	// limit is the size of a message; what is added alone may not be larger.
	limit   int
	updates []*agentv1.TelemetryUpdate
	size    int
}

// room is a message with room for so many bytes more.
func (o *outbox) room(bytes int) *agentv1.TelemetryUpdate {
	bytes += fieldBytes
	if len(o.updates) == 0 || o.size+bytes > o.limit {
		o.updates, o.size = append(o.updates, &agentv1.TelemetryUpdate{}), 0
	}
	o.size += bytes
	return o.updates[len(o.updates)-1]
}

func (o *outbox) config(config *agentv1.TelemetryConfig) { o.room(proto.Size(config)).Config = config }

func (o *outbox) pod(pod *agentv1.TelemetryPod) {
	to := o.room(proto.Size(pod))
	to.Pods = append(to.Pods, pod)
}

func (o *outbox) gone(key string) {
	to := o.room(len(key))
	to.GonePods = append(to.GonePods, key)
}

func (o *outbox) apiServers(addresses []string) {
	size := 0
	for _, address := range addresses {
		size += len(address) + fieldBytes
	}
	o.room(size).ApiServers = addresses
}

func (o *outbox) complete() { o.room(1).PodsComplete = true }

func (o *outbox) name(name *agentv1.TelemetryName) {
	to := o.room(proto.Size(name))
	to.Names = append(to.Names, name)
}
