package outputs

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"hash"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// partBytes is how much is sent at a time. All three stores take parts of this size: that of the first is at least 5 MiB,
// that of the last a multiple of 256 KiB.
const partBytes = 8 << 20

// A store is where objects go. Its methods return failures, which do not repeat what others said. A store is used by one
// goroutine at a time.
type store interface {
	// whole stores an object of one part. What is there under that name is of the same capture, and replaced.
	whole(ctx context.Context, key string, p *part) error
	// begin begins an object of several parts. The answer names what was begun, and may be as secret as a password.
	begin(ctx context.Context, key string) (id string, err error)
	// part stores the next part. The answer is what finish has to be told of it. It can be called again for one that failed.
	part(ctx context.Context, key, id string, p *part) (tag string, err error)
	// finish makes the object of its parts, and checks what became of it. It can be called again when it failed.
	finish(ctx context.Context, key, id string, o *object) error
	// abort gives up what was begun.
	abort(ctx context.Context, key, id string) error
	// close lets go of what the store holds open.
	close()
}

// A part of an object.
type part struct {
	number int // from 0
	offset int64
	data   []byte
	last   bool
	sha256 [sha256.Size]byte
	md5    [md5.Size]byte
}

// sent is what is remembered of a part that is stored.
type sent struct {
	tag    string
	sha256 [sha256.Size]byte
	md5    [md5.Size]byte
}

// An object is how far the copy of a file is. It outlives attempts.
type object struct {
	file File
	key  string

	begun bool
	id    string
	parts []sent
	// bytes that are stored, and digests of them.
	bytes       int64
	sha256, md5 hash.Hash
	// all parts are stored, and only finish is missing.
	all bool
	// furthest is how far any attempt got.
	furthest int64
	stored   bool
}

func newObject(file File, prefix string) *object {
	o := &object{file: file, key: objectKey(prefix, file.Name)}
	o.anew()
	return o
}

// anew forgets all that was stored.
func (o *object) anew() {
	o.begun, o.id, o.parts, o.bytes, o.all, o.stored = false, "", nil, 0, false, false
	o.sha256, o.md5 = sha256.New(), md5.New()
}

// took takes note of a part that is stored, and tells whether no attempt got that far before.
func (o *object) took(p *part, tag string) bool {
	o.parts = append(o.parts, sent{tag: tag, sha256: p.sha256, md5: p.md5})
	o.sha256.Write(p.data)
	o.md5.Write(p.data)
	o.bytes += int64(len(p.data))
	o.all = p.last
	further := o.bytes > o.furthest
	o.furthest = max(o.furthest, o.bytes)
	return further
}

func (o *object) state() *v1alpha1.CaptureObject {
	state := &v1alpha1.CaptureObject{Key: o.key, Bytes: o.bytes}
	if o.stored {
		state.Sha256 = hex.EncodeToString(o.sha256.Sum(nil))
	}
	return state
}

func objectKey(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "/" + name
}
