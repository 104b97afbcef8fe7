package pcapfilter

import (
	"regexp"
	"strconv"
	"strings"
)

// Words that begin with a digit or a hexadecimal letter are read as the longest of these that fits, as
// tcpdump does: 80 is a number, 80-90 a name (a range of ports), 1.2 an address, 1.2.3.4.5.6 an Ethernet address.
var (
	ipv4Word   = longest(`^` + number + `(\.` + number + `){1,3}`)
	macWord    = longest(`^(` + strings.Join(macForms, "|") + `)`)
	ipv6Word   = longest(`^(` + strings.Join(ipv6Forms(), "|") + `)`)
	numberWord = longest(`^` + number)
)

const (
	number = `([0-9]+|0[xX][0-9A-Fa-f]+)`
	octet  = `[0-9A-Fa-f]{1,2}`
	group  = `[0-9A-Fa-f]{1,4}`
)

var macForms = []string{
	octet + `(:` + octet + `){5}`, octet + `(-` + octet + `){5}`, octet + `(\.` + octet + `){5}`,
	`[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2}`, `[0-9A-Fa-f]{12}`,
}

// longest compiles an expression that prefers the longest match to the first.
func longest(expression string) *regexp.Regexp {
	r := regexp.MustCompile(expression)
	r.Longest()
	return r
}

// ipv6Forms lists the ways to write an IPv6 address: eight groups, or :: between groups, the last two of
// which may be written as an IPv4 address.
func ipv6Forms() []string {
	const dotted = number + `(\.` + number + `){3}`
	forms := []string{group + `(:` + group + `){7}`, `(` + group + `:){6}` + dotted}
	for left := 0; left <= 7; left++ {
		before := strings.TrimSuffix(strings.Repeat(group+":", left), ":")
		forms = append(forms, before+`::((`+group+`:){0,`+strconv.Itoa(max(0, 6-left))+`}`+group+`)?`)
		if left == 7 {
			forms[len(forms)-1] = before + `::`
		}
		if left <= 5 {
			forms = append(forms, before+`::(`+group+`:){0,`+strconv.Itoa(5-left)+`}`+dotted)
		}
	}
	return forms
}

// Sorted so that the longer of two that fit comes first.
var symbols = []string{"&&", "||", ">=", "<=", "!=", "==", "<<", ">>", "+", "-", "*", "/", "%", ":", "[", "]", "!", "<", ">", "(", ")", "&", "|", "^", "="}

// lex cuts the text into tokens; the last is tEnd.
func lex(text string) ([]token, error) {
	var tokens []token
	for at := 0; ; {
		for at < len(text) && strings.IndexByte(" \r\n\t", text[at]) >= 0 {
			at++
		}
		if at == len(text) {
			return append(tokens, token{kind: tEnd, offset: at}), nil
		}
		t, err := next(text, at)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t)
		at += len(t.text)
	}
}

// next reads the token that begins at a byte which is no space.
func next(text string, at int) (token, error) {
	rest := text[at:]
	t := token{offset: at}
	if word := nameWord(rest); word != "" {
		return wordToken(rest, word, t)
	}
	if found := ipv6Word.FindString(rest); found != "" { // one that begins with ::
		return ipv6Token(found, t)
	}
	if rest[0] == '\\' {
		t.text = rest
		if end := strings.IndexAny(rest[1:], " !()\n\t"); end >= 0 {
			t.text = rest[:1+end]
		}
		if len(t.text) == 1 {
			return token{}, errorAt(t, `a backslash makes a name of the keyword behind it, as in ip proto \tcp`)
		}
		t.kind = tName
		return t, nil
	}
	for _, s := range symbols {
		if strings.HasPrefix(rest, s) {
			t.kind, t.text = tSymbol, s
			switch s {
			case "&&":
				t.kind = tAnd
			case "||":
				t.kind = tOr
			case "!":
				t.kind = tNot
			}
			return t, nil
		}
	}
	t.text = rest[:1]
	if rest[0] == '$' {
		return token{}, errorAt(t, "ARCnet addresses are for links that pods do not have")
	}
	if rest[0] == '{' || rest[0] == '"' || rest[0] == '\'' || rest[0] == '~' {
		return token{}, errorAt(t, "this is not in tcpdump's grammar%s", displayFilterHint)
	}
	return token{}, errorAt(t, "this character has no meaning in a filter")
}

// nameWord is the longest name that the text begins with: letters, digits, dots, and hyphens and
// underscores that are not at its end.
func nameWord(text string) string {
	end := 0
	for end < len(text) && (isAlphanumeric(text[end]) || end > 0 && strings.IndexByte("-_.", text[end]) >= 0) {
		end++
	}
	return strings.TrimRight(text[:end], "-_")
}

func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// wordToken decides what a word is, once its longest reading as a name is known. Other readings win when
// they are as long or longer.
func wordToken(rest, word string, t token) (token, error) {
	t.text = word
	if k, ok := plainWords[word]; ok {
		t.kind = k
		return t, nil
	}
	if p, ok := protoWords[word]; ok {
		t.kind, t.proto = tProto, p
		return t, nil
	}
	if reason, ok := refusedWords[word]; ok {
		t.kind, t.reason = tRefused, reason
		return t, nil
	}
	if strings.IndexByte("0123456789abcdefABCDEF", word[0]) >= 0 {
		mac, v6 := macWord.FindString(rest), ipv6Word.FindString(rest)
		if len(mac) >= len(word) && len(mac) >= len(v6) {
			t.kind, t.text = tMAC, mac
			return t, nil
		}
		if len(v6) >= len(word) {
			return ipv6Token(v6, t)
		}
		if numberWord.FindString(word) == word {
			return numberToken(t)
		}
		if ipv4Word.FindString(word) == word {
			t.kind = tIPv4
			return t, nil
		}
	}
	if value, ok := numberWords[word]; ok {
		t.kind, t.value = tNumber, value
		return t, nil
	}
	if (word == "svc" || word == "pod") && strings.HasPrefix(rest[len(word):], "/") {
		name := nameWord(rest[len(word)+1:])
		if name == "" {
			return token{}, errorAt(t, "expected the name of a %s behind the slash, as in %s/web.shop", objectWord[word], word)
		}
		t.kind, t.text = tObject, rest[:len(word)+1+len(name)]
		return t, nil
	}
	t.kind = tName
	return t, nil
}

var objectWord = map[string]string{"svc": "Service", "pod": "Pod"}

func ipv6Token(text string, t token) (token, error) {
	t.kind, t.text = tIPv6, text
	return t, nil
}

// numberToken reads a decimal, octal (0...) or hexadecimal (0x...) number of 32 bits.
func numberToken(t token) (token, error) {
	digits, base := t.text, 10
	switch {
	case len(digits) > 2 && (digits[1] == 'x' || digits[1] == 'X'):
		digits, base = digits[2:], 16
	case len(digits) > 1 && digits[0] == '0':
		digits, base = digits[1:], 8
	}
	value, err := strconv.ParseUint(digits, base, 64)
	if base == 8 && strings.ContainsAny(digits, "89") {
		return token{}, errorAt(t, "a number that begins with 0 is octal and has no digit 8 or 9; leave out the leading 0")
	}
	if err != nil || value > 1<<32-1 {
		return token{}, errorAt(t, "this number does not fit into 32 bits")
	}
	t.kind, t.value = tNumber, uint32(value)
	return t, nil
}
