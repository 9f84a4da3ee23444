package bootd

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/iso9660"
	"ingot/internal/media"
	"ingot/internal/store"
)

// mediumLoaders are read when the first medium is asked for.
type mediumLoaders struct {
	once    sync.Once
	loaders media.Loaders
	err     error
}

func (s *Server) mediumLoaders() (media.Loaders, error) {
	s.media.once.Do(func() { s.media.loaders, s.media.err = media.ReadLoaders(s.Programs) })
	return s.media.loaders, s.media.err
}

// MediaReady tells why no media can be made, if none can.
func (s *Server) MediaReady() error {
	if _, err := s.mediumLoaders(); err != nil {
		return ingot.Errorf(ingot.Invalid, "virtual media cannot be made: %w", err)
	}
	return nil
}

// serveMedium serves the ISO from which a machine boots its deploy ramdisk, to its BMC. It is laid out anew
// for each request, and its parts are read where they are: BMCs read by small ranges, and any server can
// answer each.
func (s *Server) serveMedium(w http.ResponseWriter, r *http.Request) {
	image, files, err := s.medium(r.Context(), r.PathValue("uuid"), r.URL.Path)
	for _, f := range files {
		defer f.Close()
	}
	switch {
	case ingot.KindOf(err) == ingot.NotFound:
		http.Error(w, "no such medium", http.StatusNotFound)
	case err != nil:
		s.Log.Error("lay out a medium", "path", r.URL.Path, "error", err)
		http.Error(w, "the medium cannot be read", http.StatusInternalServerError)
	default:
		if r.Method == http.MethodGet && s.told.First(r.URL.Path) {
			s.Journal.Add(ingot.Entry{Node: r.PathValue("uuid"), Source: "http", Level: ingot.LevelInfo,
				Time: s.Store.Now(), Text: fmt.Sprintf("the medium of the deploy ramdisk is read by %s",
					clientOf(r))})
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", fmt.Sprintf("%q", r.PathValue("tag")))
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(image, 0, image.Size()))
	}
}

// medium is the medium at a path, and the files that it is read from.
func (s *Server) medium(ctx context.Context, node, path string) (image *iso9660.Image, files []*os.File,
	err error) {
	n, err := s.Store.Node(ctx, node)
	if err != nil {
		return nil, nil, err
	}
	ports, err := s.Store.Ports(ctx, store.PortFilter{NodeID: n.ID}, store.Page{})
	if err != nil {
		return nil, nil, err
	}
	m, ok := s.Boot.Medium(n, ports, path)
	if !ok {
		return nil, nil, ingot.Errorf(ingot.NotFound, "node %s boots no such medium", node)
	}
	loaders, err := s.mediumLoaders()
	if err != nil {
		return nil, nil, err
	}
	var parts [2]media.File
	for i, f := range []ingot.File{m.Kernel, m.Ramdisk} {
		file, err := s.Files.Fetch(ctx, f.SHA256)
		if err != nil {
			return nil, files, err
		}
		files = append(files, file)
		parts[i] = media.File{Content: file, Size: f.Size}
	}
	image, err = loaders.ISO(parts[0], parts[1], m.Args)
	return image, files, err
}
