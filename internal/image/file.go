package image

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ingot/internal/ingot"
)

// openFile opens a file:// source.
func (o opener) openFile(t *transfer) error {
	f, err := openAllowed(o.url.Path, o.key(), o.opt.AllowedPaths)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return ingot.Errorf(ingot.Unavailable, "size of the image: %w", err)
	}
	t.body, t.local, t.size = fileBody{f, t.ctx}, f, info.Size()
	return nil
}

// fileBody reads a file until its context ends.
type fileBody struct {
	*os.File
	ctx context.Context
}

func (b fileBody) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	n, err := b.File.Read(p)
	if err != nil && err != io.EOF {
		err = unreadable(err)
	}
	return n, err
}

func unreadable(err error) error {
	return ingot.Errorf(ingot.Unavailable, "read the file: %w; look at the file system of the "+
		"conductor", err)
}

// allowedDir returns the allowed directory that path is in by its name. It does not look at
// the file system, so it tells nobody what exists elsewhere. key is the word of instance_info
// that path comes from.
func allowedDir(path, key string, dirs []string) (string, error) {
	for _, dir := range dirs {
		rel, err := filepath.Rel(dir, filepath.Clean(path))
		if err == nil && rel != "." && filepath.IsLocal(rel) {
			return dir, nil
		}
	}
	return "", ingot.Errorf(ingot.Invalid, "%s %s is outside the directories that "+
		"images may be read from (%s); move the file there, or extend file_url_allowed_paths in "+
		"the configuration", key, path, strings.Join(dirs, ", "))
}

// openAllowed opens the regular file path, which must be in one of dirs both by its name and
// after all symbolic links are followed. The last step goes through os.Root, so a link that is
// swapped in between cannot lead outside either.
func openAllowed(path, key string, dirs []string) (*os.File, error) {
	if _, err := allowedDir(path, key, dirs); err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fileError(err, key)
	}
	realDirs := make([]string, 0, len(dirs))
	for _, dir := range dirs {
		if realDir, err := filepath.EvalSymlinks(dir); err == nil {
			realDirs = append(realDirs, realDir)
		}
	}
	dir, err := allowedDir(real, key, realDirs)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fileError(err, key)
	}
	defer root.Close()
	rel, err := filepath.Rel(dir, real)
	if err != nil {
		return nil, fileError(err, key)
	}
	return openRegular(root, rel, key)
}

// openRegular refuses pipes and devices. It does not wait for the other end of a pipe.
func openRegular(root *os.Root, name, key string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(err, key)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fileError(err, key)
	}
	if !info.Mode().IsRegular() {
		f.Close()
		return nil, ingot.Errorf(ingot.Invalid, "%s is not a regular file; check %s",
			f.Name(), key)
	}
	return f, nil
}

func fileError(err error, key string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return ingot.Errorf(ingot.NotFound, "%w; check %s in instance_info, or put the "+
			"file on this conductor", err, key)
	}
	return ingot.Errorf(ingot.Invalid, "%w; check %s and the permissions of the file",
		err, key)
}
