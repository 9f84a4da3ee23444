// Package testkit is what tests of several packages need: programs of other people, a client, a
// mark for long tests. Nothing but tests imports it.
package testkit

import (
	"errors"
	"net/http"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Web is not http.DefaultClient: the end of any httptest.Server closes the idle connections of
// that, also one that a test beside is about to use.
var Web = &http.Client{Transport: &http.Transport{}}

// Run runs a program and returns what it prints. A program that fails ends the test.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is missing; install it: scripts/packages.sh", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Long keeps a test of many seconds out of `make unit`; `make long` runs it.
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("long; runs in make long")
	}
}

// Within runs f on a thread of a network namespace, by name; sockets opened by f stay there.
func Within(namespace string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		result := errors.New("the test ended in the namespace") // by t.Fatal, which never returns
		defer func() { done <- result }()
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open("/var/run/netns/"+namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err != nil {
			result = err
			return
		}
		result = f()
	}()
	return <-done
}

// Eventually waits for what another process or goroutine brings about, and ends the test if it has
// not after a minute.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after a minute: %s", what)
		}
	}
}
