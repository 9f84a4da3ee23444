package image_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

// notes collects what was noted.
type notes struct {
	mu  sync.Mutex
	all []string
}

func (n *notes) add(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, text)
}

// about counts the notes that have a word.
func (n *notes) about(word string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, text := range n.all {
		if strings.Contains(text, word) {
			count++
		}
	}
	return count
}

// open opens ref for a machine; the notes are those for its journal.
func open(t *testing.T, ref image.Reference, opt image.Options) (*image.Image, *notes) {
	t.Helper()
	n := &notes{}
	opt.Note = n.add
	i, err := image.Open(t.Context(), ref, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i, n
}

// crowd opens ref for that many machines before any of them reads.
func crowd(t *testing.T, machines int, ref image.Reference, opt image.Options) []*image.Image {
	t.Helper()
	var all []*image.Image
	for range machines {
		i, _ := open(t, ref, opt)
		all = append(all, i)
	}
	return all
}

// together drains the images at the same time; each gets its own verdict.
func together(t *testing.T, all []*image.Image, verdict func(content []byte, err error)) {
	t.Helper()
	var wait sync.WaitGroup
	for _, i := range all {
		wait.Go(func() {
			content, err := drain(t.Context(), i)
			verdict(content, err)
		})
	}
	wait.Wait()
	for _, i := range all {
		i.Close()
	}
}

// held counts the files below dir that this process has open, also those without a name.
func held(t *testing.T, dir string) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, fd := range fds {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && strings.HasPrefix(to, dir+"/") {
			count++
		}
	}
	return count
}

// gate serves a file, each answer up to half of it until it is opened, and counts.
type gate struct {
	file        []byte
	opened      chan struct{}
	asked, sent atomic.Int64
}

func newGate(file []byte) *gate { return &gate{file: file, opened: make(chan struct{})} }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.asked.Add(1)
	count := &counted{ResponseWriter: w, g: g}
	http.ServeContent(count, r, "", time.Time{}, bytes.NewReader(g.file))
}

// counted waits in the middle of its gate's file.
type counted struct {
	http.ResponseWriter
	g    *gate
	here int
}

func (c *counted) Write(p []byte) (int, error) {
	if c.here += len(p); c.here > len(c.g.file)/2 {
		c.ResponseWriter.(http.Flusher).Flush()
		<-c.g.opened
	}
	n, err := c.ResponseWriter.Write(p)
	c.g.sent.Add(int64(n))
	return n, err
}

func TestS0_9_DeploymentsAtATimeShareTheDownload(t *testing.T) {
	t.Parallel()
	want := disk(6 << 20)
	for name, file := range map[string][]byte{"raw": want, "raw.gz": packed(t, want)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(file)
			close(g.opened)
			ref := image.Reference{Source: handle(t, g.ServeHTTP), Digest: sha256Of(file)}
			opt := options(t)
			together(t, crowd(t, 8, ref, opt), func(got []byte, err error) {
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
				}
			})
			if asked, sent := g.asked.Load(), g.sent.Load(); asked > 2 ||
				sent > 2*int64(len(file)) {
				t.Errorf("asked %d times for %d bytes in all; want twice for %d at most", asked,
					sent, len(file))
			}
			if n := held(t, opt.SpoolDir); n > 0 || len(spoolNames(t, opt)) > 0 {
				t.Errorf("%d files of the spool are open, and %q is there", n,
					spoolNames(t, opt))
			}
		})
	}
}

func TestS0_9_WhoIsAloneUsesNoSpool(t *testing.T) {
	t.Parallel()
	want := disk(1 << 20)
	url, requests := serve(t, want)
	ref := image.Reference{Source: url, Digest: sha256Of(want)}
	opt := options(t)
	for range 3 {
		if got, err := read(t, ref, opt); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
		}
	}
	if requests.Load() != 3 {
		t.Errorf("%d requests for three that came one after another", requests.Load())
	}
	if _, err := os.Stat(opt.SpoolDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the spool directory: %v, want that it was never made", err)
	}
}

func TestS0_9_WhoComesLateReadsFromTheBeginning(t *testing.T) {
	t.Parallel()
	want := disk(3 << 20)
	g := newGate(want)
	ref := image.Reference{Source: handle(t, g.ServeHTTP), Digest: sha256Of(want)}
	opt := options(t)
	early := crowd(t, 2, ref, opt)
	half := make([]byte, len(want)/4)
	if n, _, err := early[1].Next(t.Context(), half); err != nil || n == 0 {
		t.Fatalf("%d bytes, error %v", n, err)
	}
	late, note := open(t, ref, opt)
	if note.about("fetched once for this machine and others") != 1 {
		t.Errorf("notes are %q", note.all)
	}
	close(g.opened)
	if got, err := drain(t.Context(), late); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
	// One that comes when all was fetched and somebody reads it yet, costs nothing either.
	if got, err := read(t, ref, opt); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the last: %d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
	if g.asked.Load() != 2 {
		t.Errorf("%d requests, want 2", g.asked.Load())
	}
}

func TestS0_9_ASlowMachineHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	// More than what sockets and buffers on the way hold.
	want := disk(16 << 20)
	url, requests := serve(t, want)
	ref := image.Reference{Source: url, Digest: sha256Of(want)}
	all := crowd(t, 4, ref, options(t))
	// The first two read nothing, or one byte.
	if _, _, err := all[1].Next(t.Context(), make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	together(t, all[2:], func(got []byte, err error) {
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
		}
	})
	if requests.Load() != 2 {
		t.Errorf("%d requests, want 2", requests.Load())
	}
}

func TestS0_9_WhoIsAbortedEndsItForNobody(t *testing.T) {
	t.Parallel()
	want := disk(3 << 20)
	for name, who := range map[string]int{"the one by itself": 0, "who began to share": 1,
		"who joined": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(want)
			ref := image.Reference{Source: handle(t, g.ServeHTTP), Digest: sha256Of(want)}
			opt := options(t)
			all := crowd(t, 4, ref, opt)
			ctx, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("the machine is gone")
			if _, _, err := all[who].Next(ctx, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			cancel(reason)
			if _, err := drain(ctx, all[who]); !errors.Is(err, reason) {
				t.Errorf("error %v, want the reason", err)
			}
			all[who].Close()
			close(g.opened)
			rest := append(all[:who:who], all[who+1:]...)
			together(t, rest, func(got []byte, err error) {
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
				}
			})
			if g.asked.Load() != 2 || held(t, opt.SpoolDir) > 0 {
				t.Errorf("%d requests, want 2; %d files of the spool are open, want none",
					g.asked.Load(), held(t, opt.SpoolDir))
			}
		})
	}
}

func TestS0_9_TheLastWhoLeavesEndsTheDownload(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{}, 9)
	url := handle(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write(disk(600_000))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		ended <- struct{}{}
	})
	opt := options(t)
	all := crowd(t, 3, image.Reference{Source: url, Digest: sha256Of(nil)}, opt)
	if held(t, opt.SpoolDir) != 1 {
		t.Errorf("%d files of the spool are open, want 1", held(t, opt.SpoolDir))
	}
	for _, i := range all {
		i.Close()
		i.Close() // the second one counts for nothing
	}
	<-ended
	<-ended
	if held(t, opt.SpoolDir) != 0 {
		t.Errorf("%d files of the spool are open, want none", held(t, opt.SpoolDir))
	}
}

func TestS0_9_ASourceThatBreaksOffIsAskedOnceForAll(t *testing.T) {
	t.Parallel()
	want := disk(6<<20 + 100)
	f := &flaky{file: want, version: `"1"`, ranges: true,
		limit: func(int64) int { return 2 << 20 }}
	ref := image.Reference{Source: handle(t, f.ServeHTTP), Digest: sha256Of(want)}
	opt := options(t)
	var all []*image.Image
	var told []*notes
	for range 5 {
		i, n := open(t, ref, opt)
		all, told = append(all, i), append(told, n)
	}
	together(t, all, func(got []byte, err error) {
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
		}
	})
	if f.asked.Load() != 2*4 {
		t.Errorf("%d requests, want four for the first and four for all others", f.asked.Load())
	}
	if told[0].about("asking for the rest") != 3 || told[1].about("asking for the rest") != 3 {
		t.Errorf("notes are %q and %q; want three breaks each", told[0].all, told[1].all)
	}
}

func TestS0_9_ASourceThatIsGoneFailsForAllAndIsTriedAnew(t *testing.T) {
	t.Parallel()
	want := disk(3 << 20)
	var healthy atomic.Bool
	f := &flaky{file: want, version: `"1"`, ranges: true}
	f.limit = func(int64) int {
		if healthy.Load() {
			return 1 << 30
		}
		return 1 << 20
	}
	var broken atomic.Int64
	url := handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" && !healthy.Load() {
			broken.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		f.ServeHTTP(w, r)
	})
	ref := image.Reference{Source: url, Digest: sha256Of(want)}
	opt := options(t)
	together(t, crowd(t, 6, ref, opt), func(got []byte, err error) {
		mustFail(t, err, ingot.Unavailable, "after 1048576 of 3145728 bytes", "503")
		if !bytes.HasPrefix(want, got) {
			t.Errorf("%d bytes that are not those of the image", len(got))
		}
	})
	if broken.Load() > 4*4 { // one that comes late may begin anew
		t.Errorf("%d retries for six machines, want those of two", broken.Load())
	}
	healthy.Store(true)
	if got, err := read(t, ref, opt); err != nil || !bytes.Equal(got, want) {
		t.Errorf("afterwards: %d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
}

func TestS0_9_AWrongChecksumIsToldToAllAndNotPassedOn(t *testing.T) {
	t.Parallel()
	want := disk(2 << 20)
	wrong := bytes.Clone(want)
	wrong[len(wrong)-1] ^= 1
	var mended atomic.Bool
	url := handle(t, func(w http.ResponseWriter, r *http.Request) {
		file := wrong
		if mended.Load() {
			file = want
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
	})
	ref := image.Reference{Source: url, Digest: sha256Of(want)}
	opt := options(t)
	all := crowd(t, 4, ref, opt)
	stays := all[3]
	together(t, all[:3], func(_ []byte, err error) {
		var e *image.ChecksumError
		if !errors.As(err, &e) {
			t.Errorf("error %v, want one about the checksum", err)
		}
	})
	// The file is right now, and a machine still has the wrong one open.
	mended.Store(true)
	if got, err := read(t, ref, opt); err != nil || !bytes.Equal(got, want) {
		t.Errorf("afterwards: %d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
	if _, err := drain(t.Context(), stays); err == nil {
		t.Error("no error for the one that still read the wrong file")
	}
}

// smallDisk mounts a file system that has size bytes, and makes it the spool.
func smallDisk(t *testing.T, opt *image.Options, size string) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a tmpfs: %v; run the tests as root", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	opt.SpoolDir = filepath.Join(dir, "spool")
}

func TestS0_9_AFullDiskEndsTheSharingAndNoDeployment(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bytes     int
		size      string
		announced bool
		// begins tells whether sharing begins.
		begins bool
	}{
		"at the beginning": {3 << 20, "130m", true, false},
		// 128 MiB stay free: there is room for the first 32 MiB.
		"in the middle": {35 << 20, "162m", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := disk(c.bytes)
			var asked atomic.Int64
			url := handle(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				w.Header().Set("ETag", `"1"`)
				if !c.announced && r.Header.Get("Range") == "" {
					w.(http.Flusher).Flush() // no length is told
					w.Write(want)
					return
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(want))
			})
			opt := options(t)
			smallDisk(t, &opt, c.size)
			ref := image.Reference{Source: url, Digest: sha256Of(want)}
			first, _ := open(t, ref, opt)
			second, note := open(t, ref, opt)
			if (note.about("fetched once for this machine and others") == 1) != c.begins {
				t.Errorf("notes are %q; sharing begins: %t", note.all, c.begins)
			}
			third, _ := open(t, ref, opt)
			together(t, []*image.Image{first, second, third}, func(got []byte, err error) {
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
				}
			})
			if note.about("for this machine alone") != 1 || note.about("more than") != 1 {
				t.Errorf("notes are %q, want why it went on alone", note.all)
			}
			if asked.Load() != 4 {
				t.Errorf("%d requests; want one for each machine and one that was to be shared",
					asked.Load())
			}
		})
	}
}

func TestS0_9_MachinesComeAndGoAtWill(t *testing.T) {
	t.Parallel()
	want := disk(1 << 20)
	url, _ := serve(t, want)
	ref := image.Reference{Source: url, Digest: sha256Of(want)}
	opt := options(t)
	var wait sync.WaitGroup
	for n := range 12 {
		wait.Go(func() {
			for round := range 3 {
				i, err := image.Open(t.Context(), ref, opt)
				if err != nil {
					t.Error(err)
					return
				}
				if (n+round)%3 == 0 {
					_, _, err = i.Next(t.Context(), make([]byte, 1000*n+1))
				} else {
					var got []byte
					got, err = drain(t.Context(), i)
					if !bytes.Equal(got, want) {
						t.Errorf("%d bytes, want %d", len(got), len(want))
					}
				}
				i.Close()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if n := held(t, opt.SpoolDir); n > 0 {
		t.Errorf("%d files of the spool are open", n)
	}
}
