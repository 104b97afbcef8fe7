package outputs

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

var uids = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z]{0,63}$`)

type job struct{ output *v1alpha1.CaptureOutput }

func newJob(_ *Uploader, o *v1alpha1.CaptureOutput, _ []File) *job { return &job{output: o} }
func (j *job) ensure(*v1alpha1.CaptureOutput)                       {}
func (j *job) end()                                                 {}
func (j *job) wait()                                                {}

func states(jobs map[string]*job) []*v1alpha1.CaptureOutputState {
	var all []*v1alpha1.CaptureOutputState
	for _, name := range slices.Sorted(maps.Keys(jobs)) {
		all = append(all, &v1alpha1.CaptureOutputState{Name: name, Phase: v1alpha1.CaptureOutputState_PHASE_PENDING})
	}
	return all
}

func systemLookup(context.Context, string) ([]netip.Addr, error) { return nil, fmt.Errorf("not yet") }
func validateOutput(*v1alpha1.CaptureOutput) error               { return nil }
func validateFile(string, File) error                            { return nil }
