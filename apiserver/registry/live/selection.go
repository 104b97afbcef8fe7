package live

import (
	"context"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	operator "k8s.io/apimachinery/pkg/selection"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// The fields that objects are selected by. The scheme's conversion has turned other names into these and refused
// those that a kind does not know (apis/networkobservability/install).
const (
	nameField      = "metadata.name"
	namespaceField = "metadata.namespace"
	nodeField      = "nodeName"
)

// A selection is the part of all objects that a request is about. It does not change.
type selection struct {
	// namespaced says whether objects of the kind have namespaces; namespace is empty for all of them.
	namespaced bool
	namespace  string
	labels     labels.Selector
	fields     fields.Requirements
	// id is equal for selections of the same objects.
	id string
}

// newSelection takes the namespace from the request and the selectors from its options.
func newSelection(ctx context.Context, namespaced bool, options *metainternalversion.ListOptions) (*selection, error) {
	s := &selection{namespaced: namespaced, labels: labels.Everything()}
	if namespaced {
		s.namespace = genericapirequest.NamespaceValue(ctx)
	}
	if options.LabelSelector != nil {
		s.labels = options.LabelSelector
	}
	if options.FieldSelector != nil {
		s.fields = options.FieldSelector.Requirements()
	}
	for _, requirement := range s.fields {
		switch requirement.Field {
		case nameField, namespaceField, nodeField:
		default:
			return nil, apierrors.NewBadRequest("field " + requirement.Field + " cannot be selected by")
		}
	}
	if namespace, ok := s.exactly(namespaceField); ok && s.namespace == "" && namespaced {
		s.namespace = namespace
	}
	s.id = s.text()
	return s, nil
}

// matches says whether the selection holds a record.
func (s *selection) matches(record *Record) bool {
	if s.namespace != "" && record.Namespace != s.namespace {
		return false
	}
	for _, requirement := range s.fields {
		equal := fieldOf(record, requirement.Field) == requirement.Value
		if equal == (requirement.Operator == operator.NotEquals) {
			return false
		}
	}
	return s.labels.Empty() || s.labels.Matches(labels.Set(record.Labels))
}

func fieldOf(record *Record, field string) string {
	switch field {
	case nameField:
		return record.Name
	case namespaceField:
		return record.Namespace
	default:
		return record.Node
	}
}

// name is the one name that the selection allows, if it allows one.
func (s *selection) name() (string, bool) { return s.exactly(nameField) }

// node is the one node that the selection allows, if it allows one.
func (s *selection) node() (string, bool) {
	node, ok := s.exactly(nodeField)
	// Objects without a node are in no index.
	return node, ok && node != ""
}

func (s *selection) exactly(field string) (string, bool) {
	for _, requirement := range s.fields {
		if requirement.Field == field && requirement.Operator != operator.NotEquals {
			return requirement.Value, true
		}
	}
	return "", false
}

// selects says whether there are selectors, so that what follows a page cannot be counted by keys.
func (s *selection) selects() bool { return len(s.fields) > 0 || !s.labels.Empty() }

func (s *selection) text() string {
	text := s.namespace + " " + strconv.Quote(s.labels.String())
	for _, requirement := range s.fields {
		// Quoted, since a client chooses the value: it could look like another requirement.
		text += " " + requirement.Field + string(requirement.Operator) + strconv.Quote(requirement.Value)
	}
	return text
}
