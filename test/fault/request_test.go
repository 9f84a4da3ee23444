package fault

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/server"
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
