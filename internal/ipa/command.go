package ipa

import (
	"encoding/json"
	"strings"

	"ingot/internal/ingot"
)

// Status is how far a command is; a word of the wire. There are more than these, all of them failures.
type Status string

// The statuses that are none of a failure.
const (
	Running   Status = "RUNNING"
	Succeeded Status = "SUCCEEDED"
)

// Command is a command that an agent was given.
type Command struct {
	ID string
	// Name is without the extension: execute_deploy_step.
	Name   string
	Status Status
	// Error is why it failed, in the agent's words; "" if it did not.
	Error string
	// Result is what it returned, as it is on the wire.
	Result json.RawMessage
	// Progress of a command that runs; nil if the agent does not tell.
	Progress *Progress
}

// Progress is how far a command is.
type Progress struct {
	Bytes int64 `json:"bytes"`
	Total int64 `json:"total"` // 0 is not known
}

// Failure is the error of a command that has failed; nil if it did not.
func (c Command) Failure() error {
	switch {
	case c.Status == Running, c.Status == Succeeded:
		return nil
	case c.Error == "":
		return ingot.Errorf(ingot.Invalid, "the agent's command %s ended with %s and no reason; look at the "+
			"machine's console", c.Name, c.Status)
	}
	return ingot.Errorf(ingot.Invalid, "the agent's command %s failed: %s", c.Name, c.Error)
}

// wire is a command as agents write it.
type wire struct {
	ID       string          `json:"id"`
	Name     string          `json:"command_name"`
	Status   string          `json:"command_status"`
	Error    json.RawMessage `json:"command_error"`
	Result   json.RawMessage `json:"command_result"`
	Progress *Progress       `json:"progress"`
}

func (w wire) command() Command {
	name := w.Name
	if _, after, ok := strings.Cut(name, "."); ok {
		name = after
	}
	c := Command{ID: clip(w.ID), Name: clip(name), Status: Status(clip(w.Status)),
		Error: errorText(w.Error), Result: w.Result, Progress: w.Progress}
	if p := c.Progress; p != nil && (p.Bytes < 0 || p.Total < 0) {
		c.Progress = nil
	}
	return c
}

func decodeCommands(data []byte) ([]Command, error) {
	var list struct {
		Commands []wire `json:"commands"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "the agent's list of commands: %w", err)
	}
	commands := make([]Command, len(list.Commands))
	for i, w := range list.Commands {
		commands[i] = w.command()
	}
	return commands, nil
}

func decodeCommand(data []byte) (Command, error) {
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return Command{}, ingot.Errorf(ingot.Invalid, "the agent's answer to a command: %w", err)
	}
	return w.command(), nil
}

// errorText is what an agent says of a failure: an object, a text, or null. The details are the best of it,
// as for Ironic.
func errorText(raw json.RawMessage) string {
	if len(raw) == 0 || string(raw) == "null" {
		return ""
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return clip(text)
	}
	var e struct{ Details, Message string }
	if json.Unmarshal(raw, &e) == nil && e.Details+e.Message != "" {
		if e.Details == "" {
			return clip(e.Message)
		}
		return clip(e.Details)
	}
	return clip(string(raw))
}

// decodeFault is what an agent says of a request that it refuses.
func decodeFault(data []byte) string {
	var f struct {
		Text string `json:"faultstring"`
	}
	if json.Unmarshal(data, &f) == nil && f.Text != "" {
		return clip(f.Text)
	}
	return clip(string(data))
}

// clip makes an agent's words one line of bounded length.
func clip(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxText)], "")
	return strings.Join(strings.Fields(s), " ")
}
