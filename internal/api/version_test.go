package api_test

import (
	"strings"
	"testing"
)

func TestVersionsAreNegotiated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const ours, shared = "X-OpenStack-Ironic-API-Version", "OpenStack-API-Version"
	for _, c := range []struct {
		name   string
		header []string
		status int
		is     string // version of the answer
		text   string
	}{
		{"none asked for is 1.1", []string{ours, ""}, 200, "1.1", ""},
		{"a version", []string{ours, "1.31"}, 200, "1.31", ""},
		{"latest", []string{ours, "latest"}, 200, "1.82", ""},
		{"shared header", []string{ours, "", shared, "baremetal 1.50"}, 200, "1.50", ""},
		{"shared header wins", []string{ours, "1.31", shared, "compute 2.1, baremetal 1.50"}, 200,
			"1.50", ""},
		{"shared header of others", []string{ours, "1.31", shared, "compute 2.1"}, 200, "1.31", ""},
		{"too new", []string{ours, "1.83"}, 406, "", "Version 1.83 was requested but the minor " +
			"version is not supported by this service. The supported version range is: " +
			"[1.1, 1.82]."},
		{"too old", []string{ours, "1.0"}, 406, "", "Version 1.0 was requested but the minor " +
			"version is not supported by this service. The supported version range is: " +
			"[1.1, 1.82]."},
		{"other major", []string{ours, "2.1"}, 406, "", "Mutually exclusive versions requested. " +
			"Version 2.1 requested but not supported by this service. The supported version " +
			"range is: [1.1, 1.82]."},
		{"no number", []string{ours, "foo"}, 406, "",
			"Invalid value for X-OpenStack-Ironic-API-Version header"},
	} {
		a := w.do("GET", "/v1/nodes", "", c.header...)
		if a.status != c.status || a.header.Get(ours) != c.is {
			t.Errorf("%s: status %d, version %q", c.name, a.status, a.header.Get(ours))
		}
		if c.text != "" {
			a.refused(c.status, c.text)
		}
		bounds := a.header.Get("X-OpenStack-Ironic-API-Minimum-Version") + "-" +
			a.header.Get("X-OpenStack-Ironic-API-Maximum-Version")
		if want := map[bool]string{true: "1.1-1.82", false: "-"}[c.name != "no number"]; bounds != want {
			t.Errorf("%s: bounds %q, want %q", c.name, bounds, want)
		}
	}
}

func TestTheVersionDocumentNeedsNoVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.at("1.999", "GET", "/", "").want(200)
	versions := a.list("versions")
	v := versions[0].(map[string]any)
	if len(versions) != 1 || v["min_version"] != "1.1" || v["version"] != "1.82" {
		t.Errorf("versions %v", versions)
	}
}

func TestPathsAreForgiving(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	for _, path := range []string{"/v1/nodes/n1", "/v1/nodes/n1/", "/nodes/n1", "/v1/nodes/n1.json",
		"//v1//nodes/n1", "/nodes/" + strings.ToUpper(nodeID)} {
		if got := w.do("GET", path, "").want(200).object()["uuid"]; got != nodeID {
			t.Errorf("%s is node %v", path, got)
		}
	}
}

func TestANodeMayHaveANameThatEndsInJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do("POST", "/v1/nodes", `{"driver": "ipmi", "name": "n.json"}`).want(201)
	if got := w.do("GET", "/v1/nodes/n.json", "").want(200).object()["name"]; got != "n.json" {
		t.Errorf("name %v", got)
	}
}

func TestResourcesNewerThanTheRequestDoNotExist(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.at("1.48", "GET", "/v1/conductors", "").want(404)
	w.at("1.49", "GET", "/v1/conductors", "").want(200)
}
