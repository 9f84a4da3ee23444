package agent_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/agent"
	"ingot/internal/iso9660"
	"ingot/internal/testkit"
)

// Ironic's own client takes an agent through a deployment, over TLS that it verifies by the
// certificate of the heartbeat.
func TestIronicCommandsTheAgent(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{Params: agent.Params{Node: node}}, 96)
	certificate := filepath.Join(t.TempDir(), "agent.crt")
	if err := os.WriteFile(certificate, []byte(c.pem), 0o600); err != nil {
		t.Fatal(err)
	}
	image := newImage(10, 8)
	source := slowly{image, make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle("/", source)
	mux.HandleFunc("/release", func(http.ResponseWriter, *http.Request) { close(source.release) })
	s := httptest.NewServer(mux)
	defer s.Close()
	drive, err := iso9660.Build(iso9660.Options{Label: "config-2"}, []iso9660.File{
		{Path: "openstack/latest/meta_data.json", Data: []byte(`{"hostname": "of-the-drive"}`)}})
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(drive)
	z.Close()
	info := imageInfo(image, s.URL)
	info["configdrive"] = base64.StdEncoding.EncodeToString(packed.Bytes())
	text, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	said := testkit.Run(t, "/usr/bin/python3", "testdata/ironic_client.py", node, c.url, aToken, certificate,
		string(text), info["configdrive"].(string))
	answers := make(map[string]string)
	for line := range strings.Lines(said) {
		var one struct {
			What   string
			Answer json.RawMessage
		}
		if json.Unmarshal([]byte(line), &one) == nil {
			answers[one.What] = string(one.Answer)
		}
	}
	for what, want := range map[string]string{
		"steps": `"step": "write_image"`, "write": `"command_status": "RUNNING"`,
		"busy": "Agent is busy: executing command execute_deploy_step", "written": `"command_status": "SUCCEEDED"`,
		"same step": "true", "uuids": `"root uuid": "0x12345678"`, "bootloader": `"command_status": "SUCCEEDED"`,
		"logs": `"system_logs": "H4sI`, "clean steps": "erase_devices_metadata", "old token": "Token invalid",
		"sync": `"command_status": "SUCCEEDED"`, "off": `"command_error": null`,
	} {
		if !strings.Contains(answers[what], want) {
			t.Errorf("%s: Ironic has %s, want %s", what, answers[what], want)
		}
	}
	if t.Failed() {
		t.Logf("Ironic's client:\n%s", said)
	}
	if end := <-c.ended; end != "power off" {
		t.Errorf("it ended by %s", end)
	}
	disk := c.disk()
	if !bytes.Equal(disk[mib:8*mib], image[mib:]) || !bytes.Contains(disk[8*mib:], []byte("of-the-drive")) {
		t.Error("the disk has not image and config drive")
	}
}
