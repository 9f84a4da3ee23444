package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/ingot"
)

// kept is a lock that another conductor has and never gives back.
type kept struct {
	fails error // of Take
	given int
}

func (k *kept) Take(context.Context) (bool, error)     { return false, k.fails }
func (k *kept) Give(context.Context) error             { k.given++; return nil }
func (k *kept) Holder(context.Context) (string, error) { return "c2", nil }

// flaky is a lock that is free, of a store that forgets some of the answers.
type flaky struct {
	kept
	refusals int
}

func (f *flaky) Take(context.Context) (bool, error) { return true, nil }
func (f *flaky) Give(context.Context) error {
	if f.refusals--; f.refusals >= 0 {
		return errors.New("answer lost")
	}
	f.given++
	return nil
}

func TestATurnEndsInAStoreThatIsAwayForAMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := &flaky{refusals: 3}
		done, err := wait(t.Context(), f, "192.0.2.1", slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if done(); f.given != 1 || log.Len() > 0 {
			t.Errorf("given back %d times\n%s", f.given, log.String())
		}
	})
}

func TestATurnIsWaitedForWithWordsAndALimit(t *testing.T) {
	t.Parallel()
	for want, k := range map[string]*kept{
		`level=INFO msg="a BMC is waited for" bmc=192.0.2.1 holder="conductor c2"`: {},
		"cannot be taken; tried again":                                             {fails: errors.New("answer lost")},
	} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := wait(ctx, k, "192.0.2.1", slog.New(slog.NewTextHandler(&log, nil)))
			if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "operation of conductor c2 for 1m0s") {
				t.Error(err)
			}
			if lines := strings.Count(log.String(), "\n"); !strings.Contains(log.String(), want) || lines > 14 {
				t.Errorf("%d lines:\n%s", lines, log.String())
			}
			// What may be held is given back, what is not is left alone.
			if given := k.given > 0; given != (k.fails != nil) {
				t.Errorf("given back %d times", k.given)
			}
		})
	}
}
