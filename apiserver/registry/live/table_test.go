package live

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
)

func TestCells(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0", 1: "1", 1023: "1023", 1024: "1.00Ki", 10_235: "10.0Ki", 102_348: "99.9Ki", 102_400: "100Ki", 1_048_064: "1.00Mi",
		1_269_000: "1.21Mi", 1 << 40: "1.00Ti", 1<<63 - 1: "8.00Ei",
	} {
		if got := BytesCell(bytes); got != want {
			t.Errorf("%d bytes are %s, want %s", bytes, got, want)
		}
	}
	for count, want := range map[int64]string{0: "0", 999: "999", 1000: "1.00k", 14_042: "14.0k", 999_499: "999k", 999_500: "1.00M", 1<<63 - 1: "9.22E"} {
		if got := CountCell(count); got != want {
			t.Errorf("a count of %d is %s, want %s", count, got, want)
		}
	}
	if got := RateCell(resource.NewMilliQuantity(1_536_500, resource.DecimalSI)); got != "1.50Ki" {
		t.Errorf("1536.5 bytes a second are %s", got)
	}
	if got := RateCell(nil); got != Unknown {
		t.Errorf("no rate is %s", got)
	}
}
