package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	kibi = 1 << 10
	mebi = 1 << 20
	gibi = 1 << 30
)

// cpuTime is the processor time that a process has had, user and system, all threads. Its unit
// is 10 ms: USER_HZ is 100 wherever Linux runs Go (proc_pid_stat(5), fields 14 and 15).
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	// The name, field 2, is in parentheses and may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// cpuClock is cpuTime in nanoseconds: the first exchanges of a thousand machines take 100 ms.
func cpuClock(pid int) (time.Duration, error) {
	var t unix.Timespec
	// The number of a process' clock, clock_getcpuclockid(3).
	if err := unix.ClockGettime(int32(^pid)<<3|unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// familyTick is how often the children of a process are looked at.
const familyTick = 20 * time.Millisecond

// family is a process and its children, of one thread each, whether it waits for them or not.
// What a child takes between the last look and its end is missing.
type family struct {
	pid       int
	children  map[int]time.Duration // processor time when last seen
	strangers map[int]bool          // processes that are none
}

func newFamily(pid int) *family {
	return &family{pid: pid, children: map[int]time.Duration{}, strangers: map[int]bool{pid: true}}
}

// sample looks at the children until ctx ends.
func (f *family) sample(ctx context.Context) {
	tick := time.NewTicker(familyTick)
	defer tick.Stop()
	for ctx.Err() == nil {
		f.look()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (f *family) look() {
	proc, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // what could be read is enough
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || f.strangers[pid] {
			continue
		}
		if _, known := f.children[pid]; !known && parent(pid) != f.pid {
			f.strangers[pid] = true
			continue
		}
		// Not cpuTime: a child may take less than its unit. No error: it may have ended just now.
		var ns int64
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if _, bad := fmt.Sscan(string(text), &ns); err == nil && bad == nil {
			f.children[pid] = time.Duration(ns)
		}
	}
}

// parent is field 4 of proc_pid_stat(5); 0 if the process has ended.
func parent(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	n, _ := strconv.Atoi(string(fields[1]))
	return n
}

// time is the processor time of all of them so far.
func (f *family) time() (time.Duration, error) {
	total, err := cpuTime(f.pid)
	for _, t := range f.children {
		total += t
	}
	return total, err
}

// memory is one of the sizes in /proc/PID/status in bytes: VmRSS (resident now), RssAnon (the
// part of it that is no file), VmHWM (the peak of VmRSS).
func memory(pid int, key string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n * kibi, err
		}
	}
	return 0, fmt.Errorf("memory of process %d: it has ended", pid)
}

// usage is what a program took from start to end.
type usage struct {
	wall, cpu time.Duration
	peak      int64 // resident memory, bytes
	output    []byte
}

// run runs a program to its end. Its peak of memory is sampled, because what the kernel reports
// at the end of a child (ru_maxrss) may be the peak of this process.
func run(cmd *exec.Cmd) (usage, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var u usage
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// No error: the process may have ended just now.
			if peak, err := memory(cmd.Process.Pid, "VmHWM"); err == nil {
				u.peak = peak
			}
		case err := <-done:
			u.wall, u.output = time.Since(start), stdout.Bytes()
			u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			if err != nil {
				return u, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, stderr.Bytes())
			}
			return u, nil
		}
	}
}

// service is a program that answers HTTP until it is stopped.
type service struct {
	url   string
	pid   int
	ready time.Duration // from exec until it answered 200
	cmd   *exec.Cmd
	done  chan error
}

// startService starts a program and polls a path of it until it answers 200. log receives what
// the program prints.
func startService(ctx context.Context, cmd *exec.Cmd, url, path, log string) (*service, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &service{url: url, pid: cmd.Process.Pid, cmd: cmd, done: make(chan error, 1)}
	go func() { s.done <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if answers(ctx, url+path) {
			s.ready = time.Since(start)
			return s, nil
		}
		select {
		case err := <-s.done:
			text, _ := os.ReadFile(log)
			return nil, fmt.Errorf("%s ended (%w): %s", cmd.Path, err, text)
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for %s: %w", cmd.Path, ctx.Err()), s.stop())
		case <-time.After(time.Millisecond):
		}
	}
}

// answers tells whether a URL is answered by 200 now, over a connection of its own.
func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// stop ends the program: SIGTERM, after ten seconds SIGKILL.
func (s *service) stop() error {
	err := s.cmd.Process.Signal(syscall.SIGTERM)
	// Ctrl-C in a terminal reaches the program, too; it may have ended already.
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", s.cmd.Path, err)
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill()
		<-s.done
		return fmt.Errorf("%s did not end within ten seconds of SIGTERM", s.cmd.Path)
	}
}

// freeAddress is an address on the loopback with a port that nobody uses.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startIngot starts `ingot serve --dev` on a directory, with the environment added.
func (b *bench) startIngot(ctx context.Context, data string, env ...string) (*service, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(b.binary, "serve", "--dev", "--data", data, "--listen", address)
	cmd.Env = append(os.Environ(), env...)
	return startService(ctx, cmd, "http://"+address, "/healthcheck",
		filepath.Join(b.temp, "ingot.log"))
}

// startHello starts the yardstick server, with answers of size bytes.
func (b *bench) startHello(ctx context.Context, size int) (*service, error) {
	binary := filepath.Join(b.temp, "hello")
	if _, err := os.Stat(binary); err != nil {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w",
			"-o", binary, "./tools/bench/hello")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the yardstick server: %w: %s", err, out)
		}
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return startService(ctx, exec.Command(binary, address, strconv.Itoa(size)), "http://"+address,
		"/", filepath.Join(b.temp, "hello.log"))
}
