package podmap

import (
	"strings"
	"testing"
)

const (
	ownUID   = "11111111-1111-4111-8111-111111111111"
	podUID   = "b1c2d3e4-0000-4abc-9def-0123456789ab"
	otherUID = "99999999-9999-4999-8999-999999999999"
	hash     = "0123456789abcdef0123456789abcdef"
)

func underscored(uid string) string { return strings.ReplaceAll(uid, "-", "_") }

func TestWhoseProcess(t *testing.T) {
	const container = "/5bdc6bb1f1a2"
	v1 := func(path string) string {
		return "12:pids:" + path + "\n3:cpu,cpuacct:" + path + "\n1:name=systemd:" + path + "\n0::/\n"
	}
	for _, test := range []struct {
		name, self, ownKey, process string
		key, unified                string
	}{
		{
			name: "version 2, cgroupfs", ownKey: ownUID,
			self:    "0::/kubepods/burstable/pod" + ownUID + container + "\n",
			process: "0::/kubepods/besteffort/pod" + podUID + container + "\n",
			key:     podUID, unified: "/kubepods/besteffort/pod" + podUID,
		},
		{
			name: "version 2, guaranteed", ownKey: ownUID,
			self:    "0::/kubepods/burstable/pod" + ownUID + container + "\n",
			process: "0::/kubepods/pod" + podUID + container + "/init\n",
			key:     podUID, unified: "/kubepods/pod" + podUID,
		},
		{
			name: "version 2, systemd", ownKey: ownUID,
			self:    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + underscored(ownUID) + ".slice/cri-containerd-1.scope\n",
			process: "0::/kubepods.slice/kubepods-pod" + underscored(podUID) + ".slice/crio-2.scope/container\n",
			key:     podUID, unified: "/kubepods.slice/kubepods-pod" + underscored(podUID) + ".slice",
		},
		{
			name: "kind: a kubelet below its own slice", ownKey: ownUID,
			self:    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + underscored(ownUID) + ".slice/a.scope\n",
			process: "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + underscored(podUID) + ".slice/a.scope\n",
			key:     podUID, unified: "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + underscored(podUID) + ".slice",
		},
		{
			name: "version 1", ownKey: ownUID,
			self: v1("/kubepods/pod" + ownUID + container), process: v1("/kubepods/burstable/pod" + podUID + container),
			key: podUID,
		},
		{
			name: "hybrid", ownKey: ownUID,
			self:    "5:pids:/kubepods/pod" + ownUID + "\n0::/kubepods/pod" + ownUID + "\n",
			process: "5:pids:/kubepods/pod" + podUID + "\n0::/kubepods/pod" + podUID + "\n",
			key:     podUID, unified: "/kubepods/pod" + podUID,
		},
		{
			name: "static pod", ownKey: ownUID,
			self:    "0::/kubepods/burstable/pod" + ownUID + container + "\n",
			process: "0::/kubepods/burstable/pod" + hash + container + "\n",
			key:     hash, unified: "/kubepods/burstable/pod" + hash,
		},
		{
			name: "a pod of another node of this kernel", ownKey: ownUID,
			self: v1("/node-1/kubepods/pod" + ownUID + container), process: v1("/node-2/kubepods/pod" + podUID + container),
		},
		{
			name: "a pod of a node whose root begins alike", ownKey: ownUID,
			self: v1("/node-1/kubepods/pod" + ownUID + container), process: v1("/node-10/kubepods/pod" + podUID + container),
		},
		{
			name: "nothing of Kubernetes", ownKey: ownUID,
			self: v1("/kubepods/pod" + ownUID + container), process: v1("/system.slice/ssh.service"),
		},
		{
			name: "the agent outside a pod takes every pod", ownKey: "",
			self: v1("/"), process: v1("/node-2/kubepods/pod" + podUID + container), key: podUID,
		},
		{
			name: "cgroup namespace of the agent's own", ownKey: ownUID,
			self: "0::/\n", process: "0::/../../../besteffort/pod" + podUID + container + "\n", key: podUID,
		},
		{
			name: "cgroup namespace of the agent's own, guaranteed sibling", ownKey: ownUID,
			self: "0::/\n", process: "0::/../../pod" + podUID + container + "\n", key: podUID,
		},
		{
			name: "cgroup namespace of the agent's own, a pod of another node", ownKey: ownUID,
			self: "0::/\n", process: "0::/../../../../node-2/kubepods/pod" + podUID + container + "\n",
		},
		{
			name: "a container that makes a cgroup like another pod's below its own", ownKey: ownUID,
			self:    "0::/kubepods/pod" + ownUID + "\n",
			process: "0::/kubepods/pod" + podUID + container + "/kubepods/pod" + otherUID + "\n",
			key:     podUID, unified: "/kubepods/pod" + podUID,
		},
		{
			name: "the same, with the agent outside a pod", ownKey: "",
			self: v1("/"), process: "0::/kubepods/pod" + podUID + container + "/kubepods/pod" + otherUID + "\n",
			key: podUID, unified: "/kubepods/pod" + podUID,
		},
		{
			name: "a cgroup below the prefix that is no pod, with one inside", ownKey: ownUID,
			self: "0::/kubepods/pod" + ownUID + "\n", process: "0::/kubepods/evil/pod" + podUID + "\n",
		},
		{
			name: "a name with a way out of a folder", ownKey: ownUID,
			self: "0::/kubepods/pod" + ownUID + "\n", process: "0::/kubepods/pod../../" + strings.Repeat("a", 30) + "\n",
		},
		{
			name: "upper case, too short, too long", ownKey: "",
			self: v1("/"), process: "3:a:/pod" + strings.ToUpper(hash) + "\n2:b:/pod" + hash[1:] + "\n1:c:/pod" + hash + "0\n",
		},
		{
			name: "colons in a name", ownKey: "",
			self: v1("/"), process: "3:a:/x:y:/pod" + podUID + "\n", key: podUID,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			key, unified, ok := newTree([]byte(test.self), test.ownKey).pod([]byte(test.process))
			if key != test.key || unified != test.unified || ok != (test.key != "") {
				t.Errorf("pod %q in %q (%v), want %q in %q", key, unified, ok, test.key, test.unified)
			}
		})
	}
}

// Whatever stands in a cgroup file, a key is safe as a file name and names a pod where the prefix ends.
func FuzzWhoseProcess(f *testing.F) {
	f.Add("0::/kubepods/pod"+ownUID+"\n", "0::/kubepods/burstable/pod"+podUID+"/c\n")
	f.Add("0::/\n", "0::/../../pod"+hash+"\n")
	f.Add("4:a:/b\n", "4:a:\n:::\n4\n")
	f.Fuzz(func(t *testing.T, self, process string) {
		for _, ownKey := range []string{"", ownUID} {
			key, unified, ok := newTree([]byte(self), ownKey).pod([]byte(process))
			if ok && !isKey(key) {
				t.Errorf("key %q", key)
			}
			if !ok && (key != "" || unified != "") {
				t.Errorf("no pod, but %q in %q", key, unified)
			}
			if unified != "" && (!strings.Contains(process, strings.TrimPrefix(unified, "/")) || strings.Contains(unified, "\n")) {
				t.Errorf("cgroup %q is not in %q", unified, process)
			}
		}
	})
}

func TestStartTime(t *testing.T) {
	const tail = " S 1 1 1 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0"
	for _, name := range []string{"sleep", "a b", ") 1 2 (", ""} {
		started, err := startTime([]byte("17 (" + name + ")" + tail))
		if err != nil || started != 4711 {
			t.Errorf("a program called %q: started at %d (%v), want 4711", name, started, err)
		}
	}
	if _, err := startTime([]byte("17 (x) S 1")); err == nil {
		t.Error("a short line gave no error")
	}
}
