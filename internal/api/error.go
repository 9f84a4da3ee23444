package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"ingot/internal/ingot"
)

// statusOf maps each kind of error to its HTTP status.
var statusOf = map[ingot.Kind]int{
	ingot.Invalid:       http.StatusBadRequest,
	ingot.Unauthorized:  http.StatusUnauthorized,
	ingot.Forbidden:     http.StatusForbidden,
	ingot.NotFound:      http.StatusNotFound,
	ingot.NotAcceptable: http.StatusNotAcceptable,
	ingot.Conflict:      http.StatusConflict,
	ingot.Locked:        http.StatusConflict,
	ingot.Stale:         http.StatusConflict,
	ingot.Unavailable:   http.StatusServiceUnavailable,
	ingot.Internal:      http.StatusInternalServerError,
}

// notAcceptable is the refusal of what the requested microversion does not have.
func notAcceptable() error { return ingot.Errorf(ingot.NotAcceptable, "Request not acceptable.") }

// limitError is a body that is too large or too deep; it is refused before it is looked at, in
// a flat shape of its own.
type limitError struct {
	status int
	text   string
}

func (e *limitError) Error() string { return e.text }

// fault is Ironic's normal description of an error. Clients decode it from a string.
func fault(code, text string) object {
	return object{{"faultcode", code}, {"faultstring", text}, {"debuginfo", nil}}
}

// writeError answers with an error. What is not an ingot.Error is a bug or a broken environment:
// its text goes to the log, where the request id finds it, and not to the caller.
func writeError(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	var limit *limitError
	if errors.As(err, &limit) {
		writeJSON(w, limit.status,
			object{{"faultcode", "Client"}, {"faultstring", limit.text}})
		return
	}
	var refused *authError
	if errors.As(err, &refused) {
		refused.write(w)
		return
	}
	kind := ingot.KindOf(err)
	status, known := statusOf[kind]
	id := exchangeOf(r).id
	if !known || kind == ingot.Internal {
		level := slog.LevelError
		if r.Context().Err() != nil {
			level = slog.LevelDebug // the client went away, which broke off what was done for it
		}
		log.Log(r.Context(), level, "request failed", "request", id, "method", r.Method,
			"path", r.URL.Path, "error", err)
		writeFault(w, http.StatusInternalServerError, fault("Server", "Internal error; the log "+
			"of the service tells more under the request id "+id+"."))
		return
	}
	code := "Client"
	if status >= http.StatusInternalServerError {
		code = "Server"
	}
	writeFault(w, status, fault(code, message(err)))
}

// message is the text of the outermost ingot.Error: what was wrapped around it says what the
// service was doing, which callers neither need nor match on.
func message(err error) string {
	var e *ingot.Error
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

// abort answers as Ironic's router does, before any resource is involved.
func abort(w http.ResponseWriter, status int) {
	text := map[int]string{
		http.StatusNotFound:         "The resource could not be found.",
		http.StatusMethodNotAllowed: "The method is not allowed for this resource.",
	}[status]
	writeFault(w, status, object{{"code", status}, {"title", http.StatusText(status)},
		{"description", text}})
}

func notFound(w http.ResponseWriter, _ *http.Request) { abort(w, http.StatusNotFound) }

// writeFault wraps the description in a string, as every Ironic client expects.
func writeFault(w http.ResponseWriter, status int, description object) {
	inner, err := encode(description)
	if err != nil { // a string and a null always encode
		panic(fmt.Errorf("encode a fault: %w", err))
	}
	writeJSON(w, status, object{{"error_message", string(inner)}})
}

func writeJSON(w http.ResponseWriter, status int, body object) {
	out, err := encode(body)
	if err != nil {
		panic(fmt.Errorf("encode an error: %w", err))
	}
	w.Header().Set("Content-Type", "application/json")
	setLength(w.Header(), len(out))
	w.WriteHeader(status)
	_, _ = w.Write(out) // the client is gone: nobody is left to tell
}

func setLength(h http.Header, n int) { h.Set("Content-Length", strconv.Itoa(n)) }

// invalid is an error of kind Invalid with that text.
func invalid(format string, args ...any) error {
	return ingot.Errorf(ingot.Invalid, format, args...)
}
