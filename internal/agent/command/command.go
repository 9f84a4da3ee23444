// Package command takes the commands of a conductor in the form of ironic-python-agent's API: an
// HTTPS server with a certificate of its own, a token that proves who asks, and a list of what was
// asked and came of it.
//
// One command runs at a time. Those of [Command.Async] are answered at once and polled for; the
// others answer when they are done. A conductor that dies, or whose connection does, ends none of
// them. What the commands are is the business of package agent. Read first: [Runner.Start] and
// [Server].
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"ingot/internal/ingot"
)

// Status is how far a command is, a word on the wire.
type Status string

// The states of a command. A mismatch is of the versions of the agent that listed the steps and of
// the one that is to execute them; the word is older than all steps but those of cleaning.
const (
	Running   Status = "RUNNING"
	Succeeded Status = "SUCCEEDED"
	Failed    Status = "FAILED"
	Mismatch  Status = "CLEAN_VERSION_MISMATCH"
)

// Fault is an error as conductors know it.
type Fault struct {
	// Type is the name of the error's class in ironic-python-agent, Code the HTTP status of it.
	Type    string `json:"type"`
	Code    int    `json:"code"`
	Message string `json:"message"`
	Details string `json:"details"`
}

func (f *Fault) Error() string { return f.Message + ": " + f.Details }

// Errorf returns the fault of a command that did not do its work.
func Errorf(kind, format string, args ...any) *Fault {
	return &Fault{kind, 500, "Command execution failed", fmt.Sprintf(format, args...)}
}

// BadParams returns the fault of a command that cannot work with what it was given.
func BadParams(format string, args ...any) *Fault {
	return &Fault{"InvalidCommandParamsError", 400, "Invalid command parameters",
		fmt.Sprintf(format, args...)}
}

// VersionMismatch returns the fault that ends a command as [Mismatch].
func VersionMismatch(format string, args ...any) *Fault {
	return &Fault{mismatchType, 500, "Hardware managers version mismatch, reload agent with " +
		"correct version", fmt.Sprintf(format, args...)}
}

const mismatchType = "VersionMismatch"

func badContent(format string, args ...any) *Fault {
	return &Fault{"InvalidContentError", 400, "Invalid request body", fmt.Sprintf(format, args...)}
}

func unknownCommand(format string, args ...any) *Fault {
	return &Fault{"InvalidCommandError", 400, "Invalid command", fmt.Sprintf(format, args...)}
}

func notFound(kind, id string) *Fault {
	return &Fault{"RequestedObjectNotFoundError", 404, "Not found",
		fmt.Sprintf("%s with id %.80s not found.", kind, id)}
}

// Command is something that can be asked for. Run gets the parameters, an object in JSON, and may
// fail with a *Fault; any other error becomes one. Its context ends with the agent. The result is
// what encoding/json can write; text becomes an object.
type Command struct {
	// Async lets who asks go before the command is done.
	Async bool
	// Secret keeps the result from who asks without the token.
	Secret bool
	Run    func(ctx context.Context, params json.RawMessage, job *Job) (any, error)
}

// Job is a command that was asked for.
type Job struct {
	id, name string
	async    bool
	secret   bool
	done     chan struct{} // closed when it has ended

	mu       sync.Mutex
	status   Status
	fault    *Fault
	result   any
	progress *progress
}

type progress struct {
	Bytes int64 `json:"bytes"`
	// Total is 0 if only the end will tell.
	Total int64 `json:"total"`
}

// Progress tells who polls how many bytes are done, of so many, or -1 if that is unknown.
func (j *Job) Progress(done, total int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.progress = &progress{done, max(0, total)}
}

// view is a job on the wire. Its parameters are left out, as they are in today's agents: they hold
// signed URLs and config drives.
type view struct {
	ID       string    `json:"id"`
	Name     string    `json:"command_name"`
	Status   Status    `json:"command_status"`
	Fault    *Fault    `json:"command_error"`
	Result   any       `json:"command_result"`
	Progress *progress `json:"progress,omitempty"`
}

func (j *Job) view() view {
	j.mu.Lock()
	defer j.mu.Unlock()
	v := view{ID: j.id, Name: j.name, Status: j.status, Fault: j.fault, Result: j.result}
	if j.status == Running {
		v.Progress = j.progress
	}
	return v
}

// public is what may be told without a token: no results but those that conductors poll for.
func (j *Job) public() view {
	v := j.view()
	if !j.async || j.secret {
		v.Result = nil
	}
	return v
}

// wait returns when the job has ended or the context has.
func (j *Job) wait(ctx context.Context) {
	select {
	case <-j.done:
	case <-ctx.Done():
	}
}

func (j *Job) end(result any, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer close(j.done)
	if err == nil {
		if text, ok := result.(string); ok {
			if j.async { // as in ironic-python-agent, which has a prefix only then
				text = j.name + ": " + text
			}
			result = map[string]string{"result": text}
		}
		j.status, j.result = Succeeded, result
		return
	}
	j.status = Failed
	if !errors.As(err, &j.fault) {
		j.fault = Errorf("CommandExecutionError", "%v", err)
	}
	if j.fault.Type == mismatchType {
		j.status = Mismatch
	}
}

// kept is how many commands are remembered.
const kept = 64

// Runner runs commands, one at a time. Only the zero value of Commands makes no sense.
type Runner struct {
	// Commands by their names, as in standby.sync.
	Commands map[string]Command
	// Ended is called after the end of each command that was not waited for. Default: nothing.
	Ended func()
	// Spawn starts a task. Default: a goroutine.
	Spawn func(func())

	turn sync.Mutex // held while a command starts, and until it ends if it is waited for
	mu   sync.Mutex
	jobs []*Job // guarded by mu; the newest is the last
}

// Start runs a command, and returns when it is done or, if it is an Async one, when it has begun.
// The error is a *Fault and is about a command that was not run; one that failed tells so itself.
func (r *Runner) Start(ctx context.Context, name string, params json.RawMessage) (*Job, error) {
	extension, short, ok := strings.Cut(name, ".")
	if !ok {
		return nil, unknownCommand("Command name must be of the form <extension>.<name>")
	}
	c, known := r.Commands[name]
	if !known && !r.has(extension) {
		return nil, notFound("Extension", extension)
	}
	if !known {
		return nil, unknownCommand("Unknown command: %.80s", short)
	}
	r.turn.Lock()
	defer r.turn.Unlock()
	if last := r.last(); last != nil && last.view().Status == Running {
		return nil, &Fault{"AgentIsBusy", 409, "Agent is busy", "executing command " + last.name}
	}
	j := &Job{id: ingot.NewUUID(), name: short, async: c.Async, secret: c.Secret,
		status: Running, done: make(chan struct{})}
	if c.Async {
		r.keep(j)
		r.spawn(func() {
			j.end(c.Run(ctx, params, j))
			if r.Ended != nil {
				r.Ended()
			}
		})
		return j, nil
	}
	result, err := c.Run(ctx, params, j)
	var f *Fault
	if errors.As(err, &f) && f.Code == 400 {
		return nil, f // as if it had not been asked for
	}
	j.end(result, err)
	r.keep(j)
	return j, nil
}

func (r *Runner) has(extension string) bool {
	for name := range r.Commands {
		if strings.HasPrefix(name, extension+".") {
			return true
		}
	}
	return false
}

func (r *Runner) spawn(task func()) {
	if r.Spawn != nil {
		r.Spawn(task)
		return
	}
	go task()
}

func (r *Runner) keep(j *Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jobs = append(r.jobs, j); len(r.jobs) > kept {
		r.jobs = append([]*Job(nil), r.jobs[1:]...)
	}
}

func (r *Runner) last() *Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.jobs) == 0 {
		return nil
	}
	return r.jobs[len(r.jobs)-1]
}

// Busy tells whether a command is running that nobody waits for.
func (r *Runner) Busy() bool {
	last := r.last()
	return last != nil && last.view().Status == Running
}

// list returns the commands in the order in which they came.
func (r *Runner) list() []*Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*Job(nil), r.jobs...)
}
