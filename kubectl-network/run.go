package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// lookEvery is how often a capture is looked at while it is waited for.
	lookEvery = time.Second
	// patience is how long the server may not answer meanwhile.
	patience = time.Minute
	// lastWord is how long stopping and deleting may take when the command is ending.
	lastWord = 15 * time.Second
)

// errUnread wraps what kept packets from the reader: the capture has them still.
var errUnread = errors.New("not all packets were read")

var errTerminal = errors.New("packets are binary and stdout is a terminal: pipe them on (| tcpdump -nr -) or name a file with -o FILE")

// begin creates the object and does with it what the flags say.
func (p *program) begin(ctx context.Context, api *captures, r *recipe, object runtime.Object) error {
	toStdout := r.file == "-" || r.follow && r.file == ""
	if toStdout && isTerminal(p.streams.Out) {
		return errTerminal
	}
	switch r.dryRun {
	case "client":
		return p.print(api, viewOf(object), false, cmp.Or(r.file, "yaml"))
	case "server":
		made, err := api.create(ctx, object, []string{metav1.DryRunAll})
		if err != nil {
			return err
		}
		if r.file != "" {
			return p.print(api, made, true, r.file)
		}
		return p.foretell(api, made)
	}
	if err := writable(r.file); err != nil {
		return err // Nothing is recorded that could not be written.
	}
	made, err := api.create(ctx, object, nil)
	if err != nil {
		return err
	}
	said := p.streams.Out
	if toStdout {
		said = p.streams.ErrOut
	}
	fmt.Fprintf(said, "%s.%s/%s created\n", api.singular, v1alpha1.GroupName, made.Name)
	if !r.follow && r.file == "" {
		return nil
	}
	what := portion{headersOnly: r.header}
	if r.follow {
		err = p.follow(ctx, api, made.Name, what, r.file, true)
	} else {
		err = p.collect(ctx, api, made.Name, what, r.file, true)
	}
	if r.remove && errors.Is(err, errUnread) {
		fmt.Fprintf(p.streams.ErrOut, "%s is not deleted, since not everything was read: %s\n", made.Name, api.later(made.Name))
	} else if r.remove {
		if copying := p.awaitCopies(ctx, api, made); copying != nil {
			fmt.Fprintf(p.streams.ErrOut, "%s is not deleted, since it was not copied to all outputs\n", made.Name)
			return errors.Join(err, copying)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
		defer cancel()
		deleting := api.delete(ctx, made.Name)
		if deleting == nil || !errors.Is(err, errInterrupted) {
			return errors.Join(err, deleting)
		}
		fmt.Fprintf(p.streams.ErrOut, "warning: deleting %s: %v\n", made.Name, deleting) // Of an interruption nothing is said.
	}
	return err
}

// isFormat says that text is a form in which objects are printed, and hardly the file that somebody wants packets in.
func isFormat(text string) bool { return text == "yaml" || text == "json" || text == "name" }

// print writes an object as kubectl does: one that the server answered with has a status.
func (p *program) print(api *captures, v view, answered bool, format string) error {
	if format == "name" {
		_, err := fmt.Fprintf(p.streams.Out, "%s.%s/%s\n", api.singular, v1alpha1.GroupName, v.Name)
		return err
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(v.object)
	if err != nil {
		return err
	}
	fields["apiVersion"], fields["kind"] = v1alpha1.SchemeGroupVersion.String(), api.kind.name
	if !answered {
		delete(fields, "status")
	}
	var text []byte
	if format == "json" {
		text, err = json.MarshalIndent(fields, "", "    ")
	} else {
		text, err = yaml.Marshal(fields)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.streams.Out, strings.TrimSpace(string(text)))
	return err
}

// foretell says what a dry run said would be recorded.
func (p *program) foretell(api *captures, v view) error {
	fmt.Fprintf(p.streams.Out, "%s.%s/%s created (server dry run)\n", api.singular, v1alpha1.GroupName, v.Name)
	if len(v.status.Targets) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(p.streams.Out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "NODE\tNAMESPACE\tPOD")
	for _, row := range v.status.Targets {
		fmt.Fprintf(table, "%s\t%s\t%s\n", row.Node, row.Namespace, row.Pod)
	}
	return table.Flush()
}

// follow writes packets as they come. With stopping, the capture is ended by the first Ctrl-C, and when nobody reads
// any more; without, reading is all that ends.
func (p *program) follow(ctx context.Context, api *captures, name string, what portion, file string, stopping bool) error {
	out, closeOut, err := p.sink(file)
	if err != nil {
		return err
	}
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	first := func(ctx context.Context) { p.stop(ctx, api, name) }
	if !stopping {
		first = func(context.Context) { cancel(errInterrupted) }
	}
	reading, interrupted, done := interrupts(reading, first)
	defer done()
	defer watchReader(out, func() { cancel(errSink) })()

	line := newProgress(p.streams.ErrOut)
	if file != "" && file != "-" { // Elsewhere whoever reads writes to the terminal.
		out = line.counting(name, out)
	}
	err = api.attach(reading, name, what, out)
	if closing := closeOut(); err == nil {
		err = closing
	}
	line.clear()
	gone := errors.Is(context.Cause(reading), errSink) || errors.Is(err, errSink) && isBrokenPipe(err)
	switch {
	case gone:
		// Whoever read has seen enough, as tcpdump -c 10 does.
		if stopping {
			p.stop(context.WithoutCancel(ctx), api, name)
		}
		return nil
	case interrupted() && stopping && reading.Err() != nil:
		return errInterrupted // At once: perhaps nobody answers.
	case interrupted() && (err == nil || reading.Err() != nil):
		p.conclude(ctx, api, name)
		return errInterrupted
	case isAnswer(err) && stopping && !apierrors.IsNotFound(err): // What is not there is not recorded either.
		err = hinted(err, what)
		return fmt.Errorf("following %s: %w; it is being recorded all the same: kubectl network %s stop %[1]s ends that", name, unread{err}, api.singular)
	case isAnswer(err):
		return hinted(err, what) // Nothing was written.
	case err != nil && api.gone(ctx, name):
		return fmt.Errorf("following %s: %w: the capture was deleted; what was written can be read", name, err)
	case err != nil:
		return fmt.Errorf("following %s: %w; what was written can be read, and everything with: %s", name, unread{err}, api.later(name))
	}
	return p.conclude(ctx, api, name)
}

// stop ends a capture, unless the context ends.
func (p *program) stop(ctx context.Context, api *captures, name string) {
	limited, cancel := context.WithTimeout(ctx, lastWord)
	defer cancel()
	if err := api.stop(limited, name); err != nil && ctx.Err() == nil {
		fmt.Fprintf(p.streams.ErrOut, "warning: stopping %s: %v\n", name, err)
	}
}

// conclude says how a capture ended.
func (p *program) conclude(ctx context.Context, api *captures, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer cancel()
	v, err := api.get(ctx, name)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.streams.ErrOut, "%s: %s\n", name, summary(v))
	return failure(v)
}

func failure(v view) error {
	failed := v.condition(v1alpha1.CaptureFailed)
	if failed == nil {
		return nil
	}
	err := fmt.Errorf("%s failed: %s: %s", v.Name, failed.Reason, failed.Message)
	switch failed.Reason {
	case "NodeUnreachable", "FileNotMade": // Nodes have packets that are in no file, or not yet.
		return unread{err}
	}
	return err
}

// collect waits until a capture has ended and writes its file.
func (p *program) collect(ctx context.Context, api *captures, name string, what portion, file string, stopping bool) error {
	line := newProgress(p.streams.ErrOut)
	defer line.clear()
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	first := func(context.Context) { cancel(errInterrupted) }
	if stopping {
		first = func(ctx context.Context) { p.stop(ctx, api, name) }
	}
	waiting, interrupted, done := interrupts(waiting, first)
	defer done()
	v, err := api.await(waiting, name, view.ended, func(v view) { line.show(running(v, time.Now())) })
	if errors.Is(err, errInterrupted) {
		return err
	}
	if err != nil {
		return unread{err}
	}
	switch {
	case v.status.Totals.Packets == 0 && v.status.File == nil:
		return errors.Join(failure(v), fmt.Errorf("%s ended without packets", name))
	case v.status.File == nil && what.node == "" && what.pod == "":
		return unread{errors.Join(failure(v), fmt.Errorf("there is no file of all nodes of %s; of one there is: %s --node NODE", name, api.later(name)))}
	}
	if err := p.save(waiting, api, v, what, file, line); err != nil {
		if errors.Is(err, errInterrupted) {
			return err
		}
		return unread{err}
	}
	line.clear()
	fmt.Fprintf(p.streams.ErrOut, "%s: %s%s\n", name, summary(v), what.narrowed())
	if err := failure(v); err != nil {
		return err
	}
	if interrupted() {
		return errInterrupted
	}
	return nil
}

// awaitCopies waits until a capture was copied to its outputs, which deleting it would end. Ctrl-C ends the waiting.
func (p *program) awaitCopies(ctx context.Context, api *captures, made view) error {
	if len(made.settings.Outputs) == 0 {
		return nil
	}
	line := newProgress(p.streams.ErrOut)
	defer line.clear()
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	waiting, _, done := interrupts(waiting, func(context.Context) { cancel(errInterrupted) })
	defer done()
	v, err := api.await(waiting, made.Name, view.copied, func(view) { line.show(made.Name + ": copying to its outputs") })
	if err == nil && v.condition(v1alpha1.CaptureStored) == nil {
		err = failure(v)
	}
	return err
}

// await looks at a capture until it is as it is to be.
func (c *captures) await(ctx context.Context, name string, over func(view) bool, look func(view)) (view, error) {
	answered := time.Now()
	for {
		v, err := c.get(ctx, name)
		switch {
		case ctx.Err() != nil:
			return v, context.Cause(ctx)
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			return v, err
		case err != nil && time.Since(answered) > patience:
			return v, fmt.Errorf("looking at %s: %w", name, err)
		case err == nil && over(v):
			return v, nil
		case err == nil:
			answered = time.Now()
			look(v)
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
		}
	}
}

// save writes the file of a capture that has ended. What a broken-off download left is gone on with if it is of the
// same file.
func (p *program) save(ctx context.Context, api *captures, v view, what portion, file string, line *progress) error {
	d := &download{captures: api, name: v.Name, what: what}
	var total int64
	if v.status.File != nil {
		total = v.status.File.Bytes
	}
	d.moved = func(at int64) {
		if what.whole() && total > 0 {
			line.show(fmt.Sprintf("%s: downloading, %s of %s (%d%%)", v.Name, size(at), size(total), at*100/total))
		} else {
			line.show(fmt.Sprintf("%s: downloading, %s", v.Name, size(at)))
		}
	}
	if what.whole() {
		d.digest = v.status.File.Digest
	}
	if file == "-" {
		d.out = p.streams.Out
		return d.run(ctx)
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		out, err := os.OpenFile(file, os.O_WRONLY, 0) // A device or a pipe, in whose place no file may come.
		if err != nil {
			return err
		}
		d.out = out
		return errors.Join(d.run(ctx), out.Close())
	}
	partial := file + ".part"
	if what.whole() {
		partial = fmt.Sprintf("%s.%.12s.part", file, d.digest)
	}
	out, err := os.OpenFile(partial, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := d.resume(out, total); err != nil {
		return err
	}
	d.out = out
	if err := d.run(ctx); err != nil {
		if d.at == 0 {
			_ = os.Remove(partial) // It is empty, and whether it stays is no matter beside the error.
			return hinted(err, what)
		}
		next := "this begins anew"
		if what.whole() && !isOther(err) {
			next = "this goes on from there"
		}
		return fmt.Errorf("%w; %s holds what came, and %s: %s", err, partial, next, api.again(v.Name, what, file))
	}
	if what.whole() && d.at != total {
		return fmt.Errorf("%s is %d bytes, and should be %d", partial, d.at, total)
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(partial, file)
}

// resume goes on behind what a partial file holds.
func (d *download) resume(out *os.File, total int64) error {
	info, err := out.Stat()
	if err != nil {
		return err
	}
	if d.what.whole() && info.Mode().IsRegular() && info.Size() <= total {
		d.at = info.Size()
	} else if err := out.Truncate(0); err != nil {
		return err
	}
	_, err = out.Seek(d.at, io.SeekStart)
	return err
}

// gone says that a capture was deleted.
func (c *captures) gone(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer cancel()
	_, err := c.get(ctx, name)
	return apierrors.IsNotFound(err)
}

// hinted adds to a refusal of payload how packets can be had without.
func hinted(err error, what portion) error {
	if apierrors.IsForbidden(err) && !what.headersOnly {
		return fmt.Errorf("%w; --headers-only takes the right to captures/headers", err)
	}
	return err
}

// isAnswer says that the server answered with an error, and with no packets.
func isAnswer(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

// isOther says that the file is another one by now: a node has come back, and its packets with it.
func isOther(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Code == http.StatusPreconditionFailed
}

// An unread error is errUnread and reads as what it is of.
type unread struct{ error }

func (u unread) Unwrap() []error { return []error{u.error, errUnread} }
