package fault

import (
	"errors"
	"io/fs"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ingot/internal/testkit"
)

// What follows is no fault but the rest of doc/statements.md that needs a whole server.

func TestS1_2_TheScriptIsOpenToAllOnBothSockets(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	s.machine.behave(manner{silent: true})
	s.verb("active")
	s.await("wait call-back")
	want := s.script(mac)
	if !strings.Contains(want, "\nkernel ") {
		t.Fatalf("no script of a ramdisk:\n%s", want)
	}
	for _, url := range []string{s.boot, s.api} {
		for _, query := range []string{"node_uuid=" + s.text("uuid"), "port_address=" + mac} {
			url := url + "/v1/drivers/ipmi/vendor_passthru/ipxe_config?" + query
			got, err := fetch(t.Context(), url) // without credentials or any header of ours
			if err != nil || got != want {
				t.Errorf("%s: %v\n%s", url, err, got)
			}
		}
	}
}

// boot.ipxe is computed for DHCP servers that are not ours; no deployment asks for it, and nothing
// of it is on a disk.
func TestS1_6_ThereIsNoStaticScript(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	s.verb("active")
	s.deployed()
	for _, path := range []string{"/programs/boot.ipxe", "/files/boot.ipxe"} {
		resp, err := testkit.Web.Get(s.boot + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for _, path := range s.files() {
		if strings.HasSuffix(path, ".ipxe") {
			t.Errorf("file %s", path)
		}
	}
}

func TestS1_9_NothingIsWrittenForAMachine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	s.machine.behave(manner{silent: true})
	s.verb("active")
	s.await("wait call-back")
	prepared := s.files()
	held := regexp.MustCompile(`^boot/[0-9a-f]{64}$`)
	for _, path := range prepared {
		if !held.MatchString(path) {
			t.Errorf("file %s is no kernel or ramdisk held by digest", path)
		}
	}
	if len(prepared) != 2 {
		t.Errorf("files %q, want the kernel and the ramdisk", prepared)
	}
	s.verb("deleted")
	s.await("available")
	if after := s.files(); !slices.Equal(after, prepared) {
		t.Errorf("files %q before the clean-up, %q after it", prepared, after)
	}
}

// files is what the server keeps in its directory beside its database and the test's images.
func (s *site) files() []string {
	s.t.Helper()
	var files []string
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(s.dir, path)
		if !strings.HasPrefix(name, "ingot.db") && !strings.HasPrefix(name, "images/") {
			files = append(files, name)
		}
		return err
	})
	// The database's journal may vanish while the directory is read.
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	return files
}

func TestS1_10_ScriptsNeedNothingOnTheServersDisk(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	s.machine.behave(manner{silent: true})
	elsewhere := func(cache string) {
		t.Helper()
		// The trace names one answer, not what it says.
		trace := regexp.MustCompile(`, trace [0-9a-f]{8}\n`)
		before := trace.ReplaceAllString(s.script(mac), "\n")
		s.kill()
		s.cfg.Boot.Cache = filepath.Join(s.dir, cache)
		s.serve()
		if after := trace.ReplaceAllString(s.script(mac), "\n"); after != before {
			t.Errorf("%s: the script was\n%s\nand is, without the files of the server,\n%s",
				s.text("provision_state"), before, after)
		}
	}
	s.verb("active")
	s.await("wait call-back")
	elsewhere("second")
	s.verb("deleted")
	s.await("available")
	s.recovers()
	elsewhere("third")
	if !strings.Contains(s.script(mac), "sanboot") {
		t.Errorf("script of an active node:\n%s", s.script(mac))
	}
}
