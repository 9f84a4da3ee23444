package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"ingot/internal/ingot"
)

// Names in the spool directory: ALGORITHM-HEX holds an image as fetched, with that digest.
// ALGORITHM-HEX.unpacked-SHA256 holds what was inside a compressed image; the first digest is of
// the packed form, the second of this file, so that it can be verified by itself. A name that
// ends in .tmp is being written, or was when a process died.
const (
	unpackedMark = ".unpacked-"
	tempMark     = ".tmp"
)

// downloads are those of this process. They are package state because the files are shared by
// everything in the process that names the same directory, whatever Options it has.
var downloads = flights{going: make(map[route]*flight)}

// spooled returns the image from the spool, fetching it if needed. What takes time, to fetch and
// to hash, is done once for all who ask at the same time.
func (o opener) spooled(ctx context.Context) (*os.File, error) {
	if err := os.MkdirAll(o.opt.SpoolDir, 0o700); err != nil {
		return nil, spoolError(err)
	}
	if err := downloads.do(ctx, o.route(), o.opt.Progress, o.provide); err != nil {
		return nil, err
	}
	f, err := o.lookup(ctx, o.opt.Progress)
	if f == nil && err == nil {
		err = ingot.Errorf(ingot.Unavailable, "the image vanished from the spool directory %s; "+
			"deploy again", o.opt.SpoolDir)
	}
	return f, err
}

// provide makes sure that the spool holds the image, verified.
func (o opener) provide(ctx context.Context, note func(done, total int64)) error {
	f, err := o.lookup(ctx, note)
	if f != nil {
		return f.Close()
	}
	if err != nil {
		return err
	}
	return o.download(ctx, note)
}

func (o opener) route() route { return route{source: o.ref.Source, path: o.spoolPath()} }

func (o opener) spoolPath() string {
	return filepath.Join(o.opt.SpoolDir, o.ref.Digest.Algorithm+"-"+o.ref.Digest.Hex)
}

// lookup returns the verified file of the digest, or nil if there is none. One that does not
// hold what its name says is removed.
func (o opener) lookup(ctx context.Context, note func(done, total int64)) (*os.File, error) {
	unpacked, err := named(o.opt.SpoolDir, filepath.Base(o.spoolPath())+unpackedMark, "")
	if err != nil {
		return nil, spoolError(err)
	}
	for _, path := range append([]string{o.spoolPath()}, unpacked...) {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, spoolError(err)
		}
		want := o.ref.Digest
		if _, inner, ok := strings.Cut(filepath.Base(path), unpackedMark); ok {
			want = Digest{"sha256", inner}
		}
		err = verifyFile(ctx, f, want, note)
		if err == nil {
			return f, nil
		}
		f.Close()
		if !isChecksumError(err) {
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, spoolError(err)
		}
	}
	return nil, nil
}

// named returns the paths in dir of files whose names have the given ends.
func named(dir, prefix, suffix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && strings.HasSuffix(e.Name(), suffix) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

func isChecksumError(err error) bool {
	var e *ChecksumError
	return errors.As(err, &e)
}

// download fetches the image into the spool.
func (o opener) download(ctx context.Context, note func(done, total int64)) error {
	s, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	defer s.during(ctx)()
	if s.format != QCOW2 && !o.anyFormat {
		return ingot.Errorf(ingot.Invalid, "the content was qcow2 and is %s now; deploy again "+
			"when the image has been published completely", s.format)
	}
	if err := makeRoom(o.opt.SpoolDir, s.size); err != nil {
		return err
	}
	f, err := os.CreateTemp(o.opt.SpoolDir, filepath.Base(o.spoolPath())+".*"+tempMark)
	if err != nil {
		return spoolError(err)
	}
	defer f.Close()
	if err := o.fillSpool(f, s, note); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// fillSpool writes the content of s to f and gives it its name once it is verified and safe on
// the disk.
func (o opener) fillSpool(f *os.File, s *stream, note func(done, total int64)) error {
	inner := sha256.New()
	to := io.Writer(f)
	if s.packing != nil {
		to = io.MultiWriter(f, inner)
	}
	buf := make([]byte, readSize)
	for checked := 0; ; {
		n, err := s.content.Read(buf)
		if checked -= n; checked < 0 { // what is unpacked may have any size
			if err := makeRoom(o.opt.SpoolDir, roomStep); err != nil {
				return err
			}
			checked = roomStep
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return spoolError(err)
		}
		note(s.hash.n, s.size)
		if err == io.EOF {
			break
		}
		if err != nil && s.packing != nil {
			err = s.packing.explain(err)
		}
		if err != nil {
			return err
		}
	}
	if err := s.verify(); err != nil {
		return err
	}
	path, digest := o.spoolPath(), o.ref.Digest
	if s.packing != nil {
		digest = Digest{"sha256", hex.EncodeToString(inner.Sum(nil))}
		path += unpackedMark + digest.Hex
	}
	if err := publish(f, path); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return spoolError(err)
	}
	trusted.remember(path, digest, info)
	return nil
}

// publish makes f durable under its final name.
func publish(f *os.File, path string) error {
	if err := f.Sync(); err != nil {
		return spoolError(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return spoolError(err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return spoolError(err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return spoolError(err)
	}
	return nil
}

func spoolError(err error) error {
	return ingot.Errorf(ingot.Unavailable, "spool the image: %w; look at space and permissions "+
		"of the spool directory of the conductor", err)
}
