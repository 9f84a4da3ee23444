package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"ingot/internal/ingot"
)

// Limits of bodies, as Ironic's. A config drive comes with states/provision.
const (
	maxBody          = 1 << 20
	maxProvisionBody = 64 << 20
	maxDepth         = 25
)

// decode returns the JSON body with numbers as they were written, nil if there is none.
func (c *call) decode() (any, error) {
	return c.decodeUpTo(maxBody)
}

func (c *call) decodeUpTo(limit int64) (any, error) {
	if c.Body == http.NoBody {
		return nil, nil
	}
	body := http.MaxBytesReader(nil, c.Body, limit)
	defer body.Close()
	data, err := io.ReadAll(body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &limitError{http.StatusRequestEntityTooLarge, fmt.Sprintf("The body of the "+
			"request is larger than %d bytes; send less.", limit)}
	case err != nil:
		return nil, ingot.Errorf(ingot.Invalid, "The body of the request broke off (%w); send "+
			"it again.", err)
	}
	return parseJSON(data)
}

// parseJSON decodes one JSON document of bounded depth, nil if there is nothing but space.
func parseJSON(data []byte) (any, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	if depth(data) > maxDepth {
		return nil, &limitError{http.StatusBadRequest, fmt.Sprintf("The body of the request is "+
			"nested deeper than %d levels; send a flatter one.", maxDepth)}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "The body of the request is not valid JSON: %w",
			err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("The body of the request is not valid JSON: there is more after " +
			"the first value")
	}
	return v, nil
}

// depth returns how deep arrays and objects are nested, without decoding them.
func depth(data []byte) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch b := data[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			now++
			deepest = max(deepest, now)
		case b == '}' || b == ']':
			now--
		}
	}
	return deepest
}

// decodeArgs returns the members of a body that is an object, or empty, and has no members but
// those named.
func (c *call) decodeArgs(allowed ...string) (ingot.Object, error) {
	v, err := c.decode()
	if err != nil {
		return nil, err
	}
	return asArgs(v, allowed)
}

func asArgs(v any, allowed []string) (ingot.Object, error) {
	if v == nil {
		return ingot.Object{}, nil
	}
	o, ok := v.(ingot.Object)
	if !ok {
		return nil, invalid("The body of the request has to be a JSON object with the members %s.",
			strings.Join(allowed, ", "))
	}
	known := map[string]bool{}
	for _, name := range allowed {
		known[name] = true
	}
	var unknown []string
	for name := range o {
		if !known[name] {
			unknown = append(unknown, name)
		}
	}
	return o, unexpected(unknown)
}

// textArg returns a string member, "" if it is null or not there.
func textArg(o ingot.Object, name string) (string, error) {
	switch v := o[name].(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	default:
		return "", invalid("Expected string for %s: %s", name, pythonText(v))
	}
}

// mandatoryText returns a string member that has to be there.
func mandatoryText(o ingot.Object, name string) (string, error) {
	if o[name] == nil {
		return "", invalid("Missing mandatory parameter: %s", name)
	}
	return textArg(o, name)
}
