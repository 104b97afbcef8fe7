package v1alpha1

// DNSStats is about DNS on port 53, over UDP and TCP, as the pod that asks sees it.
type DNSStats struct {
	// queries that were sent, of all types.
	Queries int64 `json:"queries"`
	// responses that came, of all types and codes, those that nobody asked for too.
	Responses int64 `json:"responses"`
	// errors counts responses with a code other than NOERROR.
	Errors int64 `json:"errors"`
	// unanswered counts queries that nobody answered within 10 seconds.
	Unanswered int64 `json:"unanswered"`
	// unparsed counts packets on port 53 that are no DNS messages.
	Unparsed int64 `json:"unparsed"`
	// namesLost counts queries and responses whose names were not kept because too many came at a time. All other
	// counters hold them.
	NamesLost int64 `json:"namesLost"`
	// latency from the query to its response.
	Latency LatencyHistogram `json:"latency"`
	// queriesByType counts queries by the type of record.
	// +optional
	// +listType=map
	// +listMapKey=type
	QueriesByType []DNSQueryCount `json:"queriesByType,omitempty"`
	// responsesByCode counts responses by the type of record and the response code.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +listMapKey=code
	ResponsesByCode []DNSResponseCount `json:"responsesByCode,omitempty"`
	// topNames are the names most asked for since the agent began: 20, unless the agent is configured otherwise.
	// +optional
	// +listType=map
	// +listMapKey=name
	TopNames []DNSNameCount `json:"topNames,omitempty"`
}

// DNSQueryCount counts queries of a type.
type DNSQueryCount struct {
	// type of record, as A or AAAA; TYPE and a number for one without name (RFC 3597); Other for all that have no
	// counter of their own.
	Type string `json:"type"`
	// count of queries.
	Count int64 `json:"count"`
}

// DNSResponseCount counts responses of a type and code.
type DNSResponseCount struct {
	// type of record, as in queriesByType.
	Type string `json:"type"`
	// code of the response, as NOERROR or NXDOMAIN; RCODE and a number for one without name.
	Code string `json:"code"`
	// count of responses.
	Count int64 `json:"count"`
}

// DNSNameCount counts the queries for a name.
type DNSNameCount struct {
	// name, in lower case; unprintable bytes are escaped as in zone files (\DDD).
	Name string `json:"name"`
	// count of queries. It may be too large by overcount: room is kept for the names asked for most.
	Count int64 `json:"count"`
	// overcount is how much count may be too large.
	// +optional
	Overcount int64 `json:"overcount,omitempty"`
	// failed counts those that were answered with an error, or not at all.
	Failed int64 `json:"failed"`
}
