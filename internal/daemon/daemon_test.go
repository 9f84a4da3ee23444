package daemon_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"ingot/internal/daemon"
)

// idle runs until its context ends.
func idle(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestFirstFailureStopsTheOthersAndIsNamed(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	var g daemon.Group
	g.Add(daemon.Task{Name: "idle", Run: idle})
	g.Add(daemon.Task{Name: "bad", Run: func(context.Context) error { return boom }})
	err := g.Run(t.Context())
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "bad: ") {
		t.Errorf("error %v, want boom with the task's name", err)
	}
}

func TestTaskThatEndsByItselfIsAFailure(t *testing.T) {
	t.Parallel()
	var g daemon.Group
	g.Add(daemon.Task{Name: "short", Run: func(context.Context) error { return nil }})
	if err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "short") {
		t.Errorf("error %v, want one that names the task", err)
	}
}

func TestEndOfTheContextIsACleanEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var g daemon.Group
	g.Add(daemon.Task{Name: "idle", Run: idle})
	if err := g.Run(ctx); err != nil {
		t.Errorf("error %v, want none", err)
	}
}

func TestWaitingNamesTasksThatAreNotReady(t *testing.T) {
	t.Parallel()
	ready, later := make(chan struct{}), make(chan struct{})
	close(ready)
	var g daemon.Group
	g.Add(daemon.Task{Name: "always", Run: idle})
	g.Add(daemon.Task{Name: "ready", Run: idle, Ready: ready})
	g.Add(daemon.Task{Name: "later", Run: idle, Ready: later})
	if got := g.Waiting(); !slices.Equal(got, []string{"later"}) {
		t.Errorf("waiting for %q, want later", got)
	}
}
