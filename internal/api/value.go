package api

import (
	"encoding/json"
	"regexp"
	"strings"

	"ingot/internal/ingot"
)

// jsonType names the type of a decoded value as JSON Schema does.
func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case json.Number:
		return "number"
	case []any:
		return "array"
	case ingot.Object:
		return "object"
	}
	return ""
}

var booleans = map[string]bool{
	"1": true, "t": true, "true": true, "on": true, "y": true, "yes": true,
	"0": false, "f": false, "false": false, "off": false, "n": false, "no": false,
}

// boolean converts a boolean, or one of the words that Ironic takes for one.
func boolean(name string, v any) (any, error) {
	if b, ok := v.(bool); ok {
		return b, nil
	}
	text := pythonText(v)
	b, ok := booleans[strings.ToLower(strings.TrimSpace(text))]
	if !ok {
		return nil, invalid("Invalid %s: Unrecognized value '%s', acceptable values are: '0', "+
			"'1', 'f', 'false', 'n', 'no', 'off', 'on', 't', 'true', 'y', 'yes'", name, text)
	}
	return b, nil
}

var uuidForm = regexp.MustCompile(
	`^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$`)

// isUUID tells whether a word looks like a UUID, so that it cannot be a name.
func isUUID(s string) bool { return uuidForm.MatchString(strings.ToLower(s)) }

// canonicalUUID writes a UUID in lower case with dashes.
func canonicalUUID(s string) string {
	h := strings.ToLower(strings.ReplaceAll(s, "-", ""))
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func uuid(name string, v any) (any, error) {
	s, ok := v.(string)
	if !ok || !isUUID(s) {
		return nil, invalid("Expected UUID for %s: %s", name, pythonText(v))
	}
	return canonicalUUID(s), nil
}

var macForm = regexp.MustCompile(`^[0-9a-f]{12}$`)

// mac converts a MAC address in any usual spelling to lower case with colons.
func mac(name string, v any) (any, error) {
	s, _ := v.(string)
	h := strings.ToLower(strings.NewReplacer(":", "", "-", "", ".", "").Replace(s))
	if !macForm.MatchString(h) {
		return nil, invalid("Expected valid MAC address for %s: %s", name, pythonText(v))
	}
	return h[:2] + ":" + h[2:4] + ":" + h[4:6] + ":" + h[6:8] + ":" + h[8:10] + ":" + h[10:], nil
}

// Forms of names: since 1.10 the unreserved characters of RFC 3986, before that host names.
var (
	nameForm     = regexp.MustCompile(`^[A-Za-z0-9\-._~]{1,255}$`)
	hostNameForm = regexp.MustCompile(
		`^[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?(\.[a-z0-9\-_]{0,62}[a-z0-9])*\.?$`)
)

func validName(minor int, s string) bool {
	if minor < 10 {
		return len(s) <= 255 && hostNameForm.MatchString(s)
	}
	return nameForm.MatchString(s)
}
