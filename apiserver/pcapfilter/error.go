package pcapfilter

import (
	"fmt"
	"strconv"
)

// Error says what is wrong with a filter, where, and how to mend it. Its text is for the person who wrote the filter.
type Error struct {
	// Offset is where the offending word begins, in bytes from the start of the text. It equals the text's length
	// where something is missing at the end.
	Offset int
	// Token is the offending word as it was written, cut when long; empty at the end of the text.
	Token string
	// Message says what was expected, or why it is refused, and what to write instead.
	Message string
}

func (e *Error) Error() string {
	if e.Token == "" {
		return fmt.Sprintf("filter, at its end (byte %d): %s", e.Offset, e.Message)
	}
	return fmt.Sprintf("filter, byte %d, at %s: %s", e.Offset, strconv.QuoteToASCII(e.Token), e.Message)
}

const shownToken = 60

func errorAt(t token, format string, args ...any) *Error {
	text := t.text
	if len(text) > shownToken {
		text = text[:shownToken]
	}
	return &Error{Offset: t.offset, Token: text, Message: fmt.Sprintf(format, args...)}
}
