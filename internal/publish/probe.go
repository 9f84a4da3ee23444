package publish

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ingot/internal/ingot"
)

const (
	// probeTimeout bounds a Probe. A directory of the network may show a file that late.
	probeTimeout = 3 * time.Second
	probePause   = 200 * time.Millisecond
	// nobody is the node of media that are probes: if they are left, Sweep removes them.
	nobody = "00000000-0000-0000-0000-000000000000"
)

// web asks as a BMC does: without a proxy, and of whoever is there.
var web = &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

var _ Prober = Folder{}

// Probe is of Prober: what is written there has to be what is read at the URL. A web server that cannot be reached
// from this host, or whose name is not known here, may be one for BMCs alone: that is no error. One that refuses
// is.
func (f Folder) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	tag := make([]byte, 16)
	rand.Read(tag)
	m := Medium{Kind: Floppy, Node: nobody, Tag: hex.EncodeToString(tag)}
	dir := filepath.Join(f.Root, below)
	if err := f.write(ctx, dir, m.file(), strings.NewReader(m.Tag)); err != nil {
		if noSpace(err) {
			return nil // Put says so, when there is a medium to put
		}
		return ingot.Errorf(ingot.Invalid, "virtual media cannot be written into %s: %w; [deploy] http_root has to be a "+
			"directory that ingot may write to", dir, nameless(err))
	}
	defer removeFiles(dir, []string{m.file()})
	for {
		there, found, err := fetch(ctx, f.Record(m).At(m))
		if there && found == m.Tag {
			return nil
		}
		if !there {
			return f.unreached(err)
		}
		select {
		case <-ctx.Done():
			return ingot.Errorf(ingot.Invalid, "what is written into %s ([deploy] http_root) is not what BMCs read at %s "+
				"(http_url): that answers %s. Have the web server serve that directory there, and let it read the directory %s",
				f.Root, f.URL, found, below)
		case <-time.After(probePause):
		}
	}
}

// unreached tells what it means that a URL could not be asked.
func (f Folder) unreached(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		// Not the error of net/http, which has the whole URL.
		return ingot.Errorf(ingot.Unavailable, "nobody answers at %s, where BMCs are to read virtual media (%w); start the "+
			"web server there, or correct [deploy] http_url", f.URL, errors.Unwrap(err))
	}
	return nil
}

// fetch is what is at a URL, or the status of the answer; there is false if there was no answer.
func fetch(ctx context.Context, url string) (there bool, found string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, "", err
	}
	resp, err := web.Do(r)
	if err != nil {
		return false, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return true, resp.Status, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64))
	if err != nil || len(body) == 64 || !hexadecimal(string(body)) {
		return true, "with something else", nil
	}
	return true, string(body), nil
}

func hexadecimal(text string) bool {
	_, err := hex.DecodeString(text)
	return err == nil
}
