package image_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

func TestCheckBelievesAServerThatSaysThereIsNothing(t *testing.T) {
	t.Parallel()
	for status, kind := range map[int]ingot.Kind{
		http.StatusOK: "", http.StatusNotFound: ingot.NotFound, http.StatusGone: ingot.NotFound,
		// These are about HEAD, or may be.
		http.StatusMethodNotAllowed: "", http.StatusNotImplemented: "",
		http.StatusForbidden: "", http.StatusInternalServerError: "",
	} {
		var asked atomic.Value
		url := handle(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Store(r.Method)
			w.WriteHeader(status)
		})
		err := image.Check(t.Context(), image.Reference{Source: url, Digest: sha256Of(nil)},
			options(t))
		if got := ingot.KindOf(err); got != kind || asked.Load() != http.MethodHead {
			t.Errorf("status %d: error %v after %v, want kind %q", status, err, asked.Load(), kind)
		}
		if kind != "" && !strings.Contains(err.Error(), "check image_source") {
			t.Errorf("status %d: error %q does not say what to do", status, err)
		}
	}
}

func TestCheckReportsASourceThatIsDown(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, nil)
	down := strings.Replace(url, "127.0.0.1", "127.0.0.99", 1)
	opt, notes := options(t), []string{}
	opt.Retries, opt.RetryDelay = 2, time.Millisecond
	opt.Note = func(text string) { notes = append(notes, text) }
	err := image.Check(t.Context(), image.Reference{Source: down, Digest: sha256Of(nil)}, opt)
	mustFail(t, err, ingot.Unavailable, "cannot reach the source", "deploy again")
	if len(notes) != 2 || !strings.Contains(notes[1], "asked for again in 2ms, 1 times at most") {
		t.Errorf("while it waited it said %q", notes)
	}
}

func TestCheckLooksAtFiles(t *testing.T) {
	t.Parallel()
	opt, dir := options(t), t.TempDir()
	opt.AllowedPaths = []string{dir}
	for name, content := range map[string]string{"image": "x", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(path string) error {
		return image.Check(t.Context(), image.Reference{Source: "file://" + path,
			Digest: sha256Of(nil)}, opt)
	}
	if err := check(dir + "/image"); err != nil {
		t.Error(err)
	}
	mustFail(t, check(dir+"/imaeg"), ingot.NotFound, "check image_source")
	mustFail(t, check(dir+"/empty"), ingot.Invalid, "the file is empty")
	mustFail(t, check("/etc/passwd"), ingot.Invalid, "outside the directories")
}
