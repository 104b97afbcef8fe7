package validation

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

var now = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

func read(t *testing.T, spec string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(spec), into); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
}

// said are errors as users read them, without what is between the field and the fix.
func said(errs field.ErrorList) []string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return all
}

// wrong is a spec and what has to be said of it: the beginning of each error in turn, up to "...", and what is in it behind.
type wrong struct {
	spec string
	says []string
}

func compare(t *testing.T, spec string, errs field.ErrorList, want []string) {
	t.Helper()
	got := said(errs)
	matches := func(got, want string) bool {
		begin, in, _ := strings.Cut(want, " ... ")
		return strings.HasPrefix(got, begin) && strings.Contains(got, in)
	}
	if !slices.EqualFunc(got, want, matches) {
		t.Errorf("%.300s:\nsays %q\nwant %q", spec, got, want)
	}
	for _, text := range got {
		if len(text) > 600 {
			t.Errorf("%.100s: says %d bytes", spec, len(text))
		}
	}
}

func TestCaptureIsTaken(t *testing.T) {
	for _, spec := range []string{
		`pods: {selector: {}}`,
		`pods: {selector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [a, b]}]}, interfaces: [eth0, lo, "net1.5", "a@b"]}`,
		`{pods: {names: [web-0, web.1]}, filter: "tcp\n and port 443", startTime: "2026-12-01T00:00:00Z", durationSeconds: 86400}`,
		`{pods: {selector: {}}, packetBytes: 64, ttlSecondsAfterFinished: 0, startTime: "2026-11-23T09:58:00Z"}`,
		`{pods: {selector: {}}, limits: {packets: 1, bytes: 100Mi, packetsPerNode: 1000000000000, bytesPerNode: 64}, ring: {files: 2, fileBytes: 1Mi}}`,
		`{pods: {selector: {}}, match: [{direction: Egress}, {protocols: [TCP, UDP], ports: [{port: 1, endPort: 65535}]}, {peers: [{cidr: "2001:db8::/32"}, {cidr: 10.0.0.1}, {pod: {namespace: a, name: b.c}}]}]}`,
		`{pods: {selector: {}}, networkSnapshot: true, outputs: [{name: a, volume: {volume: archive, path: a/b=c/d.e_f}}]}`,
		`{pods: {selector: {}}, outputs: [{name: a, s3: {bucket: my.bucket-1, region: eu-central-1, secretName: keys}}, {name: b, azureBlob: {account: store1, container: a-b}},
			{name: c, googleCloudStorage: {bucket: a_b, endpoint: "https://[2001:db8::1]:8443/root", prefix: captures/2026}}]}`,
	} {
		capture := &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"}}
		read(t, spec, &capture.Spec)
		compare(t, spec, Capture(capture, now), nil)
	}
}

func TestCaptureIsRefused(t *testing.T) {
	many := func(item string, n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
	}
	for _, test := range []wrong{
		// Targets.
		{`pods: {}`, []string{"spec.pods: Required value: give selector or names; selector: {} is every pod of the namespace"}},
		{`pods: {names: []}`, []string{"spec.pods: Required value"}},
		{`pods: {selector: {}, names: [a]}`, []string{"spec.pods.names: Forbidden: give selector or names, not both"}},
		{`pods: {selector: {matchLabels: {"a b": c}}}`, []string{`spec.pods.selector.matchLabels: Invalid value: "a b"`}},
		{`pods: {selector: {matchExpressions: [{key: a, operator: Near}]}}`, []string{`spec.pods.selector.matchExpressions[0].operator: Invalid value: "Near"`}},
		{`pods: {names: [a, "", a, A_b, ../../etc]}`, []string{
			`spec.pods.names[2]: Duplicate value: "a"`, "spec.pods.names[1]: Required value", `spec.pods.names[3]: Invalid value: "A_b"`, `spec.pods.names[4]: Invalid value: "../../etc"`,
		}},
		{`pods: {names: ` + many("a", 1001) + `}`, []string{"spec.pods.names: Too many: 1001: must have at most 1000 items"}},
		{`pods: {selector: {}, interfaces: [eth0, eth0, "", "a/b", ..., .., "a b", "a:1", "sixteen-letters-", "e\u00e9", "\u0000"]}`, []string{
			`spec.pods.interfaces[1]: Duplicate value: "eth0"`, `spec.pods.interfaces[2]: Invalid value: "" ... such as eth0`, `spec.pods.interfaces[3]: Invalid value: "a/b"`,
			`spec.pods.interfaces[5]: Invalid value: ".."`, `spec.pods.interfaces[6]`, `spec.pods.interfaces[7]`, `spec.pods.interfaces[8]`, `spec.pods.interfaces[9]`, `spec.pods.interfaces[10]: Invalid value: "\x00"`,
		}},
		// Numbers.
		{`{pods: {selector: {}}, packetBytes: 0}`, []string{"spec.packetBytes: Invalid value: 0: must be 64 to 262144 bytes"}},
		{`{pods: {selector: {}}, packetBytes: 262145}`, []string{"spec.packetBytes: Invalid value: 262145"}},
		{`{pods: {selector: {}}, durationSeconds: 0}`, []string{"spec.durationSeconds: Invalid value: 0: must be 1 to 86400 seconds"}},
		{`{pods: {selector: {}}, durationSeconds: -9223372036854775808}`, []string{"spec.durationSeconds: Invalid value: -9223372036854775808"}},
		{`{pods: {selector: {}}, durationSeconds: 86401}`, []string{"spec.durationSeconds: Invalid value: 86401"}},
		{`{pods: {selector: {}}, ttlSecondsAfterFinished: -1}`, []string{"spec.ttlSecondsAfterFinished: Invalid value: -1: must be 0 to 2592000 seconds"}},
		{`{pods: {selector: {}}, vantagePoint: Nowhere}`, []string{`spec.vantagePoint: Unsupported value: "Nowhere": supported values: "OncePerFlow", "BothEnds"`}},
		{`{pods: {selector: {}}, startTime: "2026-11-23T09:00:00Z"}`, []string{`spec.startTime: Invalid value: "2026-11-23T09:00:00Z": is in the past; leave it out to begin at once`}},
		{`{pods: {selector: {}}, startTime: "2027-11-23T09:00:00Z"}`, []string{`spec.startTime: Invalid value: "2027-11-23T09:00:00Z": must be at most 30 days from now`}},
		{`{pods: {selector: {}}, limits: {packets: 0, bytes: 0, packetsPerNode: -1, bytesPerNode: -1Gi}}`, []string{
			"spec.limits.packets: Invalid value: 0: must be 1 to 1000000000000 packets; leave it out for no limit", `spec.limits.bytes: Invalid value: "0": must be a whole number of bytes from 64 to 1Pi`,
			"spec.limits.packetsPerNode: Invalid value: -1", `spec.limits.bytesPerNode: Invalid value: "-1Gi"`,
		}},
		{`{pods: {selector: {}}, limits: {packets: 9223372036854775807, bytes: 2Pi, bytesPerNode: 100500m}}`, []string{
			"spec.limits.packets: Invalid value", `spec.limits.bytes: Invalid value: "2Pi"`, `spec.limits.bytesPerNode: Invalid value: "100500m"`,
		}},
		{`{pods: {selector: {}}, ring: {files: 1, fileBytes: 1Ki}}`, []string{"spec.ring.files: Invalid value: 1: must be 2 to 1000 files", `spec.ring.fileBytes: Invalid value: "1Ki": must be a whole number of bytes from 1Mi to 1Pi`}},
		{`{pods: {selector: {}}, ring: {files: 1001, fileBytes: 0}}`, []string{"spec.ring.files: Invalid value: 1001", `spec.ring.fileBytes: Invalid value: "0"`}},
		{`{pods: {selector: {}}, stop: true}`, []string{"spec.stop: Forbidden: ends a capture that is there; leave it out"}},
		{`{pods: {selector: {}}, networkSnapshot: true}`, []string{"spec.networkSnapshot: Forbidden: is copied to outputs; add one"}},
		// Filter and match.
		{`{pods: {selector: {}}, filter: "` + strings.Repeat("x", MaxFilterBytes+1) + `"}`, []string{"spec.filter: Too long: may not be more than 65536 bytes"}},
		{`{pods: {selector: {}}, filter: "tcp\u0000"}`, []string{`spec.filter: Invalid value: "tcp\x00": byte 3 is a control character; remove it`}},
		{`{pods: {selector: {}}, filter: "\u001b[2J"}`, []string{`spec.filter: Invalid value: "\x1b[2J": byte 0`}},
		{`{pods: {selector: {}}, match: [{}]}`, []string{"spec.match[0]: Required value: give direction, protocols, peers or ports"}},
		{`{pods: {selector: {}}, match: ` + many("{direction: Egress}", 65) + `}`, []string{"spec.match: Too many: 65"}},
		{`{pods: {selector: {}}, match: [{direction: Sideways}]}`, []string{`spec.match[0].direction: Unsupported value: "Sideways"`}},
		{`{pods: {selector: {}}, match: [{protocols: [TCP, TCP, tcp, "", "TCP) or (udp"]}]}`, []string{
			`spec.match[0].protocols[1]: Duplicate value: "TCP"`, `spec.match[0].protocols[2]: Unsupported value: "tcp"`, "spec.match[0].protocols[3]: Required value", `spec.match[0].protocols[4]: Unsupported value: "TCP) or (udp"`,
		}},
		{`{pods: {selector: {}}, match: [{protocols: [TCP, ICMP], ports: [{port: 1}]}]}`, []string{`spec.match[0].protocols[1]: Invalid value: "ICMP": has no ports; give it an item of match of its own`}},
		{`{pods: {selector: {}}, match: [{ports: [{port: 0}, {port: 65536}, {port: 90, endPort: 80}, {port: 1, endPort: 65536}]}]}`, []string{
			"spec.match[0].ports[0].port: Invalid value: 0: must be 1 to 65535", "spec.match[0].ports[1].port: Invalid value: 65536", "spec.match[0].ports[2].endPort: Invalid value: 80: must be from port to 65535", "spec.match[0].ports[3].endPort",
		}},
		{`{pods: {selector: {}}, match: [{ports: ` + many("{port: 1}", 257) + `}, {peers: ` + many("{cidr: 1.2.3.4}", 257) + `}]}`, []string{"spec.match[0].ports: Too many: 257", "spec.match[1].peers: Too many: 257"}},
		{`{pods: {selector: {}}, match: [{peers: [{}, {cidr: 1.2.3.4, pod: {namespace: a, name: b}}]}]}`, []string{"spec.match[0].peers[0]: Required value: give cidr, pod or service", "spec.match[0].peers[1]: Forbidden: give one of"}},
		{`{pods: {selector: {}}, match: [{peers: [{cidr: example.com}, {cidr: 10.0.0.1/8}, {cidr: "fe80::1%eth0"}, {cidr: "::ffff:1.2.3.4"}, {cidr: "1.2.3.4/33"}]}]}`, []string{
			`spec.match[0].peers[0].cidr: Invalid value: "example.com": must be an address or a range such as 192.0.2.0/24`, `spec.match[0].peers[1].cidr: Invalid value: "10.0.0.1/8" ... write 10.0.0.0/8`,
			"spec.match[0].peers[2].cidr", "spec.match[0].peers[3].cidr", "spec.match[0].peers[4].cidr",
		}},
		{`{pods: {selector: {}}, match: [{peers: [{pod: {name: ""}}, {service: {namespace: "a.b", name: "x) or (y"}}]}]}`, []string{
			"spec.match[0].peers[0].pod.namespace: Required value", "spec.match[0].peers[0].pod.name: Required value: give the name of a pod",
			`spec.match[0].peers[1].service.namespace: Invalid value: "a.b"`, `spec.match[0].peers[1].service.name: Invalid value: "x) or (y"`,
		}},
	} {
		capture := &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"}}
		read(t, test.spec, &capture.Spec)
		compare(t, test.spec, Capture(capture, now), test.says)
	}
}

func TestOutputsAreRefused(t *testing.T) {
	const endpoint = "spec.outputs[0].s3.endpoint: Invalid value: "
	s3 := func(endpoint string) string {
		return `[{name: a, s3: {bucket: captures, endpoint: "` + endpoint + `"}}]`
	}
	prefix := func(prefix string) string {
		return `[{name: a, s3: {bucket: captures, region: eu-west-1, prefix: "` + prefix + `"}}]`
	}
	const plain = "spec.outputs[0].s3.prefix: Invalid value: ... must be names of letters, digits"
	for _, test := range []wrong{
		{`[{name: a}]`, []string{"spec.outputs[0]: Invalid value: give exactly one of s3"}},
		{`[{name: a, volume: {volume: v}, s3: {bucket: b}}]`, []string{"spec.outputs[0]: Invalid value: give exactly one of s3"}},
		{`[{name: "", volume: {volume: v}}, {name: A, volume: {volume: ""}}, {name: a, volume: {volume: v}}, {name: a, volume: {volume: "../v"}}]`, []string{
			"spec.outputs[0].name: Required value", `spec.outputs[1].name: Invalid value: "A"`, "spec.outputs[1].volume.volume: Required value",
			`spec.outputs[3].volume.volume: Invalid value: "../v"`, `spec.outputs[3].name: Duplicate value: "a"`,
		}},
		{"[" + strings.Repeat("{name: a, volume: {volume: v}},", 9) + "]", []string{"spec.outputs: Too many: 9"}},
		{`[{name: a, s3: {bucket: captures}}]`, []string{"spec.outputs[0].s3.region: Required value: give the bucket's region, or an endpoint"}},
		{`[{name: a, s3: {bucket: "a..b", region: "EU west"}}]`, []string{`spec.outputs[0].s3.bucket: Invalid value: "a..b"`, `spec.outputs[0].s3.region: Invalid value: "EU west"`}},
		{`[{name: a, s3: {bucket: 192.168.1.1, region: eu, secretName: ../keys}}]`, []string{`spec.outputs[0].s3.bucket: Invalid value: "192.168.1.1"`, `spec.outputs[0].s3.secretName: Invalid value: "../keys"`}},
		{`[{name: a, azureBlob: {account: "a.evil.example/", container: "--"}}]`, []string{`spec.outputs[0].azureBlob.account: Invalid value: "a.evil.example/"`, `spec.outputs[0].azureBlob.container: Invalid value: "--"`}},
		{`[{name: a, googleCloudStorage: {bucket: "a/b"}}]`, []string{`spec.outputs[0].googleCloudStorage.bucket: Invalid value: "a/b"`}},
		{s3("s3.example.com"), []string{endpoint + "must be a URL such as https://s3.example.com"}},
		{s3("ftp://s3.example.com"), []string{endpoint + "must be a URL"}},
		{s3("https:s3.example.com"), []string{endpoint + "must be a URL"}},
		{s3("https://"), []string{endpoint + "must be at the name or address of a host"}},
		{s3("https://a_b"), []string{endpoint + "must be at the name"}},
		{s3("https://%31.example.com"), []string{endpoint + "must be"}},
		{s3("https://KEY:SECRET@s3.example.com"), []string{endpoint + "must not have a user or password; put them into a Secret"}},
		{s3("https://KEY@s3.example.com"), []string{endpoint + "must not have a user or password"}},
		{s3("https://s3.example.com?sig=SECRET"), []string{endpoint + "must not have a query"}},
		{s3("https://s3.example.com/?"), []string{endpoint + "must not have a query"}},
		{s3("https://s3.example.com/#SECRET"), []string{endpoint + "must not have a query"}},
		{s3("https://s3.example.com/../admin"), []string{endpoint + "must have no path, or one of plain names"}},
		{s3("https://s3.example.com/%2e%2e/admin"), []string{endpoint + "must have no path"}},
		{s3("https://s3.example.com:0"), []string{endpoint + "must have a port from 1 to 65535"}},
		{s3("https://s3.example.com:"), []string{endpoint + "must have a port"}},
		{s3("https://s3.example.com:65536"), []string{endpoint + "must have a port from 1 to 65535"}},
		{s3("https://[fe80::1%25eth0]"), []string{endpoint + "must be at an address without a zone"}},
		{s3("https://s3.example.com/" + strings.Repeat("a", 512)), []string{endpoint + "must be at most 512 bytes long"}},
		{s3(`https://s3.example.com\u0000`), []string{endpoint + "must be a URL"}},
		{prefix("/a"), []string{plain}},
		{prefix("a/"), []string{plain}},
		{prefix("a//b"), []string{plain}},
		{prefix("a/../b"), []string{plain}},
		{prefix("."), []string{plain}},
		{prefix("a/%2e%2e/b"), []string{plain}},
		{prefix(`a\\b`), []string{plain}},
		{prefix(`a\u0000b`), []string{plain}},
		{prefix(`a\nb`), []string{plain}},
		{prefix("é"), []string{plain}},
		{prefix(strings.Repeat("a", 513)), []string{"spec.outputs[0].s3.prefix: Too long: may not be more than 512 bytes"}},
		{`[{name: a, volume: {volume: v, path: ../../etc}}]`, []string{"spec.outputs[0].volume.path: Invalid value"}},
	} {
		capture := &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"}}
		read(t, `{pods: {selector: {}}, outputs: `+test.spec+`}`, &capture.Spec)
		errs := Capture(capture, now)
		compare(t, test.spec, errs, test.says)
		if text := strings.Join(said(errs), " "); strings.Contains(text, "SECRET") || strings.Contains(text, "KEY") {
			t.Errorf("repeats credentials: %s", text)
		}
	}
}

func TestClusterCapture(t *testing.T) {
	for _, test := range []wrong{
		{`nodes: {selector: {}}`, nil},
		{`nodes: {names: [n1], interfaces: [eth0]}`, nil},
		{`{pods: {selector: {}, namespaceSelector: {matchLabels: {team: a}}}}`, nil},
		{`{pods: {names: [{namespace: a, name: b}]}, nodes: {selector: {}}}`, nil},
		{`{}`, []string{"spec.pods: Required value: give pods, nodes or both"}},
		{`{nodes: {}, pods: {}}`, []string{"spec.nodes: Required value: give selector or names; selector: {} is every node", "spec.pods: Required value: give selector or names; selector: {} is every pod"}},
		{`pods: {namespaceSelector: {}}`, []string{"spec.pods: Required value"}},
		{`pods: {namespaceSelector: {}, names: [{namespace: a, name: b}]}`, []string{"spec.pods.namespaceSelector: Forbidden: goes with selector"}},
		{`pods: {names: [{name: b}, {namespace: a}, {namespace: a, name: b}, {namespace: a, name: b}]}`, []string{
			"spec.pods.names[0].namespace: Required value", "spec.pods.names[1].name: Required value", `spec.pods.names[3]: Duplicate value: "a/b"`,
		}},
		{`nodes: {names: [n1, n1, ../x], interfaces: ["a/b"]}`, []string{`spec.nodes.names[1]: Duplicate value: "n1"`, `spec.nodes.names[2]: Invalid value: "../x"`, `spec.nodes.interfaces[0]: Invalid value: "a/b"`}},
		{`{nodes: {selector: {}}, match: [{peers: [{pod: {name: a}}]}]}`, []string{"spec.match[0].peers[0].pod.namespace: Required value: give the name of a namespace"}},
	} {
		capture := &v1alpha1.ClusterCapture{ObjectMeta: metav1.ObjectMeta{Name: "all"}}
		read(t, test.spec, &capture.Spec)
		compare(t, test.spec, ClusterCapture(capture, now), test.says)
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"web": true, "a.b": false, "A": false, "": false, strings.Repeat("a", 63): true, strings.Repeat("a", 64): false, "..": false, "a/b": false} {
		capture := &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"}}
		read(t, `pods: {selector: {}}`, &capture.Spec)
		errs := Capture(capture, now)
		if (len(errs) == 0) != ok {
			t.Errorf("%q: %v", name, errs)
		}
		for _, err := range errs {
			if err.Field != "metadata.name" {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
}

func TestUpdate(t *testing.T) {
	for _, test := range []struct {
		before, after string
		says          []string
	}{
		{`{pods: {selector: {}}, limits: {bytes: 1Mi}}`, `{pods: {selector: {}}, limits: {bytes: 1024Ki}, match: []}`, nil},
		{`pods: {selector: {}}`, `{pods: {selector: {}}, stop: true}`, nil},
		{`{pods: {selector: {}}, stop: true}`, `{pods: {selector: {}}}`, []string{"spec.stop: Forbidden: a capture that was stopped does not go on"}},
		{`{pods: {selector: {}}, filter: tcp, stop: true}`, `{pods: {names: [a]}, durationSeconds: 5}`, []string{
			"spec.stop: Forbidden", "spec.durationSeconds: Forbidden: cannot be changed, only stop can be set", "spec.filter: Forbidden", "spec.pods: Forbidden",
		}},
	} {
		before, after := &v1alpha1.Capture{}, &v1alpha1.Capture{}
		read(t, test.before, &before.Spec)
		read(t, test.after, &after.Spec)
		compare(t, test.after, CaptureUpdate(after, before), test.says)
		cluster, old := &v1alpha1.ClusterCapture{}, &v1alpha1.ClusterCapture{}
		cluster.Spec.CaptureSettings, old.Spec.CaptureSettings = after.Spec.CaptureSettings, before.Spec.CaptureSettings
		compare(t, test.after, ClusterCaptureUpdate(cluster, old), slices.DeleteFunc(slices.Clone(test.says), func(says string) bool { return strings.HasPrefix(says, "spec.pods") }))
	}
}

func TestParseEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"https://S3.Example.com:443/": "https://s3.example.com", "http://a:80": "http://a", "http://a:443/b/": "http://a:443/b", "https://[::1]:9000": "https://[::1]:9000", "https://[2001:DB8::1]": "https://[2001:db8::1]",
	} {
		got, err := ParseEndpoint(text)
		if err != nil || got.String() != want {
			t.Errorf("%s is %v, %v, want %s", text, got, err, want)
		}
	}
}

// FuzzEndpoint: what is taken means the same when it is read again, and has neither credentials nor ways out.
func FuzzEndpoint(f *testing.F) {
	for _, seed := range []string{"https://s3.example.com", "http://[::1]:9000/a", "https://a:b@c", "https://a/..;/b", "https://a\\@b", "https://a?b#c", "//a", "https://a:443:443"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := ParseEndpoint(text)
		if err != nil {
			return
		}
		again, err := ParseEndpoint(parsed.String())
		if err != nil || again.String() != parsed.String() {
			t.Errorf("%q is %q, which is %v, %v", text, parsed, again, err)
		}
		if strings.ContainsAny(parsed.String(), "@?#\\% ") || strings.Contains(parsed.Path, "..") && slices.Contains(strings.Split(parsed.Path, "/"), "..") {
			t.Errorf("%q is taken as %q", text, parsed)
		}
	})
}
