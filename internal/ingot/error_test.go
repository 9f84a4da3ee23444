package ingot_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"ingot/internal/ingot"
)

func TestKindOfFindsTheOutermostKind(t *testing.T) {
	t.Parallel()
	locked := ingot.Errorf(ingot.Locked, "node %s is locked", "n1")
	for name, c := range map[string]struct {
		err  error
		want ingot.Kind
	}{
		"nil":               {nil, ""},
		"foreign":           {fs.ErrNotExist, ingot.Internal},
		"direct":            {locked, ingot.Locked},
		"wrapped":           {fmt.Errorf("deploy: %w", locked), ingot.Locked},
		"of another kind":   {ingot.Errorf(ingot.Conflict, "deploy: %w", locked), ingot.Conflict},
		"joined":            {errors.Join(fs.ErrNotExist, locked), ingot.Locked},
		"quoted, no cause":  {fmt.Errorf("deploy: %v", locked), ingot.Internal},
		"value in an error": {&ingot.Error{Kind: ingot.Stale}, ingot.Stale},
	} {
		if got := ingot.KindOf(c.err); got != c.want {
			t.Errorf("%s: kind %q, want %q", name, got, c.want)
		}
	}
}

func TestErrorfKeepsItsCause(t *testing.T) {
	t.Parallel()
	err := ingot.Errorf(ingot.NotFound, "read %s: %w", "/x", fs.ErrNotExist)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
	if want := "read /x: file does not exist"; err.Error() != want {
		t.Errorf("text %q, want %q: the cause once", err, want)
	}
}

func TestAnErrorReadsAsMessageAndCause(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]*ingot.Error{
		"message":        {Message: "message"},
		"cause":          {Err: errors.New("cause")},
		"message: cause": {Message: "message", Err: errors.New("cause")},
	} {
		if got := err.Error(); got != want {
			t.Errorf("text %q, want %q", got, want)
		}
	}
}
