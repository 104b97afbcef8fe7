package example

import "testing"

const arp = `IP address       HW type     Flags       HW address            Mask     Device
10.99.1.2        0x1         0x6         02:99:00:00:01:02     *        eth0
10.99.1.3        0x1         0x2         02:99:00:00:01:03     *        eth0
10.99.1.4        0x1         0x0         00:00:00:00:00:00     *        eth0
`

func TestCount(t *testing.T) {
	if known, unanswered, err := count([]byte(arp)); err != nil || known != 2 || unanswered != 1 {
		t.Errorf("%d known, %d unanswered (%v)", known, unanswered, err)
	}
	for _, damaged := range []string{"titles\n\n", "titles\n10.99.1.2 0x1\n", "titles\n10.99.1.2 0x1 x\n"} {
		if known, unanswered, err := count([]byte(damaged)); err == nil {
			t.Errorf("%q: %d known, %d unanswered", damaged, known, unanswered)
		}
	}
}

// Whatever the text, there are not more neighbours than lines.
func FuzzCount(f *testing.F) {
	f.Add([]byte(arp))
	f.Add([]byte("titles\na b 0x2"))
	f.Fuzz(func(t *testing.T, text []byte) {
		known, unanswered, err := count(text)
		if err == nil && (known < 0 || unanswered < 0 || known+unanswered > int64(len(text))) {
			t.Errorf("%d known, %d unanswered in %d bytes", known, unanswered, len(text))
		}
	})
}
