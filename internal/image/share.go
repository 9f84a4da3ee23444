package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// errSpool is matched by errors of the disk that a shared download is kept on. They end the
// sharing and not the transfers: each reader goes on by itself.
var errSpool = errors.New("no place to share the download")

// crowds are who reads which image by HTTP at the moment. It is package state for the same reason
// as downloads.
var crowds = sharing{of: make(map[route]*crowd)}

// sharing has the origin of an image asked at most twice at a time, however many read it. Who is
// alone reads the answer as it comes, which costs no disk. Those who come while it does share a
// second download: it is spooled, so that each reads at its own pace, from the beginning.
type sharing struct {
	mu sync.Mutex
	of map[route]*crowd // guarded by mu, and so is what is in it
}

// crowd is who reads one image.
type crowd struct {
	readers int
	// shared is what the next one joins; nil if there is none.
	shared *download
}

// enter counts a reader more. It returns the download to read along with, nil for who is alone.
func (s *sharing) enter(o opener) *download {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := o.route()
	c := s.of[r]
	if c == nil {
		c = &crowd{}
		s.of[r] = c
	}
	if c.readers++; c.readers == 1 {
		return nil
	}
	if c.shared == nil || c.shared.failed() {
		c.shared = startDownload(o)
	}
	c.shared.readers++
	return c.shared
}

// leave ends what enter began. The last reader of a download ends it.
func (s *sharing) leave(r route, d *download) {
	s.mu.Lock()
	c := s.of[r]
	if c.readers--; c.readers == 0 {
		delete(s.of, r)
	}
	last := false
	if d != nil {
		d.readers--
		if last = d.readers == 0; last && c.shared == d {
			c.shared = nil
		}
	}
	s.mu.Unlock()
	if last {
		d.close()
	}
}

// disown lets nobody join d any more.
func (s *sharing) disown(r route, d *download) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.of[r]; c != nil && c.shared == d {
		c.shared = nil
	}
}

// download is one transfer to a file without a name, which is gone with the last reader and with
// the process.
type download struct {
	opener
	readers int // guarded by sharing.mu

	cancel context.CancelCauseFunc
	done   chan struct{} // closed when nothing is written any more
	// What follows is valid once the state has begun.
	file          *os.File
	tag, modified string
	size          int64

	mu  sync.Mutex
	now state // guarded by mu
}

// state is how far a download is.
type state struct {
	begun bool
	have  int64
	// err is how it ended: io.EOF when all is there.
	err error
	// notes are what readers should hear, in order.
	notes []string
	// more is closed when this state is out of date.
	more chan struct{}
}

// startDownload begins to fetch what o names, for longer than the context of o's caller lasts.
func startDownload(o opener) *download {
	d := &download{opener: o, done: make(chan struct{})}
	d.now.more = make(chan struct{})
	d.opt.Note = func(text string) {
		d.change(func(s *state) { s.notes = append(s.notes, text) })
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	d.cancel = cancel
	go func() {
		defer close(d.done)
		err := d.run(ctx)
		d.change(func(s *state) { s.err = err })
	}()
	return d
}

func (d *download) state() state {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

func (d *download) change(do func(*state)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do(&d.now)
	close(d.now.more)
	d.now.more = make(chan struct{})
}

// failed tells whether to join d is in vain. A full disk is no reason to try it once more: who
// joins reads by itself.
func (d *download) failed() bool {
	err := d.state().err
	return err != nil && err != io.EOF && !errors.Is(err, errSpool)
}

// run fetches everything; io.EOF is success.
func (d *download) run(ctx context.Context) error {
	b := d.newBody(ctx, d.cancel)
	if err := b.persist(b.request()); err != nil {
		return err
	}
	defer b.Close()
	d.tag, d.modified, d.size = b.tag, b.modified, b.size
	if err := d.makeFile(); err != nil {
		return fmt.Errorf("%w: %w", errSpool, err)
	}
	d.change(func(s *state) { s.begun = true })
	return d.fill(b)
}

func (d *download) makeFile() (err error) {
	if err := os.MkdirAll(d.opt.SpoolDir, 0o700); err != nil {
		return spoolError(err)
	}
	if err := makeRoom(d.opt.SpoolDir, d.size); err != nil {
		return err
	}
	d.file, err = os.CreateTemp(d.opt.SpoolDir, filepath.Base(d.spoolPath())+".*"+tempMark)
	if err != nil {
		return spoolError(err)
	}
	// Another download that begins may have swept the name away already.
	if err := os.Remove(d.file.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return spoolError(err)
	}
	return nil
}

func (d *download) fill(b *httpBody) error {
	buf := make([]byte, readSize)
	for have, checked := int64(0), 0; ; {
		n, err := b.Read(buf)
		if checked -= n; checked < 0 {
			if err := makeRoom(d.opt.SpoolDir, roomStep); err != nil {
				return fmt.Errorf("%w: %w", errSpool, err)
			}
			checked = roomStep
		}
		if _, err := d.file.Write(buf[:n]); err != nil {
			return fmt.Errorf("%w: %w", errSpool, spoolError(err))
		}
		if have += int64(n); n > 0 {
			d.change(func(s *state) { s.have = have })
		}
		if err != nil {
			return err
		}
	}
}

// close ends the download and gives its room back.
func (d *download) close() {
	d.cancel(context.Canceled)
	<-d.done
	if d.file != nil {
		d.file.Close()
	}
}

// reader is the way of one machine through an image that others may want, too.
type reader struct {
	opener
	ctx    context.Context
	cancel context.CancelCauseFunc
	off    int64
	// shared is what it reads along with, nil if nothing.
	shared *download
	// told is how many notes of shared were told.
	told int
	// own is its own answer; nil while it has none.
	own   *httpBody
	leave func()
}

var _ io.ReadCloser = (*reader)(nil)

// share is get for images that several machines may want at a time.
func (o opener) share(t *transfer) error {
	d := crowds.enter(o)
	r := &reader{opener: o, ctx: t.ctx, cancel: t.cancel, shared: d}
	r.leave = sync.OnceFunc(func() { crowds.leave(o.route(), d) })
	t.body = r
	var err error
	if t.size, err = r.begin(); err != nil {
		r.Close()
	}
	return err
}

// begin returns the size of the image.
func (r *reader) begin() (int64, error) {
	if r.shared == nil {
		err := r.goAlone()
		return r.own.size, err
	}
	r.told = len(r.shared.state().notes)
	s, err := r.await(func(s state) bool { return s.begun || s.err != nil })
	switch {
	case err != nil:
		return -1, err
	case s.begun:
		r.opt.Note(fmt.Sprintf("image %s is fetched once for this machine and others that want "+
			"it now", r.name))
		return r.shared.size, nil
	case errors.Is(s.err, errSpool):
		err := r.part(s.err)
		return r.own.size, err
	}
	return -1, s.err
}

// await waits until the download is as far as is asked for, and tells its notes meanwhile.
func (r *reader) await(far func(state) bool) (state, error) {
	for {
		s := r.shared.state()
		for ; r.told < len(s.notes); r.told++ {
			r.opt.Note(s.notes[r.told])
		}
		if far(s) {
			return s, nil
		}
		select {
		case <-s.more:
		case <-r.ctx.Done():
			return s, context.Cause(r.ctx)
		}
	}
}

// Read returns what comes next, from the spool or from the source.
func (r *reader) Read(p []byte) (int, error) {
	if r.own != nil {
		return r.own.Read(p)
	}
	s, err := r.await(func(s state) bool { return s.have > r.off || s.err != nil })
	if err != nil {
		return 0, err
	}
	if left := s.have - r.off; left > 0 {
		n, err := r.shared.file.ReadAt(p[:min(int64(len(p)), left)], r.off)
		r.off += int64(n)
		if n > 0 || err == nil {
			return n, nil
		}
		s.err = fmt.Errorf("%w: %w", errSpool, spoolError(err))
	}
	if !errors.Is(s.err, errSpool) {
		return 0, s.err
	}
	if err := r.part(s.err); err != nil {
		return 0, r.own.brokeOff(err)
	}
	return r.own.Read(p)
}

// part goes on without the download that ended for the given reason.
func (r *reader) part(why error) error {
	r.opt.Note(fmt.Sprintf("image %s is fetched for this machine alone: %v", r.name, why))
	return r.goAlone()
}

// goAlone asks the source for what is missing, of the same version.
func (r *reader) goAlone() error {
	b := r.newBody(r.ctx, r.cancel)
	if r.off > 0 {
		d := r.shared
		b.got, b.mark, b.tag, b.modified, b.size = r.off, r.off, d.tag, d.modified, d.size
	}
	r.own = b
	return b.persist(b.request())
}

// disown says that the content was wrong: who comes now is better off with a new download.
func (r *reader) disown() {
	if r.shared != nil {
		crowds.disown(r.route(), r.shared)
	}
}

// Close gives up the rest.
func (r *reader) Close() error {
	defer r.leave()
	if r.own == nil {
		return nil
	}
	return r.own.Close()
}
