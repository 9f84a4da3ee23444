package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/agent/command"
	"ingot/internal/bootentry"
)

// The commands kexec.load and kexec.execute are ours: the machine goes on into what was written without a start of its
// firmware. The first one finds out what the disk's boot loader would start, and has the kernel keep it; nothing of
// the disk is changed. The second one is told when everything else is done that comes before a restart.

const (
	kexecError = "KexecError"

	// loadWithin is how long reading may take, less than the minute that conductors wait for an answer. The kernel's own
	// reading and digesting comes after.
	loadWithin   = 40 * time.Second
	maxKernel    = 256 << 20
	maxInitramfs = 1 << 30
	// memoryShare of the free memory is what kernel and initramfs may have together: the kernel has each of them
	// twice while it takes them, and several initramfs are put together before.
	memoryShare = 3
)

// loadKernel has the kernel keep what the boot loader of the written disk would start by default.
func (s *service) loadKernel(ctx context.Context, _ json.RawMessage, _ *command.Job) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, loadWithin)
	defer cancel()
	s.mu.Lock()
	w := s.written
	s.loaded = ""
	s.mu.Unlock()
	if w == nil {
		return nil, command.Errorf(kexecError, "this agent has written no image")
	}
	if err := s.machine.sync(); err != nil {
		return nil, command.Errorf(kexecError, "%v", err)
	}
	found, err := s.machine.volumes(w.disk)
	if err != nil {
		return nil, command.Errorf(kexecError, "%v", err)
	}
	defer found.undo()
	what, err := s.loadFrom(ctx, found)
	if err != nil {
		text := printable(err.Error())
		var names []string
		for _, v := range found.unread {
			names = append(names, v.Name)
		}
		if len(names) > 0 {
			text += "; not read: " + printable(strings.Join(names, ", "))
		}
		s.say("not loaded for kexec: %s", text)
		return nil, command.Errorf(kexecError, "%s", text)
	}
	s.mu.Lock()
	s.loaded = what
	s.mu.Unlock()
	s.say("loaded for kexec: %s", what)
	return what, nil
}

// loadFrom loads what the file systems say, and returns that for people.
func (s *service) loadFrom(ctx context.Context, v volumes) (string, error) {
	entry, err := bootentry.Find(v.read, v.unread, bootentry.Firmware(bootMode()))
	if err != nil {
		return "", err
	}
	room, err := s.machine.free()
	if err != nil {
		return "", err
	}
	room /= memoryShare
	open := func(f bootentry.File, most int64) (*os.File, error) {
		file, size, err := openFile(v.read[f.Volume], f.Path, min(most, room))
		room -= size
		return file, err
	}
	kernel, err := open(entry.Kernel, maxKernel)
	if err != nil {
		return "", err
	}
	defer kernel.Close()
	var parts []*os.File
	defer func() {
		for _, f := range parts {
			f.Close()
		}
	}()
	for _, f := range entry.Initrds {
		part, err := open(f, maxInitramfs)
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	initramfs, err := joined(ctx, parts)
	if err != nil {
		return "", err
	}
	if initramfs != nil {
		defer initramfs.Close()
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("it takes longer than %s", loadWithin)
	}
	name := v.read[entry.Kernel.Volume].Name + ":/" + entry.Kernel.Path
	if err := s.machine.load(kernel, initramfs, entry.Args); err != nil {
		return "", fmt.Errorf("the kernel of the ramdisk does not take %s: %w", name, err)
	}
	return printable(fmt.Sprintf("%s with %d initramfs, the default of %s", name, len(parts), entry.From)), nil
}

// openFile opens a file that has so many bytes at most.
func openFile(v bootentry.Volume, path string, most int64) (f *os.File, size int64, err error) {
	name := v.Name + ":/" + path
	opened, err := bootentry.Open(v.Files, path)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", name, err)
	}
	f, ok := opened.(*os.File)
	if !ok {
		return nil, 0, errors.Join(fmt.Errorf("%s is no file of a disk", name), opened.Close())
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.Size() > most:
		err = fmt.Errorf("it has %d MiB; with what is loaded already there is room for %d", info.Size()>>20, most>>20)
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return f, info.Size(), nil
}

// joined is one file of several, each of which begins at a multiple of 4 bytes, where the kernel looks for the next
// archive (Documentation/driver-api/early-userspace/buffer-format.rst); nil of none. It is in memory.
func joined(ctx context.Context, parts []*os.File) (*os.File, error) {
	if len(parts) == 0 {
		return nil, nil
	}
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("put the initramfs together: %w", err)
	}
	whole := os.NewFile(uintptr(fd), "initramfs")
	for _, part := range parts {
		n, err := io.Copy(whole, timely{ctx, io.LimitReader(part, maxInitramfs)})
		if err == nil {
			_, err = whole.Write(make([]byte, -n&3))
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("put the initramfs together: %w", err), whole.Close())
		}
	}
	return whole, nil
}

// timely reads until the context ends.
type timely struct {
	ctx  context.Context
	from io.Reader
}

func (t timely) Read(p []byte) (int, error) {
	if t.ctx.Err() != nil {
		return 0, fmt.Errorf("it takes longer than %s", loadWithin)
	}
	return t.from.Read(p)
}

// executeKernel starts what was loaded, when the answer is on the way.
func (s *service) executeKernel(ctx context.Context, p json.RawMessage, job *command.Job) (any, error) {
	s.mu.Lock()
	what := s.loaded
	s.mu.Unlock()
	if what == "" {
		return nil, command.Errorf(kexecError, "nothing was loaded")
	}
	return s.endBy(kexec)(ctx, p, job)
}

// loadKernelFile is kexec_file_load(2). The kernel verifies the signature where it is locked down, as with Secure Boot.
func loadKernelFile(kernel, initramfs *os.File, args string) error {
	flags, fd := unix.KEXEC_FILE_NO_INITRAMFS, -1
	if initramfs != nil {
		flags, fd = 0, int(initramfs.Fd())
	}
	err := unix.KexecFileLoad(int(kernel.Fd()), fd, args, flags)
	switch {
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%w (it is no kernel for this machine)", err)
	case errors.Is(err, unix.EKEYREJECTED), errors.Is(err, unix.ENOKEY), errors.Is(err, unix.ENODATA),
		errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (with Secure Boot it has to be signed by whom the ramdisk's kernel believes)", err)
	}
	return err
}
