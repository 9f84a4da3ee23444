package fault

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"ingot/internal/server"
	"ingot/internal/testkit"
)

func TestS1_4_AnUnknownMachineGetsAScriptAndLearnsNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	const stranger = "52:54:00:99:99:99"
	script := s.script(stranger)
	if !strings.HasPrefix(script, "#!ipxe\n") {
		t.Errorf("no script:\n%s", script)
	}
	wantWords(t, "script", script, []string{stranger, "enroll a node and create the port",
		"\nexit 0\n"})
	for _, secret := range []string{nodeName, mac, s.text("uuid"), "deploy", "kernel "} {
		if strings.Contains(script, secret) {
			t.Errorf("the script tells %q:\n%s", secret, script)
		}
	}
	var warning string
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, stranger) {
			warning = line
		}
	}
	wantWords(t, "warning in the log", warning, []string{"create a node and a port"})
	if strings.Contains(s.journal(), stranger) {
		t.Error("the stranger is in the journal of another machine")
	}
	s.verb("active")
	s.deployed()
}

func TestMalformedJSONIsABadRequest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	before := s.node()["updated_at"]
	node := "/v1/nodes/" + nodeName
	for _, c := range []struct{ method, path string }{
		{"POST", "/v1/nodes"}, {"POST", "/v1/ports"}, {"PATCH", node},
		{"PUT", node + "/states/provision"}, {"PUT", node + "/states/power"},
		{"POST", node + "/vendor_passthru/pass_deploy_info"},
	} {
		for _, body := range []string{`{"target": "active"`, `{"a": 1} {"b": 2}`, "\x00\xff", `{'a'}`} {
			s.refused(c.method, c.path, body, 400, "is not valid JSON")
		}
	}
	if s.text("provision_state") != "available" || s.node()["updated_at"] != before {
		t.Errorf("the node was changed: %v", s.node())
	}
	s.verb("active")
	s.deployed()
}

func TestANodeWithoutPortsIsNotDeployed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.create(s.driverInfo())
	s.provide()
	boot := s.ok("GET", "/v1/nodes/"+nodeName+"/validate", nil)["boot"].(object)
	reason, _ := boot["reason"].(string)
	if boot["result"] != false {
		t.Errorf("validate: %v", boot)
	}
	words := []string{"does not have any port", "baremetal port create"}
	wantWords(t, "validate", reason, words)
	s.refused("PUT", "/v1/nodes/"+nodeName+"/states/provision", object{"target": "active"}, 400,
		words...)
	if got := s.text("provision_state"); got != "available" {
		t.Errorf("provision state %q, want available", got)
	}
	if deeds := s.machine.deeds(); len(deeds) > 0 {
		t.Errorf("the machine was touched: %q", deeds)
	}
	s.createPort()
	s.verb("active")
	s.deployed()
}

func TestAnUnknownConfigurationKeyIsNamedWithItsLine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.toml")
	err := os.WriteFile(path, []byte("[api]\nlisten = \"127.0.0.1:0\"\nlisen = \"x\"\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd := server.Command()
	cmd.SetArgs([]string{"--config", path})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(t.Context())
	if err == nil {
		t.Fatal("the server started and ended without an error")
	}
	wantWords(t, "error", err.Error(), []string{path + ":3: unknown key", `"api.lisen"`,
		"ingot config reference"})
}

// post sends a body of unknown length to a base URL and returns status and answer.
func post(t *testing.T, url string, body io.Reader) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := testkit.Web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestBodiesThatAreTooLargeOrTooDeepAreRefusedOnBothSockets(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	before := s.node()["updated_at"]
	report := "/v1/nodes/" + s.text("uuid") + "/vendor_passthru/pass_deploy_info"
	for _, url := range []string{s.api + "/v1/nodes", s.api + report, s.boot + report} {
		for _, c := range []struct {
			name, body string
			status     int
			words      string
		}{
			{"10 MiB", `{"driver": "` + strings.Repeat("x", 10<<20) + `"}`, 413, "larger than 1048576"},
			{"10 MiB of nothing", strings.Repeat(" ", 10<<20), 413, "larger than 1048576"},
			{"deep", `{"driver": ` + strings.Repeat("[", 1000000), 400, "nested deeper"},
			{"deep objects", strings.Repeat(`{"a":`, 100000) + "1" + strings.Repeat("}", 100000), 400,
				"nested deeper"},
			{"many members", "{" + strings.Repeat(`"a": 1, `, 100000) + `"b": 2}`, 400, ""},
			{"a large number", `{"driver": 1e999999999, "key": 1e999999999}`, 400, ""},
		} {
			// Hidden from the client's look at the type, so that the length is not announced.
			status, answer := post(t, url, io.MultiReader(strings.NewReader(c.body)))
			if status != c.status || !strings.Contains(answer, c.words) {
				t.Errorf("%s to %s: %d %.200s, want %d and %q", c.name, url, status, answer, c.status,
					c.words)
			}
		}
	}
	if s.text("provision_state") != "available" || s.node()["updated_at"] != before {
		t.Errorf("the node was changed: %v", s.node())
	}
	s.verb("active")
	s.deployed()
}

func TestWrongTypesAndUnknownFieldsAreNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	before := s.node()["updated_at"]
	node := "/v1/nodes/" + nodeName
	for _, c := range []struct {
		method, path, body, word string
	}{
		{"POST", "/v1/nodes", `{"driver": 5}`, "5 is not of type 'string'"},
		{"POST", "/v1/nodes", `{"driver": "ipmi", "properties": "x"}`, "'x' is not of type"},
		{"POST", "/v1/nodes", `{"driver": "ipmi", "name": ["a"]}`, "['a'] is not of type"},
		{"POST", "/v1/nodes", `{"driver": "ipmi", "bogus": 1}`, "bogus"},
		{"POST", "/v1/nodes", `[]`, ""},
		{"POST", "/v1/nodes", `"x"`, ""},
		{"POST", "/v1/ports", `{"node_uuid": "` + s.text("uuid") + `", "address": 5}`,
			"5 is not of type"},
		{"POST", "/v1/ports", `{"node_uuid": {}, "address": "52:54:00:00:00:09"}`, "{} is not of type"},
		{"PATCH", node, `{}`, ""},
		{"PATCH", node, `[5]`, ""},
		{"PATCH", node, `[{"op": "add", "path": "/bogus", "value": 1}]`, "bogus"},
		{"PATCH", node, `[{"op": "add", "path": "/driver_info", "value": 1}]`, "1 is not of type"},
		{"PATCH", node, `[{"op": 1, "path": [], "value": 1}]`, ""},
		{"PUT", node + "/states/provision", `{"target": 5}`, "target"},
		{"PUT", node + "/states/provision", `{"target": "active", "bogus": 1}`, "bogus"},
		{"PUT", node + "/states/power", `{"target": {}}`, "target"},
		{"PUT", node + "/states/power", `{}`, "target"},
		{"POST", node + "/vendor_passthru/pass_deploy_info", `[1]`, ""},
	} {
		var words []string
		if c.word != "" {
			words = append(words, c.word)
		}
		s.refused(c.method, c.path, c.body, 400, words...)
	}
	if s.text("provision_state") != "available" || s.node()["updated_at"] != before {
		t.Errorf("the node was changed: %v", s.node())
	}
	s.verb("active")
	s.deployed()
}

func TestAScriptIsAskedForWithWrongArguments(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	s.machine.behave(manner{silent: true})
	s.verb("active")
	s.await("wait call-back")
	long := strings.Repeat("x", 100<<10)
	for _, base := range []string{s.boot, s.api} {
		for _, query := range []string{
			"", "port_address", "port_address=", "node_uuid=", "node_uuid=%00", "node_uuid=" + nodeName,
			"node_uuid=not-a-uuid", "port_address=52:54:00", "port_address=52:54:00:0f:a1:01:02",
			"port_address=%0achain%20http://198.51.100.1/", "port_address=%ff%fe", "port_address=%zz",
			"port_address=${net0/mac}", "node_uuid=' OR 1=1 --", "bogus=1", "a;b",
			"node_uuid=00000000-0000-4000-8000-000000000000", "node_uuid=" + long, "port_address=" + long,
			strings.Repeat("a=b&", 10000),
		} {
			resp, err := testkit.Web.Get(base + "/v1/drivers/ipmi/vendor_passthru/ipxe_config?" +
				strings.ReplaceAll(query, " ", "+"))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			script := string(answer)
			if err != nil || resp.StatusCode >= 500 || len(script) > 16<<10 {
				t.Errorf("%.80s: %s, %d bytes, %v", query, resp.Status, len(script), err)
			}
			if resp.StatusCode == 200 && !strings.HasPrefix(script, "#!ipxe\n") {
				t.Errorf("%.80s: no script:\n%.500s", query, script)
			}
			for _, never := range []string{"\nchain http://198", "\nkernel ", "deployment_key",
				"sanboot"} {
				if strings.Contains(script, never) {
					t.Errorf("%.80s: the answer has %q:\n%.500s", query, never, script)
				}
			}
		}
	}
	if script := s.script(mac); !strings.Contains(script, "\nkernel ") {
		t.Errorf("afterwards the right machine gets\n%s", script)
	}
}

func TestAFloodOfUnknownMachinesIsAnsweredAndNotRemembered(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	before := len(s.log.String())
	s.machine.behave(manner{})
	s.verb("active") // while they ask
	var flood sync.WaitGroup
	var answered atomic.Int64
	for first := range 20 {
		flood.Go(func() {
			for i := range 100 {
				script, err := fetch(t.Context(), fmt.Sprintf("%s/v1/drivers/ipmi/vendor_passthru/"+
					"ipxe_config?port_address=02:00:00:00:%02x:%02x", s.boot, first, i))
				if err == nil && strings.HasPrefix(script, "#!ipxe\n") {
					answered.Add(1)
				}
			}
		})
	}
	flood.Wait()
	if n := answered.Load(); n != 2000 {
		t.Errorf("%d of 2000 were answered", n)
	}
	s.deployed()
	if n := strings.Count(s.log.String()[before:], "02:00:00:00:"); n > 200 {
		t.Errorf("the log names strangers %d times", n)
	}
	if strings.Contains(s.journal(), "02:00:00:00:") {
		t.Error("strangers are in the journal of another machine")
	}
}
