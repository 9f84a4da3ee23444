package api_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"ingot/internal/ingot"
)

func TestErrorsOfTheRouterHaveTheirOwnShape(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		method, path string
		status       int
		allow, title string
	}{
		{"GET", "/v1/bogus", 404, "", "Not Found"},
		{"GET", "/v1/allocations", 404, "", "Not Found"},
		{"GET", "/v1/nodes/x/firmware", 404, "", "Not Found"},
		{"HEAD", "/v1/nodes", 405, "GET, POST", ""},
		{"PUT", "/v1/nodes", 405, "GET, POST", "Method Not Allowed"},
		{"GET", "/v1/nodes/x/states/provision", 405, "PUT", "Method Not Allowed"},
	} {
		a := w.do(c.method, c.path, "").want(c.status)
		if a.header.Get("Allow") != c.allow {
			t.Errorf("%s %s: Allow %q, want %q", c.method, c.path, a.header.Get("Allow"), c.allow)
		}
		if c.method == "HEAD" {
			continue
		}
		if f := a.fault(); f["code"] != float64(c.status) || f["title"] != c.title {
			t.Errorf("%s %s: %v", c.method, c.path, f)
		}
	}
	if v := w.do("GET", "/v1/bogus", "").header.Get("X-OpenStack-Ironic-API-Version"); v != "" {
		t.Errorf("an unknown path has version %q", v)
	}
	a := w.do("OPTIONS", "/v1/nodes", "").want(200)
	if len(a.body) != 0 {
		t.Errorf("OPTIONS has a body: %s", a.body)
	}
}

func TestKindsOfErrorsHaveTheirStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	for kind, status := range map[ingot.Kind]int{ingot.Invalid: 400, ingot.Unauthorized: 401,
		ingot.Forbidden: 403, ingot.NotFound: 404, ingot.NotAcceptable: 406, ingot.Conflict: 409,
		ingot.Locked: 409, ingot.Stale: 409, ingot.Unavailable: 503} {
		w.conductor.fail = ingot.Errorf(kind, "the text")
		w.do("PUT", "/v1/nodes/n1/states/power", `{"target": "power on"}`).refused(status, "the text")
	}
}

func TestInternalErrorsStayInTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	w.conductor.fail = errors.New("disk full")
	for name, text := range map[string]string{"an error": "disk full", "a panic": "secret state"} {
		w.conductor.panics = name == "a panic"
		a := w.do("GET", "/v1/nodes/n1/validate", "").want(500)
		id := a.header.Get("Openstack-Request-Id")
		if a.fault()["faultcode"] != "Server" || strings.Contains(string(a.body), text) {
			t.Errorf("%s: %s", name, a.body)
		}
		if log := w.log.String(); !strings.Contains(log, text) || !strings.Contains(log, id) {
			t.Errorf("%s: the log lacks it: %s", name, log)
		}
	}
	w.do("GET", "/v1/nodes", "").want(200)
}

func TestEveryAnswerHasARequestID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := map[string]bool{}
	for _, path := range []string{"/", "/v1/nodes", "/bogus", "/v1/nodes/none"} {
		id := w.do("GET", path, "").header.Get("Openstack-Request-Id")
		if !strings.HasPrefix(id, "req-") || len(id) != 40 || seen[id] {
			t.Errorf("%s: request id %q", path, id)
		}
		seen[id] = true
	}
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) { n.ProvisionState = "available" })
	large := `{"driver": "` + strings.Repeat("x", 1<<20) + `"}`
	if a := w.do("POST", "/v1/nodes", large).want(413).object(); a["faultcode"] != "Client" {
		t.Errorf("413 is not flat: %v", a)
	}
	drive := `{"target": "active", "configdrive": "` + strings.Repeat("x", 2<<20) + `"}`
	w.do("PUT", "/v1/nodes/n1/states/provision", drive).want(202)
	deep := `{"driver": ` + strings.Repeat("[", 30) + strings.Repeat("]", 30) + `}`
	if a := w.do("POST", "/v1/nodes", deep).want(400).object(); a["faultcode"] != "Client" {
		t.Errorf("400 for depth is not flat: %v", a)
	}
	flat := `{"driver": "` + strings.Repeat("[", 30) + `"}`
	w.do("POST", "/v1/nodes", flat).want(400).fault() // brackets in a string nest nothing
}

func TestMalformedJSONIsTheClientsFault(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/nodes", `{"driver"`},
		{"PATCH", "/v1/nodes/n1", `[{`},
		{"PUT", "/v1/nodes/n1/states/power", `{} {}`},
		{"POST", "/v1/nodes/n1/vendor_passthru/x", `nope`},
	} {
		f := w.do(c.method, c.path, c.body).want(400).fault()
		text, _ := f["faultstring"].(string)
		if f["faultcode"] != "Client" || !strings.Contains(text, "not valid JSON") {
			t.Errorf("%s %s: %v", c.method, c.path, f)
		}
	}
}

func TestQueriesAreChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		version, path string
		status        int
		text          string
	}{
		{"1.82", "/v1/nodes?x=1&a=2", 400, "Unexpected arguments: a, x"},
		{"1.82", "/v1/nodes?driver=ipmi;owner=x", 400, "The query of the request cannot be read: " +
			"invalid semicolon separator in query"},
		{"1.82", "/v1/nodes?limit=0", 400, "Limit must be positive"},
		{"1.82", "/v1/nodes?limit=x", 400, "Expected an integer for limit: x"},
		{"1.82", "/v1/nodes?sort_dir=up", 400, "Invalid sort direction: up. Acceptable values are " +
			"'asc' or 'desc'"},
		{"1.20", "/v1/nodes?sort_key=resource_class", 406, "Request not acceptable."},
		{"1.82", "/v1/nodes?fields=bogus", 400, "Field bogus is not a valid field."},
		{"1.7", "/v1/nodes?fields=uuid", 406, "Request not acceptable."},
		{"1.20", "/v1/nodes?fields=resource_class", 406, "Request not acceptable."},
		{"1.82", "/v1/nodes?fields=uuid&detail=True", 400,
			"Can't fetch a subset of fields with 'detail' set"},
		{"1.42", "/v1/nodes?detail=true", 400, "Invalid query parameter ?detail=True received."},
		{"1.15", "/v1/nodes?driver=ipmi", 406, "Request not acceptable. The minimal required API " +
			"version should be 1.16"},
		{"1.82", "/v1/nodes?provision_state=x", 400, `Provision state "x" is not valid`},
		{"1.82", "/v1/nodes?maintenance=perhaps", 400, "Invalid maintenance: Unrecognized value " +
			"'perhaps', acceptable values are: '0', '1', 'f', 'false', 'n', 'no', 'off', 'on', " +
			"'t', 'true', 'y', 'yes'"},
		{"1.82", "/v1/nodes?marker=" + nodeID, 404, "Node " + nodeID + " could not be found."},
	} {
		w.at(c.version, "GET", c.path, "").refused(c.status, c.text)
	}
	w.do("GET", "/v1/nodes?sort_key=driver_info", "").want(400)
}

func TestObserversSeeRouteMethodAndStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do("GET", "/v1/nodes/none", "").want(http.StatusNotFound)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.observed) != 1 {
		t.Fatalf("observed %v", w.observed)
	}
	o := w.observed[0]
	if o.Route != "/v1/nodes/{ident}" || o.Method != "GET" || o.Status != 404 || o.Duration <= 0 {
		t.Errorf("observed %+v", o)
	}
}
