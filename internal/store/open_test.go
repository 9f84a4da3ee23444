package store_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

// childEnv makes this test program write to the store it names until it is killed.
const childEnv = "INGOT_STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		if err := writeForever(path); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	os.Exit(storetest.Main(m))
}

// writeForever creates nodes and says so, one line each, after the store has said yes.
func writeForever(path string) error {
	ctx := context.Background()
	s, err := store.Open(ctx, store.Options{Path: path})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		n := newNode(i)
		if err := s.CreateNode(ctx, n); err != nil {
			return err
		}
		if _, err := s.Reserve(ctx, n.UUID, "killed"); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

func TestWhatWasAcknowledgedSurvivesAKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	last := ""
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if last = lines.Text(); last == "20" {
			child.Process.Kill() // SIGKILL, in the middle of what comes next
		}
	}
	child.Wait()
	var acknowledged int
	if _, err := fmt.Sscan(last, &acknowledged); err != nil || acknowledged < 20 {
		t.Fatalf("the child said %q last", last)
	}
	s := openAt(t, path)
	for i := range acknowledged + 1 {
		n, err := s.Node(t.Context(), uuid(i))
		if err != nil {
			t.Errorf("node %d was acknowledged: %v", i, err)
		} else if n.Reservation != "killed" {
			t.Errorf("the reservation of node %d was acknowledged", i)
		}
	}
	if count, err := storetest.ReleaseAll(t.Context(), s, "killed"); err != nil || count < acknowledged {
		t.Errorf("released %d, %v; want %d or more", count, err, acknowledged)
	}
}

func TestTheFileIsForItsUserOnly(t *testing.T) {
	t.Parallel()
	// Names that mean something in URLs are names like others.
	path := filepath.Join(t.TempDir(), "a ?b#c%41.db")
	s := openAt(t, path)
	create(t, s, newNode(1))
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", filepath.Base(name), info.Mode())
		}
	}
}

func TestAPathThatCannotBeUsedIsExplained(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("no database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken")
	s := openAt(t, broken)
	create(t, s, newNode(1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(broken)
	if err != nil {
		t.Fatal(err)
	}
	for i := 100; i < 4096; i++ { // the schema, behind a sound header
		text[i] = 0xa5
	}
	if err := os.WriteFile(broken, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, says string }{
		"no path":      {"", "set path"},
		"no directory": {filepath.Join(dir, "none", "db"), "directory that exists"},
		"a directory":  {dir, "name a file"},
		"no database":  {garbage, "restore a backup"},
		"broken":       {broken, "restore a backup"},
	} {
		s, err := store.Open(t.Context(), store.Options{Path: c.path})
		if err == nil {
			s.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: error %q does not name the path and say %q", name, err, c.says)
		}
	}
}

func TestACancelledWriterLeavesTheStoreUsable(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.UpdateNode(ctx, n); err == nil {
		t.Error("an update under a context that has ended succeeded")
	}
	if n.Generation != 1 {
		t.Errorf("generation %d after an update that failed", n.Generation)
	}
	if err := s.UpdateNode(t.Context(), n); err != nil {
		t.Error(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAWriterOfAnotherProcessIsWaitedFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	s := openAt(t, path)
	n := create(t, s, newNode(1))
	other, err := raw(t, path).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.UpdateNode(t.Context(), n) }()
	if _, err := s.Node(t.Context(), n.UUID); err != nil {
		t.Errorf("a reader waits for a writer: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Ping(short); err == nil {
		t.Error("ping says that rows can be written while another process keeps the lock")
	}
	if _, err := other.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("update after the other writer: %v", err)
	}
	if got := ingot.KindOf(s.Ping(t.Context())); got != "" {
		t.Errorf("ping afterwards: %s", got)
	}
}
