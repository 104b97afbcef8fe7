package main

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

var update = flag.Bool("update", false, "rewrite what the scripts compare with")

func TestMain(m *testing.M) {
	program := func() {
		os.Exit(run(context.Background(), append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...),
			genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}))
	}
	testscript.Main(m, map[string]func(){
		"kubectl-network": program, "kubectl-create-capture": program, "kubectl-create-clustercapture": program,
		"kubectl_complete-network": program, "kubectl_complete-create-capture": program,
		"head-bytes": headBytes,
	})
}

// headBytes reads one byte of stdin and ends, as a reader does that has seen enough.
func headBytes() {
	buffer := make([]byte, 1)
	if _, err := os.Stdin.Read(buffer); err != nil {
		os.Exit(1)
	}
}

// TestScripts runs testdata/*.txtar against a server that answers as the real one does; see server_test.go.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			server := newServer(t)
			env.Defer(server.Close)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("KUBECONFIG", filepath.Join(env.WorkDir, "kubeconfig"))
			env.Values["server"] = server
			return os.WriteFile(filepath.Join(env.WorkDir, "kubeconfig"), []byte(server.kubeconfig()), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server":    func(ts *testscript.TestScript, _ bool, args []string) { serverOf(ts).command(ts, args) },
			"interrupt": interruptBackground,
			"exited":    exited,
		},
	})
}
