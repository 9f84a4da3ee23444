package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// ErrRunning says that a BMC has taken a command and was still at it when the time was over.
var ErrRunning = errors.New("the BMC is still at it")

// The pauses between two questions after a task.
const (
	taskPause    = 250 * time.Millisecond
	maxTaskPause = 2 * time.Second
)

// task is a task of the TaskService.
type task struct {
	link
	State    string   `json:"TaskState"`
	Status   string   `json:"TaskStatus"`
	Monitor  string   `json:"TaskMonitor"`
	Messages messages `json:"Messages"`
}

// running are the states of a task that has not ended (Task schema, TaskState).
var running = []string{"New", "Starting", "Running", "Suspended", "Pending", "Stopping", "Cancelling",
	"Service", "Interrupted"}

// failed tells what became of a task that has ended otherwise than well.
func (t task) failed() error {
	if t.State == "Completed" && t.Status != "Critical" {
		return nil
	}
	text := "the BMC's task ended as " + t.State
	for _, m := range t.Messages {
		text += ": " + m.Text
	}
	return errors.New(shorten(oneLine(text)))
}

// change makes a request that changes something, and waits until it is done if that is a task.
func (c *Client) change(ctx context.Context, r request) error {
	a, err := c.do(ctx, r)
	if err != nil || a.status != http.StatusAccepted {
		return err
	}
	monitor := location(a.header.Get("Location"))
	if monitor == "" {
		t, _ := decode[task](a.body)
		if monitor = location(t.Monitor); monitor == "" {
			monitor = location(t.ID)
		}
	}
	if monitor == "" {
		return nil // it is done some time, and nobody can be asked
	}
	return c.await(ctx, monitor)
}

// await follows a task to its end. The monitor of one answers 202 until then, and afterwards as the request
// would have been answered, or not at all any more; many BMCs name the task itself in its place, which
// answers 200 all the time.
func (c *Client) await(ctx context.Context, monitor string) error {
	for pause := taskPause; ; pause = min(2*pause, maxTaskPause) {
		a, err := c.get(ctx, monitor)
		var refused *StatusError
		if errors.As(err, &refused) && refused.Gone() {
			return nil
		}
		if ctx.Err() != nil {
			return ErrRunning
		}
		if err != nil {
			return fmt.Errorf("follow a task: %w", err)
		}
		if a.status != http.StatusAccepted {
			t, err := decode[task](a.body)
			if err != nil || t.State == "" {
				return nil
			}
			if !slices.Contains(running, t.State) {
				return t.failed()
			}
		}
		if a.header.Get("Retry-After") != "" {
			pause = retryAfter(a.header)
		}
		if !wait(ctx, pause) {
			return ErrRunning
		}
	}
}
