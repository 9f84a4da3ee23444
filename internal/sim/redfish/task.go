package redfish

import (
	"context"
	"net/http"
	"slices"
)

const (
	tasksPath    = Root + "TaskService/Tasks"
	monitorsPath = Root + "TaskService/TaskMonitors"
)

// A task is an action that goes on after its answer.
type task struct {
	id     string
	seen   bool   // somebody has asked for it
	result *reply // nil while it runs
}

// act does an action: at once, or as a task.
func (s *Service) act(r *http.Request, do func(context.Context) reply) reply {
	ctx := context.WithoutCancel(r.Context()) // a client that hangs up does not stop a BMC
	if !s.Quirks().Tasks {
		return do(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &task{id: s.nextID()}
	s.running[t.id] = t
	s.tasks.Go(func() {
		result := do(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		t.result = &result
	})
	return accepted(t)
}

// accepted is the answer while a task runs.
func accepted(t *task) reply {
	return reply{status: http.StatusAccepted, body: t.object(),
		header: map[string]string{"Location": monitorsPath + "/" + t.id, "Retry-After": "1"}}
}

// running says whether a task is shown as one that runs: its first reader sees that for sure.
func (t *task) running() bool { return t.result == nil || !t.seen }

func (t *task) see() { t.seen = true }

// object is a task as clients read it.
func (t *task) object() object {
	body := object{
		"@odata.id":   tasksPath + "/" + t.id,
		"@odata.type": "#Task.v1_4_3.Task",
		"Id":          t.id,
		"Name":        "Task " + t.id,
		"TaskMonitor": monitorsPath + "/" + t.id,
		"TaskState":   "Running",
		"TaskStatus":  "OK",
		"Messages":    []object{},
	}
	if !t.running() {
		body["TaskState"] = "Completed"
		if t.result.status >= http.StatusBadRequest {
			body["TaskState"], body["TaskStatus"] = "Exception", "Critical"
			body["Messages"] = t.result.body["error"].(object)["@Message.ExtendedInfo"]
		}
	}
	return body
}

// showTask is one task.
func (s *Service) showTask(r *http.Request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.running[r.PathValue("id")]
	if t == nil {
		return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
	}
	defer t.see()
	return reply{status: http.StatusOK, body: t.object()}
}

// monitorTask answers as the action would have, once it is done.
func (s *Service) monitorTask(r *http.Request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.running[r.PathValue("id")]
	if t == nil {
		return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
	}
	defer t.see()
	if t.running() {
		return accepted(t)
	}
	return *t.result
}

// taskService tells of tasks.
func (s *Service) taskService() object {
	return object{
		"@odata.id":      Root + "TaskService",
		"@odata.type":    "#TaskService.v1_1_4.TaskService",
		"Id":             "TaskService",
		"Name":           "Task Service",
		"ServiceEnabled": true,
		"Tasks":          link(tasksPath),
	}
}

// taskCollection lists the tasks.
func (s *Service) taskCollection() object {
	var members []string
	s.mu.Lock()
	for id := range s.running {
		members = append(members, tasksPath+"/"+id)
	}
	s.mu.Unlock()
	slices.Sort(members)
	return collection("Task", tasksPath, members...)()
}
