package bootd

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/testkit"
)

// serveReaders serves the rig as the server does.
func serveReaders(t *testing.T, r *rig) (address string) {
	t.Helper()
	l, err := listenHTTP(t.Context(), "127.0.0.1:0", stallTime)
	if err != nil {
		t.Fatal(err)
	}
	srv, ended := r.httpServer(), make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		<-ended
	})
	return l.Addr().String()
}

// call is a connection over which requests are sent as they are.
type call struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, address string) call {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return call{conn, bufio.NewReader(conn)}
}

// answer reads the answer to a request with a method.
func (c call) answer(t *testing.T, method string) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
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

// taken is how many connections net/http does not know of.
func (k *readers) taken() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.conns)
}

// Over one connection a BMC gets its ranges, one like the other, and whatever else it asks for.
func TestAConnectionReadsOnAndAsksForMore(t *testing.T) {
	t.Parallel()
	r, n := mediumRig(t, "http://192.0.2.1:8080", "http://192.0.2.1:8080")
	address := serveReaders(t, r)
	path := netboot.MediumPath(n)
	_, whole := fetch(t, "GET", "http://"+address+path, nil)
	kernel := strings.Index(whole, strings.Repeat("a", 2000))
	ask := func(method, path string, headers ...string) string {
		return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, path, strings.Join(append(headers, ""), "\r\n"))
	}
	part := func(from, to int) string { return fmt.Sprintf("Range: bytes=%d-%d", from, to) }
	k := kernel
	type step struct {
		what, request string
		status        int
		body          string
		taken         int // connections that are answered by us afterwards
	}
	steps := []step{
		{"a range", ask("GET", path, part(k, k+99)), 206, whole[k : k+100], 1},
		{"another", ask("GET", path, part(k+100, k+65635)), 206, whole[k+100 : k+65636], 1},
		{"a third", ask("GET", path, part(k+3, k+7)), 206, whole[k+3 : k+8], 1},
		{"with a line more after its range", ask("GET", path, part(k, k), `If-None-Match: "x"`), 206, "a", 0},
		{"on", ask("GET", path, part(k, k)), 206, "a", 1},
		{"a second", ask("GET", path, part(k, k)), 206, "a", 1},
		{"with a line more in its range", ask("GET", path, part(k, k)+"\nConnection: close"), 206, "a", 0},
	}
	again := []step{
		{"on", ask("GET", path, part(k, k)), 206, "a", 1},
		{"a second", ask("GET", path, part(k, k)), 206, "a", 1},
		{"one across files", ask("GET", path, part(k-5, k+5)), 206, whole[k-5 : k+6], 0},
		{"one more", ask("GET", path, part(k+5, k+9)), 206, whole[k+5 : k+10], 1},
		{"its length", ask("HEAD", path), 200, "", 0},
		{"the rest", ask("GET", path, part(k+7, k+7), "Connection: keep-alive"), 206, whole[k+7 : k+8], 1},
		{"two ranges", ask("GET", path, "Range: bytes=0-0,-1"), 206, "*", 0},
		{"on", ask("GET", path, part(k, k)), 206, "a", 1},
		{"beyond the end", ask("GET", path, part(len(whole), len(whole)+5)), 416, "*", 0},
		{"on", ask("GET", path, part(k, k)), 206, "a", 1},
		{"if it is another", ask("GET", path, part(k, k), `If-None-Match: "x"`), 206, "a", 0},
		{"with a body", ask("GET", path, part(k, k), "Content-Length: 3") + "abc", 206, "a", 0},
		{"on", ask("GET", path, part(k, k)), 206, "a", 1},
		{"another medium", ask("GET", strings.Replace(path, "/boot.iso", "0/boot.iso", 1), part(k, k)), 404, "*", 0},
		{"on", ask("GET", path, part(k, k)), 206, "a", 1},
		{"two whose lines end otherwise", fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\nRange: bytes=%d-%d\n\n", path, k, k) +
			ask("GET", path, part(k+1, k+2)), 206, "a", 1},
		{"the second of them", "", 206, "aa", 1},
		{"nonsense", "\x00\x01\x02\r\n\r\n", 400, "*", 0},
	}
	for _, steps := range [][]step{steps, again} {
		c := dial(t, address)
		for _, s := range steps {
			if _, err := io.WriteString(c, s.request); err != nil {
				t.Fatalf("%s: %v", s.what, err)
			}
			resp, body := c.answer(t, strings.Fields(s.request + " x")[0])
			if resp.StatusCode != s.status || s.body != "*" && body != s.body {
				t.Errorf("%s: %s, %d bytes", s.what, resp.Status, len(body))
			}
			if got := r.readers.taken(); got != s.taken {
				t.Errorf("%s: %d connections are ours", s.what, got)
			}
		}
	}
	r.reads.mu.Lock()
	defer r.reads.mu.Unlock()
	if r.reads.running != 0 || len(r.reads.of) != 0 {
		t.Errorf("%d places are taken by nobody", r.reads.running)
	}
}

// Requests that come before the answers are answered in turn, also those that net/http answers.
func TestAConnectionAsksAheadOfItsAnswers(t *testing.T) {
	t.Parallel()
	r, n := mediumRig(t, "http://192.0.2.1:8080", "http://192.0.2.1:8080")
	c, path := dial(t, serveReaders(t, r)), netboot.MediumPath(n)
	var ask, want strings.Builder
	_, whole := fetch(t, "GET", "http://"+c.RemoteAddr().String()+path, nil)
	kernel := strings.Index(whole, strings.Repeat("a", 2000))
	for i := range 60 {
		from := kernel - 3 + i%5 // some are of two files
		fmt.Fprintf(&ask, "GET %s HTTP/1.1\r\nHost: x\r\nRange: bytes=%d-%d\r\n\r\n", path, from, from+i)
		want.WriteString(whole[from : from+i+1])
	}
	if _, err := io.WriteString(c, ask.String()); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for range 60 {
		_, body := c.answer(t, "GET")
		got.WriteString(body)
	}
	if got.String() != want.String() {
		t.Error("they were answered with something else")
	}
}

// Who hangs up, whose medium is gone, and whose server stops is not waited for.
func TestAConnectionEnds(t *testing.T) {
	t.Parallel()
	r, n := mediumRig(t, "http://192.0.2.1:8080", "http://192.0.2.1:8080")
	address, path := serveReaders(t, r), netboot.MediumPath(n)
	_, whole := fetch(t, "GET", "http://"+address+path, nil)
	at := strings.Index(whole, strings.Repeat("a", 2000))
	ask := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\nRange: bytes=%d-%d\r\n\r\n", path, at, at+9)
	begin := func() call {
		c := dial(t, address)
		io.WriteString(c, ask)
		if resp, _ := c.answer(t, "GET"); resp.StatusCode != http.StatusPartialContent {
			t.Fatal(resp.Status)
		}
		return c
	}
	c := begin()
	io.WriteString(c, ask[:20])
	c.Close()
	testkit.Eventually(t, "nobody reads", func() bool { return r.readers.taken() == 0 })

	c = begin()
	n.BootIntent = ingot.BootDisk
	if err := r.Store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	r.media.mu.Lock()
	r.media.known = nil // as after a while
	r.media.mu.Unlock()
	io.WriteString(c, ask)
	if resp, _ := c.answer(t, "GET"); resp.StatusCode != http.StatusNotFound {
		t.Error(resp.Status)
	}
	n.BootIntent = ingot.BootDeploy
	if err := r.Store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}

	// What is shorter than it was cannot be sent, and is not waited for.
	f, err := r.Files.Open(n.Attempt.Kernel.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(f.Name(), 5); err != nil {
		t.Fatal(err)
	}
	c = dial(t, address)
	io.WriteString(c, ask)
	if resp, err := http.ReadResponse(c.in, nil); err == nil {
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s, %d bytes", resp.Status, len(body))
		}
	}
	testkit.Eventually(t, "it is let go", func() bool { return r.readers.taken() == 0 })
	if err := os.Truncate(f.Name(), 300_000); err != nil {
		t.Fatal(err)
	}

	idle, half := begin(), begin()
	io.WriteString(half, ask[:20])
	r.readers.stop(t.Context())
	for _, c := range []call{idle, half} {
		if _, err := c.in.ReadByte(); err == nil {
			t.Error("something was sent after the stop")
		}
	}
}

// The journal has that a medium is read still, whichever server it is now read from: who is not heard of there is
// started again.
func TestTheJournalHasThatAMediumIsReadOn(t *testing.T) {
	t.Parallel()
	r, n := mediumRig(t, "http://192.0.2.1:8080", "http://192.0.2.1:8080")
	path := netboot.MediumPath(n)
	url := "http://" + serveReaders(t, r) + path
	for i := range 6 {
		fetch(t, "GET", url, map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", i<<18, (i+1)<<18-1)})
		if i == 4 { // after a while
			r.media.mu.Lock()
			r.media.known[path].reads.told.Add(-int64(mediumNews))
			r.media.mu.Unlock()
		}
	}
	want := []string{"the medium of the deploy ramdisk is read by 127.0.0.1",
		"the medium of the deploy ramdisk is read by 127.0.0.1, 1 MiB until now"}
	if told := r.journal.texts(ingot.LevelInfo); !slices.Equal(told, want) {
		t.Errorf("the journal says %q", told)
	}
}

// FuzzPeek sends a reader whatever follows its first request: what it understands net/http does, too, and in the
// same way.
func FuzzPeek(f *testing.F) {
	line := []byte("GET /m HTTP/1.1\r\n")
	for _, data := range []string{
		"Host: x\r\nRange: bytes=0-9\r\n\r\nGET /m HTTP/1.1\r\nHost: x\r\nRange: bytes=10-19\r\n\r\n",
		"Host: x\r\nRange: bytes=0-9\r\n\r\nGET /m HTTP/1.1\r\nHost: x\r\nRange: bytes=1\nA: b\r\n\r\n",
		"Host: x\r\nRange: bytes=0-9\r\n\r\nGET /m HTTP/1.1\r\nHost: x\r\nRange: 1\r\nUpgrade: h2c\r\n\r\n",
		"Host: x\r\nRange:  bytes=0-9 \r\nRange: 2\r\n\r\n",
		"Host: x\r\nrange: bytes=0-9\r\nX-Range: bytes=0-9\r\n\r\nGET /m HTTP/1.1\r\n\r\n",
	} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = slices.Concat(line, data)
		c := &reader{in: bufio.NewReader(bytes.NewReader(data))}
		for range 5 {
			rng, length, err := c.peek(line)
			if _, _, ok := plainRange(rng, 1<<40); err != nil || !ok {
				return // it is given back
			}
			head, err := c.in.Peek(length)
			if err != nil {
				t.Fatal(err)
			}
			whole := bufio.NewReader(bytes.NewReader(head))
			r, err := http.ReadRequest(whole)
			if err != nil || whole.Buffered() > 0 || !isPlain(r) || !slices.Equal(r.Header["Range"], []string{rng}) {
				t.Fatalf("%q was understood as %q: %v, %v", head, rng, r, err)
			}
			if _, err := c.in.Discard(length); err != nil {
				t.Fatal(err)
			}
		}
	})
}
