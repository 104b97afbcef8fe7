// Package podmap finds the pods of this node in the kernel: for each pod one live process, and through it the
// network namespace and the cgroup.
//
// It asks neither Kubernetes nor a container runtime. The kubelet names a pod's cgroup after the pod's UID (a static
// pod's after the hash of its configuration), so /proc/PID/cgroup says whose a process is, and the oldest process of
// a pod is in the pod's network namespace: containers and the sandbox are started into it, and what a container
// unshares later is younger.
//
// Two things need patience. A process enters its cgroup before its namespace, so a pod is believed to use the node's
// network only after its process stayed there for two seconds. And the kernel announces a pod's interface
// (RTM_NEWLINK) before any process of the pod exists, so the look is repeated for two seconds.
//
// No descriptor of a namespace is kept: it would keep the namespace of a dead pod alive. What is kept is a
// descriptor of the directory /proc/PID, which answers ENOENT or ESRCH once the process is gone, even if its number
// is used again.
//
//	cgroup.go   whose is a process: text in, pod out, nothing else
//	process.go  a process held by its directory: its namespace, its files
//	events.go   the kernel's announcements of interfaces in any namespace
//	podmap.go   the loop that looks, and who is there
package podmap
