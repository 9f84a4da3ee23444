package tree

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"ingot/internal/ingot"
)

const (
	// ownDir is what a root has for itself: manifest and lock.
	ownDir = ".ingot"
	// newPrefix marks files that are being written, beside those that they are going to be.
	newPrefix = ".ingot-"
	// pageMode lets the group of the directory read, for pages have deploy keys.
	pageMode = 0o640
	dirMode  = 0o755
)

// root is a directory that another server serves. Of what is in it, it touches only what it has made
// itself: that is written into a manifest before it is made. A file appears complete, by rename. What a
// killed process leaves is in the manifest, and so is found by the next one.
type root struct {
	dir string
	// owned are the paths of what is ours; a slash at the end is a directory.
	owned    map[string]bool
	manifest *os.File
	// lines counts those of the manifest; broken tells that it has to be written anew.
	lines  int
	broken bool
	lock   *os.File
}

// content is what a file shall be: a text, or what another file has.
type content struct {
	text string
	file string // path of the other file; "" is text
}

// foreignError is about a file that is there, is not as it shall be, and is not ours.
type foreignError struct{ path string }

func (e *foreignError) Error() string {
	return e.path + " is in the way and not ingot's; remove it"
}

// openRoot opens a root, and makes the directory if it is not there.
func openRoot(dir string) (r *root, err error) {
	r = &root{dir: dir, owned: map[string]bool{}}
	defer func() {
		if err != nil {
			r.close()
			r, err = nil, ingot.Errorf(ingot.Invalid, "open the tree of boot files on disk: %w; it has "+
				"to be a directory that this process may write to, see [boot] tftp_root and http_root", err)
		}
	}()
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return r, err
	}
	if err := os.Mkdir(r.path(ownDir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return r, err
	}
	r.lock, err = os.OpenFile(r.path(ownDir+"/lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return r, err
	}
	if err := syscall.Flock(int(r.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return r, fmt.Errorf("%s belongs to another ingot that runs: %w", dir, err)
	}
	if err := r.load(); err != nil {
		return r, err
	}
	for name := range r.owned {
		if !strings.HasSuffix(name, "/") {
			// Most have none.
			_ = os.Remove(r.path(beside(name)))
		}
	}
	return r, r.rewrite()
}

func (r *root) close() {
	if r.lock != nil {
		// Closing alone would not do while a child that is being started still has the file, too.
		_ = syscall.Flock(int(r.lock.Fd()), syscall.LOCK_UN)
	}
	for _, f := range []*os.File{r.manifest, r.lock} {
		if f != nil {
			f.Close()
		}
	}
}

func (r *root) path(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }

// beside is where a file is written.
func beside(name string) string { return path.Join(path.Dir(name), newPrefix+path.Base(name)) }

// load reads the manifest: "+path" is what is made, "-path" what is removed. A last line without an
// end was never acted upon.
func (r *root) load() error {
	text, err := os.ReadFile(r.path(ownDir + "/manifest"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.owned = parseManifest(text)
	return nil
}

func parseManifest(text []byte) map[string]bool {
	owned := map[string]bool{}
	for line := range bytes.Lines(text) {
		whole, ended := bytes.CutSuffix(line, []byte("\n"))
		if !ended || len(whole) < 2 {
			continue
		}
		name := string(whole[1:])
		switch {
		case !isLocal(strings.TrimSuffix(name, "/")):
		case whole[0] == '+':
			owned[name] = true
		case whole[0] == '-':
			delete(owned, name)
		}
	}
	return owned
}

// isLocal tells whether a path is one of a tree: below the root, and nothing of the root's own.
func isLocal(name string) bool {
	return name != "" && name == path.Clean(name) && filepath.IsLocal(name) &&
		!strings.Contains(name, newPrefix) && !strings.ContainsAny(name, "\n\x00") &&
		name != ownDir && !strings.HasPrefix(name, ownDir+"/")
}

// rewrite writes the manifest anew.
func (r *root) rewrite() error {
	name := r.path(ownDir + "/manifest")
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(f)
	for own := range r.owned {
		b.WriteString("+" + own + "\n")
	}
	if err := errors.Join(b.Flush(), f.Sync(), os.Rename(name+".new", name)); err != nil {
		f.Close()
		return err
	}
	if r.manifest != nil {
		r.manifest.Close()
	}
	r.manifest, r.lines, r.broken = f, len(r.owned), false
	return nil
}

// record appends to the manifest.
func (r *root) record(sign string, names []string) error {
	if r.broken || r.lines > 2*len(r.owned)+1000 {
		if err := r.rewrite(); err != nil {
			return err
		}
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(sign + name + "\n")
	}
	r.lines += len(names)
	_, err := r.manifest.WriteString(b.String())
	r.broken = err != nil
	return err
}

// own puts on record what is about to be made.
func (r *root) own(names []string) error {
	var fresh []string
	for _, name := range names {
		if !r.owned[name] {
			fresh = append(fresh, name)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	// On the disk before what it speaks of: a page with a key that nobody knows of would stay.
	if err := errors.Join(r.record("+", fresh), r.manifest.Sync()); err != nil {
		return err
	}
	for _, name := range fresh {
		r.owned[name] = true
	}
	return nil
}

// put makes files what they shall be, by path. What is so already is left alone. The rest is
// attempted when one fails.
func (r *root) put(files map[string]content) error {
	var errs []error
	var names, change []string
	for name, c := range files {
		switch same, err := r.is(name, c); {
		case !isLocal(name):
			errs = append(errs, ingot.Errorf(ingot.Invalid, "%q is no path of a boot file", name))
		case err != nil:
			errs = append(errs, err)
		case same && (r.owned[name] || c.file != ""):
		case same: // nobody else writes such a page: the manifest was lost
			names = append(names, name)
		default:
			change = append(change, name)
			names = append(append(names, r.missingDirs(name)...), name)
		}
	}
	slices.Sort(names)
	if err := r.own(slices.Compact(names)); err != nil {
		return errors.Join(append(errs, fmt.Errorf("write the manifest of %s: %w", r.dir, err))...)
	}
	slices.Sort(change)
	for _, name := range change {
		if err := r.write(name, files[name]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// is tells whether a file is as it shall be. A foreignError, if it is not and must not be touched.
func (r *root) is(name string, c content) (bool, error) {
	info, err := os.Lstat(r.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	same := false
	switch {
	case !info.Mode().IsRegular():
	case c.file != "":
		source, err := os.Stat(c.file)
		if err != nil {
			return false, err
		}
		same = os.SameFile(source, info) ||
			source.Size() == info.Size() && source.ModTime().Equal(info.ModTime())
	case info.Size() == int64(len(c.text)):
		text, err := os.ReadFile(r.path(name))
		same = err == nil && string(text) == c.text
	}
	if !same && !r.owned[name] {
		return false, &foreignError{r.path(name)}
	}
	return same, nil
}

// missingDirs are the directories that a file needs and that are not there.
func (r *root) missingDirs(name string) (dirs []string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, err := os.Lstat(r.path(dir)); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		dirs = append(dirs, dir+"/")
	}
	return dirs
}

// write makes a file, which is ours by now.
func (r *root) write(name string, c content) error {
	dirs := r.missingDirs(name)
	slices.Reverse(dirs)
	for _, dir := range dirs {
		if err := os.Mkdir(r.path(dir), dirMode); err != nil {
			return err
		}
	}
	fresh := r.path(beside(name))
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer os.Remove(fresh) // of no effect after the rename
	var err error
	if c.file == "" {
		err = writeText(fresh, c.text)
	} else {
		err = linkOrCopy(c.file, fresh)
	}
	if err != nil {
		return err
	}
	return os.Rename(fresh, r.path(name))
}

func writeText(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, pageMode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Chmod(pageMode), f.Close()) // whatever the umask is
}

// linkOrCopy makes a file the same as another one, or where that cannot be, as on another file system,
// its copy, of the same age.
func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	// On the disk before its age says that it is complete.
	if err := errors.Join(err, out.Sync(), out.Chmod(0o644), out.Close()); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

// remove takes away what is ours and nobody wants, and directories that are empty then.
func (r *root) remove(names []string) error {
	var errs []error
	var gone []string
	for _, name := range names {
		if !r.owned[name] {
			continue
		}
		if err := syscall.Unlink(r.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, &fs.PathError{Op: "remove", Path: r.path(name), Err: err})
			continue
		}
		gone = append(gone, name)
		for dir := path.Dir(name); r.owned[dir+"/"] && r.removeDir(dir+"/"); dir = path.Dir(dir) {
			gone = append(gone, dir+"/")
		}
	}
	r.forget(gone)
	return errors.Join(errs...)
}

// removeDir removes a directory if it is empty.
func (r *root) removeDir(name string) bool {
	err := syscall.Rmdir(r.path(name))
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// forget puts on record what is gone.
func (r *root) forget(gone []string) {
	if len(gone) == 0 {
		return
	}
	for _, name := range gone {
		delete(r.owned, name)
	}
	// If it fails, the manifest names what is not there until it is written anew.
	r.broken = r.record("-", gone) != nil
}

// sweep takes away all that is ours and not wanted.
func (r *root) sweep(wanted map[string]bool) error {
	needed := map[string]bool{}
	for name := range wanted {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			needed[dir+"/"] = true
		}
	}
	var names, dirs, gone []string
	for name := range r.owned {
		switch {
		case strings.HasSuffix(name, "/") && !needed[name]:
			dirs = append(dirs, name)
		case !strings.HasSuffix(name, "/") && !wanted[name]:
			names = append(names, name)
		}
	}
	err := r.remove(names)
	// What a killed process has made and not filled; the inner ones first.
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) })
	for _, dir := range dirs {
		if r.owned[dir] && r.removeDir(dir) {
			gone = append(gone, dir)
		}
	}
	r.forget(gone)
	return err
}
