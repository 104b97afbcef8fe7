// Package bpf is the kernel half of the agent, one folder per program: the C source, the object and Go code that
// generate.sh makes of it (committed, so that nobody needs a BPF compiler to build the agent), a small hand-written
// Go file that says what the object's maps and programs mean, and tests that run crafted packets through the
// programs in the kernel (PROG_TEST_RUN).
//
// headers holds what several programs have in common: shared maps and structures in C, with their Go side.
//
// A program here knows a pod by a number only (headers.PodNumber). Which pods there are, what is attached where and for
// how long, and what survives a restart is nodeagent's.
package bpf
