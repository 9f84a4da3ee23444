package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/ingot"
	"ingot/internal/testkit"
)

// writerDir names the directory in which a copy of the test program writes until it is killed.
const writerDir = "INGOT_TREE_TEST_DIR"

// WriteForEver puts and removes files as long as it lives.
func WriteForEver(dir string) error {
	r, err := openRoot(dir)
	if err != nil {
		return err
	}
	fmt.Println("begun")
	for i := 0; ; i++ {
		n := i % 7
		put := map[string]content{
			fmt.Sprintf("pxelinux.cfg/%d", n):  {text: strings.Repeat("secret key\n", i%50)},
			fmt.Sprintf("%d/config", n):        {text: fmt.Sprint("secret key ", i)},
			fmt.Sprintf("files/%d/vmlinuz", n): {file: dir + ".kernel"},
			fmt.Sprintf("grub/grub.cfg-%d", n): {text: "secret key"},
		}
		if err := r.put(put); err != nil {
			return err
		}
		gone := (i + 3) % 7
		err := r.remove([]string{fmt.Sprintf("pxelinux.cfg/%d", gone), fmt.Sprintf("%d/config", gone),
			fmt.Sprintf("files/%d/vmlinuz", gone), fmt.Sprintf("grub/grub.cfg-%d", gone)})
		if err != nil {
			return err
		}
	}
}

func open(t *testing.T, dir string) *root {
	t.Helper()
	r, err := openRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

func write(t *testing.T, path, text string) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
	if err != nil {
		t.Fatal(err)
	}
}

// files are all files below a directory, without manifest and lock.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err == nil && name != "." && name != ownDir && !strings.HasPrefix(name, ownDir+"/") {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A process that is killed between any two writes leaves nothing that the next one does not find: what
// is wanted becomes whole, and the rest goes, also where it was not yet in place.
func TestWhatAKilledProcessLeavesIsFound(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	dir := filepath.Join(t.TempDir(), "tree")
	write(t, dir+".kernel", "kernel")
	write(t, filepath.Join(dir, "pxelinux.cfg/site"), "the site's own")
	for range 12 {
		writer := exec.Command(os.Args[0], "-test.run=^$")
		writer.Env = append(os.Environ(), writerDir+"="+dir)
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 5)); err != nil {
			t.Fatal("the writer did not begin")
		}
		timer := time.NewTimer(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		<-timer.C
		if err := writer.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		writer.Wait()
	}
	r := open(t, dir)
	want := map[string]content{"1/config": {text: "new"}, "files/1/vmlinuz": {file: dir + ".kernel"}}
	if err := r.put(want); err != nil {
		t.Fatal(err)
	}
	if err := r.sweep(map[string]bool{"1/config": true, "files/1/vmlinuz": true}); err != nil {
		t.Fatal(err)
	}
	left := []string{"1", "1/config", "files", "files/1", "files/1/vmlinuz", "pxelinux.cfg",
		"pxelinux.cfg/site"}
	if got := files(t, dir); !slices.Equal(got, left) {
		t.Errorf("there are %q", got)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "1/config")); err != nil || string(text) != "new" {
		t.Errorf("the page is %q, %v", text, err)
	}
}

func TestWhatOthersHavePutThereStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"boot.ipxe": "theirs", "pxelinux.0": "same",
		"a/b": "theirs", "c/d/e": "theirs"} {
		write(t, filepath.Join(dir, name), text)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir)
	err := r.put(map[string]content{"boot.ipxe": {text: "ours"}, "a": {text: "ours"},
		"pxelinux.0": {file: filepath.Join(dir, "pxelinux.0")}, "c/x": {text: "ours"},
		"empty/x": {text: "ours"}})
	if foreign := (*foreignError)(nil); !errors.As(err, &foreign) {
		t.Errorf("put: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "c/x")); string(text) != "ours" {
		t.Errorf("what is in nobody's way is %q, %v", text, err)
	}
	for range 2 { // in the next life, too
		if err := r.sweep(nil); err != nil {
			t.Fatal(err)
		}
		want := []string{"a", "a/b", "boot.ipxe", "c", "c/d", "c/d/e", "empty", "pxelinux.0"}
		if got := files(t, dir); !slices.Equal(got, want) {
			t.Errorf("there are %q", got)
		}
		r.close()
		r = open(t, dir)
	}
	for _, name := range []string{"../out", ".ingot/manifest", "/etc/x", "a/../../x", "x/.ingot-y", ""} {
		if err := r.put(map[string]content{name: {text: "x"}}); ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("put at %q: %v", name, err)
		}
	}
}

// Without its manifest a tree knows the pages that are as they shall be, and so their end, too.
func TestALostManifestLosesNoPage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	page := map[string]content{"x/config": {text: "secret key"}}
	r := open(t, dir)
	if err := r.put(page); err != nil {
		t.Fatal(err)
	}
	r.close()
	if err := os.RemoveAll(filepath.Join(dir, ownDir)); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir)
	if err := errors.Join(r.put(page), r.remove([]string{"x/config"})); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); !slices.Equal(got, []string{"x"}) {
		t.Errorf("there are %q", got)
	}
}

func TestTwoProcessesDoNotShareATree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	if _, err := openRoot(dir); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "another ingot") {
		t.Errorf("the second: %v", err)
	}
	first.close()
	open(t, dir)
	file := filepath.Join(dir, "file")
	write(t, file, "")
	if _, err := openRoot(file); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("what is no directory: %v", err)
	}
}

// On another file system kernels are copies, and a full one is said, harms no other file, and takes
// away what is not wanted.
func TestAFullDiskIsSaid(t *testing.T) {
	t.Parallel()
	dir, small := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	kernel, ramdisk := filepath.Join(dir, "kernel"), filepath.Join(dir, "ramdisk")
	write(t, kernel, strings.Repeat("k", 10_000))
	write(t, ramdisk, strings.Repeat("r", 500_000))
	r := open(t, small)
	put := map[string]content{"files/k": {file: kernel}, "a": {text: "page"}, "files/r": {file: ramdisk}}
	err := r.put(put)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "files/") {
		t.Errorf("put: %v", err)
	}
	for i := 0; err == nil || i < 100; i++ {
		err = r.put(map[string]content{fmt.Sprint(i): {text: strings.Repeat("x", 4000)}})
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("put: %v", err)
	}
	if err := r.remove([]string{"a"}); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := r.sweep(map[string]bool{"files/k": true, "files/r": true}); err != nil {
		t.Errorf("sweep: %v", err)
	}
	if got := files(t, small); !slices.Equal(got, []string{"files", "files/k"}) {
		t.Errorf("there are %q", got)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.put(put); err != nil {
			t.Error(err)
		}
	}
	before, err := os.Stat(filepath.Join(small, "files/r"))
	if err != nil || before.Size() != 500_000 {
		t.Fatalf("%v, %v", before, err)
	}
	// Another kernel under the same name is copied again.
	write(t, ramdisk, strings.Repeat("n", 500_000))
	if err := r.put(put); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(filepath.Join(small, "files/r")); !strings.HasPrefix(string(text), "nn") {
		t.Error("the copy is that of before")
	}
}

// FuzzManifest asks that no manifest names anything outside of the tree.
func FuzzManifest(f *testing.F) {
	f.Add([]byte("+a/b\n+a/\n-a/b\n"))
	f.Add([]byte("+../x\n+/etc/passwd\n+.ingot/lock\n+\n+a"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for name := range parseManifest(text) {
			if !filepath.IsLocal(name) || strings.HasPrefix(name, ownDir+"/") || name == "./" {
				t.Errorf("it owns %q", name)
			}
		}
	})
}
