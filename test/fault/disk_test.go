package fault

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ingot/internal/testkit"
)

// smallDisk mounts an empty file system of so many MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Fatalf("mount a tmpfs: %v; run the tests as root", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// outlives puts something in the way of the database while an image is written, and removes it.
// Meanwhile the API answers: what is asked for, and 503 with the words where it had to write.
func outlives(s *site, put, remove func(), words string) {
	s.t.Helper()
	s.enroll()
	s.ok("POST", "/v1/nodes", object{"driver": "ipmi", "name": "other"})
	v := newValve(held)
	s.machine.behave(manner{valve: v})
	s.verb("active")
	<-v.reached
	put()
	// Room that is left may do for smaller changes.
	for _, size := range []int{100 << 10, 10 << 10, 1} {
		for n := 0; ; n++ {
			status, answer := s.do("PATCH", "/v1/nodes/other", []object{{"op": "add",
				"path": fmt.Sprintf("/extra/%d-%d", size, n), "value": strings.Repeat("x", size)}})
			if status == 503 {
				wantWords(s.t, "answer", faultText(s.t, answer), []string{words})
				break
			}
			if status != 200 || n == 1000 {
				s.t.Fatalf("change %d of %d bytes: %d %s", n, size, status, answer)
			}
		}
	}
	s.refused("POST", "/v1/nodes", object{"driver": "ipmi", "name": "third"}, 503, words)
	s.onRecord("deploying")
	before := len(s.log.String())
	close(v.open)
	s.until("the deployment meets the obstacle", func() bool {
		return strings.Contains(s.log.String()[before:], words)
	})
	s.onRecord("deploying", "wait call-back")
	remove()
	s.deployed()
	s.ok("POST", "/v1/nodes", object{"driver": "ipmi", "name": "third"})
	if strings.Contains(s.log.String(), "journal entries lost") {
		s.t.Error("entries of the journal were lost")
	}
	s.until("the journal is complete", func() bool {
		return strings.Contains(s.journal(), "deploying → active")
	})
}

// onRecord checks that the node is in one of the states, as far as the database can be read: a
// connection that was not open before cannot be opened on a file system without writes.
func (s *site) onRecord(states ...string) {
	s.t.Helper()
	status, answer := s.do("GET", "/v1/nodes/"+nodeName, nil)
	switch {
	case status == http.StatusServiceUnavailable &&
		bytes.Contains(answer, []byte("the database cannot be used")):
	case status != http.StatusOK || !slices.ContainsFunc(states, func(state string) bool {
		return bytes.Contains(answer, []byte(`"provision_state":"`+state+`"`))
	}):
		s.t.Errorf("GET: %d, wanted state %q: %s", status, states, answer)
	}
}

func TestADeploymentOutlivesAFullDiskUnderTheDatabase(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 16)
	s := newSite(t, func(s *site, _ *int64) { s.cfg.Store.Path = filepath.Join(dir, "ingot.db") })
	ballast := filepath.Join(dir, "ballast")
	outlives(s, func() {
		if err := os.WriteFile(ballast, make([]byte, 16<<20), 0o600); err == nil {
			t.Fatal("the file system is larger than asked for")
		}
	}, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}, "make room there")
}

// The file system is one that keeps its promise also for files that are open.
func TestADeploymentOutlivesAReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	disk, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	testkit.Run(t, "mkfs.ext4", "-q", disk, "64M")
	testkit.Run(t, "mount", "-o", "loop", disk, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "ingot.db")
	s := newSite(t, func(s *site, _ *int64) { s.cfg.Store.Path = path })
	t.Cleanup(func() { // or the server could not end where the test failed
		_ = exec.Command("chattr", "-i", path, path+"-wal", path+"-shm").Run()
	})
	outlives(s, func() { testkit.Run(t, "chattr", "+i", path, path+"-wal", path+"-shm") },
		func() { testkit.Run(t, "chattr", "-i", path, path+"-wal", path+"-shm") },
		"see to it that its file system is writable")
}

func TestAFullSpoolFailsTheDeploymentAndNoOther(t *testing.T) {
	t.Parallel()
	spool := smallDisk(t, 130) // of which 128 MiB are left free
	s := newSite(t, func(s *site, _ *int64) { s.cfg.Image.Spool = spool })
	s.enroll()
	packed := qcow2Of(t, s)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(packed)
	}))
	t.Cleanup(web.Close)
	info := object{"image_source": web.URL + "/disk.qcow2", "image_os_hash_algo": "sha256",
		"image_os_hash_value": digest(packed)}
	s.setImage(info)
	s.verb("active")
	s.failed("the file system of the spool directory "+spool, "make room there",
		"publish the image as raw")
	if left, err := os.ReadDir(spool); err != nil || len(left) > 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
	if err := unix.Mount("tmpfs", spool, "tmpfs", unix.MS_REMOUNT, "size=256m"); err != nil {
		t.Fatal(err)
	}
	s.machine.behave(manner{})
	s.verb("active")
	s.deployed()
}

// qcow2Of is the site's image as qcow2.
func qcow2Of(t *testing.T, s *site) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	testkit.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2",
		filepath.Join(s.dir, "images", "disk.raw"), path)
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func TestACompressedBombIsNotWritten(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	pack := func(content []byte) []byte {
		var packed bytes.Buffer
		zip := gzip.NewWriter(&packed)
		if _, err := zip.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := zip.Close(); err != nil {
			t.Fatal(err)
		}
		return packed.Bytes()
	}
	// Parts that follow each other are one file to gzip: 64 GiB of zeros in 64 MiB.
	bomb := slices.Concat(pack(s.image[:1<<20]),
		bytes.Repeat(pack(make([]byte, 1<<20)), 64<<10))
	info := s.goodImage()
	info["image_source"] = "file://" + s.file("bomb.raw.gz", bomb)
	info["image_os_hash_value"] = digest(bomb)
	s.setImage(info)
	s.verb("active")
	s.failed("write_image", "the disk has only 8388608")
	s.recovers()
}

func TestAnImageThatDoesNotStandAloneOrLiesIsNotWritten(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	good := qcow2Of(t, s)
	backed := filepath.Join(t.TempDir(), "backed.qcow2")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b",
		filepath.Join(s.dir, "images", "disk.raw"), backed)
	child, err := os.ReadFile(backed)
	if err != nil {
		t.Fatal(err)
	}
	larger := bytes.Clone(good)
	larger[27] = 1 // 4 GiB more than there is
	smaller := bytes.Clone(good)
	smaller[39] = 0 // no L1 entries for the size
	for name, c := range map[string]struct {
		content []byte
		words   []string
	}{
		"child":   {child, []string{"backing file", "qemu-img convert"}},
		"larger":  {larger, []string{"virtual size", "the file is damaged"}},
		"smaller": {smaller, []string{"L1 table", "the file is damaged"}},
		"half":    {good[:len(good)/2], []string{"the file is truncated", "fetch it again"}},
	} {
		info := s.goodImage()
		info["image_source"] = "file://" + s.file(name+".qcow2", c.content)
		info["image_os_hash_value"] = digest(c.content)
		s.setImage(info)
		s.verb("active")
		s.failed(c.words...)
	}
	s.recovers()
}
