package cpio_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/cpio"
)

func entries() []cpio.Entry {
	return []cpio.Entry{
		cpio.Dir("etc", 0o755),
		cpio.File("etc/odd", 0o644, []byte("12345")),
		cpio.File("etc/empty", 0o600, nil),
		cpio.File("init", 0o755, bytes.Repeat([]byte{0xff, 0}, 3000)),
		cpio.Symlink("link", "etc/odd"),
		cpio.Dir("dev", 0o755),
		cpio.CharDevice("dev/console", 0o600, 5, 1),
	}
}

func archive(t *testing.T, list []cpio.Entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := cpio.NewWriter(&out)
	for _, e := range list {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// foreign runs the cpio program on an archive.
func foreign(t *testing.T, dir string, data []byte, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Fatal("cpio is not installed: run scripts/packages.sh")
	}
	cmd := exec.Command("cpio", append([]string{"--quiet"}, args...)...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(data)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() != 0 {
		t.Fatalf("cpio %v: %v: %s", args, err, stderr.String())
	}
	return string(out)
}

func TestCpioProgramListsEveryEntryWithModeAndDevice(t *testing.T) {
	t.Parallel()
	out := foreign(t, t.TempDir(), archive(t, entries()), "-itv")
	var got []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		name := f[len(f)-1]
		if f[0][0] == 'l' {
			name = strings.Join(f[len(f)-3:], " ")
		}
		if f[0][0] == 'c' || f[0][0] == 'b' {
			name = f[4] + f[5] + " " + name
		}
		got = append(got, f[0]+" "+name)
	}
	want := []string{
		"drwxr-xr-x etc", "-rw-r--r-- etc/odd", "-rw------- etc/empty", "-rwxr-xr-x init",
		"lrwxrwxrwx link -> etc/odd", "drwxr-xr-x dev",
		"crw------- 5,1 dev/console",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("listing is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCpioProgramExtractsTheSameBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var list []cpio.Entry // devices need privilege to extract
	for _, e := range entries() {
		if e.Dev == [2]uint32{} {
			list = append(list, e)
		}
	}
	foreign(t, dir, archive(t, list), "-i")
	for _, e := range list {
		full := filepath.Join(dir, e.Name)
		info, err := os.Lstat(full)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case info.Mode().IsRegular():
			got, err := os.ReadFile(full)
			if err != nil || !bytes.Equal(got, e.Data) {
				t.Errorf("%s: %d bytes, want %d (%v)", e.Name, len(got), len(e.Data), err)
			}
		case info.Mode()&os.ModeSymlink != 0:
			if got, _ := os.Readlink(full); got != string(e.Data) {
				t.Errorf("%s points to %q, want %q", e.Name, got, e.Data)
			}
		}
	}
}

func TestSameEntriesGiveSameBytes(t *testing.T) {
	t.Parallel()
	a, b := archive(t, entries()), archive(t, entries())
	if !bytes.Equal(a, b) {
		t.Error("two archives of the same entries differ")
	}
	if len(a)%512 != 0 {
		t.Errorf("archive has %d bytes, want a multiple of 512", len(a))
	}
}

func TestNamesThatLeaveTheTreeAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "/init", "../init", "..", "a/../b", "a/", "a\x00b",
		"TRAILER!!!"} {
		if err := cpio.NewWriter(new(bytes.Buffer)).Add(cpio.File(name, 0o644, nil)); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	if err := cpio.NewWriter(new(bytes.Buffer)).Add(cpio.Entry{Name: "a"}); err == nil {
		t.Error("an entry without a file type was accepted")
	}
	dir := cpio.Dir("d", 0o755)
	dir.Data = []byte("x")
	if err := cpio.NewWriter(new(bytes.Buffer)).Add(dir); err == nil {
		t.Error("a directory with data was accepted")
	}
}

func TestNothingIsAddedAfterClose(t *testing.T) {
	t.Parallel()
	w := cpio.NewWriter(new(bytes.Buffer))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Add(cpio.Dir("d", 0o755)); !errors.Is(err, cpio.ErrClosed) {
		t.Errorf("error is %v, want ErrClosed", err)
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteErrorsArriveAtTheCaller(t *testing.T) {
	t.Parallel()
	w := cpio.NewWriter(brokenWriter{})
	if err := w.Add(cpio.Dir("d", 0o755)); !errors.Is(err, errBroken) {
		t.Errorf("error is %v, want the writer's", err)
	}
	if err := w.Close(); !errors.Is(err, errBroken) {
		t.Errorf("error of Close is %v, want the writer's", err)
	}
}
