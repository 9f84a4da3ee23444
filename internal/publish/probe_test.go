package publish_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/publish"
)

// openDir lets nginx, which runs as another user, read a directory.
func openDir(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for dir := root; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// nobodyAt is a URL at which nobody listens.
func nobodyAt(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return "http://" + l.Addr().String()
}

// silentAt is a URL at which nobody answers.
func silentAt(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "http://" + l.Addr().String()
}

func TestTheWebServerIsProbed(t *testing.T) {
	t.Parallel()
	root, elsewhere := openDir(t), openDir(t)
	url := nginx(t, root)
	secret := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("<html>sign in</html>"))
	}))
	t.Cleanup(secret.Close)
	for name, c := range map[string]struct {
		folder publish.Folder
		kind   ingot.Kind
		says   string
	}{
		"right":             {publish.Folder{Root: root, URL: url}, "", ""},
		"another directory": {publish.Folder{Root: elsewhere, URL: url}, ingot.Invalid, "that answers 404 Not Found. Have the web"},
		"another path":      {publish.Folder{Root: root, URL: url + "/x"}, ingot.Invalid, "is not what BMCs read at " + url + "/x"},
		"somebody else":     {publish.Folder{Root: root, URL: secret.URL}, ingot.Invalid, "that answers with something else"},
		"nobody":            {publish.Folder{Root: root, URL: nobodyAt(t)}, ingot.Unavailable, "start the web server there, or correct [deploy] http_url"},
		"no directory":      {publish.Folder{Root: root + "/none", URL: url}, ingot.Invalid, "[deploy] http_root has to be a directory"},
		// Who cannot be reached from here may be one that BMCs reach.
		"no answer":       {publish.Folder{Root: root, URL: silentAt(t)}, "", ""},
		"an unknown name": {publish.Folder{Root: root, URL: "http://web.invalid"}, "", ""},
		// There is nothing to put yet.
		"full disk": {publish.Folder{Root: full(t, "size=4k,nr_inodes=2"), URL: url}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.folder.Probe(t.Context())
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
			} else if ingot.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "image-") {
				t.Errorf("%s: %v", ingot.KindOf(err), err)
			}
			if left := names(t, c.folder.Root); len(left) != 0 && name != "right" && c.folder.Root != root {
				t.Errorf("left: %v", left)
			}
		})
	}
	t.Cleanup(func() {
		if left := names(t, root); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// A medium on another host is not said to be removed.
func TestAMediumOfAHostWithAnotherDirectoryIsNotCalledRemoved(t *testing.T) {
	t.Parallel()
	r := &publish.Remover{}
	gone := publish.Folder{Root: filepath.Join(t.TempDir(), "none")}
	err := r.Remove(t.Context(), gone.Record(medium(publish.Boot, "aa11")))
	if err == nil || !strings.Contains(err.Error(), "this host has no such directory") {
		t.Errorf("removed: %v", err)
	}
}
