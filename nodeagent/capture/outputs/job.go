package outputs

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// lastingTries is how often what will hardly go well is tried: rights and buckets may come a little late.
	lastingTries = 3
	// abortWithin bounds giving up what was begun.
	abortWithin = 5 * time.Second
	// endWithin bounds waiting for what was told to end.
	endWithin = 15 * time.Second
)

// A job copies the files of one capture to one output, until that is done or was tried for long enough.
type job struct {
	uploader *Uploader
	ctx      context.Context
	cancel   context.CancelFunc
	objects  []*object // of the goroutine that runs, and of nobody's else

	mu      sync.Mutex
	output  *v1alpha1.CaptureOutput // with credentials; nil when it is stored
	state   v1alpha1.CaptureOutputState
	running bool
	done    chan struct{} // closed when the goroutine has ended
}

func newJob(u *Uploader, output *v1alpha1.CaptureOutput, files []File) *job {
	j := &job{uploader: u, output: output}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	j.state.Name, j.state.Phase = output.Name, v1alpha1.CaptureOutputState_PHASE_PENDING
	for _, file := range files {
		o := newObject(file, output.Prefix)
		j.objects = append(j.objects, o)
		j.state.Objects = append(j.state.Objects, o.state())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.start()
	return j
}

// start begins to run. mu is held.
func (j *job) start() {
	j.running, j.done = true, make(chan struct{})
	go j.run(j.done)
}

// ensure takes new credentials, and tries again if it had failed.
func (j *job) ensure(output *v1alpha1.CaptureOutput) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.ctx.Err() != nil:
		return ErrClosed
	case j.state.Phase == v1alpha1.CaptureOutputState_PHASE_STORED:
		return nil
	}
	j.output = output
	if !j.running {
		j.state.Phase, j.state.Message = v1alpha1.CaptureOutputState_PHASE_PENDING, ""
		j.start()
	}
	return nil
}

// end tells the job to end; ended is closed when it has.
func (j *job) end() { j.cancel() }

func (j *job) ended() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.done // ensure starts nothing more
}

func (j *job) snapshot() *v1alpha1.CaptureOutputState {
	j.mu.Lock()
	defer j.mu.Unlock()
	return proto.CloneOf(&j.state)
}

func (j *job) current() *v1alpha1.CaptureOutput {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.output
}

func (j *job) say(phase v1alpha1.CaptureOutputState_Phase, message string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state.Phase, j.state.Message = phase, message
}

// patience decides after each failure whether and when to go on.
type patience struct {
	config Config
	since  time.Time // of the first failure after the last progress
	fruit  int       // lasting failures in a row
	pause  time.Duration
}

func (p *patience) progressed() { p.since, p.fruit, p.pause = time.Time{}, 0, 0 }

// failed answers with how long to wait, or that it is enough.
func (p *patience) failed(f *failure, now time.Time) (time.Duration, bool) {
	if p.since.IsZero() {
		p.since, p.pause = now, p.config.RetryAfter
	} else {
		p.pause = min(2*p.pause, p.config.RetryAtMost)
	}
	if f.lasting {
		p.fruit++
	} else {
		p.fruit = 0
	}
	if p.fruit >= lastingTries || now.Sub(p.since) >= p.config.RetryFor {
		return 0, false
	}
	return p.pause/2 + rand.N(p.pause/2+1), true
}

func (j *job) run(done chan struct{}) {
	defer close(done)
	j.loop()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.running = false
}

func (j *job) loop() {
	keep := patience{config: j.uploader.config}
	for {
		turns := j.turns()
		select {
		case turns <- struct{}{}:
		case <-j.ctx.Done():
			j.giveUp()
			return
		}
		err := j.attempt(keep.progressed)
		<-turns
		if err == nil {
			j.stored()
			return
		}
		if j.ctx.Err() != nil {
			break
		}
		f := explain(err)
		wait, again := keep.failed(f, time.Now())
		if !again {
			j.giveUp()
			j.say(v1alpha1.CaptureOutputState_PHASE_FAILED, f.reason)
			return
		}
		j.say(v1alpha1.CaptureOutputState_PHASE_PENDING, "will be tried again: "+f.reason)
		select {
		case <-j.ctx.Done():
		case <-time.After(wait):
		}
	}
	j.giveUp()
}

// turns are those of the workers for such outputs.
func (j *job) turns() chan struct{} {
	if j.current().GetVolume() != nil {
		return j.uploader.volumes
	}
	return j.uploader.stores
}

// stored forgets the credentials.
func (j *job) stored() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state.Phase, j.state.Message, j.output = v1alpha1.CaptureOutputState_PHASE_STORED, "", nil
}

func (j *job) attempt(progressed func()) error {
	j.mu.Lock()
	j.state.Phase, j.state.Message = v1alpha1.CaptureOutputState_PHASE_UPLOADING, ""
	j.state.Attempts++
	output := j.output
	j.mu.Unlock()
	store, err := open(j.ctx, output, j.uploader.config)
	if err != nil {
		return err
	}
	defer store.close()
	buffer := make([]byte, partBytes)
	for i, o := range j.objects {
		if o.stored {
			continue
		}
		further := func() { j.note(i); progressed() }
		if err := o.copy(j.ctx, store, buffer, further); err != nil {
			if errors.Is(err, errAnew) {
				j.abort(store, o)
				o.anew()
			}
			j.note(i)
			return err
		}
		further()
	}
	return nil
}

// note makes known how far an object is.
func (j *job) note(i int) {
	state := j.objects[i].state()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state.Objects[i] = state
}

func (j *job) abort(store store, o *object) bool {
	if !o.begun {
		return true
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), abortWithin)
	defer cancel()
	return store.abort(ctx, o.key, o.id) == nil
}

// giveUp gives up what was begun and is not whole. What the store does not let go of now is gone on with or given up when
// it is tried again.
func (j *job) giveUp() {
	var begun []*object
	for _, o := range j.objects {
		if o.begun && !o.stored {
			begun = append(begun, o)
		}
	}
	if len(begun) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), abortWithin)
	defer cancel()
	store, err := open(ctx, j.current(), j.uploader.config)
	if err != nil {
		return
	}
	defer store.close()
	for _, o := range begun {
		if j.abort(store, o) {
			o.anew()
		}
	}
}

// copy stores what is missing of the object.
func (o *object) copy(ctx context.Context, store store, buffer []byte, further func()) error {
	if !o.all {
		if err := o.copyParts(ctx, store, buffer, further); err != nil {
			return err
		}
	}
	if !o.stored {
		if err := store.finish(ctx, o.key, o.id, o); err != nil {
			return err
		}
		o.stored = true
	}
	return nil
}

func (o *object) copyParts(ctx context.Context, store store, buffer []byte, further func()) error {
	content, err := o.file.Open(o.bytes)
	if err != nil {
		return localFailure("reading what was recorded", err)
	}
	defer content.Close()
	in := bufio.NewReader(content)
	for !o.all {
		p, err := o.next(in, buffer)
		if err != nil {
			return err
		}
		if p.last && p.number == 0 {
			err = o.copyWhole(ctx, store, p)
		} else {
			err = o.copyPart(ctx, store, p, further)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next reads the next part.
func (o *object) next(in *bufio.Reader, buffer []byte) (*part, error) {
	n, err := io.ReadFull(in, buffer)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, localFailure("reading what was recorded", err)
	}
	_, err = in.Peek(1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, localFailure("reading what was recorded", err)
	}
	p := &part{number: len(o.parts), offset: o.bytes, data: buffer[:n], last: err != nil}
	if size, end := o.file.Size, o.bytes+int64(n); size >= 0 && (end > size || p.last && end != size) {
		return nil, lasting("reading what was recorded: it is not of the size that it was")
	}
	p.sha256, p.md5 = sha256.Sum256(p.data), md5.Sum(p.data)
	return p, nil
}

func (o *object) copyWhole(ctx context.Context, store store, p *part) error {
	if o.begun { // by an attempt that got no further
		if err := store.abort(ctx, o.key, o.id); err != nil {
			return err
		}
		o.anew()
	}
	if err := store.whole(ctx, o.key, p); err != nil {
		return err
	}
	o.took(p, "")
	o.stored = true
	return nil
}

func (o *object) copyPart(ctx context.Context, store store, p *part, further func()) error {
	if !o.begun {
		id, err := store.begin(ctx, o.key)
		if err != nil {
			return err
		}
		o.begun, o.id = true, id
	}
	tag, err := store.part(ctx, o.key, o.id, p)
	if err != nil {
		return err
	}
	if o.took(p, tag) {
		further()
	}
	return nil
}

// open makes the store that an output is.
func open(ctx context.Context, output *v1alpha1.CaptureOutput, config Config) (store, error) {
	if volume := output.GetVolume(); volume != nil {
		return newVolume(config.VolumesDir, volume.Name)
	}
	c := newClient(config, &egress{allowed: networksOf(output)})
	store, err := openRemote(ctx, output, config, c)
	if err != nil {
		c.close()
		return nil, err
	}
	return store, nil
}

func openRemote(ctx context.Context, output *v1alpha1.CaptureOutput, config Config, c *client) (store, error) {
	switch to := output.To.(type) {
	case *v1alpha1.CaptureOutput_S3:
		return newS3(to.S3, c, awsCredentials(to.S3, c, config))
	case *v1alpha1.CaptureOutput_AzureBlob:
		return newAzure(to.AzureBlob, c, config)
	case *v1alpha1.CaptureOutput_Gcs:
		token, err := googleToken(ctx, to.Gcs, c, config)
		if err != nil {
			return nil, err
		}
		return newGCS(to.Gcs, c, token)
	default:
		return nil, fmt.Errorf("%T is no store", to)
	}
}
