package lab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestDirectoryThatIsNotOfALabIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := &Server{dir: filepath.Join(t.TempDir(), "server")}
	write := func(path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.empty(); err != nil {
		t.Fatalf("a directory that does not exist: %v", err)
	}
	if err := s.empty(); err != nil {
		t.Fatalf("an empty directory: %v", err)
	}
	foreign := filepath.Join(s.dir, "ledger")
	write(foreign)
	if err := s.empty(); err == nil {
		t.Error("a directory of somebody else was taken")
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("the file of somebody else: %v", err)
	}
	write(s.config())
	if err := s.empty(); err != nil {
		t.Fatalf("a directory of an earlier lab: %v", err)
	}
	if _, err := os.Stat(foreign); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what an earlier lab left is still there (%v)", err)
	}
}
