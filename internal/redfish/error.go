package redfish

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
)

// StatusError is a refusal of the BMC.
type StatusError struct {
	Method, Path string
	Status       int
	// IDs are the messages of the registry that it names: Base.1.8.ResourceNotFound.
	IDs []string
	// Text is what it says to people, in one line; "" if it says nothing.
	Text string

	retryAfter time.Duration
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Status, http.StatusText(e.Status))
	if e.Text != "" {
		text += ": " + e.Text
	}
	return text
}

// Gone tells whether there is no such resource.
func (e *StatusError) Gone() bool {
	return e.Status == http.StatusNotFound || e.Status == http.StatusGone
}

// Busy tells whether the BMC asks to be asked again later. One that has no session left says 503, too, and
// that may stay so for half an hour. HPE's take no boot device while the firmware of the machine starts, which
// may be minutes.
func (e *StatusError) Busy() bool {
	if e.says("UnableToModifyDuringSystemPOST") {
		return true
	}
	return (e.Status == http.StatusServiceUnavailable || e.Status == http.StatusTooManyRequests) &&
		!e.says("SessionLimitExceeded") && !e.says("CreateLimitReachedForResource")
}

// says tells whether a message of the registry is in the answer, of whatever version.
func (e *StatusError) says(id string) bool {
	return slices.ContainsFunc(e.IDs, func(have string) bool {
		return have[strings.LastIndexByte(have, '.')+1:] == id
	})
}

func newStatusError(r request, resp *http.Response, body []byte) *StatusError {
	e := &StatusError{Method: r.method, Path: r.path, Status: resp.StatusCode,
		retryAfter: retryAfter(resp.Header)}
	e.IDs, e.Text = decodeError(body)
	return e
}

// message is one of the messages of an answer.
type message struct {
	ID   string `json:"MessageId"`
	Text string `json:"Message"`
}

// messages are several of them, or one that is not in a list, as some BMCs send it.
type messages []message

func (m *messages) UnmarshalJSON(text []byte) error {
	var list []message
	if json.Unmarshal(text, &list) != nil {
		var one message
		if json.Unmarshal(text, &one) == nil {
			list = []message{one}
		}
	}
	*m = list
	return nil
}

// maxText bounds what we repeat of a BMC's words, in bytes.
const maxText = 500

// decodeError reads the body of an error (DSP0266, 8.6). What is no JSON is left out: it may be anything.
func decodeError(body []byte) (ids []string, text string) {
	type info struct {
		Info    messages `json:"@Message.ExtendedInfo"`
		Code    string   `json:"code"`
		Message string   `json:"message"`
	}
	a, err := decode[struct {
		Error info     `json:"error"`
		Info  messages `json:"@Message.ExtendedInfo"`
	}](body)
	if err != nil {
		return nil, ""
	}
	var words []string
	for _, m := range slices.Concat(a.Error.Info, a.Info) {
		ids = append(ids, m.ID)
		if line := oneLine(m.Text); line != "" && !slices.Contains(words, line) {
			words = append(words, line)
		}
	}
	if len(ids) == 0 && a.Error.Code != "" {
		ids = []string{a.Error.Code}
	}
	if len(words) == 0 {
		words = []string{oneLine(a.Error.Message)}
		// HPE's name the messages and leave the texts to a registry.
		if len(ids) > 0 && (words[0] == "" || strings.Contains(words[0], "@Message.ExtendedInfo")) {
			words = []string{oneLine(strings.Join(ids, ", "))}
		}
	}
	return ids, shorten(strings.Join(words, " "))
}

// oneLine is a text without what a log or a terminal could take for something else.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
}

func shorten(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "..."
}
