package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/ingot"
	"ingot/internal/publish"
	"ingot/internal/testkit"
)

const (
	node  = "1be26c0b-03f2-4d2e-ae87-c02d7f33c123"
	other = "1be26c0b-03f2-4d2e-ae87-c02d7f33c124"
)

func medium(kind publish.Kind, tag string) publish.Medium {
	return publish.Medium{Kind: kind, Node: node, Tag: tag, Attempt: "5f3a9c01", Boot: 1}
}

// names are what is in the folder of media below a root.
func names(t *testing.T, root string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, "redfish"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// nginx serves a directory, and returns its URL.
func nginx(t *testing.T, dir string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	own := t.TempDir()
	config := filepath.Join(own, "nginx.conf")
	text := fmt.Sprintf(`user www-data;
daemon off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s;
	uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server { listen %[2]s; root %[3]s; autoindex on; }
}
`, own, address, dir)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nginx", "-c", config)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = t.Output(), t.Output(), 10*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; install it: scripts/packages.sh", err)
	}
	t.Cleanup(func() {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		cmd.Wait()
	})
	testkit.Eventually(t, "nginx answers", func() bool {
		resp, err := testkit.Web.Get("http://" + address)
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	return "http://" + address
}

// get is what is at a URL, by ranges.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Range", "bytes=1-3")
	resp, err := testkit.Web.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// The operator's web server serves what is written, and nobody can list it.
func TestS3_7_AnotherWebServerServesMedia(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for dir := root; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f := publish.Folder{Root: root, URL: nginx(t, root)}
	content := strings.NewReader("0123456789")
	for _, m := range []publish.Medium{medium(publish.Boot, "aa11"), medium(publish.Boot, "aa12"),
		medium(publish.Floppy, "bb22")} {
		for range 2 { // again is the same
			url, err := f.Put(t.Context(), m, content)
			if err != nil {
				t.Fatal(err)
			}
			if status, body := get(t, url); status != http.StatusPartialContent || body != "123" {
				t.Errorf("%s: %d %q", url, status, body)
			}
			if !strings.HasPrefix(url, f.URL+"/redfish/"+string(m.Kind)+"-"+node+"-"+m.Tag+".i") {
				t.Errorf("its URL is %s", url)
			}
		}
	}
	if got, want := names(t, root), []string{"boot-" + node + "-aa12.iso", "image-" + node + "-bb22.img"}; !slices.Equal(got, want) {
		t.Errorf("there are %v", got)
	}
	info, err := os.Stat(filepath.Join(root, "redfish", "boot-"+node+"-aa12.iso"))
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if status, body := get(t, f.URL+"/redfish/"); status != http.StatusForbidden && os.Getuid() != 0 {
		t.Errorf("the list of media: %d %s", status, body)
	}
}

func TestS3_4_MediaAreRemovedFromWhereTheyWerePut(t *testing.T) {
	t.Parallel()
	before, now := publish.Folder{Root: t.TempDir()}, publish.Folder{Root: t.TempDir()}
	m := medium(publish.Boot, "aa11")
	stranger := m
	stranger.Node = other
	for _, put := range []publish.Medium{m, stranger} {
		if _, err := before.Put(t.Context(), put, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	// The configuration has changed since.
	r := &publish.Remover{Folder: &now}
	record, ok := publish.ParseRecord(before.Record(m).Object())
	if !ok {
		t.Fatal("the record cannot be read")
	}
	if strings.Contains(fmt.Sprint(record), m.Tag) {
		t.Errorf("the record tells the URL: %v", record)
	}
	for range 2 { // what is gone is removed
		if err := r.Remove(t.Context(), record); err != nil {
			t.Error(err)
		}
	}
	if got := names(t, before.Root); !slices.Equal(got, []string{"boot-" + other + "-aa11.iso"}) {
		t.Errorf("there are %v", got)
	}
	if err := r.Remove(t.Context(), now.Record(m)); err != nil {
		t.Errorf("where nothing was put: %v", err)
	}
}

// full is a directory on a disk with room for little.
func full(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestAMediumThatDoesNotFitLeavesNothing(t *testing.T) {
	t.Parallel()
	f := publish.Folder{Root: full(t, "size=1m")}
	small, large := bytes.NewReader(make([]byte, 200_000)), bytes.NewReader(make([]byte, 3<<20))
	if _, err := f.Put(t.Context(), medium(publish.Boot, "aa11"), small); err != nil {
		t.Fatal(err)
	}
	_, err := f.Put(t.Context(), medium(publish.Boot, "aa12"), large)
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "make room there") {
		t.Errorf("put: %v", err)
	}
	if got := names(t, f.Root); !slices.Equal(got, []string{"boot-" + node + "-aa11.iso"}) {
		t.Errorf("there are %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Put(ctx, medium(publish.Boot, "aa13"), small); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := f.Check(); err != nil {
		t.Errorf("a full disk is one to write to: %v", err)
	}
	f.Root = filepath.Join(f.Root, "missing")
	if err := f.Check(); ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "[deploy] http_root has to be") {
		t.Errorf("check without the directory: %v", err)
	}
	if _, err := f.Put(t.Context(), medium(publish.Boot, "aa13"), small); err == nil ||
		strings.Contains(err.Error(), "aa13") || !strings.Contains(err.Error(), "[deploy] http_root") {
		t.Errorf("without the directory: %v", err)
	}
}

// What a conductor has left that died is removed once no node needs it; files of others stay.
func TestNothingIsLeftForEver(t *testing.T) {
	t.Parallel()
	f := publish.Folder{Root: t.TempDir()}
	none := func(string) (bool, error) { return false, nil }
	if err := f.Sweep(none); err != nil {
		t.Errorf("before the first medium: %v", err)
	}
	if err := os.Mkdir(filepath.Join(f.Root, "redfish"), 0o755); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * time.Hour)
	for name, made := range map[string]time.Time{"boot-" + node + "-aa.iso": long, "image-" + node + "-bb.img": long,
		"boot-" + other + "-cc.iso": long, "boot-" + node + "-dd.iso": time.Now(), ".part-1": long, "boot.iso": long,
		".part-2": time.Now()} {
		path := filepath.Join(f.Root, "redfish", name)
		if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Chtimes(path, made, made)); err != nil {
			t.Fatal(err)
		}
	}
	broken := errors.New("no database")
	if err := f.Sweep(func(string) (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("not knowing: %v", err)
	}
	if err := f.Sweep(func(n string) (bool, error) { return n == other, nil }); err != nil {
		t.Fatal(err)
	}
	want := []string{".part-2", "boot-" + node + "-dd.iso", "boot-" + other + "-cc.iso", "boot.iso"}
	if got := names(t, f.Root); !slices.Equal(got, want) {
		t.Errorf("there are %v", got)
	}
}
