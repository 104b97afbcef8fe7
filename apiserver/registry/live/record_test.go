package live

import "testing"

// TestUID: replicas of every release give an object the same UID. By Python:
// hashlib.sha256(space + b"d9b2d63d-a233-4123-847a-7d0a1e2e8c11").hexdigest()[:32], with version and variant set.
func TestUID(t *testing.T) {
	record := &Record{HostUID: "d9b2d63d-a233-4123-847a-7d0a1e2e8c11"}
	if got, want := record.uid(), "850f61f4-af2c-85e9-b9f1-1806a4bfcc67"; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
