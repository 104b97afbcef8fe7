// Package bpf is the kernel half of the agent, one folder per program: the C source, the object and Go code that
// generate.sh makes of it (committed, so that nobody needs a BPF compiler to build the agent), a small hand-written
// Go file that says what the object's maps and programs mean, and tests that run crafted packets through the
// programs in the kernel (PROG_TEST_RUN).
//
// A program here knows nothing of pods or nodes. What is attached where, for how long, and what survives a restart
// is nodeagent's.
package bpf
