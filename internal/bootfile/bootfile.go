// Package bootfile holds the files that machines boot, kernels and ramdisks, under their SHA-256:
// it fetches them from file:// and http(s):// sources, notices when a source changed, and opens
// them for whoever serves them. Which files a node needs is netboot's and the drivers' business.
//
// A file that was held stays while any node may boot it, and long after that: a machine that was told
// a digest can fetch it, whatever happens to the source.
//
// Keeper makes it the same on all conductors: what any node may boot is on record in the store, and
// each conductor fetches it, from another one or, once for all of them, from its source.
//
// Read Cache.Hold first, then keeper.go.
package bootfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"ingot/internal/directio"
	"ingot/internal/glance"
	"ingot/internal/ingot"
)

// DefaultMaxSize bounds a boot file unless Cache.MaxSize says otherwise. Ramdisks are a few
// hundred MiB; an operating system image named by mistake should not fill the disk.
const DefaultMaxSize = 4 << 30

const (
	defaultIdleTimeout = time.Minute
	// fetchPattern names files that are being fetched. What is older than fetchLife was left by
	// a process that was killed.
	fetchPattern = "fetch-*"
	fetchLife    = 24 * time.Hour
)

// errIdle is the cause of a fetch that was ended for the silence of its source.
var errIdle = errors.New("the source sent nothing")

// errDisk says that it is this conductor that cannot keep a file: others may.
var errDisk = errors.New("the cache of this conductor cannot be written")

// Cache is a directory of files named by their digest. It is safe for concurrent use, also by
// several processes: files appear by rename, and equal content has an equal name.
type Cache struct {
	// AllowedPaths are the directories below which file:// sources may lie. Empty: anywhere,
	// which is for installations where only the administrator names kernels and ramdisks.
	AllowedPaths []string
	// MaxSize bounds a file in bytes; 0 is DefaultMaxSize.
	MaxSize int64
	// IdleTimeout is how long an http(s) source may stay silent, before its answer and within;
	// 0 is one minute.
	IdleTimeout time.Duration
	// Peers returns the base URLs of the other conductors that live; nil: there are none.
	Peers func() []string

	dir    string
	client *http.Client
	log    *slog.Logger

	mu      sync.Mutex
	sources map[string]*source // by href
	// liars are the conductors that have sent wrong bytes, and when. Guarded by mu.
	liars map[string]time.Time
}

// source is what is known of one href. Its token is taken while it is fetched, so concurrent
// callers share one fetch: the second finds it fresh.
type source struct {
	token chan struct{}
	file  ingot.File
	mark  mark
}

// mark is what a source looked like when it was fetched; a different mark means new content.
// The zero mark is never equal to a present one: fetch again.
type mark struct {
	etag, modified string // of HTTP
	mtime          time.Time
	size           int64
}

// New returns a cache in dir, which is made when the first file is held. client fetches http(s)
// sources; nil is http.DefaultClient.
func New(dir string, client *http.Client, log *slog.Logger) *Cache {
	if client == nil {
		client = http.DefaultClient
	}
	return &Cache{dir: dir, client: client, log: log, sources: map[string]*source{}}
}

// Hold makes the content of href available under its digest and returns that. It asks the
// source each time whether it changed (modification time and size of a file; ETag and
// Last-Modified of HTTP), and fetches only if it did. Errors are ingot.Invalid for an href that
// can never work, ingot.Unavailable for a source that may work later.
func (c *Cache) Hold(ctx context.Context, href string) (ingot.File, error) {
	u, err := url.Parse(href)
	if id, ok := glance.ID(href); ok {
		u, err = glance.URL(id), nil
	}
	if err != nil || href == "" {
		return ingot.File{}, ingot.Errorf(ingot.Invalid,
			"boot file %q is no URL; name it as file:///path, http(s)://host/path or by the UUID of an "+
				"image of Glance", href)
	}
	s := c.source(href)
	select {
	case s.token <- struct{}{}:
		defer func() { <-s.token }()
	case <-ctx.Done():
		return ingot.File{}, fmt.Errorf("wait for the fetch of %s: %w", u.Redacted(), ctx.Err())
	}
	// Someone may have emptied the directory.
	if _, err := os.Stat(c.path(s.file.SHA256)); err != nil {
		s.mark = mark{}
	}
	switch u.Scheme {
	case "file", "":
		return c.holdLocal(ctx, s, u)
	case "http", "https", glance.Scheme:
		return c.holdRemote(ctx, s, u)
	}
	return ingot.File{}, ingot.Errorf(ingot.Invalid, "boot file %s: cannot fetch %q URLs; name it as "+
		"file:///path, http(s)://host/path or by the UUID of an image of Glance", u.Redacted(), u.Scheme)
}

func (c *Cache) source(href string) *source {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sources[href]
	if s == nil {
		s = &source{token: make(chan struct{}, 1)}
		c.sources[href] = s
	}
	return s
}

func (c *Cache) holdLocal(ctx context.Context, s *source, u *url.URL) (ingot.File, error) {
	name, err := c.allowed(u)
	if err != nil {
		return ingot.File{}, err
	}
	// Non-blocking, lest a FIFO with nobody at the other end holds the caller for ever.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ingot.File{}, ingot.Errorf(ingot.Invalid, "open boot file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return ingot.File{}, ingot.Errorf(ingot.Unavailable, "look at boot file: %w", err)
	case !info.Mode().IsRegular():
		return ingot.File{}, ingot.Errorf(ingot.Invalid, "boot file %s is not a regular file",
			name)
	}
	now := mark{mtime: info.ModTime(), size: info.Size()}
	if s.mark == now {
		return s.file, nil
	}
	held, err := c.keep(s, now, u, &ctxReader{ctx, f})
	if err != nil {
		return ingot.File{}, err
	}
	info, err = f.Stat()
	if err != nil || now != (mark{mtime: info.ModTime(), size: info.Size()}) {
		s.mark = mark{}
		return ingot.File{}, ingot.Errorf(ingot.Unavailable, "boot file %s changed while it was "+
			"read; try again when it is complete", name)
	}
	return held, nil
}

// allowed returns the real path of a file:// source, or an error if it is none of those that
// may be served to machines: what is held can be read by everyone on the provisioning network.
func (c *Cache) allowed(u *url.URL) (string, error) {
	if (u.Host != "" && u.Host != "localhost") || !path.IsAbs(u.Path) {
		return "", ingot.Errorf(ingot.Invalid,
			"boot file %q: name an absolute path, as in file:///srv/boot/vmlinuz", u.Redacted())
	}
	real, err := filepath.EvalSymlinks(u.Path)
	if err != nil {
		return "", ingot.Errorf(ingot.Invalid, "open boot file: %w", err)
	}
	for _, dir := range c.AllowedPaths {
		if d, err := filepath.EvalSymlinks(dir); err == nil {
			dir = d
		}
		if rel, err := filepath.Rel(dir, real); err == nil && filepath.IsLocal(rel) {
			return real, nil
		}
	}
	if len(c.AllowedPaths) > 0 {
		return "", ingot.Errorf(ingot.Invalid, "boot file %s lies outside of the directories "+
			"that are allowed for file:// URLs: %s", u.Path, strings.Join(c.AllowedPaths, ", "))
	}
	return real, nil
}

func (c *Cache) holdRemote(ctx context.Context, s *source, u *url.URL) (ingot.File, error) {
	resp, err := c.ask(ctx, u, s.mark)
	if err != nil {
		return ingot.File{}, err
	}
	defer resp.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && s.mark != mark{}:
		return s.file, nil
	case resp.StatusCode != http.StatusOK:
		return ingot.File{}, ingot.Errorf(ingot.Unavailable, "fetch boot file %s: the server "+
			"answered %s", u.Redacted(), resp.Status)
	}
	now := mark{etag: resp.Header.Get("ETag"), modified: resp.Header.Get("Last-Modified"),
		size: resp.ContentLength}
	if now.etag == "" && now.modified == "" {
		now = mark{} // nothing to ask with: fetch each time
	}
	f, err := c.keep(s, now, u, verified(resp, resp.Header.Values("Repr-Digest")))
	if err != nil {
		return ingot.File{}, resp.explain(err)
	}
	return f, nil
}

// answer is an answer of a server that may fall silent. It reads the body.
type answer struct {
	*http.Response
	url      *url.URL
	ctx      context.Context
	cancel   context.CancelCauseFunc
	watchdog *time.Timer
	idle     time.Duration
}

// ask sends a request; with a mark, for what has changed since. The caller closes the answer.
func (c *Cache) ask(ctx context.Context, u *url.URL, m mark) (*answer, error) {
	a := &answer{url: u, idle: c.IdleTimeout}
	if a.idle <= 0 {
		a.idle = defaultIdleTimeout
	}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	a.watchdog = time.AfterFunc(a.idle, func() { a.cancel(errIdle) })
	req, err := http.NewRequestWithContext(a.ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		a.Close()
		return nil, ingot.Errorf(ingot.Invalid, "fetch boot file %s: %w", u.Redacted(), err)
	}
	// Without it net/http would unpack a .gz ramdisk that the server labels as an encoding.
	req.Header.Set("Accept-Encoding", "identity")
	if m.etag != "" {
		req.Header.Set("If-None-Match", m.etag)
	}
	if m.modified != "" {
		req.Header.Set("If-Modified-Since", m.modified)
	}
	if a.Response, err = c.client.Do(req); err != nil {
		defer a.Close()
		kind := ingot.Unavailable
		if own := (*ingot.Error)(nil); errors.As(err, &own) { // of Glance
			kind = own.Kind
		}
		return nil, a.explain(ingot.Errorf(kind, "fetch boot file: %w", err))
	}
	return a, nil
}

func (a *answer) Read(p []byte) (int, error) {
	a.watchdog.Reset(a.idle)
	return a.Body.Read(p)
}

// Close ends the request.
func (a *answer) Close() {
	a.watchdog.Stop()
	if a.Response != nil {
		a.Body.Close()
	}
	a.cancel(nil)
}

// explain says so if the server's silence was what ended the request.
func (a *answer) explain(err error) error {
	if !errors.Is(context.Cause(a.ctx), errIdle) {
		return err
	}
	return ingot.Errorf(ingot.Unavailable, "fetch boot file %s: %w for %s; look at its server",
		a.url.Redacted(), errIdle, a.idle)
}

// keep copies r into the directory and records it as the content of s.
func (c *Cache) keep(s *source, now mark, u *url.URL, r io.Reader) (ingot.File, error) {
	start := time.Now()
	f, err := c.add(r, "")
	if err != nil {
		return ingot.File{}, fmt.Errorf("hold boot file %s: %w", u.Redacted(), err)
	}
	f.Name = path.Base(u.Path)
	s.file, s.mark = f, now
	c.log.Info("boot file held", "url", u.Redacted(), "sha256", f.SHA256, "bytes", f.Size,
		"seconds", time.Since(start).Seconds())
	return f, nil
}

// add writes r to a file of its digest, which has to be want unless that is empty: completely or
// not at all.
func (c *Cache) add(r io.Reader, want string) (ingot.File, error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return ingot.File{}, ingot.Errorf(ingot.Internal, "%w: %w", errDisk, err)
	}
	c.sweep()
	tmp, err := os.CreateTemp(c.dir, fetchPattern)
	if err != nil {
		return ingot.File{}, ingot.Errorf(ingot.Internal, "%w: %w", errDisk, err)
	}
	defer os.Remove(tmp.Name())
	disk := directio.New(tmp)
	defer disk.Close()

	limit := c.MaxSize
	if limit == 0 {
		limit = DefaultMaxSize
	}
	sum := sha256.New()
	n, err := int64(0), error(nil)
	for buf := directio.Buffer(copySize); err == nil && n <= limit; {
		var m int
		m, err = fill(buf, r)
		sum.Write(buf[:m]) // never fails
		if _, failed := disk.WriteAt(buf[:m], n); failed != nil {
			return ingot.File{}, ingot.Errorf(ingot.Unavailable, "%w: %w", errDisk, failed)
		}
		n += int64(m)
	}
	switch {
	case n > limit:
		return ingot.File{}, ingot.Errorf(ingot.Invalid, "larger than %d bytes", limit)
	case err != io.EOF:
		return ingot.File{}, ingot.Errorf(ingot.Unavailable, "copy after %d bytes: %w", n, err)
	case n == 0:
		return ingot.File{}, ingot.Errorf(ingot.Invalid, "the file is empty")
	}
	f := ingot.File{SHA256: hex.EncodeToString(sum.Sum(nil)), Size: n}
	if want != "" && f.SHA256 != want {
		return ingot.File{}, ingot.Errorf(ingot.Unavailable, "%w: %s", errWrongBytes, f.SHA256)
	}
	// The digest is a promise: on disk before anybody is told.
	err = errors.Join(disk.Sync(), disk.Chmod(0o644))
	if err == nil {
		err = os.Rename(tmp.Name(), c.path(f.SHA256))
	}
	if err != nil {
		return ingot.File{}, ingot.Errorf(ingot.Internal, "%w: %w", errDisk, err)
	}
	return f, nil
}

// copySize is the unit of writes in bytes. A disk that is written directly waits for each of them.
const copySize = 1 << 20

// fill reads until buf is full or r gives an error, which it passes on as it is: io.ReadFull makes the
// end of a file and of a connection the same.
func fill(buf []byte, r io.Reader) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// sweep removes what fetches of killed processes have left.
func (c *Cache) sweep() {
	left, _ := filepath.Glob(filepath.Join(c.dir, fetchPattern)) // the pattern is well-formed
	for _, name := range left {
		info, err := os.Stat(name)
		if err != nil || time.Since(info.ModTime()) < fetchLife {
			continue
		}
		if err := os.Remove(name); err == nil {
			c.log.Info("removed what an interrupted fetch has left", "file", name)
		}
	}
}

// heldOnly is the query with which conductors ask one another: who does not hold the file says so
// instead of asking others in turn.
const heldOnly = "held"

// HeldOnly tells whether a request is one of another conductor, which is answered with what is held.
func HeldOnly(r *http.Request) bool { return r.URL.Query().Has(heldOnly) }

// Fetch opens a file, and fetches it from another conductor if it is not held: a machine was told
// its digest by any of them (S0.1). Several callers share one fetch, which goes on when they have
// gone: a machine that gave up comes again. NotFound if nobody holds it.
func (c *Cache) Fetch(ctx context.Context, digest string) (*os.File, error) {
	f, err := c.Open(digest)
	if ingot.KindOf(err) != ingot.NotFound || c.Peers == nil || !isDigest(digest) {
		return f, err
	}
	done := make(chan error, 1)
	go func() { done <- c.fetch(context.WithoutCancel(ctx), digest) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ingot.Errorf(ingot.Unavailable, "wait for boot file %s: %w", digest, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	return c.Open(digest)
}

// fetch makes a file held that another conductor holds.
func (c *Cache) fetch(ctx context.Context, digest string) error {
	s := c.source(digest)
	s.token <- struct{}{}
	defer func() { <-s.token }()
	if _, err := os.Stat(c.path(digest)); err == nil {
		return nil // who had the token has fetched it
	}
	peers := c.Peers()
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] }) // share the load
	for _, peer := range peers {
		if c.lied(peer) {
			continue
		}
		err := c.fetchFrom(ctx, peer, digest)
		switch {
		case err == nil || errors.Is(err, errDisk):
			return err
		case errors.Is(err, errWrongBytes):
			c.log.Error("a conductor sends wrong bytes; look at its disk and memory, and for who else "+
				"answers there. It is not asked for a while", "of", peer, "for", distrustFor,
				"sha256", digest, "error", err)
			c.distrust(peer)
		case ingot.KindOf(err) != ingot.NotFound:
			c.log.Warn("a boot file did not arrive from another conductor; asking the next one", "of", peer,
				"sha256", digest, "error", err)
		}
	}
	return ingot.Errorf(ingot.NotFound, "boot file %s is held by no conductor that lives", digest)
}

// errWrongBytes is why a file is not kept that another conductor has sent.
var errWrongBytes = errors.New("the bytes have another digest")

// distrustFor is how long a conductor is not asked that has sent wrong bytes: its source sends the
// right ones.
const distrustFor = 10 * time.Minute

func (c *Cache) lied(peer string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.liars[peer]
	return ok && time.Since(at) < distrustFor
}

func (c *Cache) distrust(peer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.liars == nil {
		c.liars = map[string]time.Time{}
	}
	c.liars[peer] = time.Now()
}

// fetchFrom fetches a file from another conductor. What is not of that digest is not kept.
func (c *Cache) fetchFrom(ctx context.Context, peer, digest string) error {
	start := time.Now()
	u, err := url.Parse(peer + "/files/" + digest + "/" + digest + "?" + heldOnly)
	if err != nil {
		return ingot.Errorf(ingot.Internal, "address of a conductor: %w", err)
	}
	resp, err := c.ask(ctx, u, mark{})
	if err != nil {
		return err
	}
	defer resp.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return ingot.Errorf(ingot.NotFound, "not held there")
	default:
		return ingot.Errorf(ingot.Unavailable, "it answered %s", resp.Status)
	}
	f, err := c.add(resp, digest)
	if err != nil {
		return resp.explain(err)
	}
	c.log.Info("boot file fetched from another conductor", "of", peer, "sha256", digest,
		"bytes", f.Size, "seconds", time.Since(start).Seconds())
	return nil
}

// Open opens a held file. The error is ingot.NotFound for everything that is none, also for
// what is no digest.
func (c *Cache) Open(digest string) (*os.File, error) {
	if !isDigest(digest) {
		return nil, ingot.Errorf(ingot.NotFound, "no boot file: %q is no SHA-256 in hex",
			digest[:min(len(digest), 64)])
	}
	f, err := os.Open(c.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ingot.Errorf(ingot.NotFound, "boot file %s is not held here", digest)
	}
	if err != nil {
		return nil, ingot.Errorf(ingot.Internal, "open boot file: %w", err)
	}
	return f, nil
}

// Held tells whether a file is held.
func (c *Cache) Held(digest string) bool { return c.Path(digest) != "" }

// Path is where a held file is on the disk, for who links it; "" if it is not held.
func (c *Cache) Path(digest string) string {
	if !isDigest(digest) {
		return ""
	}
	if _, err := os.Stat(c.path(digest)); err != nil {
		return ""
	}
	return c.path(digest)
}

// learn takes over what another conductor knows of a source, so that this one asks only whether
// that has changed. The file is held.
func (c *Cache) learn(href string, f ingot.File, etag, modified string) {
	s := c.source(href)
	s.token <- struct{}{}
	defer func() { <-s.token }()
	if etag+modified != "" {
		s.file, s.mark = f, mark{etag: etag, modified: modified}
	}
}

// marked returns what the HTTP server of a source said of its file; "" for nothing.
func (c *Cache) marked(href string) (etag, modified string) {
	s := c.source(href)
	s.token <- struct{}{}
	defer func() { <-s.token }()
	return s.mark.etag, s.mark.modified
}

func (c *Cache) path(digest string) string { return filepath.Join(c.dir, digest) }

func isDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// ctxReader ends a copy of a large local file when nobody waits for it any more.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
