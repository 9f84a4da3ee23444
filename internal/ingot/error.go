package ingot

import (
	"errors"
	"fmt"
)

// Kind classifies an error for the one who has to react to it. The API maps each kind to one
// HTTP status; retry loops look at nothing else.
type Kind string

// The closed set of kinds.
const (
	// Invalid: the caller asked for something that can never work as asked (400).
	Invalid Kind = "invalid"
	// Unauthorized: nobody knows who is asking (401).
	Unauthorized Kind = "unauthorized"
	// Forbidden: known, but not allowed (403).
	Forbidden Kind = "forbidden"
	// NotFound: no such thing, or none the caller may see (404).
	NotFound Kind = "not found"
	// NotAcceptable: the request's microversion does not have this (406).
	NotAcceptable Kind = "not acceptable"
	// Conflict: the current state forbids it; another state may allow it (409).
	Conflict Kind = "conflict"
	// Locked: somebody else holds the node's reservation; try again (409).
	Locked Kind = "locked"
	// Stale: the row changed since it was read; read it again and decide again (409).
	Stale Kind = "stale"
	// Unavailable: no capacity at the moment; try again later (503).
	Unavailable Kind = "unavailable"
	// Internal: a bug or a broken environment (500).
	Internal Kind = "internal"
)

// Error is the one error type that crosses package borders with a meaning: a kind, the
// operation, and the cause. Message is what the person who asked reads, so it says what to do.
type Error struct {
	Kind    Kind
	Message string
	Err     error // cause, may be nil
}

// Error returns the message, followed by the cause when there is one.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Message
	case e.Message == "":
		return e.Err.Error()
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of the given kind. A %w in the format becomes the cause, as with
// fmt.Errorf, and the text appears once.
func Errorf(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// KindOf returns the kind of the outermost Error in the chain, Internal for any other error and
// the empty Kind for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}
