package keystone

import (
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/ingot"
)

func TestWrongTokensDisplaceNoGoodOnes(t *testing.T) {
	t.Parallel()
	tokens := NewTokens(&Session{}, time.Hour)
	name := func(i int) (d digest) {
		binary.BigEndian.PutUint64(d[:], uint64(i))
		return d
	}
	who := &Identity{UserID: "u", Expires: time.Now().Add(time.Hour)}
	if _, err := tokens.note(name(0), who, time.Time{}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * remembered {
		tokens.noteBad(name(i + 1))
	}
	if k, ok, err := tokens.recall(name(0)); !ok || err != nil || k.who != who {
		t.Errorf("a good token after many wrong ones: %+v, %v, %v", k, ok, err)
	}
	for i := range 3 * remembered {
		if _, err := tokens.note(name(-i), who, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(tokens.good) != remembered || len(tokens.bad) != remembered {
		t.Errorf("%d good and %d bad ones are kept, %d is the bound", len(tokens.good), len(tokens.bad),
			remembered)
	}
}

func TestPausesGrowAndEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r rest
		why := ingot.Errorf(ingot.Unavailable, "silent")
		for _, want := range []int{2, 4, 8, 16, 30, 30} {
			err := r.after(why)
			if RetryAfter(err) != want || ingot.KindOf(err) != ingot.Unavailable {
				t.Errorf("%v: again in %d s, want %d", err, RetryAfter(err), want)
			}
			time.Sleep(time.Duration(want)*time.Second - time.Millisecond)
			if err := r.check(); RetryAfter(err) != 1 || err.Error() != "silent" {
				t.Errorf("just before: %v, again in %d s", err, RetryAfter(err))
			}
			if again := r.after(why); RetryAfter(again) != 1 {
				t.Errorf("one that had asked before: again in %d s", RetryAfter(again))
			}
			time.Sleep(time.Millisecond)
			if err := r.check(); err != nil {
				t.Errorf("just after: %v", err)
			}
		}
		r.over()
		if err := r.after(why); RetryAfter(err) != 2 {
			t.Errorf("after it had answered: again in %d s", RetryAfter(err))
		}
	})
	if n := RetryAfter(errors.New("other")); n != 0 {
		t.Errorf("another error: %d s", n)
	}
}
