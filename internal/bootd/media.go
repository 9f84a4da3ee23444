package bootd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/iso9660"
	"ingot/internal/media"
	"ingot/internal/netboot"
	"ingot/internal/store"
)

// mediaMemory is what is remembered of media.
type mediaMemory struct {
	mu      sync.Mutex // guards what follows
	loaders *media.Loaders
	known   map[string]knownMedium // by path
}

// knownMedium is a medium as the database had it, laid out.
type knownMedium struct {
	layout  layout
	tag     string // ETag: another one for other bytes
	files   []*heldFile
	attempt string
	what    string // for the journal
	byHTTP  bool   // as in netboot.Medium
	at      time.Time
	reads   *mediumReads // of its path
}

// layout is what a medium has where.
type layout interface {
	io.ReaderAt
	Size() int64
	// Section is as that of iso9660.Image.
	Section(off, n int64) (from io.ReaderAt, at int64, ok bool)
}

// whole is a medium that is one file; small one that is in memory.
type (
	whole struct {
		*heldFile
		size int64
	}
	small struct{ *bytes.Reader }
)

var _, _, _ layout = (*iso9660.Image)(nil), whole{}, small{}

func (w whole) Size() int64 { return w.size }

func (w whole) Section(off, _ int64) (from io.ReaderAt, at int64, ok bool) {
	return w.heldFile, off, true
}

func (small) Section(_, _ int64) (from io.ReaderAt, at int64, ok bool) { return nil, 0, false }

// heldFile is a boot file that many read at a time.
type heldFile struct {
	files  *bootfile.Cache
	digest string
	// idle are open files; what is not taken for a while is closed by the garbage collector (os.File).
	idle sync.Pool
}

// take opens it, from another conductor if it is not here. give takes it back.
func (h *heldFile) take(ctx context.Context) (*os.File, error) {
	if f, ok := h.idle.Get().(*os.File); ok {
		return f, nil
	}
	return h.files.Fetch(ctx, h.digest)
}

func (h *heldFile) give(f *os.File) { h.idle.Put(f) }

// ReadAt reads it; who calls has taken it before, so it is here.
func (h *heldFile) ReadAt(p []byte, off int64) (int, error) {
	f, ok := h.idle.Get().(*os.File)
	if !ok {
		var err error
		if f, err = h.files.Open(h.digest); err != nil {
			return 0, err
		}
	}
	defer h.give(f)
	return f.ReadAt(p, off)
}

const (
	// mediumFresh is for how long a medium is known without another look: BMCs read it by small ranges.
	mediumFresh = 10 * time.Second
	// mediumKept is for how long it is known if the database does not answer.
	mediumKept = 10 * time.Minute
	// maxMedia are known at a time; a layout has some 50 kB, a floppy 1.5 MB.
	maxMedia = 500
)

// mediumLoaders reads the loaders, once they are there.
func (s *Server) mediumLoaders() (*media.Loaders, error) {
	s.media.mu.Lock()
	defer s.media.mu.Unlock()
	if s.media.loaders == nil {
		l, err := media.ReadLoaders(s.Programs)
		if err != nil {
			return nil, err
		}
		s.media.loaders = &l
	}
	return s.media.loaders, nil
}

// MediaReady tells why no media can be made, if none can.
func (s *Server) MediaReady() error {
	if _, err := s.mediumLoaders(); err != nil {
		return ingot.Errorf(ingot.Invalid, "virtual media cannot be made: %w", err)
	}
	return nil
}

// Headers of media. They are not to be kept: what a machine boots may change under a path.
const (
	mediumType    = "application/octet-stream"
	mediumCaching = "no-store"
	// mediumLayout tells the ETags of two layouts of the same files apart.
	mediumLayout = "2"
)

// serveMedium serves the ISO from which a machine boots its deploy ramdisk, to its BMC. It is stored nowhere:
// its parts are read where they are, so that any server can answer each range.
func (s *Server) serveMedium(w http.ResponseWriter, r *http.Request) {
	if c := s.readFirst(w, r); c != nil {
		s.readOn(c, r)
	}
}

// readFirst answers a request; it returns the connection if it has taken it from net/http.
func (s *Server) readFirst(w http.ResponseWriter, r *http.Request) *reader {
	client := clientOf(r)
	if err := s.reads.enter(r.Context(), client); err != nil {
		refuse(w, "too many reads at once: "+err.Error())
		return nil
	}
	defer s.reads.leave(client)
	node := r.PathValue("uuid")
	m, err := s.medium(r.Context(), node, r.URL.Path)
	if ingot.KindOf(err) == ingot.NotFound {
		http.Error(w, "no such medium", http.StatusNotFound)
		return nil
	}
	var c *reader
	if err == nil {
		c, err = s.sendMedium(w, r, m)
	}
	if err != nil {
		// Not its path: who has that has the medium.
		s.Log.Error("read a medium", "node", node, "error", err)
		http.Error(w, "the medium cannot be read", http.StatusInternalServerError)
	}
	return c
}

// typeISO tells UEFI's HTTP client that it gets a disk and no program (UEFI specification 24.7.3.2).
const typeISO = "application/vnd.efi-iso"

// sendMedium sends what was asked for of a medium; with an error nothing was sent. It returns the connection if
// it has taken it.
func (s *Server) sendMedium(w http.ResponseWriter, r *http.Request, m knownMedium) (*reader, error) {
	if part, ok := m.section(strings.Join(r.Header["Range"], ", ")); ok {
		f, err := part.file.take(r.Context())
		if err != nil {
			return nil, err
		}
		defer part.file.give(f)
		if c, ok := s.takeReader(w, r); ok {
			s.noteRead(r, m, part.n)
			if c.send(f, part) != nil { // a BMC that hangs up asks again
				s.end(c)
				return nil, nil
			}
			return c, nil
		}
	}
	for _, file := range m.files { // here they have to be
		f, err := file.take(r.Context())
		if err != nil {
			return nil, err
		}
		file.give(f)
	}
	h := w.Header()
	h.Set("Content-Type", mediumType)
	if m.byHTTP {
		h.Set("Content-Type", typeISO)
	}
	h.Set("Cache-Control", mediumCaching)
	h.Set("ETag", m.tag)
	if r.Method == http.MethodGet {
		s.noteRead(r, m, 0)
	}
	meter := &meter{ResponseWriter: w}
	http.ServeContent(meter, r, "", time.Time{}, io.NewSectionReader(m.layout, 0, m.layout.Size()))
	m.reads.bytes.Add(meter.bytes)
	return nil, nil
}

// mediumNews is how often the journal is told that a medium is read. Conductors go by it: a machine whose medium
// was last read from a server that is no more is started again after three times that.
const mediumNews = 30 * time.Second

// mediumReads is what was read of a medium here.
type mediumReads struct {
	bytes atomic.Int64
	told  atomic.Int64 // UnixNano of when the journal was told last; 0 is never
}

// noteRead counts n bytes that are about to be sent of a medium, and tells the journal now and then.
func (s *Server) noteRead(r *http.Request, m knownMedium, n int64) {
	total, last, now := m.reads.bytes.Add(n)-n, m.reads.told.Load(), time.Now().UnixNano()
	if last != 0 && now-last < int64(mediumNews) || !m.reads.told.CompareAndSwap(last, now) {
		return
	}
	source := "bmc"
	if m.byHTTP {
		source = "http"
	}
	text := fmt.Sprintf("%s is read by %s", m.what, clientOf(r))
	if last != 0 {
		text += fmt.Sprintf(", %d MiB until now", total>>20)
	}
	s.Journal.Add(ingot.Entry{Node: r.PathValue("uuid"), Attempt: m.attempt, Source: source, Level: ingot.LevelInfo,
		Time: s.Store.Now(), Data: ingot.Object{ingot.DataServer: s.Life}, Text: text})
}

// section is n bytes of a file of a medium, from some place of it.
type section struct {
	file  *heldFile
	at, n int64
	rng   string // Content-Range
	tag   string // ETag
}

// section is what a request with a Range is for, if that is one range of the medium which is in one file.
func (m knownMedium) section(rng string) (part section, ok bool) {
	size := m.layout.Size()
	off, n, ok := plainRange(rng, size)
	if !ok {
		return part, false
	}
	from, at, _ := m.layout.Section(off, n)
	file, ok := from.(*heldFile)
	return section{file, at, n, fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, size), m.tag}, ok
}

// plainRange is the range that a BMC asks for: one, with both ends. Anything else is left to net/http.
func plainRange(rng string, size int64) (off, n int64, ok bool) {
	text, ok := strings.CutPrefix(rng, "bytes=")
	first, last, found := strings.Cut(text, "-")
	if !ok || !found {
		return 0, 0, false
	}
	from, err1 := strconv.ParseUint(first, 10, 62)
	to, err2 := strconv.ParseUint(last, 10, 62)
	if err1 != nil || err2 != nil || from > to || int64(from) >= size {
		return 0, 0, false
	}
	return int64(from), min(int64(to)+1, size) - int64(from), true
}

// medium is the medium at a path.
func (s *Server) medium(ctx context.Context, node, path string) (knownMedium, error) {
	s.media.mu.Lock()
	known, ok := s.media.known[path]
	s.media.mu.Unlock()
	if ok && time.Since(known.at) < mediumFresh {
		return known, nil
	}
	now, err := s.lookUpMedium(ctx, node, path)
	if err != nil && ingot.KindOf(err) != ingot.NotFound && ok && time.Since(known.at) < mediumKept {
		return known, nil
	}
	s.media.mu.Lock()
	defer s.media.mu.Unlock()
	if err != nil {
		delete(s.media.known, path)
		return now, err
	}
	if known.tag == now.tag {
		// The same bytes: its files are open.
		now.layout, now.files = known.layout, known.files
	}
	if now.reads = s.media.known[path].reads; now.reads == nil {
		now.reads = &mediumReads{}
	}
	if !ok {
		maps.DeleteFunc(s.media.known, func(_ string, m knownMedium) bool { return time.Since(m.at) > mediumKept })
	}
	if s.media.known == nil || !ok && len(s.media.known) >= maxMedia {
		s.media.known = map[string]knownMedium{}
	}
	s.media.known[path] = now
	return now, nil
}

func (s *Server) lookUpMedium(ctx context.Context, node, path string) (m knownMedium, err error) {
	ctx, cancel := context.WithTimeout(ctx, pxe.LookupTimeout)
	defer cancel()
	n, err := s.Store.Node(ctx, node)
	if err != nil {
		return m, err
	}
	ports, err := s.Store.Ports(ctx, store.PortFilter{NodeID: n.ID}, store.Page{})
	if err != nil {
		return m, err
	}
	found, ok := s.Boot.Medium(n, ports, path)
	if !ok {
		return m, ingot.Errorf(ingot.NotFound, "node %s boots no such medium", node)
	}
	if found.Drive {
		image, err := s.Boot.Drive(ctx, n)
		return knownMedium{at: time.Now(), layout: small{bytes.NewReader(image)}, what: "the config drive of the instance",
			tag: fmt.Sprintf(`"%x"`, sha256.Sum256(image))}, err
	}
	if m, err = s.layOut(found); err != nil {
		return m, err
	}
	m.what, m.byHTTP = "the medium of the deploy ramdisk", found.ByHTTP
	switch {
	case n.BootIntent == ingot.BootInstance:
		m.what = "the medium of the instance"
	case found.Parameters != nil:
		m.what = "the floppy of the deploy ramdisk"
	}
	if n.Attempt != nil {
		m.attempt = n.Attempt.ID
	}
	return m, nil
}

// Lay makes a medium to be copied; its parts are here then.
func (s *Server) Lay(ctx context.Context, found netboot.Medium) (io.ReadSeeker, error) {
	m, err := s.layOut(found)
	if err != nil {
		return nil, err
	}
	for _, file := range m.files {
		f, err := file.take(ctx)
		if err != nil {
			return nil, err
		}
		file.give(f)
	}
	return io.NewSectionReader(m.layout, 0, m.layout.Size()), nil
}

func (s *Server) layOut(found netboot.Medium) (m knownMedium, err error) {
	m = knownMedium{at: time.Now()}
	switch {
	case found.Parameters != nil:
		image, err := media.Floppy(found.Parameters)
		m.layout, m.tag = small{bytes.NewReader(image)}, fmt.Sprintf(`"%x"`, sha256.Sum256(image))
		return m, err
	case found.ISO.Known():
		m.files = []*heldFile{{files: s.Files, digest: found.ISO.SHA256}}
		m.layout, m.tag = whole{m.files[0], found.ISO.Size}, `"`+found.ISO.SHA256+`"`
		return m, nil
	}
	loaders, err := s.mediumLoaders()
	if err != nil {
		return m, err
	}
	m.tag = fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(strings.Join(append([]string{mediumLayout, loaders.Digest,
		found.Kernel.SHA256, found.Ramdisk.SHA256, found.Network}, found.Args...), " "))))
	var parts [2]media.File
	for i, f := range []ingot.File{found.Kernel, found.Ramdisk} {
		held := &heldFile{files: s.Files, digest: f.SHA256}
		m.files, parts[i] = append(m.files, held), media.File{Content: held, Size: f.Size}
	}
	m.layout, err = loaders.ISO(media.Content{Kernel: parts[0], Ramdisk: parts[1], Args: found.Args,
		Network: found.Network})
	return m, err
}
