package server

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/bpf"

	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	controller "github.com/networkobservability/networkobservability/apiserver/captures"
	"github.com/networkobservability/networkobservability/apiserver/pcapfilter"
	"github.com/networkobservability/networkobservability/apiserver/registry/directory"
)

// rejectAll is the filter of interfaces on which nothing can match: "arp" where packets begin with IP.
var rejectAll = []bpf.RawInstruction{{Op: 0x6}}

// A compiled filter is one for each kind of interface.
type compiled struct {
	ethernet, raw *pcapfilter.Program
}

// compile compiles a filter's text. Names without a namespace are in the one that is given.
func compile(namespace, text string, snapLength uint32, resolve filtertext.Resolve) (compiled, error) {
	options := pcapfilter.Options{SnapLen: snapLength, Resolve: func(name pcapfilter.Name) ([]netip.Addr, error) {
		return resolveName(namespace, name, resolve)
	}}
	ethernet, err := pcapfilter.Compile(text, options)
	if err != nil {
		return compiled{}, err
	}
	options.Link = pcapfilter.RawIP
	raw, err := pcapfilter.Compile(text, options)
	if err != nil {
		// What is right for Ethernet asks here for a header that there is none of.
		raw = &pcapfilter.Program{Instructions: rejectAll, HeadersOnly: true}
	}
	return compiled{ethernet, raw}, nil
}

func resolveName(namespace string, name pcapfilter.Name, resolve filtertext.Resolve) ([]netip.Addr, error) {
	if name.Namespace == "" {
		name.Namespace = namespace
	}
	if name.Namespace == "" {
		return nil, fmt.Errorf("%s is in no namespace: write NAME.NAMESPACE", name.Name)
	}
	kind := map[pcapfilter.Object]filtertext.Kind{
		pcapfilter.AnyObject: filtertext.Host, pcapfilter.Pod: filtertext.Pod, pcapfilter.Service: filtertext.Service,
	}[name.Object]
	return resolve(kind, name.Namespace, name.Name)
}

// programFor is a filter as agents take it.
func programFor(namespace, text string, resolve filtertext.Resolve) (*controller.Program, error) {
	if text == "" {
		return &controller.Program{HeadersOnly: true}, nil
	}
	filter, err := compile(namespace, text, 0, resolve)
	if err != nil {
		return nil, err
	}
	return &controller.Program{
		Text: text, Ethernet: packed(filter.ethernet), Raw: packed(filter.raw),
		HeadersOnly: filter.ethernet.HeadersOnly && filter.raw.HeadersOnly,
	}, nil
}

// packed is a program as it is on the wire (agent.proto).
func packed(program *pcapfilter.Program) []uint64 {
	instructions := make([]uint64, len(program.Instructions))
	for i, one := range program.Instructions {
		instructions[i] = uint64(one.Op)<<48 | uint64(one.Jt)<<40 | uint64(one.Jf)<<32 | uint64(one.K)
	}
	return instructions
}

// describe is what the registry wants to know of a filter.
func describe(_ context.Context, namespace, text string, resolve filtertext.Resolve) (v1alpha1.CaptureFilterStatus, error) {
	filter, err := compile(namespace, text, 0, resolve)
	if err != nil {
		return v1alpha1.CaptureFilterStatus{}, err
	}
	return v1alpha1.CaptureFilterStatus{
		Instructions: int32(max(len(filter.ethernet.Instructions), len(filter.raw.Instructions))),
		HeadersOnly:  filter.ethernet.HeadersOnly && filter.raw.HeadersOnly,
	}, nil
}

// namesOf is what analysers show for an address: who holds it at a time, with the more general part behind a dot, as
// host names have it.
func namesOf(known *directory.Directory, address netip.Addr, at time.Time) []string {
	owner, ok := known.Owner(address, at)
	switch {
	case !ok:
		return nil
	case owner.Pod != nil:
		return []string{strings.Join([]string{owner.Pod.Name, owner.Pod.Namespace}, ".")}
	case owner.Service != nil:
		return []string{strings.Join([]string{owner.Service.Name, owner.Service.Namespace, "svc"}, ".")}
	}
	return []string{owner.Node}
}
