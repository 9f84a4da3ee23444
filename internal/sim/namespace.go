package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespacePath is where iproute2 keeps a named network namespace.
func namespacePath(name string) string { return "/run/netns/" + name }

// Namespace is a network namespace. Its methods may be called concurrently.
type Namespace struct {
	name string   // "" if it has none
	file *os.File // sockets and machines are made through it
}

// create makes the namespace, with its loopback interface up. save puts it on record: before it
// exists, so that a process which dies in between leaves nothing that CleanUp cannot find, and
// again when its inode is known.
func (s *Namespace) create(ctx context.Context, save func() error) error {
	if _, err := os.Stat(namespacePath(s.name)); err == nil {
		return fmt.Errorf("network namespace %s exists and is not ours; choose another name", s.name)
	}
	if err := save(); err != nil {
		return err
	}
	if err := ip(ctx, "", "netns add "+s.name); err != nil {
		return err
	}
	file, err := os.Open(namespacePath(s.name))
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", s.name, err)
	}
	s.file = file
	if err := save(); err != nil {
		return err
	}
	return ip(ctx, s.name, "link set lo up")
}

// OpenNamespace is the network namespace at a path, such as /run/netns/NAME.
func OpenNamespace(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Namespace{file: file}, nil
}

// thisNamespace is the network namespace that this process lives in.
func thisNamespace() (*Namespace, error) { return OpenNamespace("/proc/thread-self/ns/net") }

// newNamespace makes a network namespace without a name, in which nothing is up. It is gone when it
// was closed and no process is inside, however those ended.
func newNamespace() (*Namespace, error) {
	here, err := thisNamespace()
	if err != nil {
		return nil, err
	}
	defer here.close()
	var s *Namespace
	err = here.Do(func() error { // a thread that moves away is moved back
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w; run as root", err)
		}
		s, err = thisNamespace()
		return err
	})
	return s, err
}

// record is what CleanUp has to know. The inode is 0 while the namespace is being made.
func (s *Namespace) record() (NamespaceState, error) {
	r := NamespaceState{Name: s.name}
	if s.file == nil {
		return r, nil
	}
	var err error
	r.Inode, err = inode(s.file)
	return r, err
}

// close lets go of the namespace.
func (s *Namespace) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// Name is the name of the network namespace, as `ip netns exec` takes it.
func (s *Namespace) Name() string { return s.name }

// Command is a program that will run inside the namespace. It is killed when ctx ends and, if it
// still runs then, by Network.Close.
func (s *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip",
		append([]string{"netns", "exec", s.name, name}, args...)...)
}

// Do calls f on a thread that is inside the namespace: sockets that f makes belong to it for
// their whole life. Goroutines that f starts are outside.
func (s *Namespace) Do(f func() error) error { return inNamespace(s.file, f) }

// Dial connects from inside the namespace. The address has a literal IP: looking up a name
// happens outside.
func (s *Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := s.Do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// noDuplicateDetection makes the link-local address of an interface usable at once; router
// advertisements are sent from it.
func (s *Namespace) noDuplicateDetection(link string) error {
	return s.Do(func() error {
		path := "/proc/sys/net/ipv6/conf/" + link + "/accept_dad"
		if err := os.WriteFile(path, []byte("0"), 0); err != nil {
			return fmt.Errorf("switch duplicate address detection off: %w", err)
		}
		return nil
	})
}

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
