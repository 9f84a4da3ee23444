// Package tree writes what machines boot into directories for servers that know nothing of ingot: a
// site's own TFTP server, its own HTTP server. The texts are those that requests are answered
// (netboot), the kernels and ramdisks those that are held (bootfile); what a machine boots is still
// decided by its row alone. So nothing here is state: the tree may be lost at any moment, and is
// made again.
//
// Read Tree.show first (one node), then Tree.look (everything), then switch.go: how a deployment waits
// until the trees of all conductors show it.
package tree

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/store"
)

const (
	// lookInterval is how often the tree is compared with the versions of what boots from the network,
	// compareInterval with everything on the disk.
	lookInterval    = 30 * time.Second
	compareInterval = time.Hour
)

// Options is what a Tree works with. All are needed but Programs.
type Options struct {
	// Dirs are the directories, which all get the same.
	Dirs  []string
	Store *store.Store
	Cache *bootfile.Cache
	// Programs returns the paths of the boot programs by the names that firmware asks for; nil: there
	// are none.
	Programs func() map[string]string
	// Env is what a page must know of the installation. It has to be the same wherever it is asked.
	Env func(n *ingot.Node) netboot.Env
	Log *slog.Logger
}

// Tree is the directories of this conductor.
type Tree struct {
	o    Options
	kick chan struct{}
	// token is taken by whoever works on the directories; it guards what follows.
	token chan struct{}
	roots []*root
	nodes map[string][]string // the paths that a node has there, by UUID
	// owner has the UUID of the node that a page or link belongs to, by path.
	owner map[string]string
	told  map[string]bool // foreign files that the log was told of
	// swept tells that all that is there is in nodes, or common: until then what an earlier life has
	// left of a node is not known to be its.
	swept bool

	// versions are those of the nodes that were right at the last look, by UUID; for Run alone.
	versions map[string]string

	mu sync.Mutex // guards what follows
	// heard are nodes that have changed; all tells that everything is to be compared.
	heard map[string]bool
	all   bool
}

// Open makes the directories and takes those of an earlier life over. They are this process's until
// Close. Invalid for what is no such directory.
func Open(o Options) (*Tree, error) {
	t := &Tree{o: o, kick: make(chan struct{}, 1), token: make(chan struct{}, 1),
		nodes: map[string][]string{}, versions: map[string]string{}, owner: map[string]string{},
		told: map[string]bool{}, heard: map[string]bool{}, all: true}
	seen := map[string]bool{}
	for _, dir := range o.Dirs {
		if dir = filepath.Clean(dir); seen[dir] {
			continue
		}
		seen[dir] = true
		r, err := openRoot(dir)
		if err != nil {
			t.Close()
			return nil, err
		}
		t.roots = append(t.roots, r)
	}
	return t, nil
}

// Close lets another process have the directories, as they are.
func (t *Tree) Close() {
	for _, r := range t.roots {
		r.close()
	}
}

// Compare has everything compared soon: what pages say of the installation has changed.
func (t *Tree) Compare() {
	t.mu.Lock()
	t.all = true
	t.mu.Unlock()
	t.nudge()
}

// Hear has a node looked at soon. A message that is lost costs time only.
func (t *Tree) Hear(uuid string) {
	t.mu.Lock()
	t.heard[uuid] = true
	t.mu.Unlock()
	t.nudge()
}

func (t *Tree) nudge() {
	select {
	case t.kick <- struct{}{}:
	default: // one is pending
	}
}

// Run keeps the directories right until ctx ends.
func (t *Tree) Run(ctx context.Context) error {
	tick, compare := time.NewTicker(lookInterval), time.NewTicker(compareInterval)
	defer tick.Stop()
	defer compare.Stop()
	for due := true; ; {
		heard, all := t.pending()
		for uuid := range heard {
			if _, err := t.show(ctx, uuid); err != nil && ctx.Err() == nil {
				t.o.Log.Error("the tree on disk does not show what a node boots; trying again",
					"node", uuid, "error", err)
			}
		}
		if due || all {
			if err := t.look(ctx, all); err != nil && ctx.Err() == nil {
				t.o.Log.Error("the tree of boot files on disk is not as it should be; trying again",
					"after", lookInterval, "error", err)
			}
		}
		due = false
		select {
		case <-ctx.Done():
			return nil
		case <-t.kick:
		case <-tick.C:
			due = true
		case <-compare.C:
			t.Compare()
		}
	}
}

// pending takes what is to be done.
func (t *Tree) pending() (heard map[string]bool, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	heard, all = t.heard, t.all
	t.heard, t.all = map[string]bool{}, false
	return heard, all
}

// with runs fn with the directories to itself.
func (t *Tree) with(ctx context.Context, fn func() error) error {
	select {
	case t.token <- struct{}{}:
		defer func() { <-t.token }()
		return fn()
	case <-ctx.Done():
		return ingot.Errorf(ingot.Unavailable, "wait for the disk: %w", ctx.Err())
	}
}

// errUnread says that it is not known what a node boots.
var errUnread = errors.New("the node cannot be read")

// acknowledge is show for others: not before the first sweep.
func (t *Tree) acknowledge(ctx context.Context, uuid string) (generation int64, err error) {
	err = t.with(ctx, func() error {
		if !t.swept {
			return ingot.Errorf(ingot.Unavailable, "still comparing what is on disk from before the start")
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return t.show(ctx, uuid)
}

// show makes the directories show what a node boots now, and returns the generation of the row that
// they show. A node that is gone, or boots nothing from the network, has nothing there.
func (t *Tree) show(ctx context.Context, uuid string) (generation int64, err error) {
	err = t.with(ctx, func() error {
		n, err := t.o.Store.Node(ctx, uuid)
		if ingot.KindOf(err) == ingot.NotFound || err == nil && n.UUID != uuid {
			return t.place(uuid, netboot.Tree{})
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errUnread, err)
		}
		ports, err := t.o.Store.Ports(ctx, store.PortFilter{NodeID: n.ID}, store.Page{})
		if err != nil {
			return fmt.Errorf("%w: %w", errUnread, err)
		}
		var macs []string
		for _, p := range ports {
			if p.PXEEnabled {
				macs = append(macs, p.Address)
			}
		}
		generation = n.Generation
		return t.place(uuid, netboot.NodeTree(n, macs, t.o.Env(n)))
	})
	return generation, err
}

// place makes a node's part of the directories what it shall be. Called with the token.
func (t *Tree) place(uuid string, want netboot.Tree) error {
	files, missing := map[string]content{}, error(nil)
	for name, f := range want.Files {
		files[name] = content{file: t.o.Cache.Path(f.SHA256)}
		if files[name].file == "" {
			missing = ingot.Errorf(ingot.Unavailable, "boot file %s (%s) is not held here yet", f.Name,
				f.SHA256)
			delete(files, name)
		}
	}
	for name, text := range want.Pages {
		files[name] = content{text: text}
	}
	var paths, gone []string
	for name := range want.Files {
		paths = append(paths, name)
	}
	for name := range want.Pages {
		paths = append(paths, name)
	}
	for _, name := range paths {
		t.owner[name] = uuid
	}
	for _, name := range t.nodes[uuid] {
		if t.owner[name] == uuid && !slices.Contains(paths, name) {
			delete(t.owner, name)
			if !isShared(name) { // those the next look takes away, if nobody else has them
				gone = append(gone, name)
			}
		}
	}
	errs := []error{missing}
	if missing != nil {
		// A machine that finds no page goes on; one that finds no kernel has lost its firmware's turn.
		for name := range want.Pages {
			delete(files, name)
		}
	}
	for _, r := range t.roots {
		errs = append(errs, r.put(files), r.remove(gone))
	}
	for _, name := range gone {
		if slices.ContainsFunc(t.roots, func(r *root) bool { return r.owned[name] }) {
			// It could not be removed, and is not forgotten before it is.
			paths, t.owner[name] = append(paths, name), uuid
		}
	}
	t.nodes[uuid] = paths
	if len(paths) == 0 {
		delete(t.nodes, uuid)
	}
	return errors.Join(errs...)
}

// isShared tells whether a path is that of a kernel or ramdisk which several nodes may boot.
func isShared(name string) bool { return strings.HasPrefix(name, "files/") }

// look compares the directories with the rows: the nodes whose version is another one than at the last
// look, or all. What nobody wants is taken away, also what an earlier life has left.
func (t *Tree) look(ctx context.Context, all bool) error {
	files, wanted, err := t.common(ctx)
	if err != nil {
		return err
	}
	errs := []error{t.placeCommon(ctx, files)}
	versions, err := t.o.Store.NetbootVersions(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	changed, err := t.changed(ctx, versions, all)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	failed := 0
	for _, uuid := range changed {
		_, err := t.show(ctx, uuid)
		if errors.Is(err, errUnread) || ctx.Err() != nil {
			// What it has there is not known: nothing can be taken away.
			return errors.Join(append(errs, fmt.Errorf("node %s: %w", uuid, err))...)
		}
		if err == nil {
			t.versions[uuid] = versions[uuid]
			continue
		}
		delete(t.versions, uuid)
		if failed++; failed == 1 {
			errs = append(errs, fmt.Errorf("node %s: %w", uuid, err))
		}
	}
	if failed > 1 {
		errs = append(errs, fmt.Errorf("and %d nodes more", failed-1))
	}
	maps.DeleteFunc(t.versions, func(uuid, _ string) bool { return versions[uuid] == "" })
	return errors.Join(append(errs, t.sweep(ctx, wanted))...)
}

// changed are the nodes to show: those that boot something from the network, and those that did.
func (t *Tree) changed(ctx context.Context, versions map[string]string,
	all bool) (uuids []string, err error) {
	for uuid, version := range versions {
		if all || t.versions[uuid] != version {
			uuids = append(uuids, uuid)
		}
	}
	err = t.with(ctx, func() error {
		for uuid := range t.nodes {
			if versions[uuid] == "" {
				uuids = append(uuids, uuid)
			}
		}
		return nil
	})
	return uuids, err
}

// common is what does not depend on nodes: pages for all machines, boot programs, and the kernels and
// ramdisks that are wanted. Those that are not held here are among the names only.
func (t *Tree) common(ctx context.Context) (files map[string]content, names map[string]bool, err error) {
	rows, err := t.o.Store.BootFiles(ctx)
	if err != nil {
		return nil, nil, err
	}
	files, names = map[string]content{}, map[string]bool{}
	for name, text := range netboot.CommonTree() {
		files[name] = content{text: text}
	}
	if t.o.Programs != nil {
		for name, path := range t.o.Programs() {
			files[name] = content{file: path}
		}
	}
	for _, f := range rows {
		if f.SHA256 == "" {
			continue
		}
		name := netboot.FilePath(f.File)
		names[name] = true
		if path := t.o.Cache.Path(f.SHA256); path != "" {
			files[name] = content{file: path}
		}
	}
	for name := range files {
		names[name] = true
	}
	return files, names, nil
}

// placeCommon makes the common files. One that the site has put there itself is left alone: it may
// have its own boot.ipxe, or another boot program.
func (t *Tree) placeCommon(ctx context.Context, files map[string]content) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		one := map[string]content{name: files[name]}
		err := t.with(ctx, func() error {
			var errs []error
			for _, r := range t.roots {
				err := r.put(one)
				if own := (*foreignError)(nil); errors.As(err, &own) {
					if !t.told[own.path] {
						t.told[own.path] = true
						t.o.Log.Warn("a file on disk that is not ingot's is left alone", "file", own.path)
					}
					continue
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweep takes away what is ours, and neither wanted nor any node's.
func (t *Tree) sweep(ctx context.Context, wanted map[string]bool) error {
	return t.with(ctx, func() error {
		for _, paths := range t.nodes {
			for _, name := range paths {
				wanted[name] = true
			}
		}
		var errs []error
		for _, r := range t.roots {
			errs = append(errs, r.sweep(wanted))
		}
		err := errors.Join(errs...)
		t.swept = t.swept || err == nil
		return err
	})
}
