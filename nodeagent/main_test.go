package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestFlagsThatAreWrongAreNamed(t *testing.T) {
	for _, test := range []struct {
		arguments []string
		want      string
	}{
		{[]string{"--node-name="}, "--node-name: "},
		{[]string{"--node-name=../../etc"}, "--node-name: "},
		{[]string{"--node-name=UPPER"}, "--node-name: "},
		{[]string{"--config=/nowhere"}, "--config: "},
		{[]string{"--node-ips=10.0.0.300"}, "--node-ips: "},
		{[]string{"--listen=10261"}, "--listen: "},
		{[]string{"--metrics-address=10263"}, "--metrics-address: "},
		{[]string{"--metrics-address=:metrics"}, "--metrics-address: "},
		{[]string{"--metrics-address=:65536"}, "--metrics-address: "},
		{[]string{"--health-address=0.0.0.0:10262"}, "--health-address: "},
		{[]string{"--health-address=[::1]"}, "--health-address: "},
		{[]string{"--bpffs=/proc"}, "--bpffs: "},
	} {
		t.Run(strings.Join(test.arguments, " "), func(t *testing.T) {
			c := command()
			c.SetArgs(append([]string{"--node-name=n"}, test.arguments...))
			c.SetOut(io.Discard)
			if err := c.Execute(); err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("%v, want an error that begins with %q", err, test.want)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	var out strings.Builder
	c := command()
	c.SetArgs([]string{"version"})
	c.SetOut(&out)
	if err := c.Execute(); err != nil || out.String() == "\n" {
		t.Errorf("printed %q (%v)", out.String(), err)
	}
}

func TestEnvironmentGivesDefaults(t *testing.T) {
	t.Setenv("NODE_NAME", "node-1.example")
	t.Setenv("POD_UID", "b1c2d3e4-0000-4abc-9def-0123456789ab")
	t.Setenv("NODE_IPS", "10.0.0.1,fd00::1")
	var o options
	o.addTo(&cobra.Command{})
	if o.nodeName != os.Getenv("NODE_NAME") || o.podUID != os.Getenv("POD_UID") || len(o.nodeIPs) != 2 {
		t.Errorf("options %+v", o)
	}
}
