package agents

import (
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Limits of what an agent says of a capture (agent.proto).
const (
	maxParts     = 5_000
	maxMissing   = 5_000
	maxOutputs   = 100
	maxObjects   = 10
	maxAddresses = 10_000
	digestBytes  = 32
	// maxCount is what no honest count reaches, so that sums of very many stay far from the end of their type.
	maxCount = 1 << 50
	// maxSum is the same for all counts of a node together: agents have thousands of parts, and sums are of all agents.
	maxSum = 8 * maxCount
)

// checkState makes what an agent says of a capture fit to be stored and shown, and fails where it is impossible.
func checkState(state *agentv1.CaptureState) error {
	switch {
	case state.Uid == "" || len(state.Uid) > maxKeyBytes:
		return violation("a capture without a UID")
	case state.Phase != agentv1.CaptureState_PHASE_RUNNING && state.Phase != agentv1.CaptureState_PHASE_ENDED:
		return violation("a capture that neither runs nor has ended")
	case len(state.Parts) > maxParts, len(state.Missing) > maxMissing, len(state.Outputs) > maxOutputs:
		return violation("a capture with too many parts, targets or outputs")
	case state.Sealed && (len(state.Digest) != digestBytes || state.Phase != agentv1.CaptureState_PHASE_ENDED):
		return violation("a seal without a digest, or of a capture that runs")
	case outside(state.BlockBytes, state.Interruptions):
		return violation("a negative or impossible count")
	}
	state.Message = printable(state.Message)
	numbers := make(map[uint32]bool, len(state.Parts))
	all := int64(0)
	for _, part := range state.Parts {
		if err := checkPart(part); err != nil {
			return err
		}
		if numbers[part.Number] {
			return violation("two parts of one number")
		}
		numbers[part.Number] = true
		if all += sum(part.Counts); all > maxSum {
			return violation("an impossible sum of counts")
		}
	}
	for _, missing := range state.Missing {
		if missing.Target == nil {
			return violation("a missing target without a name")
		}
		missing.Reason = printable(missing.Reason)
		missing.Target.Namespace, missing.Target.Pod = printable(missing.Target.Namespace), printable(missing.Target.Pod)
	}
	return checkOutputs(state.Outputs)
}

// checkPart is checkState for a part.
func checkPart(part *agentv1.CapturePart) error {
	if part.Counts == nil {
		part.Counts = &agentv1.CaptureCounts{}
	}
	if part.Number >= maxParts {
		return violation("a part of an impossible number") // Memory is taken for all up to it.
	}
	if outside(counted(part.Counts)...) {
		return violation("a negative or impossible count")
	}
	part.Namespace, part.Pod, part.PodUid = printable(part.Namespace), printable(part.Pod), printable(part.PodUid)
	part.Interface, part.Message = printable(part.Interface), printable(part.Message)
	return nil
}

func counted(counts *agentv1.CaptureCounts) []int64 {
	return []int64{counts.Matched, counts.Packets, counts.Bytes, counts.RingDrops, counts.DiskDrops, counts.LimitDrops, counts.OtherVantage}
}

// sum is all of a part's counts together.
func sum(counts *agentv1.CaptureCounts) (all int64) {
	for _, one := range counted(counts) {
		all += one
	}
	return all
}

func checkOutputs(outputs []*agentv1.CaptureOutputState) error {
	for _, output := range outputs {
		if len(output.Objects) > maxObjects {
			return violation("an output with too many objects")
		}
		output.Name, output.Message = printable(output.Name), printable(output.Message)
		for _, object := range output.Objects {
			if outside(object.Bytes) {
				return violation("a negative or impossible size")
			}
			object.Key, object.Sha256 = printable(object.Key), printable(object.Sha256)
		}
	}
	return nil
}

func checkDescription(batch *agentv1.DescribeCaptureResponse, uid string) error {
	if state := batch.State; state != nil {
		if state.Uid != uid {
			return violation("the description of another capture")
		}
		if err := checkState(state); err != nil {
			return err
		}
	}
	for _, address := range batch.Addresses {
		if !addressSized(address) {
			return violation("an address that is none")
		}
	}
	for _, name := range batch.Names {
		if !addressSized(name.Address) {
			return violation("an address that is none")
		}
		for i, text := range name.Names {
			name.Names[i] = printable(text)
		}
	}
	for _, mark := range batch.Marks {
		if outside(mark.BlockBytes) {
			return violation("a negative or impossible size")
		}
	}
	return nil
}

func addressSized(address []byte) bool { return len(address) == 4 || len(address) == 16 }

// outside says that one of the counts is impossible.
func outside(counts ...int64) bool {
	for _, count := range counts {
		if count < 0 || count > maxCount {
			return true
		}
	}
	return false
}
