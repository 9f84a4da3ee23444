package api_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/httpbasic"
	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/nodes"

	"ingot/internal/api"
	"ingot/internal/auth"
	"ingot/internal/rpc"
)

// annsPassword is "s3cret", as `htpasswd -nbBC 4 ann s3cret` writes it.
const annsPassword = "ann:$2y$04$uUQgbcnROEx6wqmpivXzrevpIiGHCTHuGp4Tct55C.tq4bXeX1cEy\n"

// guarded is a world whose API asks for credentials.
func guarded(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(annsPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := auth.New(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a := api.New(api.Options{Store: w.store, Journal: w.journal, Conductor: w.conductor, Auth: b})
	w.url, w.machine = serve(t, a.Handler()), serve(t, a.Machine())
	return w
}

// basic is a header with credentials.
func basic(user, password string) []string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return []string{"Authorization", r.Header.Get("Authorization")}
}

func TestNothingIsOpenToStrangersButWhatIsMeantToBe(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	w.addNode(nil)
	open := map[string]bool{"GET /{$}": true, "GET /v1": true}
	for _, row := range api.Routes() {
		method, pattern, _ := strings.Cut(row, " ")
		path := strings.NewReplacer("{$}", "", "{ident}", nodeID, "{driver}", "ipmi", "{port}",
			portID, "{hostname}", "c1", "{method}", "m", "{history}", nodeID).Replace(pattern)
		for _, header := range [][]string{nil, basic("ann", "wrong")} {
			a := w.do(method, path, "", header...)
			machine := strings.Contains(path, "/vendor_passthru") && a.status != 401
			if machine {
				if got, ok := w.conductor.last().(rpc.Call); ok && !got.PublicOnly {
					t.Errorf("%s: a stranger may call what is not public", row)
				}
				continue
			}
			if a.status == 401 == (open[row] || ramdisks[row]) {
				t.Errorf("%s: %d", row, a.status)
			}
		}
	}
	for _, path := range []string{"/v1/bogus", "/v1/nodes/x/bogus"} {
		if a := w.do("GET", path, ""); a.status != 401 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	a := w.do("GET", "/v1/nodes", "").want(401)
	if got := string(bytes.TrimSpace(a.body)); got !=
		`{"error":{"message":"Authorization required","code":401}}` ||
		a.header.Get("WWW-Authenticate") != `Basic realm="Baremetal API"` {
		t.Errorf("%s %v", got, a.header)
	}
	a = w.do("GET", "/v1/nodes", "", basic("ann", "wrong")...).want(401)
	if !strings.Contains(string(a.body), "Incorrect username or password") {
		t.Errorf("%s", a.body)
	}
	w.do("GET", "/v1/nodes", "", "Authorization", "Basic !").want(400)
	w.do("GET", "/v1/nodes", "", basic("ann", "s3cret")...).want(200)
	w.do("GET", "/v1/bogus", "", basic("ann", "s3cret")...).want(404)
}

func TestRealClientsWithCredentials(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	w.addNode(nil)
	c, err := httpbasic.NewBareMetalHTTPBasic(httpbasic.EndpointOpts{IronicEndpoint: w.url + "/v1",
		IronicUser: "ann", IronicUserPassword: "s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	c.Microversion = "1.82"
	if n, err := nodes.Get(t.Context(), c, nodeID).Extract(); err != nil || n.UUID != nodeID {
		t.Errorf("gophercloud: %+v, %v", n, err)
	}
	c.MoreHeaders["Authorization"] = ""
	_, err = nodes.Get(t.Context(), c, nodeID).Extract()
	if !gophercloud.ResponseCodeIs(err, 401) {
		t.Errorf("gophercloud without credentials: %v", err)
	}
	for password, want := range map[string]string{"s3cret": nodeID, "wrong": "401"} {
		cmd := exec.CommandContext(t.Context(), "/usr/bin/baremetal", "node", "list", "-f", "value")
		cmd.Env = append(os.Environ(), "OS_AUTH_TYPE=http_basic", "OS_ENDPOINT="+w.url,
			"OS_USERNAME=ann", "OS_PASSWORD="+password)
		out, err := cmd.CombinedOutput()
		if (err == nil) != (password == "s3cret") || !strings.Contains(string(out), want) {
			t.Errorf("baremetal with %q: %v\n%s", password, err, out)
		}
	}
}

func TestTheMachinesSocketAsksNobody(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	w.addNode(nil)
	w.conductor.reply = rpc.Reply{Attach: true, Body: []byte("#!ipxe")}
	for _, base := range []string{w.machine, w.url} {
		w.send(base, "GET", "/v1/drivers/ipmi/vendor_passthru/ipxe_config", "").want(200)
	}
}
