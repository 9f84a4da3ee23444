package agent

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// prepareProcess makes process 1 deaf: a signal would end it, and with it the kernel. Ignored
// SIGCHLD also lets the kernel reap what it may hand over.
func prepareProcess() {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE, syscall.SIGCHLD)
}

// mountAll mounts what the kernel offers from the start.
func mountAll() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := mount(m[0], m[1]); err != nil {
			return err
		}
	}
	return nil
}

// mountConfigfs needs the configfs module in kernels that do not have it built in.
func mountConfigfs() error { return mount("configfs", "/sys/kernel/config") }

func mount(kind, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", kind, err)
	}
	err := unix.Mount(kind, dir, kind, 0, "")
	if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel mounts devtmpfs itself
		return fmt.Errorf("mount %s on %s: %w", kind, dir, err)
	}
	return nil
}

// readModules reads the load order: a path per line, comments by #.
func readModules(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read load order: %w", err)
	}
	defer f.Close()
	var paths []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line != "" && line[0] != '#' {
			paths = append(paths, line)
		}
	}
	return paths, lines.Err()
}

// consoleLevel is the kernel's file of what goes to the console (Documentation/admin-guide/sysctl/
// kernel.rst, printk): below 3 are messages that the machine cannot go on.
const consoleLevel = "/proc/sys/kernel/printk"

// hush calls f while the kernel's errors stay off the console: the target looks for back ends
// that nobody needs by a modprobe that is not there. What f needs and does not get is its error.
func hush(f func() error) error {
	if before, err := os.ReadFile(consoleLevel); err == nil {
		// A console that cannot be quietened is no reason to stop.
		_ = os.WriteFile(consoleLevel, []byte("3"), 0)
		defer os.WriteFile(consoleLevel, before, 0)
	}
	return f()
}

// loadModules inserts every module of the list. One that fails does not stop the others: it
// may be the driver of hardware that is not there, and if it is needed the step that needs it
// says what is missing.
func loadModules(file string) error {
	paths, err := readModules(file)
	if err != nil {
		return err
	}
	var failed []error
	for _, path := range paths {
		if err := insert(path); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func insert(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	switch {
	case err == nil, errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.ENODEV): // crc32c-intel on a processor without it
		return nil
	}
	return fmt.Errorf("load module %s: %w", filepath.Base(path), err)
}

// flush makes the disk write its cache. The target wrote past the page cache, so this is about
// the cache in the device, and about stale pages a later reader must not see.
func flush(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("flush disk: %w", err)
	}
	err = f.Sync()
	if err == nil {
		err = unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("flush %s: %w. The disk did not take the image; check it", device, err)
	}
	return nil
}

// uptime is the time since the kernel started, as in "2.31 s".
func uptime() string {
	text, _ := os.ReadFile("/proc/uptime")
	seconds, _, _ := strings.Cut(string(text), " ")
	return seconds + " s"
}

// freeMemory is how many bytes programs could have, totalMemory how many there are.
func freeMemory() (int64, error)  { return memoryOf("/proc/meminfo", "MemAvailable") }
func totalMemory() (int64, error) { return memoryOf("/proc/meminfo", "MemTotal") }

// residentMemory is what this process has of it, peakMemory the most it ever had. They are for people.
func residentMemory() int64 { n, _ := memoryOf("/proc/self/status", "VmRSS"); return n }
func peakMemory() int64     { n, _ := memoryOf("/proc/self/status", "VmHWM"); return n }

// memoryOf reads a line of a file of proc(5) that is about memory, and returns bytes.
func memoryOf(file, name string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, name+": %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("read memory: the kernel does not tell %s", name)
}

// bootMode is how the firmware started the kernel, in Ironic's words.
func bootMode() string {
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		return "uefi"
	}
	return "bios"
}
