package sim

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespacePath is where iproute2 keeps a named network namespace.
func namespacePath(name string) string { return "/run/netns/" + name }

// inNamespace calls f with the calling thread moved into the namespace and moves it back.
func inNamespace(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer close(done) // also when f ends its goroutine, as a failing test does
		done <- onThread(ns, f)
	}()
	err, returned := <-done
	if !returned {
		return errors.New("the function inside the network namespace did not return")
	}
	return err
}

// onThread moves this goroutine's thread into the namespace, calls f and moves the thread back.
// If the way back is barred the goroutine stays locked, so that the runtime ends the thread
// together with the goroutine instead of giving it to others.
func onThread(ns *os.File, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return fmt.Errorf("leave network namespace %s: %w", ns.Name(), back)
	}
	runtime.UnlockOSThread()
	return err
}
