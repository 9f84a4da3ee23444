package api_test

import (
	"testing"

	"ingot/internal/ingot"
)

func TestBootModeAndSecureBootAreSet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	on := true
	w.addNode(func(n *ingot.Node) { n.BootMode, n.SecureBoot = "uefi", &on })
	const at = "/v1/nodes/n1/states"
	for _, c := range []struct{ path, body, want string }{
		{"/boot_mode", `{"target": "uefi"}`, "boot mode uefi"},
		{"/boot_mode", `{"target": "bios"}`, "boot mode bios"},
		{"/secure_boot", `{"target": true}`, "secure boot true"},
		{"/secure_boot", `{"target": "false"}`, "secure boot false"},
	} {
		a := w.at("1.76", "PUT", at+c.path, c.body).want(202)
		if got := w.conductor.last(); got != c.want || a.header.Get("Location") == "" {
			t.Errorf("%s %s: the conductor was asked for %v", c.path, c.body, got)
		}
	}
	w.do("PUT", at+"/boot_mode", `{"target": "efi"}`).refused(400,
		"Invalid boot mode efi specified; target is 'uefi' or 'bios'")
	w.do("PUT", at+"/boot_mode", `{}`).refused(400, "Missing mandatory parameter: target")
	w.do("PUT", at+"/secure_boot", `{"target": "maybe"}`).want(400)
	w.do("PUT", at+"/secure_boot", `{"target": null}`).want(400)
	w.do("PUT", at+"/boot_mode", `{"target": "bios", "more": 1}`).want(400)
	w.do("PUT", "/v1/nodes/none/states/boot_mode", `{"target": "bios"}`).want(404)
	w.at("1.75", "PUT", at+"/boot_mode", `{"target": "bios"}`).want(404)
	w.at("1.75", "PUT", at+"/secure_boot", `{"target": true}`).want(404)
	for _, path := range []string{at, "/v1/nodes/n1"} {
		n := w.at("1.75", "GET", path, "").want(200).object()
		if n["boot_mode"] != "uefi" || n["secure_boot"] != true {
			t.Errorf("%s shows %v and %v", path, n["boot_mode"], n["secure_boot"])
		}
		if n := w.at("1.74", "GET", path, "").want(200).object(); n["boot_mode"] != nil {
			t.Errorf("%s shows %v before its time", path, n["boot_mode"])
		}
	}
	w.conductor.fail = ingot.Errorf(ingot.Unavailable, "no worker")
	w.do("PUT", at+"/boot_mode", `{"target": "bios"}`).want(503)
}

func TestFirmwareIsNotChangedOnTheWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) { n.ProvisionState = "wait call-back" })
	for _, what := range []string{"boot_mode", "secure_boot"} {
		w.do("PUT", "/v1/nodes/n1/states/"+what, `{"target": "uefi"}`).want(409)
	}
	if got := w.conductor.last(); got != nil {
		t.Errorf("the conductor was asked for %v", got)
	}
}
