package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/testkit"
)

// inTheWay checks that nothing can be written, that the error says what to do, that rows can be
// read, and that everything works once the obstacle is removed.
func inTheWay(t *testing.T, s *store.Store, n *ingot.Node, remove func(), words string) {
	t.Helper()
	for range 3 { // what failed before must not stand in the way
		n.LastError = strings.Repeat("x", 4096)
		err := s.UpdateNode(t.Context(), n)
		wantKind(t, err, ingot.Unavailable)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("error %v lacks %q", err, words)
		}
	}
	got, err := s.Node(t.Context(), n.UUID)
	if err != nil || got.LastError != "" {
		t.Errorf("read %v, %v; want the row as it was", got, err)
	}
	remove()
	if err := s.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	got, err = s.Node(t.Context(), n.UUID)
	if err != nil || got.LastError != n.LastError {
		t.Errorf("read %v, %v; want the row as written", got, err)
	}
}

func TestAFullFileSystemIsToldAndForgotten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mount a tmpfs: %v; run the tests as root", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := openAt(t, filepath.Join(dir, "ingot.db"))
	n := create(t, s, newNode(1))
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("the file system is larger than asked for")
	}
	inTheWay(t, s, n, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}, "make room there")
}

// The file system is one that keeps its promise also for files that are open.
func TestAFileThatBecomesReadOnlyIsToldAndForgotten(t *testing.T) {
	t.Parallel()
	disk, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	testkit.Run(t, "mkfs.ext4", "-q", disk, "16M")
	testkit.Run(t, "mount", "-o", "loop", disk, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "ingot.db")
	s := openAt(t, path)
	n := create(t, s, newNode(1))
	if _, err := s.Node(t.Context(), n.UUID); err != nil { // opens what is read through
		t.Fatal(err)
	}
	testkit.Run(t, "chattr", "+i", path, path+"-wal", path+"-shm")
	inTheWay(t, s, n, func() {
		testkit.Run(t, "chattr", "-i", path, path+"-wal", path+"-shm")
	}, "see to it that its file system is writable")
}

func TestAFileThatIsReadOnlyStopsTheStartWithWords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "ingot.db")
	s := openAt(t, path)
	create(t, s, newNode(1))
	// A mount of the directory over itself; root may write whatever the modes are.
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount: %v; run the tests as root", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	_, err := store.Open(t.Context(), store.Options{Path: path})
	if err == nil || !strings.Contains(err.Error(), "[store] path has to name a file this user may "+
		"write") {
		t.Errorf("error %v", err)
	}
	remount(0)
	if _, err := openAt(t, path).Node(t.Context(), uuid(1)); err != nil {
		t.Error(err)
	}
}
