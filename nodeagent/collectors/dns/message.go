package dns

import (
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// An answer is an address that a response gives for the name in its question.
type answer struct {
	address netip.Addr
	ttl     time.Duration
}

const (
	headerLength = 12
	// mostAnswers is how many addresses of one response are taken.
	mostAnswers = 32
)

// readResponse reads the name in the first question of a response, and the addresses that it is given, also by way of
// aliases that precede them. A message that is cut off, or wrong, tells what comes before that.
func readResponse(message []byte) (name string, answers []answer, ok bool) {
	if len(message) < headerLength {
		return "", nil, false
	}
	if name, ok = nameText(message[headerLength:]); !ok {
		return "", nil, false
	}
	return name, readAnswers(message), true
}

func readAnswers(message []byte) (answers []answer) {
	var parser dnsmessage.Parser
	if _, err := parser.Start(message); err != nil {
		return nil
	}
	question, err := parser.Question()
	if err != nil || parser.SkipAllQuestions() != nil {
		return nil
	}
	target := question.Name.String()
	for len(answers) < mostAnswers {
		header, err := parser.AnswerHeader()
		if err != nil {
			return answers
		}
		if !strings.EqualFold(header.Name.String(), target) || header.Class != dnsmessage.ClassINET {
			header.Type = dnsmessage.TypeALL // no record is of it
		}
		ttl := time.Duration(header.TTL) * time.Second
		switch header.Type {
		case dnsmessage.TypeCNAME:
			record, err := parser.CNAMEResource()
			if err != nil {
				return answers
			}
			target = record.CNAME.String()
		case dnsmessage.TypeA:
			record, err := parser.AResource()
			if err != nil {
				return answers
			}
			answers = append(answers, answer{netip.AddrFrom4(record.A), ttl})
		case dnsmessage.TypeAAAA:
			record, err := parser.AAAAResource()
			if err != nil {
				return answers
			}
			answers = append(answers, answer{netip.AddrFrom16(record.AAAA).Unmap(), ttl})
		default:
			if parser.SkipAnswer() != nil {
				return answers
			}
		}
	}
	return answers
}
