package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
)

// Exit codes of every command, for scripts.
const (
	ExitOK          = 0
	ExitError       = 1   // anything without a code of its own
	ExitUsage       = 2   // wrong arguments
	ExitNotFound    = 3   // no such node
	ExitConflict    = 4   // not in this state, or somebody else is at work on the node
	ExitFailed      = 5   // the operation ran and failed: deploy failed, clean failed, error
	ExitUnreachable = 6   // nobody answers at the API's URL, or at Keystone's
	ExitForbidden   = 7   // known, and not allowed to do that
	ExitInterrupted = 130 // Ctrl-C
)

// ExitError carries the exit code with the error.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// ExitCode returns the exit code for what a command returned.
func ExitCode(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	}
	return ExitError
}

// Usage marks an error as one of the arguments.
func Usage(err error) error { return &exitError{ExitUsage, err} }

// usage marks an error of the arguments.
func usage(format string, args ...any) error {
	return Usage(fmt.Errorf(format, args...))
}

// explain turns a failed request into what a person wants to read, with its exit code.
func (c *Client) explain(err error) error {
	endpoint := c.endpoint
	var answer gophercloud.ErrUnexpectedResponseCode
	var dial *net.OpError
	var request *url.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &answer):
		code := ExitError
		switch answer.Actual {
		case http.StatusUnauthorized:
			if c.keystone != "" {
				return &exitError{code, fmt.Errorf("the API at %s does not accept the token of Keystone %s "+
					"(%s); is it the same cloud?", endpoint, c.keystone, refusal(answer.Body))}
			}
			return &exitError{code, fmt.Errorf("the API at %s wants to know who asks (%s); set "+
				"INGOT_USER and INGOT_PASSWORD, or --user and --password-file, or OS_CLOUD or the other "+
				"variables of OpenStack's clients", endpoint, refusal(answer.Body))}
		case http.StatusForbidden:
			return &exitError{ExitForbidden, fmt.Errorf("%s; your roles do not go that far",
				strings.TrimSuffix(fault(answer.Body, answer.Actual), "."))}
		case http.StatusNotFound:
			code = ExitNotFound
		case http.StatusConflict:
			code = ExitConflict
		}
		return &exitError{code, errors.New(fault(answer.Body, answer.Actual))}
	case errors.As(err, &dial), errors.As(err, &request):
		return &exitError{ExitUnreachable, fmt.Errorf("nobody answers at %s (%w); is `ingot "+
			"serve` running there? Set --url or INGOT_URL to where it is", endpoint, err)}
	}
	return err
}

// refusal reads why credentials were not accepted.
func refusal(body []byte) string {
	var answer struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Error.Message == "" {
		return http.StatusText(http.StatusUnauthorized)
	}
	return answer.Error.Message
}

// fault reads the doubly encoded error document of the API; for any other body it names the
// status.
func fault(body []byte, status int) string {
	var outer struct {
		Message string `json:"error_message"`
	}
	var inner struct {
		Fault       string `json:"faultstring"`
		Description string `json:"description"`
	}
	if json.Unmarshal(body, &outer) == nil && json.Unmarshal([]byte(outer.Message), &inner) == nil {
		if inner.Fault != "" {
			return inner.Fault
		}
		if inner.Description != "" {
			return inner.Description
		}
	}
	return fmt.Sprintf("the server answered %d %s", status, http.StatusText(status))
}
