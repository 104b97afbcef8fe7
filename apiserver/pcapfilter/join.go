package pcapfilter

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
)

// Join returns a program that accepts what both scope and filter accept, with filter's answer: scope runs
// first, and where it accepts goes on to filter with A and X zero, as at a program's start. The kernel holds
// only one program per socket. Both have to be valid for the kernel; scope may not return A.
func Join(scope, filter []bpf.RawInstruction) ([]bpf.RawInstruction, error) {
	for _, program := range [][]bpf.RawInstruction{scope, filter} {
		if err := validate(program); err != nil {
			return nil, err
		}
	}
	var joined []bpf.RawInstruction
	for i, instruction := range scope {
		if instruction.Op&classMask == classRET && instruction.K != 0 {
			instruction = bpf.RawInstruction{Op: jump, K: uint32(len(scope) - i - 1)}
		}
		joined = append(joined, instruction)
	}
	joined = append(joined, bpf.RawInstruction{Op: loadImmediate}, bpf.RawInstruction{Op: loadXImmediate})
	if joined = append(joined, filter...); len(joined) > maxProgram {
		return nil, fmt.Errorf("joining filters: %d instructions, the kernel takes %d", len(joined), maxProgram)
	}
	return joined, nil
}

// validate checks what Join relies on: that all jumps stay in the program, which ends in a return of a constant.
func validate(program []bpf.RawInstruction) error {
	if len(program) == 0 || program[len(program)-1].Op&classMask != classRET {
		return errors.New("joining filters: a program that does not end in a return")
	}
	for i, instruction := range program {
		rest := uint64(len(program) - i - 1)
		switch {
		case instruction.Op == jump && uint64(instruction.K) >= rest,
			instruction.Op&classMask == classJMP && instruction.Op != jump && max(uint64(instruction.Jt), uint64(instruction.Jf)) >= rest:
			return fmt.Errorf("joining filters: instruction %d jumps out of the program", i)
		case instruction.Op&classMask == classRET && instruction.Op != answer:
			return fmt.Errorf("joining filters: instruction %d returns a computed value", i)
		}
	}
	return nil
}
