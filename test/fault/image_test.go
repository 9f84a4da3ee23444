package fault

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// imageServer is a web server with images: /disk.raw is what was asked for, /broken.raw always
// breaks off after half of it and /flaky.raw once; /SHA256SUMS is about disk.raw, nothing else is
// there.
func imageServer(t *testing.T, s *site) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/disk.raw", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(s.image)
	})
	mux.HandleFunc("/broken.raw", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(s.image)))
		_, _ = w.Write(s.image[:len(s.image)/2])
		panic(http.ErrAbortHandler)
	})
	var broken atomic.Bool
	mux.HandleFunc("GET /flaky.raw", func(w http.ResponseWriter, r *http.Request) {
		if broken.CompareAndSwap(false, true) {
			w.Header().Set("Content-Length", strconv.Itoa(len(s.image)))
			_, _ = w.Write(s.image[:len(s.image)/2])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.image))
	})
	mux.HandleFunc("/SHA256SUMS", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s  disk.raw\n", digest(s.image))
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

// withImage is the good image's instance_info with another source.
func withImage(s *site, source string) object {
	info := s.goodImage()
	info["image_source"] = source
	return info
}

func TestAnImageThatIsMissingFailsTheDeployment(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	web := imageServer(t, s)
	for source, words := range map[string][]string{
		web + "/none.raw":                      {"404", "check image_source"},
		"file://" + s.dir + "/images/none.raw": {"none.raw", "image_source"},
	} {
		s.setImage(withImage(s, source))
		s.verb("active")
		s.failed(words...)
	}
	if deeds := s.machine.deeds(); len(deeds) > 0 {
		t.Errorf("the machine was started without an image: it did %q", deeds)
	}
	s.recovers()
}

func TestAnImageThatBreaksOffFailsTheDeployment(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(s *site, _ *int64) { s.cfg.Image.Retries = 1 })
	s.enroll()
	web := imageServer(t, s)
	s.setImage(withImage(s, web+"/broken.raw"))
	s.verb("active")
	s.failed("write_image", "the transfer broke off", fmt.Sprintf("after %d of %d bytes",
		imageSize/2, imageSize), "then deploy again")
	// The same image as a file that was not copied completely.
	s.setImage(withImage(s, "file://"+s.file("half.raw", s.image[:imageSize/2])))
	s.verb("active")
	s.failed("write_image", "sha256", digest(s.image), digest(s.image[:imageSize/2]))
	s.setImage(withImage(s, web+"/disk.raw"))
	s.verb("active")
	s.deployed()
}

func TestAnImageThatBreaksOffOnceIsFetchedToItsEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	web := imageServer(t, s)
	s.setImage(withImage(s, web+"/flaky.raw"))
	s.verb("active")
	s.deployed()
}

func TestTheChecksumMayBePublishedBesideTheImage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	web := imageServer(t, s)
	info := withImage(s, web+"/disk.raw")
	delete(info, "image_os_hash_algo")
	delete(info, "image_os_hash_value")
	info["image_checksum"] = web + "/none"
	s.setImage(info)
	s.verb("active")
	s.failed("404", "check image_checksum")
	info["image_checksum"] = web + "/SHA256SUMS"
	s.setImage(info)
	s.verb("active")
	s.deployed()
}

func TestAnImageWithAnotherChecksumDoesNotBoot(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	info := s.goodImage()
	info["image_os_hash_value"] = strings.Repeat("0", 64)
	s.setImage(info)
	s.verb("active")
	s.failed("write_image", "sha256", strings.Repeat("0", 64), digest(s.image))
	s.recovers()
}

func TestAnImageLargerThanTheDiskIsNotWritten(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(_ *site, disk *int64) { *disk = 3 << 20 })
	s.enroll()
	s.verb("active")
	s.failed("write_image", strconv.Itoa(imageSize)+" bytes", "the disk has only 3145728",
		"a smaller image")
	s.image = s.image[:2<<20]
	s.file("disk.raw", s.image)
	s.recovers()
}
