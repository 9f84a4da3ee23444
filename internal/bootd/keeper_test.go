package bootd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/bootfile"
	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// site is several conductors that share a store, and the server that has the boot files.
type site struct {
	*testing.T
	database string
	origin   *httptest.Server
	// sent counts the files that the origin has sent in full or in part, by path.
	mu      sync.Mutex
	sent    map[string]int
	content map[string]string
	// slow, if set, is waited for in the middle of each answer.
	slow chan struct{}

	peers   atomic.Pointer[[]string]
	keepers []*bootfile.Keeper
}

// member is one conductor of a site.
type member struct {
	*bootfile.Keeper
	url  string
	stop func()
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, database: storetest.Postgres(t), sent: map[string]int{},
		content: map[string]string{"/vmlinuz": strings.Repeat("kernel", 50_000),
			"/ramdisk": strings.Repeat("ramdisk", 50_000)}}
	s.origin = httptest.NewServer(http.HandlerFunc(s.give))
	t.Cleanup(s.origin.Close)
	s.peers.Store(&[]string{})
	return s
}

func (s *site) give(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	content, slow := s.content[r.URL.Path], s.slow
	tag := fmt.Sprintf(`"%d"`, len(content))
	if content != "" && r.Header.Get("If-None-Match") != tag {
		s.sent[r.URL.Path]++
	}
	s.mu.Unlock()
	if content == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", tag)
	if slow != nil {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write([]byte(content[:1000]))
		http.NewResponseController(w).Flush()
		select {
		case <-slow:
		case <-r.Context().Done():
			return
		}
		w.Write([]byte(content[1000:]))
		return
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
}

func (s *site) asked(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[path]
}

func (s *site) open() *store.Store {
	s.Helper()
	st, err := store.Open(s.Context(), store.Options{URL: s.database, Connections: 4})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { st.Close() })
	return st
}

// add starts a conductor whose cache is in dir; "" is a new one.
func (s *site) add(dir string) *member {
	s.Helper()
	r, url := fileRig(s.T, "127.0.0.1:0", []byte("something else"), stallTime)
	base := strings.Join(strings.Split(url, "/")[:3], "/")
	if dir == "" {
		dir = s.TempDir()
	}
	r.Files = bootfile.New(dir, nil, slog.New(slog.DiscardHandler))
	r.Files.Peers = func() []string { return slices.Clone(*s.peers.Load()) }
	s.join(base)
	m := &member{url: base, Keeper: &bootfile.Keeper{Cache: r.Files, Store: s.open(), Host: base,
		Log: slog.New(slog.DiscardHandler), Tell: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, k := range s.keepers {
				k.Wake()
			}
		}}}
	s.mu.Lock()
	s.keepers = append(s.keepers, m.Keeper)
	s.mu.Unlock()
	return m
}

// join makes a URL one that conductors ask.
func (s *site) join(base string) {
	list := append(slices.Clone(*s.peers.Load()), base)
	s.peers.Store(&list)
}

// run starts the keeper; stop ends it as the end of its process would.
func (s *site) run(m *member) *member {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx)
	}()
	m.stop = sync.OnceFunc(func() { cancel(); <-done })
	s.Cleanup(m.stop)
	return m
}

// node creates a node that names kernel and ramdisk of the origin.
func (s *site) node(st *store.Store) {
	s.Helper()
	err := st.CreateNode(s.Context(), &ingot.Node{UUID: ingot.NewUUID(), Driver: "ipmi",
		ProvisionState: "available", DriverInfo: ingot.Object{
			"deploy_kernel": s.origin.URL + "/vmlinuz", "deploy_ramdisk": s.origin.URL + "/ramdisk"}})
	if err != nil {
		s.Fatal(err)
	}
}

// until waits for something that is going to happen.
func (s *site) until(what string, true func() bool) {
	s.Helper()
	for range 6000 {
		if true() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.Fatalf("never: %s", what)
}

// holds tells whether a conductor holds kernel and ramdisk of the origin.
func (s *site) holds(m *member) bool {
	return m.Cache.Held(digestOf(s.content["/vmlinuz"])) && m.Cache.Held(digestOf(s.content["/ramdisk"]))
}

func (s *site) allHold(members ...*member) {
	s.Helper()
	for _, m := range members {
		s.until("a conductor holds kernel and ramdisk", func() bool { return s.holds(m) })
	}
	s.until("the trees are the same", func() bool {
		return !slices.ContainsFunc(members, func(m *member) bool {
			return m.Tree() == "" || m.Tree() != members[0].Tree()
		})
	})
}

// TestS0_4_EveryConductorHoldsWhatNodesName: to create the node is enough, and its source sends each
// file once, however many conductors there are.
func TestS0_4_EveryConductorHoldsWhatNodesName(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	members := []*member{s.add(""), s.add(""), s.add("")}
	s.node(members[0].Store)
	for _, m := range members {
		s.run(m)
	}
	s.allHold(members...)
	for _, path := range []string{"/vmlinuz", "/ramdisk"} {
		if n := s.asked(path); n != 1 {
			t.Errorf("%s was sent %d times for 3 conductors", path, n)
		}
	}
	// A deployment asks whether it has changed, on any of them, and gets no bytes.
	for _, m := range members {
		f, err := m.Hold(t.Context(), s.origin.URL+"/vmlinuz")
		if err != nil || f.SHA256 != digestOf(s.content["/vmlinuz"]) || f.Name != "vmlinuz" {
			t.Errorf("Hold: %+v, %v", f, err)
		}
	}
	if n := s.asked("/vmlinuz"); n != 1 {
		t.Errorf("the kernel was sent %d times after three deployments", n)
	}
}

// TestS0_3_AConductorThatJoinsLaterRebuildsItsTree: from the others, with the source gone.
func TestS0_3_AConductorThatJoinsLaterRebuildsItsTree(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.run(s.add(""))
	s.node(first.Store)
	first.Wake()
	s.allHold(first)
	s.origin.Close()
	s.join("http://127.0.0.1:1") // one that has died
	late := s.run(s.add(""))
	s.allHold(first, late)
	// Nor does a deployment need the source.
	f, err := late.Hold(t.Context(), s.origin.URL+"/vmlinuz")
	if err != nil || f.SHA256 != digestOf(s.content["/vmlinuz"]) {
		t.Errorf("Hold without the source: %+v, %v", f, err)
	}
}

// TestS0_5_WhatADeploymentHoldsAllHold: also an instance's kernel, which no driver_info names.
func TestS0_5_WhatADeploymentHoldsAllHold(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	members := []*member{s.run(s.add("")), s.run(s.add("")), s.run(s.add(""))}
	var deployments sync.WaitGroup
	for _, m := range members {
		for _, path := range []string{"/vmlinuz", "/ramdisk"} {
			deployments.Go(func() {
				if f, err := m.Hold(t.Context(), s.origin.URL+path); err != nil ||
					f.SHA256 != digestOf(s.content[path]) {
					t.Errorf("Hold: %+v, %v", f, err)
				}
			})
		}
	}
	deployments.Wait()
	s.allHold(members...)
	if n := s.asked("/vmlinuz"); n != 1 {
		t.Errorf("the kernel was sent %d times for three deployments at once", n)
	}
	// The source has a new version: the next deployment boots it, all hold both.
	before, old := members[0].Tree(), s.content["/vmlinuz"]
	s.mu.Lock()
	s.content["/vmlinuz"] = old + "new"
	s.mu.Unlock()
	f, err := members[1].Hold(t.Context(), s.origin.URL+"/vmlinuz")
	if err != nil || f.SHA256 != digestOf(old+"new") {
		t.Fatalf("Hold of the new version: %+v, %v", f, err)
	}
	s.until("trees change", func() bool { return members[0].Tree() != before })
	s.allHold(members...)
	for _, m := range members {
		if !m.Cache.Held(digestOf(old)) {
			t.Error("the version before is gone; machines were told its digest")
		}
	}
}

// TestAConductorThatDiesWhileItFetchesIsFollowedByAnother: in the middle of a transfer.
func TestAConductorThatDiesWhileItFetchesIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.slow = make(chan struct{})
	first := s.run(s.add(""))
	s.node(first.Store)
	first.Wake()
	s.until("the kernel is being sent", func() bool { return s.asked("/vmlinuz") == 1 })
	second := s.run(s.add(""))
	first.stop()
	s.until("the other one asks", func() bool { return s.asked("/vmlinuz") == 2 })
	close(s.slow)
	s.allHold(second)
}

// TestTheClaimOfAKilledConductorEnds: nobody gave it back.
func TestTheClaimOfAKilledConductorEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := s.add("")
	s.node(m.Store)
	for _, path := range []string{"/vmlinuz", "/ramdisk"} {
		mine, err := m.Store.ClaimBootFile(t.Context(), s.origin.URL+path, "", "killed", 2*time.Second)
		if err != nil || !mine {
			t.Fatalf("claim: %v, %v", mine, err)
		}
	}
	s.run(m)
	s.allHold(m)
}

// TestAPeerThatServesWrongBytesIsPassedBy: what it sends is not kept, the next source is asked.
func TestAPeerThatServesWrongBytesIsPassedBy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var lies atomic.Int32
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		lies.Add(1)
		w.Write(bytes.Repeat([]byte("lie"), 1000))
	}))
	t.Cleanup(liar.Close)
	first := s.run(s.add(""))
	s.node(first.Store)
	first.Wake()
	s.allHold(first)
	second := s.add("")
	s.peers.Store(&[]string{liar.URL})
	s.run(second)
	s.allHold(first, second)
	if n := lies.Load(); n == 0 || n > 2 || s.asked("/vmlinuz") != 2 || s.asked("/ramdisk") != 2 {
		t.Errorf("%d lies, the source has sent the kernel %d times", n, s.asked("/vmlinuz"))
	}
}

// TestAFullDiskStopsOneConductorOnly: it says so by its tree, and catches up when there is space.
func TestAFullDiskStopsOneConductorOnly(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	s := newSite(t)
	small := filepath.Join(t.TempDir())
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	full := s.run(s.add(small))
	others := []*member{s.run(s.add("")), s.run(s.add(""))}
	s.node(full.Store)
	full.Wake()
	s.allHold(others...)
	if s.holds(full) || full.Tree() == others[0].Tree() {
		t.Error("a cache without space says that it has everything")
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	s.allHold(append(others, full)...)
}

func digestOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// quorum is a keeper that has files to boot, and others that it asks.
type quorum struct {
	*member
	files []ingot.File
	mu    sync.Mutex
	// others are those that live; said is what was said.
	others map[string]string
	said   []string
}

func (s *site) quorum(of int, timeout time.Duration) *quorum {
	s.Helper()
	q := &quorum{member: s.add(""), others: map[string]string{}}
	for _, path := range []string{"/vmlinuz", "/ramdisk"} {
		f, err := q.Hold(s.Context(), s.origin.URL+path)
		if err != nil {
			s.Fatal(err)
		}
		q.files = append(q.files, f)
	}
	q.Quorum.Size, q.Quorum.Timeout = of, timeout
	q.Others = func(hardware string) map[string]string {
		if hardware != "ipmi" {
			s.Errorf("asked for the conductors of %q", hardware)
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		return maps.Clone(q.others)
	}
	return q
}

func (q *quorum) live(host, url string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.others[host] = url
	if url == "" {
		delete(q.others, host)
	}
}

func (q *quorum) text() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return strings.Join(q.said, "\n")
}

func (q *quorum) await(ctx context.Context) error {
	return q.Await(ctx, "ipmi", q.files, func(level, text string) {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.said = append(q.said, level+" "+text)
	})
}

// empty is the URL of a conductor that does not hold files until it is told.
func (s *site) empty() (url string, full *atomic.Bool) {
	full = new(atomic.Bool)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !full.Load() {
			http.Error(w, "disk full", http.StatusInternalServerError)
		}
	}))
	s.Cleanup(srv.Close)
	return srv.URL, full
}

// TestS0_6_ADeploymentWaitsUntilAllHoldItsFiles: who is asked fetches them; who does not have them is
// named.
func TestS0_6_ADeploymentWaitsUntilAllHoldItsFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	q := s.quorum(0, time.Hour)
	if err := q.await(t.Context()); err != nil || q.text() != "" {
		t.Errorf("alone: %v, %s", err, q.text())
	}
	other := s.add("") // its keeper does not run: no message reaches it
	url, full := s.empty()
	q.live("r2", other.url)
	q.live("r3", url)
	ended := make(chan error, 1)
	go func() { ended <- q.await(t.Context()) }()
	s.until("it says for whom it waits", func() bool {
		return strings.HasSuffix(q.text(), "held by 2 conductors; waiting for r3")
	})
	if !s.holds(other) {
		t.Error("who was asked does not hold them")
	}
	select {
	case err := <-ended:
		t.Errorf("it did not wait: %v", err)
	default:
	}
	full.Store(true)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestS0_6_NobodyWaitsForTheDead: nor once it has died while waited for.
func TestS0_6_NobodyWaitsForTheDead(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	q := s.quorum(0, time.Hour)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // as a process that is stopped
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	q.live("r2", "http://"+silent.Addr().String())
	ended := make(chan error, 1)
	go func() { ended <- q.await(t.Context()) }()
	s.until("it waits", func() bool { return strings.HasSuffix(q.text(), "waiting for r2") })
	q.live("r2", "")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Who waits is told to end.
	q.live("r2", "http://"+silent.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.await(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// TestS0_6_ThereIsADeadline: all means all that can; a number is a number.
func TestS0_6_ThereIsADeadline(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	url, full := s.empty()
	q := s.quorum(0, time.Second)
	q.live("r2", url)
	if err := q.await(t.Context()); err != nil || !strings.Contains(q.text(), "warning going on without r2") {
		t.Errorf("all, of which one has no space: %v, %s", err, q.text())
	}
	// The next deployments need not find that out again.
	q.Quorum.Timeout = time.Hour
	if err := q.await(t.Context()); err != nil {
		t.Error(err)
	}
	q.Quorum.Size, q.Quorum.Timeout = 2, time.Second
	err := q.await(t.Context())
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(fmt.Sprint(err), "quorum is 2") {
		t.Errorf("two, of which one has no space: %v", err)
	}
	q.Quorum.Size = 5
	if err := q.await(t.Context()); ingot.KindOf(err) != ingot.Unavailable ||
		!strings.Contains(err.Error(), "no more than 2 conductors") {
		t.Errorf("five of two: %v", err)
	}
	q.Quorum.Size = 2
	full.Store(true)
	q.Quorum.Timeout = time.Hour
	if err := q.await(t.Context()); err != nil {
		t.Error(err)
	}
	q.Quorum.Size = 1
	q.live("r3", "http://127.0.0.1:1")
	if err := q.await(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestS0_7_ADamagedFileIsFetchedAgain: it is found by reading, not when a machine boots it.
func TestS0_7_ADamagedFileIsFetchedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := t.TempDir()
	sound, damaged := s.run(s.add("")), s.run(s.add(dir))
	s.node(sound.Store)
	sound.Wake()
	s.allHold(sound, damaged)
	s.origin.Close()
	name := filepath.Join(dir, digestOf(s.content["/vmlinuz"]))
	bad := []byte(s.content["/vmlinuz"])
	bad[12345] ^= 1
	if err := os.WriteFile(name, bad, 0o644); err != nil {
		t.Fatal(err)
	}
	damaged.Verify(t.Context())
	s.until("the file is sound", func() bool {
		got, err := os.ReadFile(name)
		return err == nil && string(got) == s.content["/vmlinuz"]
	})
	s.allHold(sound, damaged)
}

// TestS0_8_CleanUpRemovesWhatIsOldAndUnwanted: nothing that is wanted, nothing that is young.
func TestS0_8_CleanUpRemovesWhatIsOldAndUnwanted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := t.TempDir()
	m := s.add(dir)
	m.MaxAge = 48 * time.Hour
	if _, err := m.Hold(t.Context(), s.origin.URL+"/vmlinuz"); err != nil {
		t.Fatal(err)
	}
	old, young, booted := digestOf("old"), digestOf("young"), digestOf("booted")
	err := m.Store.CreateNode(t.Context(), &ingot.Node{UUID: ingot.NewUUID(), Driver: "ipmi",
		ProvisionState: "active", Instance: &ingot.Instance{Kernel: ingot.File{SHA256: booted}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{old, young, booted} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-72 * time.Hour)
	for _, name := range []string{old, booted, digestOf(s.content["/vmlinuz"])} {
		if err := os.Chtimes(filepath.Join(dir, name), past, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.CleanUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.Cache.Held(old) || !m.Cache.Held(young) || !m.Cache.Held(booted) || !m.Cache.Held(digestOf(s.content["/vmlinuz"])) {
		t.Error("the wrong files were removed")
	}
}
