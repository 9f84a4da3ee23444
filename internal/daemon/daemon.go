// Package daemon runs the parts of a long-lived process as a group: each part is a task with a
// name, a run function and a moment from which it is ready. It leaves signals to main and
// restarts to the service manager: when one task fails, all stop.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Task is one part of a process.
type Task struct {
	Name string
	// Run works until the context ends and then returns nil; any other return stops the group.
	Run func(ctx context.Context) error
	// Ready is closed when the task can do its work. nil: at once.
	Ready <-chan struct{}
}

// Group is a set of tasks that live and end together. The zero value is an empty group; add
// tasks before Run.
type Group struct {
	tasks []Task
}

// Add adds a task.
func (g *Group) Add(t Task) { g.tasks = append(g.tasks, t) }

// Waiting returns the names of the tasks that are not ready yet; empty when all are.
func (g *Group) Waiting() []string {
	var names []string
	for _, t := range g.tasks {
		if t.Ready == nil {
			continue
		}
		select {
		case <-t.Ready:
		default:
			names = append(names, t.Name)
		}
	}
	return names
}

// Run starts all tasks and waits until all have ended. The first error ends the others and is
// returned with the task's name; an end without error before the context's end counts as one.
func (g *Group) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, t := range g.tasks {
		wg.Go(func() {
			err := t.Run(ctx)
			if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
				return
			}
			if err == nil {
				err = errors.New("ended by itself")
			}
			cancel(fmt.Errorf("%s: %w", t.Name, err))
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
