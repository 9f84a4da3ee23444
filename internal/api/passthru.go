package api

import (
	"context"
	"maps"
	"net/http"
	"slices"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

// methodArg is the query argument that names a passthru method where the path does not.
const methodArg = "method"

func listNodeMethods(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	methods, err := c.api.o.Conductor.NodeMethods(c.Context(), n.UUID)
	return methodsReply(methods), err
}

func listDriverMethods(c *call) (reply, error) {
	methods, err := c.api.o.Conductor.DriverMethods(c.Context(), c.PathValue("driver"))
	return methodsReply(methods), err
}

func methodsReply(methods map[string]rpc.Method) reply {
	body := object{}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		m := methods[name]
		m.HTTPMethods = append([]string{}, m.HTTPMethods...)
		body = append(body, member{name, m})
	}
	return reply{body: body}
}

func callNode(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	return c.passthru(n.UUID, c.api.o.Conductor.CallNode)
}

func callDriver(c *call) (reply, error) {
	return c.passthru(c.PathValue("driver"), c.api.o.Conductor.CallDriver)
}

// passthru runs a method with the arguments of the query and the body; the body wins. Upstream
// refuses query arguments, but a machine that fetches its script has no other way to say who it
// is (S1.2, S1.3).
func (c *call) passthru(subject string,
	run func(context.Context, string, rpc.Call) (rpc.Reply, error)) (reply, error) {
	method := or(c.PathValue(methodArg), c.query.Get(methodArg))
	if method == "" {
		return reply{}, invalid("Method not specified")
	}
	body, err := c.decode()
	if err != nil {
		return reply{}, err
	}
	given, ok := orNoMembers(body).(ingot.Object)
	if !ok {
		return reply{}, invalid("The body of the request has to be a JSON object: the arguments " +
			"of the method.")
	}
	args := ingot.Object{}
	for name := range c.query {
		if name != methodArg || c.PathValue(methodArg) != "" {
			args[name] = c.query.Get(name)
		}
	}
	maps.Copy(args, given)
	result, err := run(c.Context(), subject, rpc.Call{Method: method, HTTPMethod: c.verb(),
		Args: args, PublicOnly: c.machine})
	if err != nil {
		return reply{}, err
	}
	return passthruReply(result), nil
}

// verb is the HTTP method that the passthru method sees: HEAD asks what GET would answer.
func (c *call) verb() string {
	if c.Method == http.MethodHead {
		return http.MethodGet
	}
	return c.Method
}

// passthruReply serves what the method returned (S1.7).
func passthruReply(r rpc.Reply) reply {
	switch {
	case r.Async:
		return reply{status: http.StatusAccepted}
	case r.Attach && r.Body == nil:
		return reply{raw: []byte{}}
	case r.Attach:
		return reply{raw: r.Body}
	}
	return reply{body: jsonValue{r.Value}}
}

// jsonValue makes null a body of its own: nil would be no body at all.
type jsonValue struct{ v any }
