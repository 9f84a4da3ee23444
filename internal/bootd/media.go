package bootd

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
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

// knownMedium is a medium as the database had it.
type knownMedium struct {
	netboot.Medium
	attempt string
	at      time.Time
}

const (
	// mediumFresh is for how long a medium is known without another look: BMCs read it by small ranges.
	mediumFresh = 10 * time.Second
	// mediumKept is for how long it is known if the database does not answer.
	mediumKept = 10 * time.Minute
	maxMedia   = 1000
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

// serveMedium serves the ISO from which a machine boots its deploy ramdisk, to its BMC. It is laid out anew
// for each request, and its parts are read where they are, so that any server can answer each range.
func (s *Server) serveMedium(w http.ResponseWriter, r *http.Request) {
	client := clientOf(r)
	if err := s.reads.enter(r.Context(), client); err != nil {
		refuse(w, "too many reads at once: "+err.Error())
		return
	}
	defer s.reads.leave(client)
	node := r.PathValue("uuid")
	m, err := s.medium(r.Context(), node, r.URL.Path)
	if ingot.KindOf(err) == ingot.NotFound {
		http.Error(w, "no such medium", http.StatusNotFound)
		return
	}
	if err == nil {
		err = s.sendMedium(w, r, m)
	}
	if err != nil {
		// Not its path: who has that has the medium.
		s.Log.Error("lay out a medium", "node", node, "error", err)
		http.Error(w, "the medium cannot be read", http.StatusInternalServerError)
	}
}

// sendMedium sends what was asked for of a medium; with an error nothing was sent.
func (s *Server) sendMedium(w http.ResponseWriter, r *http.Request, m knownMedium) error {
	loaders, err := s.mediumLoaders()
	if err != nil {
		return err
	}
	var parts [2]media.File
	for i, f := range []ingot.File{m.Kernel, m.Ramdisk} {
		file, err := s.Files.Fetch(r.Context(), f.SHA256)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		defer file.Close()
		parts[i] = media.File{Content: file, Size: f.Size}
	}
	image, err := loaders.ISO(parts[0], parts[1], m.Args)
	if err != nil {
		return err
	}
	if r.Method == http.MethodGet && s.told.First(r.URL.Path) {
		s.Journal.Add(ingot.Entry{Node: r.PathValue("uuid"), Attempt: m.attempt, Source: "bmc",
			Level: ingot.LevelInfo, Time: s.Store.Now(),
			Text: fmt.Sprintf("the medium of the deploy ramdisk is read by %s", clientOf(r))})
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(strings.Join(append([]string{loaders.Digest,
		m.Kernel.SHA256, m.Ramdisk.SHA256}, m.Args...), " ")))))
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(image, 0, image.Size()))
	return nil
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
	if s.media.known == nil || len(s.media.known) >= maxMedia {
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
	return knownMedium{found, n.Attempt.ID, time.Now()}, nil
}
