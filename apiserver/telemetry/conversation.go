package telemetry

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/labels"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A conversation is what is said on one stream: what the agent shall do and what it reports go in, messages come out. It does
// no I/O and is used by one goroutine.
//
// An agent refuses a revision that is lower than the one it has. Then one of three things is true, and the store tells
// which: the spec has changed, and this replica had not heard of it; another leader has read the same spec later, so that a
// revision that is as high can be sent; or the store has been restored from a backup and counts from an earlier number
// again, in which case the agent is told that the lower revision supersedes the one it has.
type conversation struct {
	want *desired
	// last is what was last sent.
	last said
	// disputed is a revision that the agent has and that is higher than what it was sent, while the store is asked: look is
	// the last look at it before. settled is what came of it.
	disputed int64
	look     uint64
	settled  said

	// report is the last one; nil before the first. accepted says that a config of this stream was put in force: before that, this
	// replica may have an older spec than the agent, and what it would say of pods would not go with the agent's.
	report   *agentv1.TelemetryReport
	accepted bool
	pods     pods
	names    names
	// apiServers are where the Kubernetes API is served, as was last said.
	apiServers []string
}

// said is a config as it was sent, or is to be.
type said struct {
	config *agentv1.TelemetryConfig
	// of is the revision of the spec, revision the one that was sent.
	of, revision, supersedes int64
}

// message is what is sent. It is shared by all streams unless there was a dispute: a config may be large.
func (s said) message() *agentv1.TelemetryConfig {
	if s.revision == s.config.Revision && s.supersedes == 0 {
		return s.config
	}
	config := proto.CloneOf(s.config)
	config.Revision, config.Supersedes = s.revision, s.supersedes
	return config
}

// surroundings are what is known of the cluster at a moment.
type surroundings struct {
	now time.Time
	// synced is false while pods and owners are not known.
	synced    bool
	pods      iter.Seq[Pod]
	namespace func(string) labels.Set
	// version changes with the namespaces' labels.
	version uint64
	owner   func(netip.Addr) Owner
	// apiServers are where the Kubernetes API is served; empty while that is not known.
	apiServers []string
	// budget is how many answers to look at again.
	budget int
}

// hears takes a report, and says whether the store has to be looked at.
func (c *conversation) hears(report *agentv1.TelemetryReport) (look bool) {
	c.names.ask(report.WantedAddresses)
	report.WantedAddresses = nil
	c.report = report
	c.accepted = c.accepted || c.inForce() != 0
	if c.disputed != 0 || report.Refused == "" || report.Revision <= c.last.revision || report.Revision == c.last.supersedes || c.last.config == nil {
		return false
	}
	c.disputed, c.look = report.Revision, c.want.look
	return true
}

// says gives the messages that are to be sent now.
func (c *conversation) says(around *surroundings) []*agentv1.TelemetryUpdate {
	to := &outbox{limit: agentv1.MaxTelemetryBytes}
	if c.want.config == nil {
		return nil // what was in force stays
	}
	c.settle()
	if next := c.next(); next != c.last {
		to.config(next.message())
		c.last = next
	}
	if len(around.apiServers) > 0 && !slices.Equal(around.apiServers, c.apiServers) {
		c.apiServers = around.apiServers
		to.apiServers(c.apiServers)
	}
	if around.synced && around.pods != nil && c.accepted && c.disputed == 0 {
		c.pods.tell(to, around.pods, c.want.chosen, around.namespace, around.version)
	}
	if around.synced {
		c.names.tell(to, around.owner, around.now, around.budget)
	}
	return to.updates
}

// settle decides a dispute when the store has been looked at since it began.
func (c *conversation) settle() {
	if c.disputed == 0 || c.want.look <= c.look {
		return
	}
	c.settled = said{of: c.want.revision, revision: max(c.want.revision, c.want.confirmed)}
	if c.settled.revision < c.disputed {
		c.settled.supersedes = c.disputed
	}
	c.disputed = 0
}

// next is what the agent is to have.
func (c *conversation) next() said {
	next := said{config: c.want.config, of: c.want.revision, revision: c.want.revision}
	if c.settled.of == next.of {
		next.revision, next.supersedes = c.settled.revision, c.settled.supersedes
	}
	return next
}

// inForce is the revision of the spec that was sent if the agent does it, else 0.
func (c *conversation) inForce() int64 {
	if c.report == nil || c.report.Refused != "" || c.last.config == nil || c.report.Revision != c.last.revision {
		return 0
	}
	return c.last.of
}
