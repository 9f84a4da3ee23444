package daemon_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
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

func TestTasksEndOneAfterAnotherTheLastAddedFirst(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var ended []string
	task := func(name string) daemon.Task {
		return daemon.Task{Name: name, Run: func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, name)
			return ctx.Err()
		}}
	}
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		ended = nil
		var g daemon.Group
		for _, name := range []string{"journal", "conductor", "api"} {
			g.Add(task(name))
		}
		if err := g.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if want := []string{"api", "conductor", "journal"}; !slices.Equal(ended, want) {
			t.Fatalf("ended in the order %q, want %q", ended, want)
		}
	}
}

func TestFailureWhileEndingIsReturned(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	boom := errors.New("boom")
	var g daemon.Group
	g.Add(daemon.Task{Name: "idle", Run: idle})
	g.Add(daemon.Task{Name: "bad", Run: func(ctx context.Context) error {
		<-ctx.Done()
		return boom
	}})
	if err := g.Run(ctx); !errors.Is(err, boom) {
		t.Errorf("error %v, want boom", err)
	}
}

func TestTaskThatGivesUpBecauseOfACancelledCallIsAFailure(t *testing.T) {
	t.Parallel()
	var g daemon.Group
	g.Add(daemon.Task{Name: "bad", Run: func(context.Context) error { return context.Canceled }})
	if err := g.Run(t.Context()); err == nil {
		t.Error("no error, though nobody asked the task to end")
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
