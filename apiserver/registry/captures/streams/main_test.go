package streams

import (
	"flag"
	"io"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if !testing.Verbose() {
		var flags flag.FlagSet
		klog.InitFlags(&flags)
		flags.Set("logtostderr", "false")
		flags.Set("stderrthreshold", "FATAL")
		klog.SetOutput(io.Discard)
	}
	goleak.VerifyTestMain(m)
}
