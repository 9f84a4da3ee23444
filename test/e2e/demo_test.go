package e2e

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demo starts `ingot demo` in dir and returns it with its output.
func demo(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	requirements(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, binary, "demo", "--dir", dir)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { cmd.Wait(); w.Close() }()
	return cmd, bufio.NewScanner(r)
}

// readUntil reads lines until one has the text; all of them are returned.
func readUntil(t *testing.T, s *bufio.Scanner, text string) string {
	t.Helper()
	var seen strings.Builder
	for s.Scan() {
		seen.WriteString(s.Text() + "\n")
		if strings.Contains(s.Text(), text) {
			return seen.String()
		}
	}
	t.Fatalf("the demo ended without %q; it said:\n%s", text, seen.String())
	return ""
}

// drain reads the rest.
func drain(s *bufio.Scanner) string {
	var seen strings.Builder
	for s.Scan() {
		seen.WriteString(s.Text() + "\n")
	}
	return seen.String()
}

// demoDir is a directory for demos that shares the cache of the other tests.
func demoDir(t *testing.T) string {
	t.Helper()
	dir, cache := buildDir(t, "e2e-demo"), buildDir(t, "cache")
	for _, d := range []string{dir, cache} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := os.Symlink(cache, filepath.Join(dir, "cache"))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return dir
}

func TestDemoInterruptedHalfwayLeavesNothing(t *testing.T) {
	requirements(t)
	dir, before := demoDir(t), namespaces(t)
	cmd, out := demo(t, dir)
	readUntil(t, out, "wait call-back")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest := drain(out)
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130; the demo said:\n%s", code, rest)
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	if after := namespaces(t); after != before {
		t.Errorf("network namespaces before %q, after %q", before, after)
	}
}

func TestDemoRunsAfterOneThatWasKilled(t *testing.T) {
	requirements(t)
	dir, before := demoDir(t), namespaces(t)
	cmd, out := demo(t, dir)
	readUntil(t, out, "wait call-back")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	drain(out)

	cmd, out = demo(t, dir)
	said := drain(out)
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code %d, want 0; the demo said:\n%s", code, said)
	}
	if !strings.Contains(said, "the machine runs the image") {
		t.Errorf("the demo did not boot the image; it said:\n%s", said)
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	if after := namespaces(t); after != before {
		t.Errorf("network namespaces before %q, after %q", before, after)
	}
}
