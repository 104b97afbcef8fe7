// Package capturefile says what the file of a capture has of the capture itself, for those that serve the file and those
// that tell its size and digest beforehand.
package capturefile

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// maxSnapLength is how much of a packet is kept when nothing less was asked for.
const maxSnapLength = 262_144

// HeaderOf is the header of the file of a Capture or ClusterCapture. Only what cannot change goes into it.
func HeaderOf(capture runtime.Object) (pcapfile.Header, error) {
	switch c := capture.(type) {
	case *v1alpha1.Capture:
		return header(pcapfile.Header{UID: string(c.UID), Namespace: c.Namespace, Name: c.Name}, &c.Spec.CaptureSettings)
	case *v1alpha1.ClusterCapture:
		return header(pcapfile.Header{UID: string(c.UID), Name: c.Name}, &c.Spec.CaptureSettings)
	}
	return pcapfile.Header{}, fmt.Errorf("%T is no capture", capture)
}

func header(h pcapfile.Header, settings *v1alpha1.CaptureSettings) (pcapfile.Header, error) {
	h.SnapLength = maxSnapLength
	if settings.PacketBytes != nil {
		h.SnapLength = uint32(*settings.PacketBytes)
	}
	h.Filter = settings.Filter
	if len(settings.Match) > 0 {
		// As it was written: what names in it stood for was known at the start only.
		match, err := json.Marshal(settings.Match)
		if err != nil {
			return pcapfile.Header{}, fmt.Errorf("writing the match of the capture: %w", err)
		}
		if h.Filter != "" {
			h.Filter += " "
		}
		h.Filter += "match " + string(match)
	}
	return h, nil
}
