package bootd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
)

// fileRig serves one file of that content on a listener, and returns its URL.
func fileRig(t *testing.T, listen string, content []byte, stall time.Duration) (*rig, string) {
	t.Helper()
	r := newRig(t, Config{})
	r.Files = bootfile.New(t.TempDir(), nil, slog.New(slog.DiscardHandler))
	source := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(source, content, 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := r.Files.Hold(t.Context(), "file://"+source)
	if err != nil {
		t.Fatal(err)
	}
	l, err := listenHTTP(t.Context(), listen, stall)
	if err != nil {
		t.Fatal(err)
	}
	srv := r.httpServer()
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		<-ended
	})
	return r, fmt.Sprintf("http://127.0.0.1:%d/files/%s/vmlinuz", port(l), held.SHA256)
}

// TestS0_1_AnyConductorServesAnyBootFile: a machine that was sent to another conductor, or told its
// digest by one that has died since, gets the same bytes.
func TestS0_1_AnyConductorServesAnyBootFile(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	first, url := fileRig(t, "127.0.0.1:0", content, stallTime)
	base := strings.Join(strings.Split(url, "/")[:3], "/")
	path := strings.TrimPrefix(url, base)
	second, other := fileRig(t, "127.0.0.1:0", []byte("another file"), stallTime)
	second.Files.Peers = func() []string { return []string{"http://127.0.0.1:1", base} }
	first.Files.Peers = func() []string { return []string{strings.Join(strings.Split(other, "/")[:3], "/")} }
	var all sync.WaitGroup
	for range 8 { // machines that come at once
		all.Go(func() {
			resp, err := testkit.Web.Get(strings.Join(strings.Split(other, "/")[:3], "/") + path)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s: %d bytes, %v", resp.Status, len(got), err)
			}
		})
	}
	all.Wait()
	// What nobody holds is asked for once at each, not in circles.
	resp, err := testkit.Web.Get(base + "/files/" + strings.Repeat("ab", 32) + "/vmlinuz")
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("a file that nobody holds: %v, %v", resp, err)
	}
	resp.Body.Close()
}

func TestRangesOfBootFiles(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789"), 1000)
	_, url := fileRig(t, "127.0.0.1:0", content, stallTime)
	tag := `"` + strings.Split(url, "/")[4] + `"`
	for _, c := range []struct {
		method string
		header map[string]string
		status int
		want   string
	}{
		{"GET", nil, 200, string(content)},
		{"HEAD", nil, 200, ""},
		{"GET", map[string]string{"Range": "bytes=3-5"}, 206, "345"},
		{"GET", map[string]string{"Range": "bytes=9998-"}, 206, "89"},
		{"GET", map[string]string{"Range": "bytes=-3"}, 206, "789"},
		{"GET", map[string]string{"Range": "bytes=3-5", "If-Range": tag}, 206, "345"},
		{"GET", map[string]string{"Range": "bytes=3-5", "If-Range": `"other"`}, 200,
			string(content)},
		{"GET", map[string]string{"If-None-Match": tag}, 304, ""},
	} {
		resp, body := fetch(t, c.method, url, c.header)
		if resp.StatusCode != c.status || body != c.want {
			t.Errorf("%s with %v: %s, %d bytes", c.method, c.header, resp.Status, len(body))
		}
		if resp.Header.Get("Etag") != tag {
			t.Errorf("%s with %v: ETag %s", c.method, c.header, resp.Header.Get("Etag"))
		}
	}
	for _, bad := range []string{"bytes=10000-", "bytes=5-3", "bytes=x", "lines=1-2"} {
		resp, _ := fetch(t, "GET", url, map[string]string{"Range": bad})
		if resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("Range %s: %s", bad, resp.Status)
		}
	}
	for length, want := range map[int]int{255: http.StatusOK, 256: http.StatusNotFound} {
		name := strings.Repeat("n", length)
		resp, _ := fetch(t, "GET", strings.TrimSuffix(url, "vmlinuz")+name, nil)
		if resp.StatusCode != want {
			t.Errorf("a name of %d bytes: %s", length, resp.Status)
		}
	}
	resp, body := fetch(t, "GET", url, map[string]string{"Range": "bytes=0-1,5-6"})
	_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != 206 || err != nil {
		t.Fatalf("two ranges: %s, %v", resp.Status, err)
	}
	parts := multipart.NewReader(bytes.NewBufferString(body), params["boundary"])
	for _, want := range []string{"01", "56"} {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(p); string(got) != want {
			t.Errorf("part %q, want %q", got, want)
		}
	}
}

func fetch(t *testing.T, method, url string, header map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := testkit.Web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestAnOpenAddressListensOnBothFamilies(t *testing.T) {
	t.Parallel()
	_, url := fileRig(t, ":0", []byte("content"), stallTime)
	var number int
	if _, err := fmt.Sscanf(url, "http://127.0.0.1:%d/", &number); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		address := net.JoinHostPort(host, fmt.Sprint(number))
		_, body := fetch(t, "GET", "http://"+address+url[len(fmt.Sprintf("http://127.0.0.1:%d", number)):],
			nil)
		if body != "content" {
			t.Errorf("%s: %q", address, body)
		}
	}
}

// source notes what a file is sent from.
type source struct {
	*httptest.ResponseRecorder
	file *os.File
}

func (s *source) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		s.file, _ = lr.R.(*os.File)
	}
	return io.Copy(s.ResponseRecorder, r)
}

// The net package sends a file by sendfile if it sees an *os.File, or one in an io.LimitedReader.
func TestTheConnectionIsGivenTheFileItself(t *testing.T) {
	t.Parallel()
	r, url := fileRig(t, "127.0.0.1:0", []byte("content"), stallTime)
	w := &source{ResponseRecorder: httptest.NewRecorder()}
	r.routes().ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, nil))
	if w.file == nil || w.Body.String() != "content" {
		t.Errorf("sent from %v: %q", w.file, w.Body)
	}
}

// A client that takes nothing is dropped, and its turn is free for the next.
func TestAStalledDownloadEnds(t *testing.T) {
	t.Parallel()
	content := make([]byte, 16<<20) // more than both ends buffer
	r, url := fileRig(t, "127.0.0.1:0", content, time.Second)
	var number int
	if _, err := fmt.Sscanf(url, "http://127.0.0.1:%d/", &number); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", number))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", url)
	for running := false; ; time.Sleep(10 * time.Millisecond) {
		r.downloads.mu.Lock()
		now := r.downloads.running
		r.downloads.mu.Unlock()
		if running && now == 0 {
			return
		}
		running = running || now > 0
	}
}

func TestOneClientLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var line transfers
		greedy, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
		served := make(chan int, maxWaiting)
		for range maxTransfersOf {
			if err := line.enter(t.Context(), greedy); err != nil {
				t.Fatal(err)
			}
		}
		for i := range maxWaiting {
			go func() {
				if err := line.enter(t.Context(), greedy); err != nil {
					t.Error(err)
				}
				served <- i
			}()
			synctest.Wait()
		}
		if err := line.enter(t.Context(), greedy); ingot.KindOf(err) != ingot.Unavailable {
			t.Errorf("one more than may wait: %v", err)
		}
		if err := line.enter(t.Context(), other); err != nil {
			t.Errorf("another client: %v", err)
		}
		line.leave(other)
		for i := range maxWaiting {
			line.leave(greedy)
			if got := <-served; got != i {
				t.Errorf("turn %d went to %d", i, got)
			}
		}
		for range maxTransfersOf {
			line.leave(greedy)
		}
		if line.running != 0 || len(line.of) != 0 || line.waiting.Len() != 0 {
			t.Errorf("left behind: %d running, %d clients, %d waiting", line.running, len(line.of),
				line.waiting.Len())
		}
	})
}

func TestTheTotalIsBoundedAndWaitsEndWithTheirRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var line transfers
		client := func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		}
		for i := range maxTransfers {
			if err := line.enter(t.Context(), client(i)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- line.enter(ctx, client(maxTransfers)) }()
		synctest.Wait()
		if line.waiting.Len() != 1 {
			t.Error("more than the total are served")
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("wait ended with %v", err)
		}
		for i := range maxTransfers {
			line.leave(client(i))
		}
		if line.running != 0 || len(line.of) != 0 || line.waiting.Len() != 0 {
			t.Errorf("left behind: %d running, %d clients, %d waiting", line.running, len(line.of),
				line.waiting.Len())
		}
	})
}

func TestAgentsFindTheirImagesAndTheVersions(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	r.ImagesPattern = "/agent_images/{uuid}/{tag}/disk.raw"
	r.Images = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprint(w, q.PathValue("uuid"), " ", q.PathValue("tag"))
	})
	r.Machine = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, "machine ", q.URL.Path) })
	base := serve(t, r)
	for path, want := range map[string]string{"/agent_images/n/t/disk.raw": "n t", "/": "machine /",
		"/v1/lookup": "machine /v1/lookup"} {
		if resp, body := fetch(t, "GET", base+path, nil); resp.StatusCode != http.StatusOK || body != want {
			t.Errorf("%s: %s %q", path, resp.Status, body)
		}
	}
	if resp, _ := fetch(t, "GET", base+"/agent_images/n/t/other", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("another file: %s", resp.Status)
	}
}
