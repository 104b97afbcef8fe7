// Package ring takes packets from one interface through a memory-mapped packet socket (TPACKET_V3, packet(7)).
//
// The network namespace that a ring was opened in and its interface are its scope: the kernel gives it nothing else.
// The filter is applied by the kernel before a packet is copied. Packets are socket buffers as the kernel handles them
// and not frames on a wire: with segmentation offload they exceed the MTU, and checksums of what is sent may be partial.
//
// Every packet that the filter accepts is counted by the kernel, as delivered to the ring or as dropped because it was
// full. After a ring was stopped and Run has returned, Statistics is exact: matched = delivered + dropped.
//
//	ring.go    opening, running, stopping
//	block.go   walks the packets of a block
//	filter.go  filters, and what the kernel says when they are too large
//	device.go  kinds of interfaces
package ring
