package ipa

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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
	// Error is why it failed, in the agent's words, see Words; "" if it did not.
	Error string
	// Result is what it returned, as it is on the wire, long texts cut off.
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

// maxCommands is how many an agent may list. It was given a handful, and a few bytes of an answer become many
// in memory.
const maxCommands = 1000

// listed are commands of a list.
type listed []Command

// UnmarshalJSON implements json.Unmarshaler: one command after the other, and not too many.
func (l *listed) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if begin, err := d.Token(); err != nil || begin != json.Delim('[') {
		return errors.New("it is no list")
	}
	*l = nil
	for d.More() {
		var w wire
		if err := d.Decode(&w); err != nil {
			return err
		}
		if len(*l) == maxCommands {
			return fmt.Errorf("it has more than %d", maxCommands)
		}
		*l = append(*l, w.command())
	}
	return nil
}

func decodeCommands(data []byte) ([]Command, error) {
	var list struct {
		Commands listed `json:"commands"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "the agent's list of commands: %w", err)
	}
	return list.Commands, nil
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

func clip(s string) string { return Words(s, maxText) }
