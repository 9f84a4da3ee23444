package store_test

import (
	"cmp"
	"sync"
	"sync/atomic"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// beat says that a conductor lives, in the incarnation of its name.
func beat(t *testing.T, s *store.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := s.Heartbeat(t.Context(), ingot.Conductor{Hostname: name, Incarnation: name}); err != nil {
			t.Fatal(err)
		}
	}
}

// has tells whether an incarnation gets a lock.
func has(t *testing.T, s *store.Store, name, incarnation string) bool {
	t.Helper()
	held, err := s.Lock(t.Context(), name, incarnation)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func TestALockTellsWhoHasIt(t *testing.T) {
	t.Parallel()
	s := open(t)
	beat(t, s, "a")
	for _, want := range []string{"", "a"} {
		if who, err := s.LockHolder(t.Context(), "l"); err != nil || who != want {
			t.Errorf("%q (%v), want %q", who, err, want)
		}
		has(t, s, "l", "a")
	}
}

func TestALockIsOfOneConductorThatLives(t *testing.T) {
	t.Parallel()
	s := open(t)
	if has(t, s, "l", "a") {
		t.Error("who has never been heard of has a lock")
	}
	beat(t, s, "a", "b")
	for range 2 { // who has it may ask again
		if !has(t, s, "l", "a") {
			t.Error("a does not have it")
		}
	}
	if has(t, s, "l", "b") || !has(t, s, "other", "b") {
		t.Error("a does not have it alone")
	}
	if err := s.Unlock(t.Context(), "l", "b"); err != nil || has(t, s, "l", "b") {
		t.Errorf("another one has given it back: %v", err)
	}
	if err := s.Unlock(t.Context(), "l", "a"); err != nil || !has(t, s, "l", "b") || has(t, s, "l", "a") {
		t.Errorf("given back, it is not b's: %v", err)
	}
	dead, err := s.Conductor(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	if done, err := s.Bury(t.Context(), dead); err != nil || !done {
		t.Fatal(done, err)
	}
	if has(t, s, "l", "b") || has(t, s, "other", "b") {
		t.Error("who was found dead has its locks still")
	}
	if !has(t, s, "l", "a") {
		t.Error("the lock of a dead conductor cannot be taken")
	}
}

// Who takes a name by force waits until the lease of the one before is over, which has its locks until then: it goes
// on, and nobody has told it.
func TestALockOutlivesItsHoldersName(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	for engine, stores := range map[string][2]*store.Store{"SQLite": {open(t)}, "PostgreSQL": {a, b}} {
		s, other := stores[0], cmp.Or(stores[1], stores[0])
		beat(t, s, "h", "c")
		if !has(t, s, "l", "h") {
			t.Fatalf("%s: h does not have it", engine)
		}
		for _, next := range []string{"h2", "h3"} { // and by force once more
			if err := other.TakeName(t.Context(), "h", next, "10.0.0.2"); err != nil {
				t.Fatal(err)
			}
			if has(t, s, "l", "c") || has(t, other, "l", next) || has(t, other, "free", next) {
				t.Errorf("%s: another one has it", engine)
			}
			if !has(t, s, "l", "h") {
				t.Errorf("%s: h has it no more", engine)
			}
		}
		// Its lease ends, and the new one begins.
		if err := store.Age(t.Context(), s, "h"); err != nil {
			t.Fatal(err)
		}
		err := s.Heartbeat(t.Context(), ingot.Conductor{Hostname: "h", Incarnation: "h3"})
		if err != nil {
			t.Fatal(err)
		}
		if has(t, s, "l", "h") || !has(t, other, "free", "h3") || !has(t, s, "l", "c") {
			t.Errorf("%s: with the lease of h its lock has not ended", engine)
		}
	}
}

// Of many who take a free lock at once, in two processes, one gets it.
func TestOneGetsALock(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	names := []string{"a", "b", "c", "d"}
	beat(t, a, names...)
	for _, lock := range []string{"x", "y", "z"} {
		var got atomic.Int32
		var all sync.WaitGroup
		for i, name := range names {
			all.Go(func() {
				s := []*store.Store{a, b}[i%2]
				if held, err := s.Lock(t.Context(), lock, name); err != nil {
					t.Error(err)
				} else if held {
					got.Add(1)
				}
			})
		}
		all.Wait()
		if got.Load() != 1 {
			t.Errorf("%d have lock %s", got.Load(), lock)
		}
	}
}
