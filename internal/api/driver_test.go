package api_test

import (
	"testing"

	"ingot/internal/ingot"
)

func TestDriversAreWhatLivingConductorsSay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	err := w.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: "c2", Group: "g2",
		Drivers: []ingot.Driver{{Name: "ipmi", Enabled: map[string][]string{
			"boot": {"ipxe", "pxe"}}}, {Name: "redfish"}}})
	if err != nil {
		t.Fatal(err)
	}
	l := w.do("GET", "/v1/drivers?detail=True", "").want(200).list("drivers")
	if len(l) != 2 {
		t.Fatalf("drivers %v", l)
	}
	d := l[0].(map[string]any)
	hosts, boot := d["hosts"].([]any), d["enabled_boot_interfaces"].([]any)
	if d["name"] != "ipmi" || len(hosts) != 2 || len(boot) != 2 ||
		d["default_boot_interface"] != "ipxe" || d["default_bios_interface"] != nil {
		t.Errorf("ipmi is %v", d)
	}
	if _, shown := d["default_firmware_interface"]; shown {
		t.Error("1.82 shows the firmware interface of 1.86")
	}
	if l := w.do("GET", "/v1/drivers?type=classic", "").want(200).list("drivers"); len(l) != 0 {
		t.Errorf("classic drivers %v", l)
	}
	w.do("GET", "/v1/drivers?type=x", "").want(400)
	w.do("GET", "/v1/drivers?fields=name", "").want(200)
	w.at("1.76", "GET", "/v1/drivers?fields=name", "").want(406)
	w.do("GET", "/v1/drivers/ilo", "").refused(404,
		"Could not find the following driver(s) or hardware type(s): ilo.")
	w.do("GET", "/v1/drivers/properties?driver_name=ipmi", "").want(200)
}

func TestANodesConductorIsOfItsGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do("POST", "/v1/nodes", `{"driver": "ipmi", "conductor_group": "g3"}`).refused(400,
		"No valid host was found. Reason: No conductor service registered which supports driver "+
			`ipmi for conductor group "g3".`)
	w.addNode(func(n *ingot.Node) { n.ConductorGroup = "g2" })
	w.do("PATCH", "/v1/nodes/n1", op("replace", "/conductor_group", `"g3"`)).refused(400,
		"No valid host was found. Reason: No conductor service registered which supports driver "+
			`ipmi for conductor group "g3".`)
	if got := w.do("GET", "/v1/nodes/n1", "").want(200).object()["conductor"]; got != nil {
		t.Errorf("conductor %v of a group without one", got)
	}
	w.do("GET", "/v1/conductors/none", "").refused(404, "Conductor none could not be found.")
}
