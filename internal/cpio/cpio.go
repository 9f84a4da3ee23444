// Package cpio writes the "newc" archives that Linux unpacks as its initramfs.
//
// Only writing, only newc (magic 070701), only what an initramfs holds: directories, regular
// files, symbolic links, device nodes. Owners are root, times are the epoch, inode numbers count
// up: the same entries give the same bytes. Compression is the caller's.
// Read first: Writer.Add.
package cpio

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
)

// File types as the mode field holds them, from Linux include/uapi/linux/stat.h.
const (
	typeMask = 0o170000
	typeLink = 0o120000
	typeFile = 0o100000
	typeDir  = 0o040000
	typeChar = 0o020000
)

// trailer is the name of the entry that ends an archive.
const trailer = "TRAILER!!!"

// blockSize is what an archive is padded to. The kernel takes any multiple of four, but cpio
// itself reads 512 bytes at a time and complains about less.
const blockSize = 512

// ErrClosed is returned for an entry that comes after Close.
var ErrClosed = errors.New("cpio: archive is closed")

// An Entry is one name of the archive. Name is relative and without "..", as in "etc/modules";
// the kernel unpacks it below its root.
type Entry struct {
	Name string
	Mode uint32 // file type and permission bits, made by Dir, File, Symlink or CharDevice
	Dev  [2]uint32
	Data []byte
}

// Dir is a directory. Its parents must be in the archive before it.
func Dir(name string, perm uint32) Entry {
	return Entry{Name: name, Mode: typeDir | perm&0o7777}
}

// File is a regular file.
func File(name string, perm uint32, data []byte) Entry {
	return Entry{Name: name, Mode: typeFile | perm&0o7777, Data: data}
}

// Symlink is a symbolic link that holds target as it is.
func Symlink(name, target string) Entry {
	return Entry{Name: name, Mode: typeLink | 0o777, Data: []byte(target)}
}

// CharDevice is a character device node, such as the console: 5, 1.
func CharDevice(name string, perm, major, minor uint32) Entry {
	return Entry{Name: name, Mode: typeChar | perm&0o7777, Dev: [2]uint32{major, minor}}
}

// A Writer writes one archive.
type Writer struct {
	w       io.Writer
	written int64
	inode   uint32
	closed  bool
}

// NewWriter returns a Writer that writes to w. Close ends the archive; it does not close w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w}
}

// Add writes one entry. After an error the archive is of no use.
func (w *Writer) Add(e Entry) error {
	if w.closed {
		return ErrClosed
	}
	if err := check(e); err != nil {
		return err
	}
	w.inode++
	return w.write(e, w.inode)
}

// Close writes the trailer and the padding.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	if err := w.write(Entry{Name: trailer}, 0); err != nil {
		return err
	}
	return w.pad(blockSize)
}

// check refuses what the kernel or cpio would unpack elsewhere or not at all.
func check(e Entry) error {
	switch {
	case e.Name == "" || e.Name == trailer:
		return fmt.Errorf("cpio: %q is not a name an entry can have", e.Name)
	case strings.ContainsRune(e.Name, 0):
		return fmt.Errorf("cpio: name %q holds a NUL byte", e.Name)
	case path.Clean(e.Name) != e.Name || e.Name[0] == '/' || e.Name == ".." ||
		strings.HasPrefix(e.Name, "../"):
		return fmt.Errorf("cpio: name %q must be relative and clean", e.Name)
	case int64(len(e.Data)) > math.MaxUint32:
		return fmt.Errorf("cpio: %s has %d bytes; newc holds less than 4 GiB", e.Name, len(e.Data))
	}
	switch e.Mode & typeMask {
	case typeFile, typeLink:
		return nil
	case typeDir, typeChar:
		if len(e.Data) != 0 {
			return fmt.Errorf("cpio: %s is a directory or device and cannot hold data", e.Name)
		}
		return nil
	}
	return fmt.Errorf("cpio: %s has mode %#o of an unknown file type", e.Name, e.Mode)
}

// write emits header, name and data: Linux Documentation/driver-api/early-userspace/
// buffer-format.rst. Fields are eight hexadecimal digits; name and data are padded to four.
func (w *Writer) write(e Entry, inode uint32) error {
	links := 1
	if e.Mode&typeMask == typeDir {
		links = 2
	}
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		inode, e.Mode, 0, 0, links, 0, len(e.Data), 0, 0, e.Dev[0], e.Dev[1], len(e.Name)+1, 0)
	if err := w.emit([]byte(header + e.Name + "\x00")); err != nil {
		return err
	}
	if err := w.pad(4); err != nil {
		return err
	}
	if err := w.emit(e.Data); err != nil {
		return err
	}
	return w.pad(4)
}

func (w *Writer) pad(to int64) error {
	return w.emit(make([]byte, (to-w.written%to)%to))
}

func (w *Writer) emit(b []byte) error {
	n, err := w.w.Write(b)
	w.written += int64(n)
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}
