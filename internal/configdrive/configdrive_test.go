package configdrive_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"ingot/internal/configdrive"
	"ingot/internal/ingot"
)

var object = ingot.Object{
	"meta_data":    ingot.Object{"hostname": "web1", "uuid": "i-1"},
	"user_data":    "#cloud-config\n",
	"network_data": ingot.Object{"links": []any{}},
	"vendor_data":  ingot.Object{"x": 1.0},
}

// read takes a file out of an image by a foreign program.
func read(t *testing.T, image []byte, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "iso")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("isoinfo"); err != nil {
		t.Fatal("isoinfo is missing; install it: scripts/packages.sh")
	}
	out, err := exec.Command("isoinfo", "-R", "-i", path, "-x", name).Output()
	if err != nil {
		t.Fatalf("isoinfo: %v", err)
	}
	return string(out)
}

func TestObjectsBecomeFiles(t *testing.T) {
	t.Parallel()
	image, err := configdrive.Image(t.Context(), nil, object, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"meta_data.json": `{"hostname":"web1","uuid":"i-1"}`, "user_data": "#cloud-config\n",
		"network_data.json": `{"links":[]}`, "vendor_data2.json": `{"x":1}`,
	} {
		for _, version := range []string{"latest", "2012-08-10"} {
			if got := read(t, image, "/openstack/"+version+"/"+name); got != want {
				t.Errorf("%s/%s: %q, want %q", version, name, got, want)
			}
		}
	}
	image, err = configdrive.Image(t.Context(), nil, ingot.Object{}, "node-1")
	if err != nil || read(t, image, "/openstack/latest/meta_data.json") != `{"uuid":"node-1"}` {
		t.Errorf("without meta_data: %v", err)
	}
}

func packed(t *testing.T, image []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(image)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImagesComeAsTextAndByURL(t *testing.T) {
	t.Parallel()
	image, err := configdrive.Image(t.Context(), nil, object, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	zipped := packed(t, image)
	text := base64.StdEncoding.EncodeToString(zipped)
	text = text[:60] + "\n" + text[60:] + "\n" // as base64(1) breaks lines
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content := map[string][]byte{"/iso": image, "/gz": zipped, "/base64": []byte(text)}[r.URL.Path]
		if content == nil {
			http.NotFound(w, r)
		}
		w.Write(content)
	}))
	defer site.Close()
	for _, drive := range []string{text, base64.StdEncoding.EncodeToString(image),
		site.URL + "/iso", site.URL + "/gz", site.URL + "/base64"} {
		got, err := configdrive.Image(t.Context(), site.Client(), drive, "")
		if err != nil || !bytes.Equal(got, image) {
			t.Errorf("%.60s: %d bytes, %v", drive, len(got), err)
		}
	}
	_, err = configdrive.Image(t.Context(), site.Client(), site.URL+"/none", "")
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "404") {
		t.Errorf("missing: %v", err)
	}
}

func TestWrongDrivesAreNamed(t *testing.T) {
	t.Parallel()
	// Members of a gzip file follow one another; packing all of it takes seconds.
	huge := slices.Concat(bytes.Repeat(packed(t, make([]byte, 1<<20)), configdrive.MaxSize>>20),
		packed(t, []byte{0}))
	for want, drive := range map[string]any{
		"must be an object":      7.0,
		"nor base64":             "{x",
		"must be at an http":     "file:///etc/passwd",
		"no ISO 9660":            base64.StdEncoding.EncodeToString([]byte("text")),
		"damaged":                base64.StdEncoding.EncodeToString([]byte{0x1F, 0x8B, 1}),
		"no ISO 9660 or FAT fil": base64.StdEncoding.EncodeToString(huge),
		"meta_data is string":    ingot.Object{"meta_data": `{"hostname": "web1"}`},
		"more than 64 MiB":       ingot.Object{"user_data": strings.Repeat("x", 33<<20)},
	} {
		if err := configdrive.Check(drive); ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%.30v: %v, want %q", drive, err, want)
		}
	}
}

// The address of a drive is a credential: whoever has it reads the secrets in the drive.
func TestErrorsDoNotTellTheAddress(t *testing.T) {
	t.Parallel()
	site := httptest.NewServer(http.NotFoundHandler())
	gone := site.URL
	defer site.Close()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	query := "/drive?temp_url_sig=hidden"
	for _, drive := range []string{gone + query, closed.URL + query, "ftp://u:hidden@host" + query,
		"http://u:hidden@" + strings.TrimPrefix(gone, "http://") + query, "http://%zz" + query} {
		_, err := configdrive.Image(t.Context(), site.Client(), drive, "")
		if err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", drive, err)
		}
	}
}

func TestSpaceInBase64CostsNoMoreThanText(t *testing.T) {
	text := strings.Repeat("A ", 8<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := configdrive.Decode([]byte(text)); err == nil {
		t.Error("no image, and no error")
	}
	runtime.ReadMemStats(&after)
	if n := int(after.TotalAlloc - before.TotalAlloc); n > 4*len(text) {
		t.Errorf("%d bytes took %d bytes of memory", len(text), n)
	}
}

// Whatever somebody sends, the result is an image of bearable size or an error.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("aGVsbG8="))
	f.Add([]byte{0x1F, 0x8B, 8})
	f.Fuzz(func(t *testing.T, data []byte) {
		image, err := configdrive.Decode(data)
		if err == nil && (len(image) == 0 || len(image) > configdrive.MaxSize) {
			t.Errorf("%d bytes", len(image))
		}
	})
}
