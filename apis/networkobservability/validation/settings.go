package validation

import (
	"fmt"
	"regexp"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// MaxFilterBytes bounds the text of a filter. The compiler has bounds of its own.
	MaxFilterBytes = 64 << 10

	maxMatches = 64
	maxPeers   = 256
	maxPorts   = 256

	minPacketBytes, maxPacketBytes = 64, 256 << 10
	maxDurationSeconds             = 24 * 60 * 60
	maxTTLSeconds                  = 30 * 24 * 60 * 60
	maxStartAhead                  = 30 * 24 * time.Hour
	// maxClockDifference is how far the clock of a client may be behind, or a request be late.
	maxClockDifference = 5 * time.Minute

	maxPackets                 = 1_000_000_000_000
	maxBytes                   = 1 << 50
	minRingFiles, maxRingFiles = 2, 1000
	minRingFileBytes           = 1 << 20
)

var (
	interfaceName = regexp.MustCompile(`^[!-.0-9;-~]{1,15}$`)
	// controls are never part of a filter: the characters that end lines and separate words aside.
	controls = regexp.MustCompile(`[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]`)
)

func settings(settings *v1alpha1.CaptureSettings, now time.Time, path *field.Path) field.ErrorList {
	errs := filter(settings.Filter, path.Child("filter"))
	errs = append(errs, matches(settings.Match, path.Child("match"))...)
	errs = append(errs, scalars(settings, path)...)
	errs = append(errs, startTime(settings.StartTime, now, path.Child("startTime"))...)
	errs = append(errs, limits(&settings.Limits, path.Child("limits"))...)
	if settings.Ring != nil {
		errs = append(errs, ring(settings.Ring, path.Child("ring"))...)
	}
	errs = append(errs, outputs(settings.Outputs, path.Child("outputs"))...)
	if settings.NetworkSnapshot && len(settings.Outputs) == 0 {
		errs = append(errs, field.Forbidden(path.Child("networkSnapshot"), "is copied to outputs; add one to spec.outputs, or leave it out"))
	}
	if settings.Stop {
		errs = append(errs, field.Forbidden(path.Child("stop"), "ends a capture that is there; leave it out"))
	}
	return errs
}

func scalars(settings *v1alpha1.CaptureSettings, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if bytes := settings.PacketBytes; bytes != nil {
		errs = append(errs, between(int64(*bytes), minPacketBytes, maxPacketBytes, "bytes", path.Child("packetBytes"))...)
	}
	if seconds := settings.DurationSeconds; seconds != nil {
		errs = append(errs, between(*seconds, 1, maxDurationSeconds, "seconds", path.Child("durationSeconds"))...)
	}
	if seconds := settings.TTLSecondsAfterFinished; seconds != nil {
		errs = append(errs, between(int64(*seconds), 0, maxTTLSeconds, "seconds", path.Child("ttlSecondsAfterFinished"))...)
	}
	return append(errs, oneOf(settings.VantagePoint, path.Child("vantagePoint"), v1alpha1.OncePerFlow, v1alpha1.BothEnds)...)
}

func between(value, least, most int64, unit string, path *field.Path) field.ErrorList {
	if value >= least && value <= most {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, fmt.Sprintf("must be %d to %d %s", least, most, unit))}
}

// oneOf lets the absence of a value pass.
func oneOf[T ~string](value T, path *field.Path, known ...T) field.ErrorList {
	if value == "" || sets.New(known...).Has(value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, T(short(string(value))), known)}
}

func startTime(start *metav1.Time, now time.Time, path *field.Path) field.ErrorList {
	switch {
	case start == nil:
		return nil
	case start.Time.Before(now.Add(-maxClockDifference)):
		return field.ErrorList{field.Invalid(path, start.UTC().Format(time.RFC3339), "is in the past; leave it out to begin at once")}
	case start.Time.After(now.Add(maxStartAhead)):
		return field.ErrorList{field.Invalid(path, start.UTC().Format(time.RFC3339), "must be at most 30 days from now")}
	}
	return nil
}

func filter(text string, path *field.Path) field.ErrorList {
	if len(text) > MaxFilterBytes {
		return field.ErrorList{field.TooLong(path, "", MaxFilterBytes)}
	}
	if at := controls.FindStringIndex(text); at != nil {
		return field.ErrorList{field.Invalid(path, short(text), fmt.Sprintf("byte %d is a control character; remove it", at[0]))}
	}
	return nil
}

func limits(limits *v1alpha1.CaptureLimits, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	packets := func(count *int64, path *field.Path) {
		if count != nil {
			errs = append(errs, between(*count, 1, maxPackets, "packets; leave it out for no limit", path)...)
		}
	}
	bytes := func(size *resource.Quantity, path *field.Path) {
		if size != nil {
			errs = append(errs, quantity(size, minPacketBytes, maxBytes, "; leave it out for no limit", path)...)
		}
	}
	packets(limits.Packets, path.Child("packets"))
	bytes(limits.Bytes, path.Child("bytes"))
	packets(limits.PacketsPerNode, path.Child("packetsPerNode"))
	bytes(limits.BytesPerNode, path.Child("bytesPerNode"))
	return errs
}

// quantity is a whole number of bytes.
func quantity(value *resource.Quantity, least, most int64, advice string, path *field.Path) field.ErrorList {
	whole := value.DeepCopy()
	bytes, exact := whole.AsInt64()
	if exact && bytes >= least && bytes <= most {
		return nil
	}
	return field.ErrorList{field.Invalid(path, short(value.String()), fmt.Sprintf("must be a whole number of bytes from %s to %s, such as 100Mi%s",
		resource.NewQuantity(least, resource.BinarySI), resource.NewQuantity(most, resource.BinarySI), advice))}
}

func ring(ring *v1alpha1.CaptureRing, path *field.Path) field.ErrorList {
	errs := between(int64(ring.Files), minRingFiles, maxRingFiles, "files", path.Child("files"))
	return append(errs, quantity(&ring.FileBytes, minRingFileBytes, maxBytes, "", path.Child("fileBytes"))...)
}

func matches(items []v1alpha1.CaptureMatch, path *field.Path) field.ErrorList {
	if len(items) > maxMatches {
		return field.ErrorList{field.TooMany(path, len(items), maxMatches)}
	}
	var errs field.ErrorList
	for i := range items {
		errs = append(errs, match(&items[i], path.Index(i))...)
	}
	return errs
}

func match(item *v1alpha1.CaptureMatch, path *field.Path) field.ErrorList {
	if item.Direction == "" && len(item.Protocols) == 0 && len(item.Peers) == 0 && len(item.Ports) == 0 {
		return field.ErrorList{field.Required(path, "give direction, protocols, peers or ports; without match every packet is recorded")}
	}
	errs := oneOf(item.Direction, path.Child("direction"), v1alpha1.CaptureIngress, v1alpha1.CaptureEgress)
	errs = append(errs, protocols(item.Protocols, len(item.Ports) > 0, path.Child("protocols"))...)
	errs = append(errs, peers(item.Peers, path.Child("peers"))...)
	return append(errs, ports(item.Ports, path.Child("ports"))...)
}

func protocols(names []v1alpha1.CaptureProtocol, withPorts bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[v1alpha1.CaptureProtocol]()
	for i, one := range names {
		switch {
		case one == "":
			errs = append(errs, field.Required(path.Index(i), "give a protocol, or leave it out"))
		case seen.Has(one):
			errs = append(errs, field.Duplicate(path.Index(i), one))
		case withPorts && (one == v1alpha1.CaptureICMP || one == v1alpha1.CaptureICMPv6):
			errs = append(errs, field.Invalid(path.Index(i), one, "has no ports; give it an item of match of its own"))
		default:
			errs = append(errs, oneOf(one, path.Index(i), v1alpha1.CaptureTCP, v1alpha1.CaptureUDP, v1alpha1.CaptureSCTP, v1alpha1.CaptureICMP, v1alpha1.CaptureICMPv6)...)
		}
		if len(errs) > 10 {
			return errs
		}
		seen.Insert(one)
	}
	return errs
}

func ports(items []v1alpha1.CapturePort, path *field.Path) field.ErrorList {
	if len(items) > maxPorts {
		return field.ErrorList{field.TooMany(path, len(items), maxPorts)}
	}
	var errs field.ErrorList
	for i, one := range items {
		if one.Port < 1 || one.Port > 65535 {
			errs = append(errs, field.Invalid(path.Index(i).Child("port"), one.Port, "must be 1 to 65535"))
		}
		if one.EndPort != nil && (*one.EndPort < one.Port || *one.EndPort > 65535) {
			errs = append(errs, field.Invalid(path.Index(i).Child("endPort"), *one.EndPort, "must be from port to 65535"))
		}
	}
	return errs
}

func peers(items []v1alpha1.CapturePeer, path *field.Path) field.ErrorList {
	if len(items) > maxPeers {
		return field.ErrorList{field.TooMany(path, len(items), maxPeers)}
	}
	var errs field.ErrorList
	for i := range items {
		errs = append(errs, peer(&items[i], path.Index(i))...)
	}
	return errs
}

func peer(peer *v1alpha1.CapturePeer, path *field.Path) field.ErrorList {
	given := 0
	for _, one := range []bool{peer.CIDR != "", peer.Pod != nil, peer.Service != nil} {
		if one {
			given++
		}
	}
	switch {
	case given == 0:
		return field.ErrorList{field.Required(path, "give cidr, pod or service")}
	case given > 1:
		return field.ErrorList{field.Forbidden(path, "give one of cidr, pod and service; others are peers of their own")}
	case peer.Pod != nil:
		return peerName(peer.Pod, "a pod", path.Child("pod"))
	case peer.Service != nil:
		return peerName(peer.Service, "a Service", path.Child("service"))
	}
	if _, err := filtertext.ParseCIDR(peer.CIDR); err != nil {
		return field.ErrorList{field.Invalid(path.Child("cidr"), short(peer.CIDR), err.Error())}
	}
	return nil
}

func peerName(name *v1alpha1.CapturePeerName, what string, path *field.Path) field.ErrorList {
	errs := namespaceName(name.Namespace, path.Child("namespace"))
	return append(errs, objectName(name.Name, what, path.Child("name"))...)
}
