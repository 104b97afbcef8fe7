package metrics

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the transcripts in testdata and the tables in docs/metrics.md from what the code does")

// TestStories plays every file in testdata: lines that begin with "> " are commands, those below what do must answer to
// them. Run the test with -rewrite to accept what the code does.
func TestStories(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("there are no stories: ", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) { play(t, path) })
	}
}

func play(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, world: newWorld()}
	var got strings.Builder
	for line := range strings.Lines(string(text)) {
		command, isCommand := strings.CutPrefix(line, "> ")
		switch {
		case isCommand:
			got.WriteString(line)
			got.WriteString(s.do(strings.TrimSuffix(command, "\n")))
		case strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "# HELP") && !strings.HasPrefix(line, "# TYPE"),
			strings.TrimSpace(line) == "":
			got.WriteString(line)
		}
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != string(text) {
		t.Errorf("%s differs; go test ./nodeagent/metrics -rewrite accepts this:\n%s", path, got.String())
	}
}

type story struct {
	*world
	t *testing.T
}

// do does one command:
//
//	limit SERIES                                  the configuration's limit of series
//	group NAME [LABEL...] [values=N] [every=TIME] adds a group, or changes it
//	without NAME                                  removes a group
//	pod KEY NAMESPACE/NAME KIND/WORKLOAD GROUP... what a pod is called, and that it has a process
//	ended KEY                                     it has no process any more
//	gone KEY                                      the API server says that it is gone
//	row KEY ROW                                   what collectors know of it
//	node ROW                                      and of the node
//	peer KEY LABELS RECEIVED TRANSMITTED          bytes, in packets of 100
//	pass TIME                                     time passes
//	restart                                       a new agent begins
//	gather [PREFIX...]                            shows families of those names
//	asked                                         what was read since this was asked last
//	series                                        how many there are
func (s *story) do(line string) string {
	command, rest, _ := strings.Cut(line, " ")
	words := strings.Fields(rest)
	switch command {
	case "limit":
		s.change(func(c *v1alpha1.TelemetryConfig) { c.SeriesLimit = s.number(words[0]) })
	case "group", "without":
		s.group(words, command == "group")
	case "pod":
		s.pod(words)
	case "ended":
		delete(s.process, words[0])
	case "gone":
		delete(s.called, words[0])
	case "row":
		key, row, _ := strings.Cut(rest, " ")
		s.rows[key] = &v1alpha1.PodStats{}
		s.parse(row, s.rows[key])
	case "node":
		s.node = &v1alpha1.NodeStats{}
		s.parse(rest, s.node)
	case "peer":
		s.peer(words)
	case "pass":
		s.now = s.now.Add(s.duration(words[0]))
	case "restart":
		s.begin()
	case "gather":
		return s.world.text(s.t, words...)
	case "asked":
		answer := strings.Join(s.asked, " ") + "\n"
		s.asked = nil
		return answer
	case "series":
		return s.counts()
	default:
		s.t.Fatalf("no such command: %s", line)
	}
	return ""
}

func (s *story) number(word string) int64 {
	number, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return number
}

func (s *story) duration(word string) time.Duration {
	d, err := time.ParseDuration(word)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *story) parse(text string, to proto.Message) {
	if err := prototext.Unmarshal([]byte(text), to); err != nil {
		s.t.Fatalf("%v in %s", err, text)
	}
}

// change makes another configuration, as every change does.
func (s *story) change(how func(*v1alpha1.TelemetryConfig)) {
	s.config = proto.Clone(s.config).(*v1alpha1.TelemetryConfig)
	s.config.Revision++
	how(s.config)
}

var groupNames = map[string]v1alpha1.TelemetryGroupName{"Traffic": traffic, "Drops": drops, "TCP": tcp, "DNS": dns, "APIServer": apiServer}

func (s *story) groupName(word string) v1alpha1.TelemetryGroupName {
	name, ok := groupNames[word]
	if !ok {
		s.t.Fatalf("no such group: %s", word)
	}
	return name
}

func (s *story) group(words []string, wanted bool) {
	g := &v1alpha1.TelemetryGroup{Name: s.groupName(words[0]), LabelValuesLimit: 50}
	for _, word := range words[1:] {
		switch option, value, _ := strings.Cut(word, "="); option {
		case "values":
			g.LabelValuesLimit = s.number(value)
		case "every":
			g.IntervalNano = int64(s.duration(value))
		default:
			g.Labels = append(g.Labels, map[string]v1alpha1.TelemetryLabel{
				"PeerWorkload": v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PEER_WORKLOAD, "Service": v1alpha1.TelemetryLabel_TELEMETRY_LABEL_SERVICE,
				"Port": v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT, "DNSName": v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME,
			}[option])
		}
	}
	s.change(func(c *v1alpha1.TelemetryConfig) {
		c.Groups = slices.DeleteFunc(c.Groups, func(other *v1alpha1.TelemetryGroup) bool { return other.Name == g.Name })
		if wanted {
			c.Groups = append(c.Groups, g)
		}
	})
}

func (s *story) pod(words []string) {
	key := words[0]
	called := &v1alpha1.TelemetryPod{Key: key, Uid: "uid-of-" + key}
	called.Namespace, called.Name, _ = strings.Cut(words[1], "/")
	called.WorkloadKind, called.WorkloadName, _ = strings.Cut(words[2], "/")
	for _, word := range words[3:] {
		called.Groups = append(called.Groups, s.groupName(word))
	}
	s.called[key], s.process[key] = called, &podmap.Pod{Key: key}
}

// peer takes labels as peer_namespace=a,peer_workload=b.
func (s *story) peer(words []string) {
	c := peers.Counter{PodKey: words[0]}
	for _, label := range strings.Split(words[1], ",") {
		name, value, _ := strings.Cut(label, "=")
		*map[string]*string{
			"peer_namespace": &c.Labels.PeerNamespace, "peer_workload": &c.Labels.PeerWorkload, "service": &c.Labels.Service,
			"service_namespace": &c.Labels.ServiceNamespace, "protocol": &c.Labels.Protocol, "port": &c.Labels.Port, "dns_name": &c.Labels.DNSName,
		}[name] = value
	}
	for i := range c.Bytes {
		c.Bytes[i] = s.number(words[2+i])
		c.Packets[i] = c.Bytes[i] / 100
	}
	s.peers = slices.DeleteFunc(s.peers, func(other peers.Counter) bool { return other.PodKey == c.PodKey && other.Labels == c.Labels })
	s.peers = append(s.peers, c)
}

func (s *story) counts() string {
	offered, folded := s.metrics.Series()
	answer := fmt.Sprintf("%d offered, %d folded", offered, folded)
	byGroup := s.metrics.Folded()
	for _, name := range slices.Sorted(maps.Keys(byGroup)) {
		answer += fmt.Sprintf(", %s %d", name, byGroup[name])
	}
	return answer + "\n"
}
