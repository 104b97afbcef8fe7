package live

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Unknown is the cell of what is not known. It is never a zero.
const Unknown = "<unknown>"

// Table makes the Table of an object or a list. Columns are left out when the client asks for no headers, as it
// does for every event of a watch but the first.
func Table(object, options runtime.Object, columns []metav1.TableColumnDefinition, cells func(runtime.Object) []any) (*metav1.Table, error) {
	table := &metav1.Table{}
	add := func(object runtime.Object) error {
		table.Rows = append(table.Rows, metav1.TableRow{Cells: cells(object), Object: runtime.RawExtension{Object: object}})
		return nil
	}
	if meta.IsListType(object) {
		if err := meta.EachListItem(object, add); err != nil {
			return nil, fmt.Errorf("making table rows: %w", err)
		}
		list, err := meta.ListAccessor(object)
		if err != nil {
			return nil, fmt.Errorf("making a table: %w", err)
		}
		table.ResourceVersion, table.Continue, table.RemainingItemCount = list.GetResourceVersion(), list.GetContinue(), list.GetRemainingItemCount()
	} else {
		single, err := meta.CommonAccessor(object)
		if err != nil {
			return nil, fmt.Errorf("making a table: %w", err)
		}
		table.ResourceVersion = single.GetResourceVersion()
		if err := add(object); err != nil {
			return nil, err
		}
	}
	if wanted, ok := options.(*metav1.TableOptions); !ok || !wanted.NoHeaders {
		table.ColumnDefinitions = columns
	}
	return table, nil
}

// BytesCell writes bytes with binary prefixes and three digits, such as 1.21Mi, as Kubernetes writes memory.
func BytesCell(bytes int64) string { return scaled(float64(bytes), 1024, " KMGTPE", "i") }

// CountCell writes a count with decimal prefixes and three digits, such as 14.0k.
func CountCell(count int64) string { return scaled(float64(count), 1000, " kMGTPE", "") }

// RateCell writes bytes a second as BytesCell does.
func RateCell(rate *resource.Quantity) string {
	if rate == nil {
		return Unknown
	}
	return scaled(rate.AsApproximateFloat64(), 1024, " KMGTPE", "i")
}

func scaled(value, base float64, prefixes, suffix string) string {
	power := 0
	// What would round to the next prefix's first number is written with that prefix.
	for value >= base-0.5 && power < len(prefixes)-1 {
		value /= base
		power++
	}
	if power == 0 {
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
	decimals := 2
	switch {
	case value >= 99.95:
		decimals = 0
	case value >= 9.995:
		decimals = 1
	}
	return strconv.FormatFloat(value, 'f', decimals, 64) + prefixes[power:power+1] + suffix
}

// AgeCell writes how long ago a time was, as kubectl does.
func AgeCell(created metav1.Time) string {
	if created.IsZero() {
		return Unknown
	}
	return duration.HumanDuration(time.Since(created.Time))
}

// TextCell writes a text.
func TextCell(text string) string { return orElse(text, Unknown) }

// ListCell writes texts in one cell.
func ListCell(texts []string) string { return TextCell(strings.Join(texts, ",")) }
