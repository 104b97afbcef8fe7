package metrics

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// other is the value of labels whose own values have no place: of namespace, pod and workload for pods beyond the limit of
// series, and of labels that the configuration adds for combinations beyond the limit of values.
const other = "other"

// A seriesKey tells the series of a pod apart, by the values of the family's own labels in the order of their names.
type seriesKey struct {
	family family
	values string // joined by separator
}

// separator is in no value: what comes off the wire is escaped by who reads it. It is less than what is.
const separator = 0

// A series is one of a pod. Either it has a place among those that are offered, or it is folded: what it counts from then
// on is added to a series of other.
type series struct {
	labels []*dto.LabelPair
	folded bool

	// offered is its value in the gather of this number; walked is the last one that looked whether it goes on.
	offered *float64
	gather  uint64
	walked  uint64

	// into is where it is folded into; nil before the first time.
	into *sum
	// What was added last.
	last          int64
	lastHistogram *v1alpha1.Histogram
}

// A sum is a series of other. Counts only rise; what gauges have is of the present gather.
type sum struct {
	labels    []*dto.LabelPair
	shown     bool // false where there was no place even for it
	value     int64
	histogram *dense
	began     *timestamppb.Timestamp
}

// An account is the series of a pod.
type account struct {
	labels [3]*dto.LabelPair // as podLabels
	series map[seriesKey]*series
	// size is how many series there are, a histogram counting as 11; byPeer how many of them are by peer.
	size, byPeer int
	// admitted says that new series have places as long as there are any.
	admitted bool
	// known are groups of which there was a reading before: what has no series yet had counted nothing then.
	known groupSet
}

func newAccount(namespace, pod, workload string) *account {
	return &account{
		labels: [3]*dto.LabelPair{pair("namespace", namespace), pair("pod", pod), pair("workload", workload)},
		series: map[seriesKey]*series{},
	}
}

// undated are families whose counters begin with more than was counted since their group's counters began: sockets that were
// open already bring what they had sent, and what bypassed the hooks is shown from this agent's first look on.
var undated = [families]bool{podTCPSegments: true, podTCPRetransmitted: true, podBypassed: true}

func weight(id family) int {
	if catalogue[id].Type == histogram {
		return histogramSeries
	}
	return 1
}

// A ledger knows which series of pods are offered, within a limit, and adds up the others. It is not safe for concurrent
// use.
type ledger struct {
	// places is how many series pods may have, used how many they have. Those of other are apart.
	places, used           int
	placesOfOther, ofOther int
	// folded is how many series are folded, by group.
	folded map[string]int64
	// own are the names of each family's labels but those that every pod has, in order; optional says which of them the
	// configuration has added.
	own      [families][]string
	optional [families][]bool
	other    *account
	sums     map[seriesKey]*sum
	now      time.Time // of the present gather
	// shared are labels whose values are not of one pod.
	shared map[string]map[string]*dto.LabelPair
}

// newLedger has room for limit series, of which other gets what it may need for the families that are offered, but never
// more than half. added are the labels that the configuration adds to a family.
func newLedger(limit int, offered func(family) bool, added func(family) []string) *ledger {
	l := &ledger{
		folded: map[string]int64{}, other: newAccount(other, other, other), sums: map[seriesKey]*sum{},
		shared: map[string]map[string]*dto.LabelPair{},
	}
	for id := podInfo; id < families; id++ {
		if !offered(id) {
			continue
		}
		l.own[id] = slices.Concat(catalogue[id].Labels[len(podLabels):], added(id))
		slices.Sort(l.own[id])
		for _, name := range l.own[id] {
			l.optional[id] = append(l.optional[id], slices.Contains(catalogue[id].Optional, name))
		}
		l.placesOfOther += mostOfOther(id)
	}
	l.placesOfOther = min(l.placesOfOther, limit/2)
	l.places = limit - l.placesOfOther
	return l
}

// mostOfOther is how many series a family has in other, where each label that the configuration adds has one value.
func mostOfOther(id family) int {
	if catalogue[id].Most == 0 {
		return 2 // directions
	}
	return catalogue[id].Most
}

// add makes a series of an account. It has no place yet.
func (l *ledger) add(a *account, key seriesKey, values []string) *series {
	s := &series{labels: l.labels(a, key.family, values), folded: true}
	a.series[key] = s
	a.size += weight(key.family)
	if ofPeers(key.family) {
		a.byPeer++
	}
	l.folded[catalogue[key.family].Group] += int64(weight(key.family))
	return s
}

func (l *ledger) place(id family, s *series) {
	s.folded = false
	l.used += weight(id)
	l.folded[catalogue[id].Group] -= int64(weight(id))
}

// admit gives all series of an account places, if there are so many.
func (l *ledger) admit(a *account) {
	if l.used+a.size > l.places {
		return
	}
	a.admitted = true
	for key, s := range a.series {
		l.place(key.family, s)
	}
}

// release removes the series of an account that are of some families. What they have added to other stays.
func (l *ledger) release(a *account, of func(family) bool) {
	for key, s := range a.series {
		if of(key.family) {
			l.remove(a, key, s)
		}
	}
}

func (l *ledger) remove(a *account, key seriesKey, s *series) {
	delete(a.series, key)
	a.size -= weight(key.family)
	if ofPeers(key.family) {
		a.byPeer--
	}
	if s.folded {
		l.folded[catalogue[key.family].Group] -= int64(weight(key.family))
	} else {
		l.used -= weight(key.family)
	}
}

// ofPeers says of the families whose counters may end before the pod does: labels that are idle give their place to others.
func ofPeers(id family) bool { return id == podPeerBytes || id == podPeerPackets }

// labels are all labels of a series, in order of their names.
func (l *ledger) labels(a *account, id family, values []string) []*dto.LabelPair {
	labels := make([]*dto.LabelPair, 0, len(a.labels)+len(values))
	labels = append(labels, a.labels[:]...)
	for i, name := range l.own[id] {
		if l.optional[id][i] || id == podInfo {
			labels = append(labels, pair(name, values[i]))
		} else {
			labels = append(labels, l.share(name, values[i]))
		}
	}
	slices.SortFunc(labels, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return labels
}

// share makes one label for all pods, of a name whose values are few.
func (l *ledger) share(name, value string) *dto.LabelPair {
	pairs := l.shared[name]
	if pairs == nil {
		pairs = map[string]*dto.LabelPair{}
		l.shared[name] = pairs
	}
	if pairs[value] == nil {
		pairs[value] = pair(name, value)
	}
	return pairs[value]
}

// into is the series of other that a series is folded into.
func (l *ledger) into(id family, values []string) *sum {
	values = slices.Clone(values)
	for i, optional := range l.optional[id] {
		if optional {
			values[i] = other
		}
	}
	key := seriesKey{id, string(appendValues(nil, values))}
	if l.sums[key] == nil {
		s := &sum{labels: l.labels(l.other, id, values), began: timestamppb.New(l.now)}
		if l.ofOther+weight(id) <= l.placesOfOther {
			s.shown = true
			l.ofOther += weight(id)
		}
		if catalogue[id].Type == histogram {
			s.histogram = &dense{}
		}
		l.sums[key] = s
	}
	return l.sums[key]
}

func appendValues(to []byte, values []string) []byte {
	for i, value := range values {
		if i > 0 {
			to = append(to, separator)
		}
		to = append(to, value...)
	}
	return to
}

// A walk goes through the rows of pods and makes their series. Values of labels are those of the family's own labels, in
// the order of their names.
type walk struct {
	ledger *ledger
	out    *output
	// gather is the number of the gather.
	gather  uint64
	account *account
	// sizing makes series, but gives them no values.
	sizing bool
	// group is that whose series are being made, began since when they count; nil where that is not known.
	group v1alpha1.TelemetryGroupName
	began *timestamppb.Timestamp
	// key and values are used again.
	key    []byte
	values []string
}

// count gives the value of a counter.
func (w *walk) count(id family, value int64, values ...string) {
	s := w.series(id, values)
	switch {
	case w.sizing:
	case !s.folded:
		w.offer(id, s, value)
	case s.into == nil && !w.account.known[w.group]:
		s.into, s.last = w.ledger.into(id, values), value
	default:
		if s.into == nil {
			s.into = w.ledger.into(id, values)
		}
		if value < s.last && ofPeers(id) {
			s.last = 0 // it began anew, as when the history of flows could not be read or the pod's sandbox was made anew
		}
		s.into.value += max(0, value-s.last)
		s.last = max(s.last, value)
	}
}

// present gives the value of a gauge.
func (w *walk) present(id family, value int64, values ...string) {
	s := w.series(id, values)
	switch {
	case w.sizing:
	case !s.folded:
		w.offer(id, s, value)
	case id == podInfo: // it counts nothing
	default:
		if s.into == nil {
			s.into = w.ledger.into(id, values)
		}
		s.into.value += value
	}
}

// distribution gives the values of a histogram.
func (w *walk) distribution(id family, value *v1alpha1.Histogram) {
	s := w.series(id, nil)
	switch {
	case w.sizing:
	case !s.folded:
		w.out.histogram(id, s.labels, value, w.began)
	case s.into == nil && !w.account.known[w.group]:
		s.into, s.lastHistogram = w.ledger.into(id, nil), value
	case s.lastHistogram != value: // otherwise it was not read again
		if s.into == nil {
			s.into = w.ledger.into(id, nil)
		}
		s.into.histogram.rise(s.lastHistogram, value)
		s.lastHistogram = value
	}
}

func (w *walk) series(id family, values []string) *series {
	w.key = appendValues(w.key[:0], values)
	s := w.account.series[seriesKey{id, string(w.key)}]
	if s == nil {
		s = w.ledger.add(w.account, seriesKey{id, string(w.key)}, values)
	}
	s.walked = w.gather
	if s.folded && w.account.admitted && w.ledger.used+weight(id) <= w.ledger.places {
		w.ledger.place(id, s)
	}
	return s
}

// offer adds up values of the same labels, so that no series is offered twice.
func (w *walk) offer(id family, s *series, value int64) {
	if s.gather == w.gather {
		*s.offered += float64(value)
		return
	}
	s.gather = w.gather
	began := w.began
	if undated[id] {
		began = nil
	}
	s.offered = w.out.value(id, s.labels, float64(value), began)
}

// others offers what was folded.
func (l *ledger) others(out *output) {
	keys := slices.SortedFunc(maps.Keys(l.sums), func(a, b seriesKey) int {
		return cmp.Or(cmp.Compare(a.family, b.family), strings.Compare(a.values, b.values))
	})
	for _, key := range keys {
		s := l.sums[key]
		switch {
		case !s.shown:
		case s.histogram != nil:
			out.histogram(key.family, s.labels, s.histogram.wire(), s.began)
		default:
			out.value(key.family, s.labels, float64(s.value), s.began)
		}
		if catalogue[key.family].Type == gauge {
			s.value = 0
		}
	}
}
