package networkflows

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// A token is where a list goes on. Any replica can read it; clients must not. It grants nothing: the request that
// brings it is authorized by itself, and cursors only skip flows.
type token struct {
	// version is that of the first page, from which a client watches when it has the last.
	version uint64
	// since and until are those of the first page, where they were times ago. Zero when there are none.
	since, until time.Time
	// cursors are of the nodes that may have more.
	cursors map[nodeID]cursor
}

// A nodeID is a hash of a node's name, which keeps tokens short.
type nodeID [8]byte

func idOf(node string) (id nodeID) {
	sum := sha256.Sum256([]byte("cursor " + node))
	copy(id[:], sum[:])
	return id
}

// A cursor says up to where a node's flows have been listed.
type cursor struct{ instance, position int64 }

const (
	tokenVersion = 1
	// maxToken, in bytes, is a token of 10,000 nodes. Go's servers take requests of 1 MiB.
	maxToken = 320 << 10
)

func (t token) encode() string {
	text := []byte{tokenVersion}
	text = binary.AppendUvarint(text, t.version)
	text = binary.AppendVarint(text, unixNano(t.since))
	text = binary.AppendVarint(text, unixNano(t.until))
	ids := make([]nodeID, 0, len(t.cursors))
	for id := range t.cursors {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b nodeID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		text = append(text, id[:]...)
		text = binary.AppendVarint(text, t.cursors[id].instance)
		text = binary.AppendVarint(text, t.cursors[id].position)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// unixNano is a time as agents and tokens have it, 0 when there is none. Of what clients ask for not all fits: what was before
// 1970 is its first moment, since agents take nothing negative, and what is too far ahead is the last time that there is.
func unixNano(t time.Time) int64 {
	first, last := time.Unix(0, 1), time.Unix(0, math.MaxInt64)
	switch {
	case t.IsZero():
		return 0
	case t.Before(first):
		return first.UnixNano()
	case t.After(last):
		return math.MaxInt64
	}
	return t.UnixNano()
}

func parseToken(text string) (token, error) {
	if len(text) > maxToken {
		return token{}, fmt.Errorf("longer than %d bytes", maxToken)
	}
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return token{}, err
	}
	reader := bytes.NewReader(decoded)
	if version, err := reader.ReadByte(); err != nil || version != tokenVersion {
		return token{}, errors.New("not a token of this version")
	}
	t := token{cursors: map[nodeID]cursor{}}
	if t.version, err = binary.ReadUvarint(reader); err != nil {
		return token{}, err
	}
	if t.since, err = readTime(reader); err != nil {
		return token{}, err
	}
	if t.until, err = readTime(reader); err != nil {
		return token{}, err
	}
	for reader.Len() > 0 {
		if err := t.readCursor(reader); err != nil {
			return token{}, err
		}
	}
	if len(t.cursors) == 0 || t.version == 0 {
		return token{}, errors.New("nothing to go on with")
	}
	return t, nil
}

func readTime(reader *bytes.Reader) (time.Time, error) {
	nano, err := binary.ReadVarint(reader)
	if err != nil || nano == 0 {
		return time.Time{}, err
	}
	return time.Unix(0, nano).UTC(), nil
}

func (t *token) readCursor(reader *bytes.Reader) (err error) {
	var id nodeID
	var c cursor
	if n, _ := reader.Read(id[:]); n < len(id) {
		return errors.New("cut short")
	}
	if c.instance, err = binary.ReadVarint(reader); err != nil {
		return err
	}
	if c.position, err = binary.ReadVarint(reader); err != nil {
		return err
	}
	if _, twice := t.cursors[id]; twice || c.position < 0 {
		return errors.New("a cursor that cannot be")
	}
	t.cursors[id] = c
	return nil
}
