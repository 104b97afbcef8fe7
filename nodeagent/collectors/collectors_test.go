package collectors

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestNamesAreThoseOfTheCollectors(t *testing.T) {
	set := New(Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}, Defaults())
	defer set.Close()
	var names []string
	for _, c := range set.States() {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, Names()) {
		t.Errorf("collectors are %v, Names says %v", names, Names())
	}
}

// Whatever is off, the rest goes on, and the objects say what is off.
func TestOff(t *testing.T) {
	bpffs := fakepod.BPFFS(t)
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			options := Defaults()
			options.Disabled = []string{name}
			set := New(Environment{BPFFS: bpffs, Node: "n"}, options)
			defer set.Close()
			set.Follow(nil)
			set.sample(time.Now())
			node := set.Read().Node()
			for _, c := range node.Agent.Collectors {
				if isOff := c.State == v1alpha1.Collector_STATE_OFF; isOff != (c.Name == name) {
					t.Errorf("%s is %v: %s", c.Name, c.State, c.Message)
				}
			}
			if node.Measurement.State != v1alpha1.State_STATE_MEASURED || !strings.Contains(node.Measurement.Message, name+": is switched off") {
				t.Errorf("the node is %v: %s", node.Measurement.State, node.Measurement.Message)
			}
			if (node.Protocols == nil) != (name == "protocols") || (len(node.Interfaces) == 0) != (name == "interfaces") {
				t.Errorf("protocols %v, %d interfaces", node.Protocols != nil, len(node.Interfaces))
			}
		})
	}
}

// Nothing of traffic stays on a pod's interface when it is switched off after it was on.
func TestTrafficSwitchedOff(t *testing.T) {
	for _, hook := range []traffic.Hook{traffic.TCX, traffic.Clsact} {
		t.Run(string(hook), func(t *testing.T) {
			environment := Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}
			pod, peer := fakepod.New(t, fakepod.Prefix()), fakepod.NewNamespace(t)
			fakepod.Connect(pod.Namespace, peer, "eth0", "eth0", 1)
			attached := func() (count int) {
				pod.Do(func() {
					eth0, err := net.InterfaceByName("eth0")
					if err != nil {
						t.Error(err)
						return
					}
					if found, err := link.QueryPrograms(link.QueryOptions{Target: eth0.Index, Attach: ebpf.AttachTCXIngress}); err == nil {
						count = len(found.Programs)
					}
				})
				return count + strings.Count(pod.Run("tc", "filter", "show", "dev", "eth0", "ingress"), "networkobservability")
			}
			follow(t, pod, func(found *podmap.Pod) {
				options := Defaults()
				options.Traffic.Hook = hook
				for _, want := range []bool{true, false} {
					set := New(environment, options)
					set.Follow([]*podmap.Pod{found})
					if got := attached() > 0; got != want {
						t.Errorf("%v off: programs are attached: %v", options.Disabled, got)
					}
					set.Close()
					options.Disabled = []string{"traffic"}
				}
			})
		})
	}
}

// A hook that is missing is named, and what is switched off wants none.
func TestHooks(t *testing.T) {
	options := Defaults()
	options.WithoutHooks = []string{"kfree_skb", "inspectors"}
	set := New(Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}, options)
	defer set.Close()
	for hook, want := range map[string]bool{"kfree_skb": false, "inspectors": false, "cgroup_inspectors": true, "inet_sock_set_state": true} {
		if got, known := set.Hooks()[hook]; !known || got != want {
			t.Errorf("%s is attached: %v (known %v)", hook, got, known)
		}
	}
	options.Disabled = Names()
	off := New(Environment{BPFFS: fakepod.BPFFS(t), Node: "off"}, options)
	defer off.Close()
	if hooks := off.Hooks(); len(hooks) > 0 {
		t.Errorf("switched off, %v are wanted", hooks)
	}
}

func TestPodInTheNodesNetworkWithoutCgroup(t *testing.T) {
	row := New(Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}, Defaults()).Read().Pod(&podmap.Pod{Key: "a", HostNetwork: true})
	if row.Measurement.State != v1alpha1.State_STATE_NOT_ATTRIBUTED || row.Traffic != nil || row.Protocols != nil {
		t.Errorf("row %v, want one that is not attributed", row)
	}
}

// PodOnly asks those that are named, and nobody else.
func TestPodOnly(t *testing.T) {
	pod, peer := fakepod.New(t, fakepod.Prefix()), fakepod.NewNamespace(t)
	fakepod.Connect(pod.Namespace, peer, "eth0", "eth0", 1)
	follow(t, pod, func(found *podmap.Pod) {
		set := New(Environment{BPFFS: fakepod.BPFFS(t), Node: "n"}, Options{Disabled: []string{"drops", "tcp", "dns", "flows"}})
		defer set.Close()
		set.Follow([]*podmap.Pod{found})
		reading := set.Read()
		if row := reading.PodOnly(found, "protocols"); row.Protocols == nil || row.Traffic != nil {
			t.Errorf("asked for protocols: %v", row)
		}
		if row := reading.PodOnly(found, "traffic", "drops"); row.Protocols != nil || row.Traffic == nil {
			t.Errorf("asked for traffic: %v", row)
		}
	})
}

func TestMessagesAreCut(t *testing.T) {
	for _, message := range []string{"", "short", strings.Repeat("ü", 2000), "\xff"} {
		got := cut(message)
		if len(got) > 1<<10 || strings.ToValidUTF8(got, "") != got {
			t.Errorf("%d bytes became %d", len(message), len(got))
		}
	}
}
