package live

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A Reader reads counters from nodes, now. It fails only when no node at all can be read; a node that does not
// answer is a Reply with Err. Replies may be shared with other callers and must not be changed.
type Reader interface {
	Read(ctx context.Context, queries map[string]Query) (map[string]Reply, error)
}

// A Query says what to read of one node.
type Query struct {
	PodKeys []string
	// Ahead are keys that will probably be asked for within a second. The reader may read them with the others, if
	// that saves it another question; the Reply does not hold them.
	Ahead []string
	Node  bool
}

// A Reply is what a node said. Err names the node.
type Reply struct {
	Pods map[string]*agentv1.PodStats
	Node *agentv1.NodeStats
	Err  error
}

// A Reading is what a node said of one object. The zero Reading means that nobody has asked, or that there is no
// node to ask.
type Reading struct {
	Pod  *agentv1.PodStats
	Node *agentv1.NodeStats
	// Err says why the node gave no answer.
	Err error
}

// read asks the nodes of records for them. Readings are in the order of the records; silent are the errors of
// nodes that gave no answer, in the order of the nodes' names, of asked nodes in all.
func read(ctx context.Context, reader Reader, records []*Record) (readings []Reading, silent []error, asked int, err error) {
	return readAhead(ctx, reader, records, nil)
}

// readAhead is read, with a word to the reader of records that will be read next.
func readAhead(ctx context.Context, reader Reader, records, next []*Record) (readings []Reading, silent []error, asked int, err error) {
	readings = make([]Reading, len(records))
	queries := queriesFor(records, next)
	if len(queries) == 0 {
		return readings, nil, 0, nil
	}
	replies, err := reader.Read(ctx, queries)
	if err != nil {
		return nil, nil, len(queries), err
	}
	for i, record := range records {
		if record.Node != "" {
			readings[i] = replies[record.Node].of(record)
		}
	}
	return readings, silentNodes(replies), len(queries), nil
}

// queriesFor asks each node once. Nodes that have only next records are left alone.
func queriesFor(records, next []*Record) map[string]Query {
	byNode := map[string]*Query{}
	for _, record := range records {
		if record.Node == "" {
			continue
		}
		query := byNode[record.Node]
		if query == nil {
			query = &Query{}
			byNode[record.Node] = query
		}
		if record.PodKey == "" {
			query.Node = true
		} else {
			query.PodKeys = append(query.PodKeys, record.PodKey)
		}
	}
	for _, record := range next {
		if query := byNode[record.Node]; query != nil && record.PodKey != "" {
			query.Ahead = append(query.Ahead, record.PodKey)
		}
	}
	queries := make(map[string]Query, len(byNode))
	for node, query := range byNode {
		queries[node] = *query
	}
	return queries
}

func (r Reply) of(record *Record) Reading {
	switch {
	case r.Err != nil:
		return Reading{Err: r.Err}
	case record.PodKey == "" && r.Node != nil:
		return Reading{Node: r.Node}
	case record.PodKey != "" && r.Pods[record.PodKey] != nil:
		return Reading{Pod: r.Pods[record.PodKey]}
	}
	return Reading{Err: fmt.Errorf("%s: the agent's answer leaves %s out", record.Node, record.Name)}
}

func silentNodes(replies map[string]Reply) []error {
	var nodes []string
	for node, reply := range replies {
		if reply.Err != nil {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	silent := make([]error, len(nodes))
	for i, node := range nodes {
		silent[i] = replies[node].Err
	}
	return silent
}

const (
	// maxNamed and maxWarning, in bytes, keep a Warning header readable: proxies refuse headers of some KiB.
	maxNamed   = 10
	maxWarning = 1024
)

// Warning is one line about the nodes that gave no answer.
func Warning(silent []error, asked int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d of %d nodes did not answer: ", len(silent), asked)
	for i, err := range silent {
		more := fmt.Sprintf("and %d more", len(silent)-i)
		item := err.Error()
		if room := maxWarning - text.Len() - len(more) - len("; "); i == maxNamed || (i > 0 && len(item) > room) {
			text.WriteString(more)
			break
		} else if len(item) > room {
			item = strings.ToValidUTF8(item[:room], "")
		}
		text.WriteString(item)
		if i < len(silent)-1 {
			text.WriteString("; ")
		}
	}
	return text.String()
}

// Unavailable is the answer when nothing could be read. It carries no Retry-After: clients would keep users waiting
// through ten tries.
func Unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return apierrors.NewTimeoutError(fmt.Sprintf("reading from the nodes: %v", ctx.Err()), 0)
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf("reading from the nodes: %v", err))
}
