package api

import (
	"net/http"

	"ingot/internal/ingot"
)

// stranger tells whether a request comes without an identity; an error refuses it. Strangers are
// machines, as far as we are concerned: what machines call is open to them on this socket, too,
// and nothing else but the documents that say what this service is.
func (s *resource) stranger(r *http.Request, rt *route) (bool, error) {
	if s.api.o.Auth == nil || s.machine {
		return false, nil
	}
	if rt != nil && rt.public {
		return true, nil
	}
	_, err := s.api.o.Auth.Check(r)
	switch {
	case err == nil:
		return false, nil
	case rt != nil && rt.machine:
		return true, nil
	}
	return false, &authError{err}
}

// identified lets pass only who has an identity.
func (a *API) identified(machine bool, next http.Handler) http.Handler {
	if a.o.Auth == nil || machine {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := a.o.Auth.Check(r); err != nil {
			writeError(w, r, a.o.Log, &authError{err})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// authError is a refusal of credentials, which has a shape of its own.
type authError struct{ error }

func (e *authError) Unwrap() error { return e.error }

// write answers as Ironic's middleware does.
func (e *authError) write(w http.ResponseWriter) {
	status := statusOf[ingot.KindOf(e)]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="Baremetal API"`)
	}
	writeJSON(w, status, object{{"error", object{{"message", message(e)}, {"code", status}}}})
}
