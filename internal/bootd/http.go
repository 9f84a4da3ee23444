package bootd

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strconv"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

const programPath = netboot.ProgramPath

// maxFileName bounds the name of a boot file, which any text is good for and the journal keeps.
// netboot's are no longer.
const maxFileName = 255

// idleTimeout is how long a connection may ask for nothing.
const idleTimeout = 2 * time.Minute

// noteTimeout bounds the look-up of who fetched a file.
const noteTimeout = 5 * time.Second

// routes is the HTTP tree. Everything that is not a file belongs to the machine calls.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /files/{digest}/{name}", s.serveFile)
	mux.HandleFunc("GET "+programPath+"{name}", s.serveProgram)
	for _, pattern := range []string{"/{name}", programPath + "autoexec.ipxe",
		"/pxelinux.cfg/{name}", "/grub/{name}"} {
		mux.HandleFunc("GET "+pattern, s.serveTree)
	}
	if s.Boot != nil {
		mux.HandleFunc("GET /media/{uuid}/{tag}/boot.iso", s.serveMedium)
		mux.HandleFunc("GET /media/{uuid}/{tag}/image.img", s.serveMedium)
	}
	if s.Images != nil {
		mux.HandleFunc("GET "+s.ImagesPattern, s.serveImage)
	}
	if s.Machine != nil {
		mux.Handle("/v1/", s.Machine)
		mux.Handle("GET /{$}", s.Machine) // the versions that it speaks
	}
	if s.Ack != nil {
		mux.Handle("GET /tree/{uuid}", s.Ack)
	}
	return mux
}

// serveFile serves a kernel or a ramdisk. The name is for people and for iPXE, which names
// images after it; the digest decides. Content never changes under a digest, so it may be
// cached for ever, and a range may be continued at another conductor.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) {
	digest := r.PathValue("digest")
	if len(r.PathValue("name")) > maxFileName {
		http.NotFound(w, r)
		return
	}
	var f *os.File
	var err error
	if bootfile.HeldOnly(r) {
		f, err = s.Files.Open(digest)
	} else {
		f, err = s.Files.Fetch(r.Context(), digest)
	}
	if ingot.KindOf(err) == ingot.NotFound {
		http.Error(w, "no such boot file here", http.StatusNotFound)
		if !bootfile.HeldOnly(r) {
			s.noteRequest(r, ingot.LevelWarning, fmt.Sprintf("HTTP: %s is not held here",
				r.URL.Path), nil)
		}
		return
	}
	if err != nil {
		s.Log.Error("open boot file", "digest", digest, "error", err)
		http.Error(w, "boot file cannot be read", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	w.Header().Set("ETag", `"`+digest+`"`)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	q := r.URL.Query()
	node := cmp.Or(q.Get(netboot.TagLast), q.Get(netboot.TagFile))
	switch client := clientOf(r); {
	case node == "" || r.Method == http.MethodHead:
		s.sendFile(w, r, f, &s.downloads)
	case s.downloads.begin(node):
		done := false
		defer func() { s.downloads.finish(node, done) }()
		done = s.sendContent(w, r, f) && q.Has(netboot.TagLast)
	case s.downloads.pass(client): // its place is at another conductor, which is dead
		defer s.downloads.leave(client)
		s.sendContent(w, r, f)
	default:
		// At once: iPXE goes on to the next server, and in the end asks for a script, which tells
		// it to wait.
		refuse(w, "all places are taken")
	}
}

// serveImage sends an image to an agent when one of the places is free.
func (s *Server) serveImage(w http.ResponseWriter, r *http.Request) {
	client := clientOf(r)
	if err := s.images.enter(r.Context(), client); err != nil {
		refuse(w, "too many images at once: "+err.Error())
		return
	}
	defer s.images.leave(client)
	s.Images.ServeHTTP(w, r)
}

// refuse tells a client to come again.
func refuse(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "10")
	http.Error(w, why, http.StatusServiceUnavailable)
}

// serveProgram serves a boot program to UEFI HTTP boot.
func (s *Server) serveProgram(w http.ResponseWriter, r *http.Request) {
	f, err := s.openProgram(r.PathValue("name"))
	if err != nil {
		http.Error(w, "no such boot program", http.StatusNotFound)
		s.noteRequest(r, ingot.LevelWarning, fmt.Sprintf("HTTP: %s refused: %v", r.URL.Path, err),
			nil)
		return
	}
	defer f.Close()
	s.sendFile(w, r, f, &s.loaders)
}

// sendFile sends a file when one of the places is free.
func (s *Server) sendFile(w http.ResponseWriter, r *http.Request, f *os.File, t *transfers) {
	if r.Method != http.MethodHead {
		client := clientOf(r)
		if err := t.enter(r.Context(), client); err != nil {
			refuse(w, "too many downloads at once: "+err.Error())
			return
		}
		defer t.leave(client)
	}
	s.sendContent(w, r, f)
}

// sendContent serves an open file with ranges and HEAD, and tells the journal of downloads. It returns
// whether the client has been sent what it asked for.
func (s *Server) sendContent(w http.ResponseWriter, r *http.Request, f *os.File) (whole bool) {
	info, err := f.Stat()
	if err != nil {
		s.Log.Error("size of boot file", "file", f.Name(), "error", err)
		http.Error(w, "boot file cannot be read", http.StatusInternalServerError)
		return false
	}
	// No guessing of types: firmware takes what it asked for.
	w.Header().Set("Content-Type", "application/octet-stream")
	start := time.Now()
	m := &meter{ResponseWriter: w}
	http.ServeContent(m, r, "", info.ModTime(), f)
	if r.Method == http.MethodHead || m.status >= 300 {
		return false
	}
	name := path.Base(r.URL.Path) // without the digest, which is in the data
	level, text := ingot.LevelInfo, fmt.Sprintf("HTTP: %s sent, %d bytes", name, m.bytes)
	if r.Context().Err() != nil {
		level = ingot.LevelWarning
		text = fmt.Sprintf("HTTP: %s broke off after %d bytes", name, m.bytes)
	}
	s.noteRequest(r, level, text, ingot.Object{"path": r.URL.Path, "bytes": m.bytes,
		"seconds": time.Since(start).Seconds()})
	return strconv.FormatInt(m.bytes, 10) == w.Header().Get("Content-Length")
}

func (s *Server) noteRequest(r *http.Request, level, text string, data ingot.Object) {
	if client := clientOf(r); client.IsValid() {
		s.noteAddress(client, level, "http", text, data)
	}
}

// clientOf is the address that a request came from.
func clientOf(r *http.Request) netip.Addr {
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // always one with net/http on TCP
	return from.Addr().Unmap()
}

// meter counts the bytes of an answer. It passes ReadFrom on, so that files go out by sendfile.
type meter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

var _ io.ReaderFrom = (*meter)(nil)

// WriteHeader notes the status.
func (m *meter) WriteHeader(status int) {
	m.status = status
	m.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (m *meter) Write(b []byte) (int, error) {
	n, err := m.ResponseWriter.Write(b)
	m.bytes += int64(n)
	return n, err
}

// ReadFrom counts.
func (m *meter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(m.ResponseWriter, r)
	m.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (m *meter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// httpServer bounds what a client can hold: headers in size and time, idle connections in time.
// The length of a download is not bounded: firmware may be slow. See transfer.go for what is.
func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
	}
}

// port is the port of a listener.
func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }
