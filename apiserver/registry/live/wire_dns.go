package live

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// DNSOf is nil when the agent does not parse DNS.
func DNSOf(dns *agentv1.DNS) *v1alpha1.DNSStats {
	if dns == nil {
		return nil
	}
	stats := &v1alpha1.DNSStats{
		Unanswered: dns.GetUnanswered(), Unparsed: dns.GetUnparsed(), NamesLost: dns.GetLost(), Latency: LatencyOf(dns.GetLatency()),
	}
	for _, queries := range dns.GetQueries() {
		stats.Queries += queries.GetCount()
		stats.QueriesByType = append(stats.QueriesByType, v1alpha1.DNSQueryCount{Type: recordType(queries.GetType()), Count: queries.GetCount()})
	}
	for _, responses := range dns.GetResponses() {
		stats.Responses += responses.GetCount()
		if responses.GetCode() != 0 {
			stats.Errors += responses.GetCount()
		}
		stats.ResponsesByCode = append(stats.ResponsesByCode, v1alpha1.DNSResponseCount{
			Type: recordType(responses.GetType()), Code: responseCode(responses.GetCode()), Count: responses.GetCount(),
		})
	}
	for _, name := range dns.GetNames() {
		stats.TopNames = append(stats.TopNames, v1alpha1.DNSNameCount{
			Name: printable(name.GetName()), Count: name.GetCount(), Overcount: name.GetError(), Failed: name.GetFailed(),
		})
	}
	slices.SortFunc(stats.QueriesByType, func(a, b v1alpha1.DNSQueryCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Type, b.Type))
	})
	slices.SortFunc(stats.ResponsesByCode, func(a, b v1alpha1.DNSResponseCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Code, b.Code))
	})
	return stats
}

// printable guards terminals from names that an agent did not escape.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, name)
}

// otherTypes is how agents fold types that have no counter of their own.
const otherTypes = 65535

// recordTypes are those of IANA's registry that clusters see.
var recordTypes = map[int32]string{
	1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 28: "AAAA", 29: "LOC", 33: "SRV",
	35: "NAPTR", 39: "DNAME", 41: "OPT", 43: "DS", 44: "SSHFP", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 52: "TLSA",
	64: "SVCB", 65: "HTTPS", 99: "SPF", 251: "IXFR", 252: "AXFR", 255: "ANY", 257: "CAA", otherTypes: "Other",
}

func recordType(number int32) string {
	if name, ok := recordTypes[number]; ok {
		return name
	}
	return "TYPE" + strconv.Itoa(int(number))
}

var responseCodes = []string{
	"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE",
}

func responseCode(number int32) string {
	if number >= 0 && int(number) < len(responseCodes) {
		return responseCodes[number]
	}
	return "RCODE" + strconv.Itoa(int(number))
}
