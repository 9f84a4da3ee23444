package ipa

import (
	"strings"
	"testing"
)

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"commands": [{"id": "1", "command_name": "deploy.execute_deploy_step", "command_params": {"a": 1},
			"command_status": "RUNNING", "command_error": null, "command_result": null,
			"progress": {"bytes": 1, "total": 2}}]}`,
		`{"commands": [{"command_name": "sync", "command_status": "FAILED", "command_error": "text"}]}`,
		`{"commands": [{"command_status": "FAILED", "command_error": {"details": "d", "message": "m"}}]}`,
		`{"commands": [{"command_status": "FAILED", "command_error": [1, 2], "progress": {"bytes": -1}}]}`,
		`{"faultstring": "Agent is busy"}`, `{"commands": null}`, `[]`, "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		decodeFault(data)
		list, err := decodeCommands(data)
		one, _ := decodeCommand(data)
		if err != nil && list != nil {
			t.Error("both a list and an error")
		}
		for _, c := range append(list, one) {
			failed := c.Failure() != nil
			if failed == (c.Status == Running || c.Status == Succeeded) {
				t.Errorf("%+v: failure %v", c, failed)
			}
			for _, text := range []string{c.ID, c.Name, string(c.Status), c.Error} {
				if len(text) > maxText || strings.ContainsAny(text, "\n\r") {
					t.Errorf("%q is no line of bounded length", text)
				}
			}
			if p := c.Progress; p != nil && (p.Bytes < 0 || p.Total < 0) {
				t.Errorf("%+v", p)
			}
		}
	})
}
