package scrape

import (
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// inText answers with the text format, which is what scrapers mostly ask for. expfmt writes the same bytes and takes four times
// as long. Whoever asks for another format, or for families by name, is answered by others.
func inText(gatherer prometheus.Gatherer, others http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
		if format.FormatType() != expfmt.TypeTextPlain || format.ToEscapingScheme() == model.DotsEscaping || r.URL.Query().Has("name[]") {
			others.ServeHTTP(w, r)
			return
		}
		families, err := gatherer.Gather()
		if err != nil && len(families) == 0 {
			http.Error(w, "gathering: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Add("Vary", "Accept")
		w.Header().Set("Content-Type", string(format))
		_ = writeText(w, format, families) // who has gone away is no problem of ours
	})
}

// portion is how much text is written at a time.
const portion = 32 << 10

// pages are buffers with room for a portion and a long line.
var pages = sync.Pool{New: func() any {
	page := make([]byte, 0, portion+4<<10)
	return &page
}}

// writeText writes families in the text format of version 0.0.4. What cannot be written is left out; the error is that of the
// writer.
func writeText(to io.Writer, format expfmt.Format, families []*dto.MetricFamily) error {
	page := pages.Get().(*[]byte)
	defer pages.Put(page)
	t := &text{to: to, page: (*page)[:0]}
	others := expfmt.NewEncoder(to, format)
	for _, family := range families {
		if isPlain(family) {
			t.family(family)
		} else if t.flush(); t.failed == nil {
			_ = others.Encode(family)
		}
	}
	t.flush()
	*page = t.page
	return t.failed
}

// A text is written portion by portion, until that fails.
type text struct {
	to   io.Writer
	page []byte
	// labels are those of a series, without braces.
	labels []byte
	failed error
}

func (t *text) flush() {
	if t.failed == nil && len(t.page) > 0 {
		_, t.failed = t.to.Write(t.page)
	}
	t.page = t.page[:0]
}

// isPlain says whether family can write a family: names need no quotes, and series have values of the family's type.
func isPlain(f *dto.MetricFamily) bool {
	if len(f.Metric) == 0 || !isName(f.GetName()) {
		return false
	}
	for _, m := range f.Metric {
		switch f.GetType() {
		case dto.MetricType_COUNTER:
			if m.Counter == nil {
				return false
			}
		case dto.MetricType_GAUGE:
			if m.Gauge == nil {
				return false
			}
		case dto.MetricType_HISTOGRAM:
			if m.Histogram == nil {
				return false
			}
		default:
			return false
		}
		for _, label := range m.Label {
			if !isName(label.GetName()) {
				return false
			}
		}
	}
	return true
}

// isName says whether a name can be without quotes: [a-zA-Z_:][a-zA-Z0-9_:]*.
func isName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if c != '_' && c != ':' && (c < '0' || c > '9' || i == 0) {
				return false
			}
		}
	}
	return name != ""
}

func (t *text) family(f *dto.MetricFamily) {
	name := f.GetName()
	if f.Help != nil {
		t.add("# HELP ", name, " ")
		t.page = escape(t.page, f.GetHelp(), false)
		t.add("\n")
	}
	t.add("# TYPE ", name, " ", strings.ToLower(f.GetType().String()), "\n")
	for _, m := range f.Metric {
		t.of(m)
		switch f.GetType() {
		case dto.MetricType_COUNTER:
			t.sample(name, "", m, m.Counter.GetValue())
		case dto.MetricType_GAUGE:
			t.sample(name, "", m, m.Gauge.GetValue())
		default:
			t.histogram(name, m)
		}
	}
}

// of begins a series.
func (t *text) of(m *dto.Metric) {
	t.labels = t.labels[:0]
	for i, label := range m.Label {
		if i > 0 {
			t.labels = append(t.labels, ',')
		}
		t.labels = append(t.labels, label.GetName()...)
		t.labels = append(t.labels, `="`...)
		t.labels = append(escape(t.labels, label.GetValue(), true), '"')
	}
}

func (t *text) sample(name, suffix string, m *dto.Metric, value float64) {
	t.add(name, suffix)
	if len(t.labels) > 0 {
		t.page = append(t.page, '{')
		t.page = append(t.page, t.labels...)
		t.page = append(t.page, '}')
	}
	t.value(value, m)
}

func (t *text) histogram(name string, m *dto.Metric) {
	h := m.Histogram
	count := h.GetSampleCountFloat()
	if count == 0 {
		count = float64(h.GetSampleCount())
	}
	endless := false
	for _, b := range h.Bucket {
		below := b.GetCumulativeCountFloat()
		if below == 0 {
			below = float64(b.GetCumulativeCount())
		}
		t.bucket(name, m, b.GetUpperBound(), below)
		endless = endless || math.IsInf(b.GetUpperBound(), +1)
	}
	if !endless {
		t.bucket(name, m, math.Inf(+1), count)
	}
	t.sample(name, "_sum", m, h.GetSampleSum())
	t.sample(name, "_count", m, count)
}

func (t *text) bucket(name string, m *dto.Metric, bound, below float64) {
	t.add(name, "_bucket{")
	if len(t.labels) > 0 {
		t.page = append(append(t.page, t.labels...), ',')
	}
	t.add(`le="`)
	t.number(bound)
	t.add(`"}`)
	t.value(below, m)
}

// value ends a line, and writes the page when it is full.
func (t *text) value(value float64, m *dto.Metric) {
	t.add(" ")
	t.number(value)
	if m.TimestampMs != nil {
		t.add(" ")
		t.page = strconv.AppendInt(t.page, *m.TimestampMs, 10)
	}
	t.add("\n")
	if len(t.page) >= portion {
		t.flush()
	}
}

// number writes a float as Go does with %v, infinities with their sign.
func (t *text) number(f float64) {
	switch {
	case f > -1e6 && f < 1e6 && f == math.Trunc(f): // below that %v has no exponent
		t.page = strconv.AppendInt(t.page, int64(f), 10)
	case math.IsInf(f, +1):
		t.add("+Inf")
	default:
		t.page = strconv.AppendFloat(t.page, f, 'g', -1, 64)
	}
}

func (t *text) add(parts ...string) {
	for _, part := range parts {
		t.page = append(t.page, part...)
	}
}

// escape puts a backslash before backslashes and, of labels, quotes; a line feed becomes \n.
func escape(to []byte, value string, quotes bool) []byte {
	done := 0
	for i := range len(value) {
		c := value[i]
		if c != '\\' && c != '\n' && (c != '"' || !quotes) {
			continue
		}
		if c == '\n' {
			c = 'n'
		}
		to = append(append(to, value[done:i]...), '\\', c)
		done = i + 1
	}
	return append(to, value[done:]...)
}
