// Package daemon runs the parts of a long-lived process as a group: each part is a task with a
// name, a run function and a moment from which it is ready. It leaves signals to main and
// restarts to the service manager: when one task fails, all stop.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
// tasks before Run, each after those that it needs.
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

// Run starts all tasks and waits until all have ended. They are told to end when ctx does, or
// when one of them has ended by itself, which counts as a failure. They end one after another,
// the last added first: what a task needs was added before it, and is there until it has ended.
// All failures are returned, with the names of the tasks.
func (g *Group) Run(ctx context.Context) error {
	ending, end := context.WithCancel(ctx)
	defer end()
	tasks := make([]*running, len(g.tasks))
	for i, t := range g.tasks {
		tasks[i] = start(context.WithoutCancel(ctx), t, end)
	}
	<-ending.Done()
	var failures []error
	for _, r := range slices.Backward(tasks) {
		r.end()
		if err := <-r.ended; err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// running is a task that was started.
type running struct {
	end   context.CancelFunc
	ended chan error // gets what went wrong, or nil
}

// start runs a task; failed is called when it ends without having been told to.
func start(ctx context.Context, t Task, failed func()) *running {
	ctx, end := context.WithCancel(ctx)
	r := &running{end: end, ended: make(chan error, 1)}
	go func() {
		err := t.Run(ctx)
		told := ctx.Err() != nil
		switch {
		case told && (err == nil || errors.Is(err, context.Canceled)):
			r.ended <- nil
			return
		case err == nil:
			err = errors.New("ended by itself")
		}
		r.ended <- fmt.Errorf("%s: %w", t.Name, err)
		failed()
	}()
	return r
}
