package tree_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
	"ingot/internal/tree"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("INGOT_TREE_TEST_DIR"); dir != "" {
		fmt.Fprintln(os.Stderr, tree.WriteForEver(dir))
		os.Exit(1)
	}
	os.Exit(storetest.Run(m))
}

const (
	key     = "K3yK3yK3yK3yK3yK3yK3yK3yK3yK3yK3"
	kernel  = "a kernel"
	ramdisk = "a ramdisk"
)

// site is conductors that share a database, each with a tree on its disk.
type site struct {
	*testing.T
	database        string
	source          string
	kernel, ramdisk ingot.File
}

// member is one conductor.
type member struct {
	*tree.Tree
	store     *store.Store
	dir       string
	url       string
	directory fs.FS
	stop      func()
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, database: storetest.Postgres(t), source: t.TempDir()}
	for name, text := range map[string]string{"vmlinuz": kernel, "ramdisk": ramdisk,
		"snponly.efi": "an iPXE"} {
		if err := os.WriteFile(filepath.Join(s.source, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// add starts a conductor whose tree is in dir; "" is a new one.
func (s *site) add(dir string) *member {
	s.Helper()
	if dir == "" {
		dir = filepath.Join(s.TempDir(), "served")
	}
	m := &member{dir: dir, directory: os.DirFS(dir)}
	var err error
	m.store, err = store.Open(s.Context(), store.Options{URL: s.database, Connections: 4})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { m.store.Close() })
	cache := bootfile.New(s.TempDir(), nil, slog.New(slog.DiscardHandler))
	for name, into := range map[string]*ingot.File{"vmlinuz": &s.kernel, "ramdisk": &s.ramdisk} {
		source := "file://" + filepath.Join(s.source, name)
		if *into, err = cache.Hold(s.Context(), source); err != nil {
			s.Fatal(err)
		}
		if _, err := m.store.KeepBootFile(s.Context(), store.BootFile{Source: source, File: *into}); err != nil {
			s.Fatal(err)
		}
	}
	m.Tree, err = tree.Open(tree.Options{Dirs: []string{dir}, Store: m.store, Cache: cache,
		Log: slog.New(slog.DiscardHandler),
		Programs: func() map[string]string {
			return map[string]string{"snponly.efi": filepath.Join(s.source, "snponly.efi")}
		},
		Env: func(*ingot.Node) netboot.Env {
			return netboot.Env{APIURLs: []string{"http://10.0.0.1:8080"}, KernelArgs: "quiet"}
		}})
	if err != nil {
		s.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tree/{uuid}", m.Ack)
	server := httptest.NewServer(mux)
	m.url = server.URL
	m.stop = sync.OnceFunc(func() { server.Close(); m.Close() })
	s.Cleanup(m.stop)
	return m
}

// run lets a conductor look by itself.
func (s *site) run(m *member) *member {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop := m.stop
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
		stop()
	})
	s.Cleanup(m.stop)
	testkit.Eventually(s.T, "it has looked at its disk", func() bool {
		return m.ack(s.T, ingot.NewUUID(), 0) == http.StatusOK
	})
	return m
}

// node enrolls a machine that is being deployed; its MAC ends in a number.
func (s *site) node(st *store.Store, number int) *ingot.Node {
	s.Helper()
	n := &ingot.Node{UUID: ingot.NewUUID(), Name: fmt.Sprint("n", number), Driver: "ipmi",
		ProvisionState: "deploying", BootIntent: ingot.BootDeploy,
		Attempt: &ingot.Attempt{ID: "5f3a9c01", Key: key, Kernel: s.kernel, Ramdisk: s.ramdisk}}
	if err := st.CreateNode(s.Context(), n); err != nil {
		s.Fatal(err)
	}
	s.port(st, n, number)
	return n
}

func (s *site) port(st *store.Store, n *ingot.Node, number int) {
	s.Helper()
	err := st.CreatePort(s.Context(), &ingot.Port{UUID: ingot.NewUUID(), NodeUUID: n.UUID,
		Address: fmt.Sprintf("52:54:00:00:00:%02x", number), PXEEnabled: true})
	if err != nil {
		s.Fatal(err)
	}
}

// intend changes what a node boots.
func (s *site) intend(st *store.Store, n *ingot.Node, intent ingot.BootIntent) {
	s.Helper()
	n.BootIntent = intent
	if err := st.UpdateNode(s.Context(), n); err != nil {
		s.Fatal(err)
	}
}

// pages are the names that the machine with a number finds its configuration under.
func pages(number int) []string {
	mac := fmt.Sprintf("52-54-00-00-00-%02x", number)
	return []string{"pxelinux.cfg/" + mac, "pxelinux.cfg/01-" + mac, "grub.cfg-01-" + mac,
		"grub/grub.cfg-01-" + mac, strings.ReplaceAll(mac, "-", ":") + ".conf"}
}

// shows tells whether all pages of a machine are there, or, if not, whether any is.
func (m *member) shows(number int) (all, some bool) {
	all = true
	for _, name := range pages(number) {
		_, err := fs.Stat(m.directory, name)
		all, some = all && err == nil, some || err == nil
	}
	return all, some
}

// secrets are the files, whatever their name, in which the key is.
func (m *member) secrets(t testing.TB) (names []string) {
	t.Helper()
	fs.WalkDir(m.directory, ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if text, err := fs.ReadFile(m.directory, name); err == nil && strings.Contains(string(text), key) {
				names = append(names, name)
			}
		}
		return nil
	})
	return names
}

// ack asks for an acknowledgement.
func (m *member) ack(t testing.TB, uuid string, generation int64) (status int) {
	t.Helper()
	resp, err := testkit.Web.Get(fmt.Sprint(m.url, "/tree/", uuid, "?generation=", generation))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// Ironic's layout, and nothing of a node that does not boot from the network, its key least of all.
func TestATreeShowsWhatBootsFromTheNetworkAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := s.run(s.add(""))
	testkit.Eventually(t, "the common files are there", func() bool {
		return !slices.ContainsFunc([]string{"boot.ipxe", "pxelinux.cfg/default", "grub/grub.cfg",
			"snponly.efi", netboot.FilePath(s.kernel), netboot.FilePath(s.ramdisk)}, func(name string) bool {
			_, err := fs.Stat(m.directory, name)
			return err != nil
		})
	})
	n := s.node(m.store, 1)
	m.Hear(n.UUID)
	testkit.Eventually(t, "the pages are there", func() bool { all, _ := m.shows(1); return all })
	for name, want := range map[string]string{n.UUID + "/deploy_kernel": kernel,
		n.UUID + "/deploy_ramdisk": ramdisk, netboot.FilePath(s.kernel): kernel} {
		if text, err := fs.ReadFile(m.directory, name); string(text) != want {
			t.Errorf("%s is %q, %v", name, text, err)
		}
	}
	secrets := m.secrets(t)
	if len(secrets) != 6 {
		t.Errorf("the key is in %q", secrets)
	}
	for _, name := range secrets {
		if info, err := fs.Stat(m.directory, name); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}

	s.port(m.store, n, 2)
	m.Hear(n.UUID)
	testkit.Eventually(t, "a new card has pages", func() bool { all, _ := m.shows(2); return all })

	for _, intent := range []ingot.BootIntent{ingot.BootDisk, ingot.BootDeploy, ingot.BootError} {
		s.intend(m.store, n, intent)
		if status := m.ack(t, n.UUID, n.Generation); status != http.StatusOK {
			t.Errorf("intent %s: status %d", intent, status)
		}
		want := 0
		if intent == ingot.BootDeploy {
			want = 11 // five for each of two cards, and UUID/config
		}
		if secrets := m.secrets(t); len(secrets) != want {
			t.Errorf("intent %s: the key is in %q", intent, secrets)
		}
	}
	if _, err := fs.Stat(m.directory, n.UUID); err == nil {
		t.Error("the node's directory is still there")
	}
	if _, err := fs.Stat(m.directory, netboot.FilePath(s.kernel)); err != nil {
		t.Errorf("the kernel, which the next deployment boots: %v", err)
	}
}

// One that was away, or missed all messages, finds out by itself.
func TestATreeCatchesUp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := s.run(s.add(""))
	left, gone, other := s.node(m.store, 1), s.node(m.store, 2), s.node(m.store, 3)
	for _, n := range []*ingot.Node{left, gone, other} {
		if status := m.ack(t, n.UUID, n.Generation); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
	m.stop()
	s.intend(m.store, left, ingot.BootDisk)
	if err := m.store.DeleteNode(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	fresh := s.node(m.store, 4)
	damaged := filepath.Join(m.dir, pages(3)[0])
	if err := os.WriteFile(damaged, []byte("damaged"), 0o640); err != nil {
		t.Fatal(err)
	}
	m = s.add(m.dir)
	if status := m.ack(t, left.UUID, left.Generation); status != http.StatusServiceUnavailable {
		t.Errorf("acknowledged with %d, and the page of the life before is there", status)
	}
	s.run(m)
	if _, some := m.shows(1); some {
		t.Error("the page of the life before is there after the first look")
	}
	testkit.Eventually(t, "the tree is as the rows are", func() bool {
		_, first := m.shows(1)
		_, second := m.shows(2)
		third, _ := m.shows(3)
		fourth, _ := m.shows(4)
		text, _ := os.ReadFile(damaged)
		return !first && !second && third && fourth && strings.Contains(string(text), key)
	})
	// Without any message, by a look at everything.
	s.intend(m.store, fresh, ingot.BootNone)
	m.Compare()
	testkit.Eventually(t, "the page is gone", func() bool { _, some := m.shows(4); return !some })
}

// A switch costs the pages of its node. All others are the same files as before.
func TestASwitchTouchesItsOwnPagesOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := s.run(s.add(""))
	nodes := make([]*ingot.Node, 20)
	for i := range nodes {
		nodes[i] = s.node(m.store, i)
		m.ack(t, nodes[i].UUID, nodes[i].Generation)
	}
	inodes := func() map[string]os.FileInfo {
		t.Helper()
		all := map[string]os.FileInfo{}
		fs.WalkDir(m.directory, ".", func(name string, e fs.DirEntry, err error) error {
			if info, err := e.Info(); err == nil && !e.IsDir() && !strings.HasPrefix(name, ".ingot") {
				all[name] = info
			}
			return nil
		})
		return all
	}
	before := inodes()
	nodes[7].Attempt.Key = "another"
	s.intend(m.store, nodes[7], ingot.BootDeploy)
	m.ack(t, nodes[7].UUID, nodes[7].Generation)
	after := inodes()
	changed := map[string]bool{}
	for name, info := range after {
		if !os.SameFile(before[name], info) {
			changed[name] = true
		}
	}
	want := append(pages(7), nodes[7].UUID+"/config")
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(changed)); !slices.Equal(got, want) || len(before) != len(after) {
		t.Errorf("changed are %q, want %q", got, want)
	}
}

// A card that moves to another machine takes its name with it.
func TestAPageBelongsToTheMachineThatHasTheCard(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := s.run(s.add(""))
	first, second := s.node(m.store, 1), s.node(m.store, 2)
	show := func(n *ingot.Node) {
		t.Helper()
		if status := m.ack(t, n.UUID, n.Generation); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
	show(first)
	ports, err := m.store.Ports(t.Context(), store.PortFilter{NodeUUID: first.UUID}, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	ports[0].NodeID, ports[0].NodeUUID = second.ID, second.UUID
	if err := m.store.UpdatePort(t.Context(), ports[0]); err != nil {
		t.Fatal(err)
	}
	show(second)
	show(first)
	text, err := fs.ReadFile(m.directory, pages(1)[0])
	if err != nil || !strings.Contains(string(text), second.UUID) {
		t.Errorf("%v: %s", err, text)
	}
}

// switcher is the wait of a deployment for the trees of members, who live as long as they are in it.
type switcher struct {
	tree.Switch
	mu      sync.Mutex
	members map[string]string
	said    []string
}

func newSwitcher(timeout time.Duration, members ...*member) *switcher {
	w := &switcher{members: map[string]string{}}
	for i, m := range members {
		w.members[fmt.Sprint("r", i+1)] = m.url
	}
	w.Client, w.Quorum.Timeout = testkit.Web, timeout
	w.Members = func(string) map[string]string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return maps.Clone(w.members)
	}
	return w
}

func (w *switcher) say(level, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, level+" "+text)
}

func (w *switcher) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.said, "\n")
}

func (w *switcher) remove(host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.members, host)
}

// TestS0_10_TheMachineIsRestartedWhenAllTreesShowItsSwitch: each conductor is asked, writes, and
// acknowledges. One that cannot is waited for by name, with its reason.
func TestS0_10_TheMachineIsRestartedWhenAllTreesShowItsSwitch(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	// Nobody tells them of anything: every message is lost.
	members := []*member{s.run(s.add("")), s.run(s.add("")), s.run(s.add(""))}
	n := s.node(members[0].store, 1)
	inTheWay := filepath.Join(members[2].dir, pages(1)[1])
	err := os.MkdirAll(filepath.Dir(inTheWay), 0o755)
	if err == nil {
		err = os.WriteFile(inTheWay, []byte("of another installation"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	w := newSwitcher(time.Hour, members...)
	ended := make(chan error, 1)
	go func() { ended <- w.Await(t.Context(), n, w.say) }()
	testkit.Eventually(t, "it says for whom it waits", func() bool {
		return strings.Contains(w.text(), "switched by 2 conductors; waiting for r3 (") &&
			strings.Contains(w.text(), "is in the way and not ingot's")
	})
	select {
	case err := <-ended:
		t.Errorf("it did not wait: %v", err)
	default:
	}
	for i, m := range members[:2] {
		if all, _ := m.shows(1); !all {
			t.Errorf("r%d has acknowledged what is not there", i+1)
		}
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// And back: when it is told to boot its disk, no page may be left anywhere.
	s.intend(members[0].store, n, ingot.BootDisk)
	if err := w.Await(t.Context(), n, w.say); err != nil {
		t.Error(err)
	}
	for i, m := range members {
		if secrets := m.secrets(t); len(secrets) > 0 {
			t.Errorf("r%d still has the key in %q", i+1, secrets)
		}
	}
}

// The rules of the quorum hold: nobody waits for the dead, nor for ever; sites without a tree on disk
// do not wait at all.
func TestS0_10_ASwitchWaitsForNobodyForEver(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good, bad := s.run(s.add("")), s.run(s.add(""))
	n := s.node(good.store, 1)
	bad.stop()
	w := newSwitcher(time.Hour, good, bad)
	ended := make(chan error, 1)
	go func() { ended <- w.Await(t.Context(), n, w.say) }()
	testkit.Eventually(t, "it waits", func() bool { return strings.HasSuffix(w.text(), "waiting for r2") })
	w.remove("r2")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	w = newSwitcher(time.Second, good, bad)
	if err := w.Await(t.Context(), n, w.say); err != nil ||
		!strings.Contains(w.text(), "warning going on without r2: its tree on disk did not show") {
		t.Errorf("%v, %s", err, w.text())
	}
	w = newSwitcher(time.Second, good, bad)
	w.Quorum.Size = 2
	if err := w.Await(t.Context(), n, w.say); ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("two, of which one is silent: %v", err)
	}
	w.Quorum.Size = 1
	if err := w.Await(t.Context(), n, w.say); err != nil {
		t.Error(err)
	}
	if err := newSwitcher(0).Await(t.Context(), n, w.say); err != nil {
		t.Errorf("nobody has a tree: %v", err)
	}
	// A row that is older than the one that is asked for is no acknowledgement.
	if status := good.ack(t, n.UUID, n.Generation+1); status != http.StatusServiceUnavailable {
		t.Errorf("of a row that is not there: %d", status)
	}
}

// A page that cannot be removed is not acknowledged as gone, however often that is asked.
func TestAPageThatStaysIsNotForgotten(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := s.run(s.add(""))
	n := s.node(m.store, 1)
	if status := m.ack(t, n.UUID, n.Generation); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	s.intend(m.store, n, ingot.BootDisk)
	stuck := filepath.Join(m.dir, pages(1)[0]) // to remove a directory takes another call
	if err := errors.Join(os.Remove(stuck), os.MkdirAll(filepath.Join(stuck, "x"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if status := m.ack(t, n.UUID, n.Generation); status != http.StatusServiceUnavailable {
			t.Errorf("status %d, and the page is there", status)
		}
	}
	if err := os.RemoveAll(stuck); err != nil {
		t.Fatal(err)
	}
	if status := m.ack(t, n.UUID, n.Generation); status != http.StatusOK || len(m.secrets(t)) > 0 {
		t.Errorf("status %d, the key is in %q", status, m.secrets(t))
	}
}
