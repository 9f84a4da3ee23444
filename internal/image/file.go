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
func (o opener) openFile(ctx context.Context, cancel context.CancelCauseFunc) (transfer, error) {
	f, err := openAllowed(o.url.Path, o.opt.AllowedPaths)
	if err != nil {
		return transfer{}, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return transfer{}, ingot.Errorf(ingot.Unavailable, "size of the image: %w", err)
	}
	return transfer{
		ctx: ctx, cancel: cancel, body: fileBody{f, ctx}, local: f, size: info.Size(),
	}, nil
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
		err = ingot.Errorf(ingot.Unavailable, "read the file: %w; look at the file system of "+
			"the conductor", err)
	}
	return n, err
}

// allowedDir returns the allowed directory that path is in by its name. It does not look at
// the file system, so it tells nobody what exists elsewhere.
func allowedDir(path string, dirs []string) (string, error) {
	for _, dir := range dirs {
		rel, err := filepath.Rel(dir, filepath.Clean(path))
		if err == nil && rel != "." && filepath.IsLocal(rel) {
			return dir, nil
		}
	}
	return "", ingot.Errorf(ingot.Invalid, "image_source %s is outside the directories that "+
		"images may be read from (%s); move the image there, or extend file_url_allowed_paths in "+
		"the configuration", path, strings.Join(dirs, ", "))
}

// openAllowed opens the regular file path, which must be in one of dirs both by its name and
// after all symbolic links are followed. The last step goes through os.Root, so a link that is
// swapped in between cannot lead outside either.
func openAllowed(path string, dirs []string) (*os.File, error) {
	if _, err := allowedDir(path, dirs); err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fileError(err)
	}
	realDirs := make([]string, 0, len(dirs))
	for _, dir := range dirs {
		if realDir, err := filepath.EvalSymlinks(dir); err == nil {
			realDirs = append(realDirs, realDir)
		}
	}
	dir, err := allowedDir(real, realDirs)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fileError(err)
	}
	defer root.Close()
	rel, err := filepath.Rel(dir, real)
	if err != nil {
		return nil, fileError(err)
	}
	return openRegular(root, rel)
}

// openRegular refuses pipes and devices. It does not wait for the other end of a pipe.
func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fileError(err)
	}
	if !info.Mode().IsRegular() {
		f.Close()
		return nil, ingot.Errorf(ingot.Invalid, "%s is not a regular file; check image_source",
			f.Name())
	}
	return f, nil
}

func fileError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return ingot.Errorf(ingot.NotFound, "%w; check image_source in instance_info, or put the "+
			"image on this conductor", err)
	}
	return ingot.Errorf(ingot.Invalid, "%w; check image_source and the permissions of the file",
		err)
}
