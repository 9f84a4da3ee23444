package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// endTimeout is how long a killed process may take to be gone, and how long the removal of a
// namespace may take. Both are a matter of milliseconds on an idle machine.
const endTimeout = 10 * time.Second

// pidFile is written beside a machine's disk when its QEMU starts.
const pidFile = "qemu.pid"

// CleanUp ends and removes what a process that died left in a state directory. A process is
// killed only if it is inside a recorded namespace, or if it started at the recorded moment and
// has the directory in its arguments. The error is [ErrInUse] if the owner still lives. A
// directory where nothing was left is fine.
func CleanUp(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	release, err := own(dir)
	if err != nil {
		return err
	}
	return errors.Join(removeLeftovers(dir), release())
}

// removeLeftovers does the work of CleanUp and Close. The caller owns the directory.
func removeLeftovers(dir string) error {
	s, err := readState(dir)
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	machines := filepath.Join(dir, machinesDir)
	records, err := filepath.Glob(filepath.Join(machines, "*", pidFile))
	if err != nil {
		return fmt.Errorf("find the records of machines in %s: %w", machines, err)
	}
	for _, record := range records {
		if err := endRecorded(ctx, record, machines); err != nil {
			return err
		}
	}
	for _, ns := range append(s.Hosts, NamespaceState{s.Namespace, s.Inode}) {
		if err := removeNamespace(ctx, ns); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(machines); err != nil {
		return fmt.Errorf("remove files of test machines: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, stateFile)); err != nil {
		return fmt.Errorf("remove state of test machines: %w", err)
	}
	return nil
}

// endRecorded kills the process that a pid file names, if it still is the one.
func endRecorded(ctx context.Context, record, dir string) error {
	text, err := os.ReadFile(record)
	if err != nil {
		return fmt.Errorf("read record of a machine's process: %w", err)
	}
	var pid int
	var started uint64
	if _, err := fmt.Sscan(string(text), &pid, &started); err != nil {
		return nil // cut off while being written: the kernel killed that process with its parent
	}
	now, err := startTime(pid)
	if err != nil || now != started {
		return nil
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(args, []byte(dir)) {
		return nil
	}
	return kill(ctx, []int{pid})
}

// removeNamespace kills what runs in the recorded namespace and removes it. Another namespace of
// the same name is left alone.
func removeNamespace(ctx context.Context, s NamespaceState) error {
	ns, err := os.Open(namespacePath(s.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	node, err := inode(ns)
	if err != nil {
		return err
	}
	pids, err := processesIn(node)
	if err != nil {
		return err
	}
	// Without an inode its maker died between two lines of code: then nothing runs inside.
	if s.Inode != node && (s.Inode != 0 || len(pids) > 0) {
		return nil
	}
	for len(pids) > 0 { // again, for those that were started meanwhile
		if err := kill(ctx, pids); err != nil {
			return err
		}
		if pids, err = processesIn(node); err != nil {
			return err
		}
	}
	return ip(ctx, "", "netns del "+s.Name)
}

// processesIn lists the processes in a network namespace, apart from this one.
func processesIn(namespace uint64) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		// A process that ended, also one nobody waited for yet, has no namespace.
		err = unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st)
		if err == nil && st.Ino == namespace {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// kill ends processes and waits until they are gone.
func kill(ctx context.Context, pids []int) error {
	for _, pid := range pids {
		if err := killOne(ctx, pid); err != nil {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}

// killOne waits on a descriptor of the process: another one that gets its number is never hit.
func killOne(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		ready, err := unix.Poll(poll, 100)
		if ready > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// startTime is when a process started, in clock ticks since boot: with the number it names the
// process for as long as the host runs (proc(5), field 22 of stat).
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	// The second field is the program's name in brackets and may hold anything.
	_, rest, _ := strings.Cut(string(text[max(0, bytes.LastIndexByte(text, ')')):]), " ")
	fields := strings.Fields(rest)
	const index = 22 - 3 // of the fields after the name
	if len(fields) <= index {
		return 0, fmt.Errorf("read start time of process %d: %d fields", pid, len(fields))
	}
	return strconv.ParseUint(fields[index], 10, 64)
}

// inode is the number by which the kernel knows a namespace.
func inode(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("identify %s: %w", f.Name(), err)
	}
	return st.Ino, nil
}
