package bootfile

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

const (
	// keepInterval is how often the files are compared with the store without a message that says
	// so; missingInterval, how soon what is missing is tried again at first.
	keepInterval    = 30 * time.Second
	missingInterval = time.Second
	// maxBackoff bounds the time between two attempts to get one file; hopeBackoff is that of a
	// source that cannot work, such as a path that this host does not have.
	maxBackoff  = time.Minute
	hopeBackoff = 10 * time.Minute
	// claimTime is how long a conductor that is killed keeps others from asking a source.
	claimTime = 15 * time.Second
	// maxFetches bounds the files that are fetched at once.
	maxFetches = 4
)

// Keeper holds what the store says that machines boot, on this conductor as on all others
// (S0.3-S0.7). It takes no input: a message that is lost costs time only.
type Keeper struct {
	Cache *Cache
	Store *store.Store
	// Host is this conductor's name.
	Host string
	// Sources are the configured kernel and ramdisk; "" is none.
	Sources []string
	// Programs are the directories of boot programs, the first of one name counts.
	Programs []string
	// Elsewhere tells which sources machines fetch from without us: they are not kept. nil: none.
	Elsewhere func(source string) bool
	// Tell wakes the keepers of all conductors; nil where there is one.
	Tell func()
	// Others returns the other conductors that live and have a hardware type, boot URLs by name. nil:
	// there are none.
	Others func(hardware string) map[string]string
	// Quorum is how many conductors have to hold what a machine is about to boot.
	Quorum Quorum
	// MaxAge is how long a file stays that no node names or boots, 0 for ever; only a day while all
	// files together have more than MaxBytes, 0 being no limit.
	MaxAge   time.Duration
	MaxBytes int64
	Log      *slog.Logger

	once sync.Once
	kick chan struct{}
	has  atomic.Pointer[Inventory]

	mu     sync.Mutex
	states map[string]*state // by key, of what is missing
}

// state is how far a file is.
type state struct {
	busy     bool
	hopeless bool
	tries    int
	next     time.Time
}

// key names a row of the store.
func key(f *store.BootFile) string { return f.SHA256 + " " + f.Source }

func (k *Keeper) init() {
	k.once.Do(func() {
		k.kick = make(chan struct{}, 1)
		k.states = map[string]*state{}
	})
}

// Wake has the keeper look at once: something is wanted, or was found.
func (k *Keeper) Wake() {
	k.init()
	k.mu.Lock()
	for _, s := range k.states {
		if !s.hopeless {
			s.next, s.tries = time.Time{}, 0
		}
	}
	k.mu.Unlock()
	k.nudge()
}

func (k *Keeper) nudge() {
	select {
	case k.kick <- struct{}{}:
	default: // one is pending
	}
}

// Tree is the digest of what this conductor can serve: SHA-256 over the sorted digests of the
// wanted files that it holds, and over its boot programs. Equal digests are equal trees (S0). It
// is "" until the first look.
func (k *Keeper) Tree() string { return k.Inventory().Tree }

// Inventory is what Tree is made of, as of the last look; the zero value before it.
func (k *Keeper) Inventory() Inventory {
	if i := k.has.Load(); i != nil {
		return *i
	}
	return Inventory{}
}

// Run keeps until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	k.init()
	programs := programs(k.Programs)
	var fetches sync.WaitGroup
	defer fetches.Wait()
	fetches.Go(func() { k.upkeep(ctx) })
	places := make(chan struct{}, maxFetches)
	for {
		pause, err := k.look(ctx, programs, func(f *store.BootFile, s *state) {
			fetches.Go(func() {
				select {
				case places <- struct{}{}:
					defer func() { <-places }()
				case <-ctx.Done():
					return
				}
				k.attempt(ctx, f, s)
			})
		})
		if err != nil && ctx.Err() == nil {
			k.Log.Error("cannot look which boot files are wanted; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.kick:
		case <-time.After(pause):
		}
	}
}

// look compares the files with the store and starts to fetch what is missing. It returns when to look
// again.
func (k *Keeper) look(ctx context.Context, programs map[string]string,
	start func(*store.BootFile, *state)) (pause time.Duration, err error) {
	pause = keepInterval
	for _, source := range k.Sources {
		if k.skips(source) {
			continue
		}
		if err := k.Store.WantBootFile(ctx, source); err != nil {
			return pause, err
		}
	}
	rows, err := k.Store.BootFiles(ctx)
	if err != nil {
		return pause, err
	}
	held, known := map[string]bool{}, map[string]bool{}
	rows = slices.DeleteFunc(rows, func(f *store.BootFile) bool { return k.skips(f.Source) })
	for _, f := range rows {
		known[f.Source] = known[f.Source] || f.SHA256 != ""
		held[f.SHA256] = held[f.SHA256] || k.Cache.Held(f.SHA256)
	}
	i := inventory(programs, rows, held)
	k.has.Store(&i)

	k.mu.Lock()
	defer k.mu.Unlock()
	left := map[string]*state{}
	now := time.Now()
	for _, f := range rows {
		if held[f.SHA256] || f.SHA256 == "" && known[f.Source] {
			continue
		}
		held[f.SHA256] = f.SHA256 != "" // by one fetch, if several sources have it
		s := cmp.Or(k.states[key(f)], new(state))
		left[key(f)] = s
		switch {
		case s.busy:
		case now.Before(s.next):
			pause = min(pause, s.next.Sub(now))
		default:
			s.busy = true
			start(f, s)
		}
	}
	k.states = left
	return pause, nil
}

func (k *Keeper) skips(source string) bool { return k.Elsewhere != nil && k.Elsewhere(source) }

// attempt tries once to get what is missing, and says when it is tried again.
func (k *Keeper) attempt(ctx context.Context, f *store.BootFile, s *state) {
	err := k.get(ctx, f)
	k.mu.Lock()
	pause := min(missingInterval<<min(s.tries, 10), maxBackoff)
	if s.hopeless = ingot.KindOf(err) == ingot.Invalid; s.hopeless {
		pause = hopeBackoff
	}
	s.busy = false
	s.tries++
	s.next = time.Now().Add(pause)
	k.mu.Unlock()
	k.nudge()
	switch {
	case err == nil:
	case ctx.Err() != nil, errors.Is(err, errClaimed):
	default:
		k.Log.Warn("a boot file that machines may need is not here", "source", redact(f.Source),
			"sha256", f.SHA256, "again_after", pause, "error", err)
	}
}

// errClaimed says that another conductor asks the source.
var errClaimed = errors.New("another conductor asks the source")

// get makes a wanted file held: from a conductor that has it, or from its source.
func (k *Keeper) get(ctx context.Context, f *store.BootFile) error {
	if f.SHA256 == "" {
		_, err := k.resolve(ctx, f.Source)
		return err
	}
	if err := k.ask(ctx, f.SHA256); err == nil || errors.Is(err, errDisk) {
		return err
	}
	return k.claimed(ctx, f.Source, f.SHA256, func(ctx context.Context) error {
		// Who had the claim before may hold it by now.
		if k.ask(ctx, f.SHA256) == nil {
			return nil
		}
		got, err := k.Cache.Hold(ctx, f.Source)
		if err == nil && got.SHA256 != f.SHA256 {
			err = ingot.Errorf(ingot.Unavailable, "no conductor that lives holds it, and its source "+
				"has other content now: %s", got.SHA256)
		}
		if err == nil {
			k.tell()
		}
		return err
	})
}

// ask fetches a file from another conductor.
func (k *Keeper) ask(ctx context.Context, digest string) error {
	r, err := k.Cache.Fetch(ctx, digest)
	if err != nil {
		return err
	}
	return r.Close()
}

// resolve finds out what a source has, as the one conductor that does.
func (k *Keeper) resolve(ctx context.Context, source string) (f ingot.File, err error) {
	err = k.claimed(ctx, source, "", func(ctx context.Context) error {
		// The claim may have come with a look at the rows from before the last one ended.
		if _, err := k.Store.BootFile(ctx, source); ingot.KindOf(err) != ingot.NotFound {
			return errors.Join(errClaimed, err)
		}
		if f, err = k.Cache.Hold(ctx, source); err != nil {
			return err
		}
		return k.record(ctx, source, f)
	})
	return f, err
}

// record says what a source has, and wakes the others if that is news.
func (k *Keeper) record(ctx context.Context, source string, f ingot.File) error {
	etag, modified := k.Cache.marked(source)
	news, err := k.Store.KeepBootFile(ctx, store.BootFile{Source: source, File: f, ETag: etag,
		Modified: modified})
	if news && err == nil {
		k.tell()
	}
	return err
}

func (k *Keeper) tell() {
	if k.Tell != nil {
		k.Tell()
	}
}

// claimed runs fn as the one conductor that asks the source for a digest: errClaimed if there is
// another one. The claim is renewed while fn runs; who is killed loses it soon.
func (k *Keeper) claimed(ctx context.Context, source, digest string,
	fn func(context.Context) error) error {
	me := k.Host + " " + rand.Text() // of two at once here the second waits, too
	mine, err := k.Store.ClaimBootFile(ctx, source, digest, me, claimTime)
	if err != nil {
		return err
	}
	if !mine {
		return errClaimed
	}
	done, renewed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(renewed)
		tick := time.NewTicker(claimTime / 3)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if _, err := k.Store.ClaimBootFile(ctx, source, digest, me, claimTime); err != nil {
				k.Log.Warn("cannot renew the claim to fetch a boot file", "error", err)
			}
		}
	}()
	err = fn(ctx)
	close(done)
	<-renewed
	// Also when this conductor ends: others need not wait then.
	free, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, freed := k.Store.ClaimBootFile(free, source, digest, me, 0)
	return errors.Join(err, freed)
}

// Hold is Cache.Hold for what a deployment boots: the file is wanted on all conductors before its
// digest is in any row. While conductors share a store, one of them asks a source that is new, and
// the others take the file from it. A source that does not answer, or a path that this host does
// not have, is replaced by what it last had. Where this conductor cannot write to its cache, it is
// enough that another one that lives holds the file: machines get it there.
func (k *Keeper) Hold(ctx context.Context, href string) (ingot.File, error) {
	k.init()
	if err := k.Store.WantBootFile(ctx, href); err != nil {
		return ingot.File{}, err
	}
	for begun := time.Now(); ; {
		f, err := k.holdOnce(ctx, href)
		if !errors.Is(err, errDisk) || !k.Store.Shared() {
			return f, err
		}
		if known, unknown := k.Store.BootFile(ctx, href); unknown == nil && k.elsewhere(ctx, known.SHA256) {
			k.Log.Warn("a boot file cannot be kept here; machines get it from other conductors",
				"source", redact(href), "sha256", known.SHA256, "error", err)
			return known.File, nil
		}
		if time.Since(begun) > k.Quorum.Timeout {
			return f, err
		}
		k.tell() // the others may be able to
		select {
		case <-ctx.Done():
			return f, err
		case <-time.After(missingInterval):
		}
	}
}

// holdOnce is Hold as long as this conductor can write to its cache.
func (k *Keeper) holdOnce(ctx context.Context, href string) (ingot.File, error) {
	known, err := k.Store.BootFile(ctx, href)
	for ingot.KindOf(err) == ingot.NotFound && k.Store.Shared() {
		f, failed := k.resolve(ctx, href)
		if failed == nil {
			return f, nil
		}
		if !errors.Is(failed, errClaimed) {
			return ingot.File{}, failed
		}
		select {
		case <-ctx.Done():
			return ingot.File{}, fmt.Errorf("wait for the conductor that fetches %s: %w", redact(href),
				ctx.Err())
		case <-time.After(missingInterval):
		}
		known, err = k.Store.BootFile(ctx, href)
	}
	if err != nil && ingot.KindOf(err) != ingot.NotFound {
		return ingot.File{}, err
	}
	if err == nil {
		failed := k.ask(ctx, known.SHA256)
		switch {
		case failed == nil:
			k.Cache.learn(href, known.File, known.ETag, known.Modified)
		case errors.Is(failed, errDisk):
			return ingot.File{}, failed
		}
	}
	f, failed := k.Cache.Hold(ctx, href)
	if failed != nil {
		absent := errors.Is(failed, fs.ErrNotExist) || ingot.KindOf(failed) == ingot.Unavailable ||
			ingot.KindOf(failed) == ingot.NotFound
		if err != nil || !absent || !k.Cache.Held(known.SHA256) || ctx.Err() != nil {
			return ingot.File{}, failed
		}
		k.Log.Warn("a boot file's source does not give it; machines get what it last had",
			"source", redact(href), "sha256", known.SHA256, "error", failed)
		f = known.File
	}
	return f, k.record(ctx, href, f)
}

// elsewhere tells whether another conductor that lives holds a file.
func (k *Keeper) elsewhere(ctx context.Context, digest string) bool {
	return k.Cache.Peers != nil && slices.ContainsFunc(k.Cache.Peers(), func(peer string) bool {
		return k.confirms(ctx, peer+"/files/"+digest+"/"+digest+"?"+heldOnly)
	})
}

// redact hides the password in a source.
func redact(source string) string {
	u, err := url.Parse(source)
	if err != nil {
		return "what is no URL"
	}
	return u.Redacted()
}

// programs returns the digests of the boot programs by name.
func programs(dirs []string) map[string]string {
	digests := map[string]string{}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir) // a directory that is missing has none
		for _, e := range entries {
			if digests[e.Name()] != "" {
				continue
			}
			if digest, err := digestOf(filepath.Join(dir, e.Name())); err == nil {
				digests[e.Name()] = digest
			}
		}
	}
	return digests
}

// digestOf hashes a regular file.
func digestOf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
