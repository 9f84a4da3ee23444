package bootd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/sim/ipxe"
	"ingot/internal/testkit"
)

// mortal is an HTTP server of boot files that can be killed.
type mortal struct {
	url  string
	kill func()
}

// newMortal serves a file, and the script of the rig's node, as it says.
func newMortal(t *testing.T, content []byte, script *string) *mortal {
	t.Helper()
	r := newRig(t, Config{})
	r.Files = bootfile.New(t.TempDir(), nil, slog.New(slog.DiscardHandler))
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Files.Hold(t.Context(), "file://"+source); err != nil {
		t.Fatal(err)
	}
	r.Machine = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, *script)
	})
	l, err := listenHTTP(t.Context(), "127.0.0.1:0", stallTime)
	if err != nil {
		t.Fatal(err)
	}
	srv, ended := r.httpServer(), make(chan struct{})
	go func() {
		defer close(ended)
		srv.Serve(l)
	}()
	m := &mortal{url: fmt.Sprintf("http://127.0.0.1:%d", port(l)), kill: sync.OnceFunc(func() {
		srv.Close()
		<-ended
	})}
	t.Cleanup(m.kill)
	return m
}

// ipxeHost is a machine whose servers die while it reads from them.
type ipxeHost struct {
	t *testing.T
	// dies is the server that is killed at the first bytes of a path's end.
	dies   map[string]*mortal
	digest string // of all files
	tried  []string
	slept  time.Duration
}

func (h *ipxeHost) Setting(name string) (string, bool) {
	values := map[string]string{"netX/mac": known, "platform": "efi", "netX/mac:hexhyp": "52-54-00-77-00-01"}
	v, ok := values[name]
	return v, ok
}

func (h *ipxeHost) Sleep(_ context.Context, d time.Duration) error { h.slept += d; return nil }

func (h *ipxeHost) Echo(line string) { h.t.Log(line) }

func (h *ipxeHost) Fetch(_ context.Context, url string, _ time.Duration, w io.Writer) error {
	h.tried = append(h.tried, url)
	resp, err := testkit.Web.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	sum := sha256.New()
	w = io.MultiWriter(sum, w)
	if _, err := io.CopyN(w, resp.Body, 1); err != nil {
		return err
	}
	for end, m := range h.dies {
		if strings.HasPrefix(url, m.url) && strings.HasSuffix(url, end) {
			m.kill()
		}
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); strings.Contains(url, "/files/") && got != h.digest {
		h.t.Errorf("%s arrived as %s", url, got)
	}
	return nil
}

// A server dies while a machine reads the kernel from it, the next one while it reads the ramdisk:
// the machine's script goes on with the one after, without a pause. If all are dead it asks again
// until one is back.
func TestS0_1_AScriptGoesOnWhenItsServerDies(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // 32 MiB, more than sockets hold
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	servers, urls := map[string]*mortal{}, []string{}
	again := "#!ipxe\nexit 0\n"
	for range 3 {
		m := newMortal(t, content, &again)
		servers[m.url], urls = m, append(urls, m.url)
	}
	living := func(string) []string { return append([]string{}, urls...) }
	boot := pxe.New(pxe.Options{Log: slog.New(slog.DiscardHandler), Note: func(ingot.Entry) {},
		Env: netboot.Env{BaseURLs: urls[:1], Driver: "ipmi"}, Servers: living})
	file := func(name string) ingot.File {
		return ingot.File{SHA256: digest, Name: name, Size: int64(len(content))}
	}
	n := &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", Driver: "ipmi",
		ProvisionState: "wait call-back", BootIntent: ingot.BootDeploy,
		Attempt: &ingot.Attempt{ID: "5f3a9c01", Kernel: file("vmlinuz"), Ramdisk: file("ramdisk")}}
	script := boot.Answer(netboot.IPXE, pxe.Machine{MAC: known, Node: n})
	order := order(t, script)
	h := &ipxeHost{t: t, digest: digest, dies: map[string]*mortal{
		"/vmlinuz": servers[order[0]], "/ramdisk": servers[order[1]]}}
	end := ipxe.Run(t.Context(), h, script)
	if end.Verb != ipxe.Boot || !strings.HasPrefix(end.Kernel.URL, order[2]) ||
		len(end.Initrds) != 1 || h.slept != 0 {
		t.Errorf("%s after %s: %+v, tried %q", end.Verb, h.slept, end, h.tried)
	}

	// A transfer that broke off goes on at another server: bytes, digest and tag are the same.
	path := "/files/" + digest + "/vmlinuz"
	q, err := http.NewRequestWithContext(t.Context(), "GET", order[2]+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	fresh := newMortal(t, content, &again)
	var got bytes.Buffer
	resp, err := testkit.Web.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(&got, resp.Body, 1000); err != nil {
		t.Fatal(err)
	}
	servers[order[2]].kill()
	if _, err := io.Copy(&got, resp.Body); err == nil || got.Len() == len(content) {
		t.Fatalf("the transfer did not break off: %d bytes", got.Len())
	}
	if q, err = http.NewRequestWithContext(t.Context(), "GET", fresh.url+path, nil); err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Range", fmt.Sprintf("bytes=%d-", got.Len()))
	q.Header.Set("If-Range", resp.Header.Get("ETag"))
	rest, err := testkit.Web.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Body.Close()
	if _, err := io.Copy(&got, rest.Body); err != nil || rest.StatusCode != http.StatusPartialContent ||
		!bytes.Equal(got.Bytes(), content) {
		t.Errorf("the rest: %s, %v, %d bytes in all", rest.Status, err, got.Len())
	}

	// All that the script names are dead: it pauses, and the next script comes from one that is back.
	urls[2] = fresh.url
	script = boot.Answer(netboot.IPXE, pxe.Machine{MAC: known, Node: n})
	script = strings.ReplaceAll(script, path, "/files/"+strings.Repeat("0", 64)+"/vmlinuz")
	h = &ipxeHost{t: t, digest: digest}
	if end := ipxe.Run(t.Context(), h, script); end.Verb != ipxe.Exit || h.slept == 0 ||
		!strings.HasPrefix(h.tried[len(h.tried)-1], fresh.url+"/v1/drivers/ipmi/") {
		t.Errorf("%s after %s: %v, tried %q", end.Verb, h.slept, end.Err, h.tried)
	}
}

// order are the servers of a script as it asks them.
func order(t *testing.T, script string) (servers []string) {
	t.Helper()
	for line := range strings.Lines(script) {
		if base, _, found := strings.Cut(line, "/files/"); found && strings.HasPrefix(line, "kernel ") {
			servers = append(servers, base[strings.LastIndex(base, " ")+1:])
		}
	}
	if len(servers) != 3 {
		t.Fatalf("servers %q of %s", servers, script)
	}
	return servers
}
