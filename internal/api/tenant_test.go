package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/api"
	"ingot/internal/auth"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/policy"
	"ingot/internal/rpc"
)

// badges takes a token for what it says: the project, or "system", and roles. That Keystone says so of
// real ones is tested in package server.
type badges struct{ auth.Keystone }

func (b *badges) Who(r *http.Request) (policy.Subject, error) {
	scope, roles, ok := strings.Cut(r.Header.Get("X-Auth-Token"), ":")
	switch {
	case scope == "silent":
		return policy.Subject{}, &keystone.Silence{Wait: 7 * time.Second,
			Err: ingot.Errorf(ingot.Unavailable, "nobody there")}
	case !ok:
		return policy.Subject{}, ingot.Errorf(ingot.Unauthorized, "who are you?")
	}
	who := keystone.Identity{Roles: strings.Split(roles, ",")}
	if who.System = scope == "system"; !who.System {
		who.ProjectID = scope
	}
	return policy.New(&who, b.Options), nil
}

// Tokens of the tests below. What a role implies is in them, as in those of Keystone.
const (
	systemAdmin  = "system:admin,manager,member,reader"
	systemReader = "system:reader"
	mineAdmin    = "mine:admin,manager,member,reader"
	mineMember   = "mine:member,reader"
	mineReader   = "mine:reader"
	others       = "others:admin,manager,member,reader,service"
	nothing      = "mine:"
)

// objects are the nodes of a cloud with tenants, and their ports.
var objects = map[string]struct{ id, port, mac, owner, lessee string }{
	"owned":   {nodeID, portID, "52:54:00:00:00:01", "mine", ""},
	"leased":  {uuidOf(2), uuidOf(12), "52:54:00:00:00:02", "landlord", "mine"},
	"foreign": {uuidOf(3), uuidOf(13), "52:54:00:00:00:03", "landlord", ""},
	"free":    {uuidOf(4), uuidOf(14), "52:54:00:00:00:04", "", ""},
}

func uuidOf(i int) string { return fmt.Sprintf("11111111-2222-4333-8444-%012d", i) }

// tenants is a world with tenants.
func tenants(t *testing.T, change func(*api.Options)) *world {
	t.Helper()
	w := newWorld(t)
	o := api.Options{Store: w.store, Journal: w.journal, Conductor: w.conductor, OwnNodes: true,
		Auth: &badges{auth.Keystone{URI: "http://keystone:5000/v3"}}}
	if change != nil {
		change(&o)
	}
	w.url = serve(t, api.New(o).Handler())
	for name, one := range objects {
		n := w.addNode(func(n *ingot.Node) {
			n.UUID, n.Name, n.Owner, n.Lessee = one.id, name, one.owner, one.lessee
			n.LastError = "at conductor c1"
			n.DriverInfo = ingot.Object{"ipmi_address": "192.0.2.1", "ipmi_password": "hush"}
			n.DriverInternalInfo = ingot.Object{"agent_url": "http://192.0.2.7"}
		})
		w.mustCreatePort(&ingot.Port{UUID: one.port, NodeID: n.ID, Address: one.mac, PXEEnabled: true})
	}
	return w
}

// as sends a request with a token.
func (w *world) as(token, method, path, body string) answer {
	w.Helper()
	return w.do(method, path, body, "X-Auth-Token", token)
}

// pathOf is the path of a route that names a node, a port and what else there is.
func pathOf(pattern, node, port string) string {
	return strings.NewReplacer("{$}", "", "{ident}", node, "{driver}", "ipmi", "{port}", port, "{hostname}",
		"c1", "{method}", "m", "{entry}", uuidOf(99), "{trait}", "CUSTOM_A", "{vif}", uuidOf(98)).Replace(pattern)
}

// bodies are what requests say that would do something.
var bodies = map[string]string{
	"PUT /v1/nodes/{ident}/states/provision":       `{"target": "provide"}`,
	"PUT /v1/nodes/{ident}/states/power":           `{"target": "power on"}`,
	"PUT /v1/nodes/{ident}/management/boot_device": `{"boot_device": "pxe"}`,
	"PUT /v1/nodes/{ident}/traits":                 `{"traits": ["CUSTOM_A"]}`,
	"POST /v1/nodes/{ident}/vifs":                  `{"id": "a"}`,
	"PATCH /v1/nodes/{ident}":                      `[{"op": "add", "path": "/extra/a", "value": "b"}]`,
	"PATCH /v1/ports/{port}":                       `[{"op": "add", "path": "/extra/a", "value": "b"}]`,
	"POST /v1/nodes":                               `{"driver": "ipmi"}`,
	"POST /v1/ports":                               `{"address": "52:54:00:00:00:99", "node_uuid": "` + nodeID + `"}`,
}

// ramdisks are what agents in ramdisks call, without credentials.
var ramdisks = map[string]bool{"GET /v1/lookup": true, "POST /v1/heartbeat/{ident}": true}

func TestEveryRouteHasARuleOfTheTable(t *testing.T) {
	t.Parallel()
	for route, rule := range api.Rules() {
		public := route == "GET /{$}" || route == "GET /v1" || ramdisks[route]
		if public != (rule == "") || !public && !policy.Operator.May(rule) {
			t.Errorf("%s has the rule %q, which is not one of the table", route, rule)
		}
	}
}

// TestWhoHasNoRoleDoesNothing tries every route with a token that says nothing but whose it is.
func TestWhoHasNoRoleDoesNothing(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	before := w.snapshot()
	for _, route := range api.Routes() {
		method, pattern, _ := strings.Cut(route, " ")
		path := pathOf(pattern, nodeID, portID)
		if pattern == "/v1/nodes/validate" {
			path += "?node=owned"
		}
		a := w.as(nothing, method, path, bodies[route])
		switch {
		case pattern == "/{$}", pattern == "/v1":
			a.want(200)
		case ramdisks[route]:
			a.want(400) // for what it says, and not for who says it
		case route == "POST /v1/ports":
			a.refused(400, "Node "+nodeID+" could not be found.")
		case a.status != 403 && a.status != 404:
			t.Errorf("%s: %d %s", route, a.status, a.body)
		}
	}
	if call := w.conductor.last(); call != nil {
		t.Errorf("the conductor was asked for %+v", call)
	}
	if after := w.snapshot(); after != before {
		t.Errorf("rows were changed:\n%s\n%s", before, after)
	}
}

// snapshot is all rows as an administrator sees them.
func (w *world) snapshot() string {
	w.Helper()
	return string(w.as(systemAdmin, "GET", "/v1/nodes/detail", "").want(200).body) +
		string(w.as(systemAdmin, "GET", "/v1/ports/detail", "").want(200).body)
}

// TestWhatOthersHaveDoesNotExist compares, for every route and for lists, what the administrator of
// another project is told of a node with what is told of one that does not exist.
func TestWhatOthersHaveDoesNotExist(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	before := w.snapshot()
	here, none := objects["owned"], objects["owned"]
	none.id, none.port, none.mac = uuidOf(77), uuidOf(78), "52:54:00:00:00:77"
	same := func(what string, hidden, missing answer) {
		t.Helper()
		clean := func(a answer) string {
			text := strings.NewReplacer(here.id, "ID", none.id, "ID", here.port, "PORT", none.port, "PORT",
				here.mac, "MAC", none.mac, "MAC", "owned", "NAME", "naught", "NAME").Replace(string(a.body))
			for _, name := range []string{"Openstack-Request-Id", "Date", "Content-Length"} {
				a.header.Del(name)
			}
			return fmt.Sprint(a.status, a.header, text)
		}
		if clean(hidden) != clean(missing) {
			t.Errorf("%s:\n%s\n%s", what, clean(hidden), clean(missing))
		}
	}
	for _, route := range api.Routes() {
		method, pattern, _ := strings.Cut(route, " ")
		if ramdisks[route] || !strings.Contains(pattern, "{ident}") && !strings.Contains(pattern, "{port}") {
			continue
		}
		for _, suffix := range []string{"", ".json"} {
			hidden := w.as(others, method, pathOf(pattern, here.id, here.port)+suffix, bodies[route])
			if hidden.status != 404 {
				t.Errorf("%s: %d %s", route, hidden.status, hidden.body)
			}
			same(route, hidden,
				w.as(others, method, pathOf(pattern, none.id, none.port)+suffix, bodies[route]))
			same(route+" by name",
				w.as(others, method, pathOf(pattern, "owned", here.port)+suffix, bodies[route]),
				w.as(others, method, pathOf(pattern, "naught", none.port)+suffix, bodies[route]))
		}
	}
	for _, path := range []string{"/v1/nodes?marker=%s", "/v1/nodes/detail?marker=%s&sort_key=name",
		"/v1/nodes?instance_uuid=%s", "/v1/nodes?parent_node=%s", "/v1/nodes?project=%s",
		"/v1/nodes?owner=%s", "/v1/ports?node=%s", "/v1/ports?node_uuid=%s", "/v1/ports/detail?node=%s",
		"/v1/nodes/validate?node=%s"} {
		same(path, w.as(others, "GET", fmt.Sprintf(path, here.id), ""),
			w.as(others, "GET", fmt.Sprintf(path, none.id), ""))
	}
	for _, path := range []string{"/v1/ports?address=%s", "/v1/ports/detail?address=%s"} {
		same(path, w.as(others, "GET", fmt.Sprintf(path, here.mac), "").want(200),
			w.as(others, "GET", fmt.Sprintf(path, none.mac), ""))
	}
	same("a port of it", w.as(others, "GET", "/v1/ports?marker="+here.port, "").want(404),
		w.as(others, "GET", "/v1/ports?marker="+none.port, ""))
	body := `{"address": "52:54:00:00:00:99", "node_uuid": "%s"}`
	same("a new port", w.as(others, "POST", "/v1/ports", fmt.Sprintf(body, here.id)).want(400),
		w.as(others, "POST", "/v1/ports", fmt.Sprintf(body, none.id)))
	if call := w.conductor.last(); call != nil {
		t.Errorf("the conductor was asked for %+v", call)
	}
	if after := w.snapshot(); after != before {
		t.Error("rows were changed")
	}
}

func TestListsHaveWhatTheProjectOwnsOrLeases(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	for token, want := range map[string][]string{
		systemReader: {"foreign", "free", "leased", "owned"}, mineReader: {"leased", "owned"},
		mineAdmin: {"leased", "owned"}, others: nil, "landlord:reader": {"foreign", "leased"},
	} {
		for _, path := range []string{"/v1/nodes", "/v1/nodes/detail"} {
			var names []string
			for _, n := range w.as(token, "GET", path, "").want(200).list("nodes") {
				names = append(names, n.(map[string]any)["name"].(string))
			}
			if slices.Sort(names); !slices.Equal(names, want) {
				t.Errorf("%s of %s: %v", path, token, names)
			}
		}
		for _, path := range []string{"/v1/ports", "/v1/ports/detail"} {
			if got := w.as(token, "GET", path, "").want(200).list("ports"); len(got) != len(want) {
				t.Errorf("%s of %s: %d ports", path, token, len(got))
			}
		}
	}
	first := w.as(mineReader, "GET", "/v1/nodes?limit=1", "").want(200).object()
	next, _ := first["next"].(string)
	if a := w.as(mineReader, "GET", strings.TrimPrefix(next, w.url), "").want(200); len(a.list("nodes")) != 1 ||
		a.object()["next"] != nil {
		t.Errorf("the second page: %s", a.body)
	}
	for path, count := range map[string]int{"project=mine": 2, "project=landlord": 2, "owner=landlord": 2} {
		if n := len(w.as(systemReader, "GET", "/v1/nodes?"+path, "").want(200).list("nodes")); n != count {
			t.Errorf("%s: %d nodes", path, n)
		}
	}
	w.as(mineReader, "GET", "/v1/nodes?project=mine", "").want(200)
	w.as(mineReader, "GET", "/v1/nodes?project=landlord", "").refused(403,
		"Access was denied to the following resource: baremetal:node:list_all")
	w.as("domain:reader", "GET", "/v1/nodes?project=", "").want(200)
}

// TestWhoMayDoWhatWithANode goes through the routes of nodes by who asks.
func TestWhoMayDoWhatWithANode(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	for _, c := range []struct {
		method, path, body string
		may                map[string]string // token: nodes with which it may
	}{
		{"GET", "", "", map[string]string{systemReader: "owned leased foreign free", mineReader: "owned leased"}},
		{"GET", "/states", "", map[string]string{systemReader: "owned leased", mineReader: "owned leased"}},
		{"GET", "/ports", "", map[string]string{systemReader: "owned leased", mineReader: "owned leased"}},
		{"GET", "/history", "", map[string]string{systemReader: "owned leased", mineReader: "owned"}},
		{"GET", "/journal", "", map[string]string{systemReader: "owned leased", mineReader: "owned"}},
		{"GET", "/validate", "", map[string]string{systemAdmin: "owned leased", mineMember: "owned",
			mineAdmin: "owned leased"}},
		{"GET", "/management/boot_device", "", map[string]string{systemAdmin: "owned leased",
			mineAdmin: "owned"}},
		{"PUT", "/management/boot_device", `{"boot_device": "pxe"}`, map[string]string{
			systemAdmin: "owned leased", mineAdmin: "owned"}},
		{"PUT", "/states/power", `{"target": "power on"}`, map[string]string{systemAdmin: "owned leased",
			mineAdmin: "owned leased", mineMember: "owned leased"}},
		{"PUT", "/states/provision", `{"target": "provide"}`, map[string]string{
			systemAdmin: "owned leased", mineAdmin: "owned leased", mineMember: "owned"}},
		{"PUT", "/states/provision", `{"target": "clean", "clean_steps": [{"interface": "deploy", "step": "x"}]}`,
			map[string]string{systemAdmin: "owned leased", mineAdmin: "owned leased", mineMember: "owned"}},
		{"PUT", "/maintenance", `{}`, map[string]string{systemAdmin: "owned leased",
			mineAdmin: "owned leased", mineMember: "owned"}},
		{"DELETE", "/maintenance", "", map[string]string{systemAdmin: "owned leased",
			mineAdmin: "owned leased", mineMember: "owned"}},
		{"POST", "/vendor_passthru?method=m", "", map[string]string{systemAdmin: "owned leased"}},
		{"GET", "/vendor_passthru/methods", "", map[string]string{systemAdmin: "owned leased"}},
	} {
		for _, token := range []string{systemAdmin, systemReader, mineAdmin, mineMember, mineReader} {
			for _, name := range []string{"owned", "leased"} {
				allowed := strings.Contains(c.may[token], name) ||
					c.may[systemReader] != "" && token == systemAdmin ||
					c.may[mineReader] != "" && strings.HasPrefix(token, "mine") &&
						strings.Contains(c.may[mineReader], name)
				a := w.as(token, c.method, "/v1/nodes/"+name+c.path, c.body)
				if allowed != (a.status < 300) || !allowed && a.status != 403 {
					t.Errorf("%s %s by %s with the %s node: %d %s", c.method, c.path, token, name, a.status,
						a.body)
				}
			}
		}
	}
	w.as(mineReader, "PUT", "/v1/nodes/owned/states/power", `{"target": "power on"}`).refused(403,
		"Access was denied to the following resource: baremetal:node:set_power_state")
}

// TestWhoMayChangeWhatOfANode goes through the fields.
func TestWhoMayChangeWhatOfANode(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	all, owners := []string{mineAdmin, mineMember}, "owned"
	for path, may := range map[string]struct {
		value  string
		tokens []string // besides that of a system member
		nodes  string
	}{
		"/extra/a":           {`"b"`, all, "owned leased"},
		"/description":       {`"b"`, all, "owned leased"},
		"/instance_info/a":   {`"b"`, all, owners},
		"/properties/a":      {`"b"`, all, owners},
		"/driver_info/a":     {`"b"`, all, owners},
		"/instance_uuid":     {`"` + uuidOf(50) + `"`, all, owners},
		"/lessee":            {`"mine"`, all, owners},
		"/network_data":      {`{}`, all, owners},
		"/retired_reason":    {`null`, all, owners},
		"/boot_interface":    {`"ipxe"`, []string{mineAdmin}, owners},
		"/driver":            {`"ipmi"`, []string{mineAdmin}, owners},
		"/owner":             {`"mine"`, nil, ""},
		"/conductor_group":   {`""`, nil, ""},
		"/automated_clean":   {`true`, all, "owned leased"},
		"/protected_reason":  {`null`, all, "owned leased"},
		"/maintenance":       {`false`, all, "owned leased"},
		"/resource_class":    {`"big"`, all, "owned leased"},
		"/storage_interface": {`"noop"`, []string{mineAdmin}, owners},
	} {
		body := `[{"op": "add", "path": "` + path + `", "value": ` + may.value + `}]`
		for _, token := range []string{mineAdmin, mineMember, mineReader, systemReader} {
			for _, name := range []string{"owned", "leased"} {
				allowed := slices.Contains(may.tokens, token) && strings.Contains(may.nodes, name) ||
					path == "/instance_info/a" && token == mineAdmin && name == "leased"
				a := w.as(token, "PATCH", "/v1/nodes/"+name, body)
				if allowed == (a.status == 403) {
					t.Errorf("%s by %s of the %s node: %d %s", path, token, name, a.status, a.body)
				}
			}
		}
		if a := w.as("system:member,reader", "PATCH", "/v1/nodes/free", body); a.status == 403 {
			t.Errorf("%s by a system member: %s", path, a.body)
		}
	}
	for body, rule := range map[string]string{
		`[{"op": "add", "path": "/automated_clean", "value": "false"}]`: "baremetal:node:disable_cleaning",
		`[{"op": "add", "path": "/shard", "value": "s"}]`:               "baremetal:node:update:shard",
		`[{"op": "add", "path": "/extra/a", "value": "b"},
		  {"op": "add", "path": "/owner", "value": "b"}]`: "baremetal:node:update:owner",
	} {
		w.as(mineAdmin, "PATCH", "/v1/nodes/owned", body).refused(403,
			"Access was denied to the following resource: "+rule)
	}
	w.as(mineReader, "PATCH", "/v1/nodes/owned", `[]`).want(403)
}

func TestTheOwnerOfAMachineInUseStays(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	n := w.node()
	n.ProvisionState = "active"
	if err := w.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	body := `[{"op": "replace", "path": "/owner", "value": "x"}]`
	w.as("system:member,reader", "PATCH", "/v1/nodes/owned", body).refused(409,
		`Cannot update owner of node "`+nodeID+`" while it is in state "active".`)
	w.as(systemAdmin, "PATCH", "/v1/nodes/owned", body).want(200)
}

// TestALesseeDoesNotSeeTheInsides: names of conductors and addresses are the owner's.
func TestALesseeDoesNotSeeTheInsides(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	fields := "last_error,reservation,driver_info,driver_internal_info"
	for _, path := range []string{"/v1/nodes/leased", "/v1/nodes/leased?fields=" + fields,
		"/v1/nodes/leased/states", "/v1/nodes/detail?owner=landlord",
		"/v1/nodes?owner=landlord&fields=" + fields} {
		lessee := string(w.as(mineAdmin, "GET", path, "").want(200).body)
		owner := string(w.as("landlord:reader", "GET", path, "").want(200).body)
		for _, inside := range []string{"at conductor c1", "192.0.2.1", "192.0.2.7"} {
			if strings.Contains(lessee, inside) {
				t.Errorf("%s tells a lessee %s: %s", path, inside, lessee)
			}
			if !strings.Contains(owner, inside) && !strings.HasSuffix(path, "/states") {
				t.Errorf("%s does not tell the owner %s", path, inside)
			}
		}
		if !strings.Contains(lessee, "** Value Redacted - Requires baremetal:node:get:last_error permission. **") {
			t.Errorf("%s says nothing of last_error: %s", path, lessee)
		}
		if strings.Contains(owner+lessee, "hush") {
			t.Errorf("%s shows a password", path)
		}
	}
	body := `[{"op": "add", "path": "/extra/a", "value": "b"}]`
	if a := w.as(mineAdmin, "PATCH", "/v1/nodes/leased", body).want(200); strings.Contains(string(a.body),
		"192.0.2") {
		t.Errorf("a change tells: %s", a.body)
	}
}

func TestProjectsCreateAndDeleteNodesOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	create := func(token, owner string) answer {
		return w.as(token, "POST", "/v1/nodes", `{"driver": "ipmi"`+owner+`}`)
	}
	made := create(mineAdmin, "").want(201).object()
	if made["owner"] != "mine" {
		t.Errorf("the owner is %v", made["owner"])
	}
	create(mineAdmin, `, "owner": "mine"`).want(201)
	create(mineAdmin, `, "owner": "landlord"`).refused(400, "Cannot create a node as a project scoped "+
		"admin with an owner other than your own project.")
	create(mineMember, "").refused(403, "Access was denied to the following resource: "+
		"baremetal:node:create")
	if n := create(systemAdmin, `, "owner": "landlord"`).want(201).object(); n["owner"] != "landlord" {
		t.Errorf("the owner is %v", n["owner"])
	}
	w.as(mineMember, "DELETE", "/v1/nodes/"+made["uuid"].(string), "").want(403)
	w.as(mineAdmin, "DELETE", "/v1/nodes/"+made["uuid"].(string), "").want(204)
	w.as(mineAdmin, "DELETE", "/v1/nodes/leased", "").want(403)
	w.as(systemAdmin, "DELETE", "/v1/nodes/free", "").want(204)

	w = tenants(t, func(o *api.Options) { o.OwnNodes = false })
	w.as(mineAdmin, "POST", "/v1/nodes", `{"driver": "ipmi"}`).want(403)
	w.as(mineAdmin, "DELETE", "/v1/nodes/owned", "").refused(403, "Access was denied to the following "+
		"resource: baremetal:node:delete")
}

func TestPortsFollowTheirNode(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	body := `{"address": "52:54:00:00:00:%02x", "node_uuid": "%s"}`
	w.as(mineAdmin, "POST", "/v1/ports", fmt.Sprintf(body, 0x50, objects["owned"].id)).want(201)
	w.as(mineMember, "POST", "/v1/ports", fmt.Sprintf(body, 0x51, objects["owned"].id)).want(403)
	w.as(mineAdmin, "POST", "/v1/ports", fmt.Sprintf(body, 0x52, objects["leased"].id)).want(403)
	extra := `[{"op": "add", "path": "/extra/a", "value": "b"}]`
	move := `[{"op": "replace", "path": "/node_uuid", "value": "%s"}]`
	for token, want := range map[string]int{mineAdmin: 200, mineMember: 403, mineReader: 403, others: 404} {
		w.as(token, "PATCH", "/v1/ports/"+portID, extra).want(want)
	}
	w.as(mineAdmin, "PATCH", "/v1/ports/"+portID, fmt.Sprintf(move, objects["leased"].id)).want(403)
	w.as(mineAdmin, "PATCH", "/v1/ports/"+portID, fmt.Sprintf(move, objects["foreign"].id)).refused(400,
		"Node "+objects["foreign"].id+" could not be found.")
	w.as(mineReader, "GET", "/v1/ports/"+objects["leased"].port, "").want(200)
	w.as(mineAdmin, "DELETE", "/v1/ports/"+objects["leased"].port, "").want(403)
	w.as(mineAdmin, "DELETE", "/v1/ports/"+portID, "").want(204)
}

func TestOnlyTheSystemSeesTheSystem(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	for _, path := range []string{"/v1/drivers", "/v1/drivers/ipmi", "/v1/drivers/ipmi/properties",
		"/v1/conductors", "/v1/conductors/c1", "/v1/cluster"} {
		w.as(systemReader, "GET", path, "").want(200)
		w.as(mineAdmin, "GET", path, "").want(403)
	}
	w.as(systemReader, "PUT", "/v1/conductors/c1/draining", "").want(403)
	w.as(systemAdmin, "PUT", "/v1/conductors/c1/draining", "").want(204)
	w.as(mineAdmin, "GET", "/v1/drivers/ipmi/vendor_passthru/m", "").want(403)
	w.as(mineAdmin, "GET", "/v1/bogus", "").want(404)
}

func TestRefusalsOfTokens(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	for _, path := range []string{"/v1/nodes", "/v1/bogus", "/v1/nodes/owned"} {
		a := w.do("GET", path, "").want(401)
		if string(a.body) != `{"error":{"code":401,"title":"Unauthorized","message":"who are you?"}}` ||
			a.header.Get("WWW-Authenticate") != `Keystone uri="http://keystone:5000/v3"` {
			t.Errorf("%s %v", a.body, a.header)
		}
		a = w.as("silent", "GET", path, "").want(503)
		if a.header.Get("Retry-After") != "7" || a.header.Get("WWW-Authenticate") != "" ||
			!strings.Contains(string(a.body), "nobody there") {
			t.Errorf("%s %v", a.body, a.header)
		}
	}
	w.do("GET", "/", "").want(200)
	w.do("GET", "/v1", "").want(200)
	w.as("silent", "GET", "/v1/drivers/ipmi/vendor_passthru/m", "").want(503)
	w.do("GET", "/v1/drivers/ipmi/vendor_passthru/m", "").want(200)
	if c := w.conductor.last(); !strings.Contains(fmt.Sprintf("%+v", c), "PublicOnly:true") {
		t.Errorf("a stranger's call is %+v", c)
	}
}

// A tenant attaches ports of its own project; services and operators, anybody's.
func TestATenantAttachesPortsOfItsProject(t *testing.T) {
	t.Parallel()
	w := tenants(t, nil)
	for _, c := range []struct{ token, node, project string }{
		{mineMember, "owned", "mine"}, {mineAdmin, "leased", "mine"}, {systemAdmin, "owned", ""},
	} {
		w.as(c.token, "POST", "/v1/nodes/"+c.node+"/vifs", `{"id": "a"}`).want(204)
		if got := w.conductor.last(); got != (rpc.VIF{ID: "a", Project: c.project}) {
			t.Errorf("%s: %+v", c.token, got)
		}
	}
}
