package drops

import (
	"errors"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/btf"

	"github.com/networkobservability/networkobservability/bpf/headers"
)

// tracepoint is the type of the kernel's tracepoint with so many parameters of its own.
func tracepoint(parameters int) *btf.Typedef {
	prototype := &btf.FuncProto{Params: make([]btf.FuncParam, 1+parameters)}
	return &btf.Typedef{Name: "btf_trace_" + Hook, Type: &btf.Pointer{Target: prototype}}
}

func TestDescribe(t *testing.T) {
	reasons := &btf.Enum{Name: "skb_drop_reason", Values: []btf.EnumValue{
		{Name: "SKB_CONSUMED", Value: 1}, {Name: "SKB_DROP_REASON_NO_SOCKET", Value: 3},
		{Name: "SKB_DROP_REASON_SUBSYS_MASK", Value: 0xffff0000},
	}}
	for _, test := range []struct {
		kernel     string
		parameters int
		receivers  bool
		err        error
	}{
		{"5.16", 2, false, ErrNoReasons},
		{"5.17", 3, false, nil},
		{"6.11", 4, true, nil},
		{"a later one that adds something", 5, true, nil},
	} {
		kernel, err := describe(reasons, tracepoint(test.parameters))
		if !errors.Is(err, test.err) || kernel.Receivers != test.receivers {
			t.Errorf("%s: receivers %v, %v; want %v, %v", test.kernel, kernel.Receivers, err, test.receivers, test.err)
		}
		if len(kernel.Reasons) != 2 || kernel.Reasons[1] != "SKB_CONSUMED" || kernel.Reasons[3] != "NO_SOCKET" {
			t.Errorf("reasons %v", kernel.Reasons)
		}
	}
	if _, err := describe(reasons, &btf.Typedef{Type: &btf.Int{}}); err == nil {
		t.Error("took a number for a tracepoint")
	}
	if _, err := describe(reasons, &btf.Typedef{Type: &btf.Pointer{Target: &btf.Int{}}}); err == nil {
		t.Error("took a pointer to a number for a tracepoint")
	}
}

func TestCode(t *testing.T) {
	for _, test := range []struct {
		code           Code
		number         uint32
		expired, stray bool
	}{
		{0, 0, false, false}, {127, 127, false, false}, {0x1003, 0x10003, false, false}, {0xd001, 0xd0001, false, false},
		{0xe002, 2, false, true}, {0xf00f, 15, true, false},
	} {
		if test.code.Number() != test.number || test.code.Expired() != test.expired || test.code.Stray() != test.stray {
			t.Errorf("%#x: number %#x, expired %v, stray %v", uint16(test.code), test.code.Number(), test.code.Expired(), test.code.Stray())
		}
	}
}

// The Go types have the sizes of the C ones, and exactly one program is left for a kernel.
func TestSpec(t *testing.T) {
	for _, receivers := range []bool{false, true} {
		spec, err := Spec(Kernel{Receivers: receivers})
		if err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{false: "drop", true: "drop_received"}[receivers]
		if len(spec.Programs) != 1 || spec.Programs[want] == nil || spec.Programs[want].AttachTo != Hook {
			t.Errorf("programs %v", spec.Programs)
		}
		shared := headers.MapSpecs()
		for name, sizes := range map[string][2]uintptr{
			Rows:     {unsafe.Sizeof(Row{}), 8},
			Accounts: {8, unsafe.Sizeof(Account{})},
			Settings: {4, unsafe.Sizeof(SettingsOf{})},
			Lost:     {4, 8},
		} {
			m := spec.Maps[name]
			if m == nil || m.KeySize != uint32(sizes[0]) || m.ValueSize != uint32(sizes[1]) {
				t.Errorf("%s is %v, want sizes %v", name, m, sizes)
			}
			delete(spec.Maps, name)
		}
		for name := range spec.Maps {
			if shared[name] == nil {
				t.Errorf("%s is neither a map of this package nor one of bpf/headers", name)
			}
		}
	}
}
