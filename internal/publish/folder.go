package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/ingot"
)

// Folder is below the directory of a web server that is not ours.
type Folder struct {
	Root string // that directory
	URL  string // of the root, without a slash at its end
}

// below is the folder's name, as in Ironic.
const below = "redfish"

var _ Store = Folder{}

// Record is of Store. What makes the name unguessable is not in it.
func (f Folder) Record(m Medium) Record {
	return Record{Store: InFolder, Place: filepath.Join(f.Root, below), Name: m.prefix(), URL: f.URL + "/" + below}
}

// Put is of Store: the file appears under its name when it is complete, in the place of others of the node.
func (f Folder) Put(ctx context.Context, m Medium, content io.ReadSeeker) (string, error) {
	dir := filepath.Join(f.Root, below)
	// Only these are removed: a conductor that has the node meanwhile may write another one beside ours.
	before, err := named(dir, m.prefix(), m.file())
	if err != nil {
		return "", err
	}
	if err := f.write(ctx, dir, m.file(), content); err != nil {
		if noSpace(err) {
			return "", ingot.Errorf(ingot.Unavailable, "no space left for virtual media in %s: make room there "+
				"([deploy] http_root)", dir)
		}
		return "", ingot.Errorf(ingot.Internal, "write a medium into %s, which is below [deploy] http_root: %w", dir,
			nameless(err))
	}
	if err := removeFiles(dir, before); err != nil {
		return "", err
	}
	return f.Record(m).At(m), nil
}

func noSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// Check tells why media cannot be written, as far as can be told without doing it.
func (f Folder) Check() error {
	for _, dir := range []string{filepath.Join(f.Root, below), f.Root} {
		err := unix.Access(dir, unix.W_OK|unix.X_OK)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrNotExist) && dir != f.Root:
			continue
		}
		return ingot.Errorf(ingot.Invalid, "virtual media cannot be written into %s (%w); [deploy] http_root has to be a "+
			"directory that ingot may write to", dir, err)
	}
	return nil
}

func (f Folder) write(ctx context.Context, dir, name string, content io.ReadSeeker) (err error) {
	// Nobody else is to list what cannot be guessed; servers need not.
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return err
	}
	part, err := os.CreateTemp(dir, partPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(part.Name())
		}
	}()
	_, err = io.CopyBuffer(struct{ io.Writer }{part}, reader{ctx, content}, make([]byte, 1<<20))
	if err == nil {
		err = part.Chmod(0o644)
	}
	if err == nil {
		err = part.Sync() // or a machine may boot what a power failure has made of it
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return err
	}
	if err := os.Rename(part.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return flush(dir)
}

// flush has the names in a directory survive a power failure. File systems that cannot are as good as they are.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// partPrefix begins the names of files that are being written.
const partPrefix = ".part-"

// nameless is an error without the names of files, which are secrets.
func nameless(err error) error {
	var at *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &at):
		return fmt.Errorf("%s: %w", at.Op, at.Err)
	case errors.As(err, &link):
		return fmt.Errorf("%s: %w", link.Op, link.Err)
	}
	return err
}

// named are the names of files that have a prefix, but for one.
func named(dir, prefix, but string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list virtual media: %w", err)
	}
	for _, e := range entries {
		if e.Name() != but && strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// removeFiles removes files; those that are gone are as good as removed.
func removeFiles(dir string, names []string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a virtual medium from %s: %w", dir, nameless(err))
		}
	}
	return nil
}

var ours = regexp.MustCompile(`^(boot|image)-([0-9a-f-]{36})-[0-9a-f]+\.(iso|img)$`)

// old is how long a file is left alone: its node may be about to be written.
const old = time.Hour

// Sweep removes files of nodes that need none, which conductors have left that died, and what others have
// left half written. Files that are not of ours stay.
func (f Folder) Sweep(needs func(node string) (bool, error)) error {
	dir := filepath.Join(f.Root, below)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list virtual media: %w", err)
	}
	for _, e := range entries {
		part, name := strings.HasPrefix(e.Name(), partPrefix), ours.FindStringSubmatch(e.Name())
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < old || !part && name == nil {
			continue
		}
		if !part {
			needed, err := needs(name[2])
			if err != nil {
				return err
			}
			if needed {
				continue
			}
		}
		if err := removeFiles(dir, []string{e.Name()}); err != nil {
			return err
		}
	}
	return nil
}
