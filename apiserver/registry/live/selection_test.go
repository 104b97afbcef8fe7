package live

import (
	"context"
	"testing"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
)

// TestSelectionIDs: watches are read by their selections' ids, so a value that a client made up must not make one
// look like another.
func TestSelectionIDs(t *testing.T) {
	seen := map[string]string{}
	for _, text := range []string{
		"", "metadata.name=a", "metadata.name!=a", "nodeName=a", "metadata.name=a,nodeName=b", "nodeName=b,metadata.name!=a",
		"metadata.name=a\x00nodeName\\=b", `metadata.name=a nodeName\=b`, `metadata.name=a" nodeName\="b`,
	} {
		s, err := newSelection(context.Background(), true, &metainternalversion.ListOptions{FieldSelector: fields.ParseSelectorOrDie(text)})
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[s.id]; ok {
			t.Errorf("%q and %q have the same id", text, other)
		}
		seen[s.id] = text
	}
}
