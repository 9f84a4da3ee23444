package api

import (
	"net/http"
	"strconv"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/policy"
)

// Authenticator tells who sends a request.
type Authenticator interface {
	// Who may be called concurrently. Unauthorized if the request does not say who it is from, or not
	// rightly; Invalid if that cannot be read; Unavailable if it cannot be looked up now.
	Who(*http.Request) (policy.Subject, error)
	// Refusal is what those are told whom an error of Who refuses: a WWW-Authenticate header for
	// status 401, and what the body has as "error".
	Refusal(status int, text string) (challenge string, body any)
}

// who tells who sends a request, and whether it is a stranger: one who does not say it; an error refuses
// it. Strangers are machines, as far as we are concerned: what machines call is open to them on this
// socket, too, and nothing else but the documents that say what this service is.
func (s *resource) who(r *http.Request, rt *route) (who policy.Subject, stranger bool, err error) {
	if s.api.o.Auth == nil || s.machine {
		return policy.Operator, false, nil
	}
	if rt != nil && rt.public {
		return policy.Operator, true, nil
	}
	who, err = s.api.o.Auth.Who(r)
	switch {
	case err == nil:
		return who, false, nil
	case rt != nil && rt.machine && ingot.KindOf(err) != ingot.Unavailable:
		return policy.Operator, true, nil // what they may call is looked at with the method
	}
	return who, false, &authError{err, s.api.o.Auth}
}

// identified lets pass only who has an identity.
func (a *API) identified(machine bool, next http.Handler) http.Handler {
	if a.o.Auth == nil || machine {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := a.o.Auth.Who(r); err != nil {
			writeError(w, r, a.o.Log, &authError{err, a.o.Auth})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Restrict lets pass only whom a rule allows it: for what is served beside the API.
func (a *API) Restrict(rule policy.Rule, next http.Handler) http.Handler {
	if a.o.Auth == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := a.o.Auth.Who(r)
		switch {
		case err != nil:
			(&authError{err, a.o.Auth}).write(w)
		case !who.May(rule):
			err := forbidden(rule)
			writeFault(w, http.StatusForbidden, fault("Client", message(err)))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// authError is a refusal of credentials, which has a shape of its own.
type authError struct {
	error
	by Authenticator
}

func (e *authError) Unwrap() error { return e.error }

// write answers as Ironic's middleware does.
func (e *authError) write(w http.ResponseWriter) {
	status := statusOf[ingot.KindOf(e)]
	text := message(e)
	if status == 0 {
		status = http.StatusInternalServerError
	}
	challenge, body := e.by.Refusal(status, text)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	if wait := keystone.RetryAfter(e.error); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(wait))
	}
	writeJSON(w, status, object{{"error", body}})
}

// forbidden is the refusal of what a rule does not allow.
func forbidden(rule policy.Rule) error {
	return ingot.Errorf(ingot.Forbidden, "Access was denied to the following resource: %s", rule)
}

// allow refuses what one of the call's rules does not allow with a node, which the caller sees.
func (c *call) allow(n *node) error {
	for _, rule := range c.rules {
		if !c.who.MayOn(rule, n.Owner, n.Lessee) {
			return forbidden(rule)
		}
	}
	return nil
}

// sees tells whether a node exists, as far as the caller is concerned.
func (c *call) sees(n *node) bool { return c.who.MayOn(policy.NodeGet, n.Owner, n.Lessee) }

// project returns whose nodes a list shows: those that the project owns or leases; "" is all. Whoever
// may not see all sees those of the own project.
func (c *call) project(listAll, list policy.Rule) (string, error) {
	asked := c.query.Get("project")
	if c.who.May(listAll) {
		return asked, nil
	}
	own := c.who.Project
	switch {
	case own == "", asked != "" && asked != own:
		return "", forbidden(listAll)
	case !c.who.May(list):
		return "", forbidden(list)
	}
	return own, nil
}
