package api_test

import "testing"

// The names of drivers from before hardware types are taken, and nobody sees them afterwards.
func TestClassicDriversBecomeHardwareTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addConductor("", "ipmi")
	w.addConductor("", "ilo")
	for name, want := range map[string][5]string{
		"pxe_ipmitool":   {"ipmi", "ipmitool", "ipmitool", "pxe", "iscsi"},
		"agent_ipmitool": {"ipmi", "ipmitool", "ipmitool", "pxe", "direct"},
		"iscsi_ilo":      {"ilo", "ilo", "ilo", "ilo-virtual-media", "iscsi"},
		"agent_ilo":      {"ilo", "ilo", "ilo", "ilo-virtual-media", "direct"},
		"pxe_ilo":        {"ilo", "ilo", "ilo", "ilo-pxe", "iscsi"},
	} {
		check := func(what string, n map[string]any) {
			t.Helper()
			for i, key := range []string{"driver", "power_interface", "management_interface", "boot_interface",
				"deploy_interface"} {
				if n[key] != want[i] {
					t.Errorf("%s of %s: %s is %v, want %s", what, name, key, n[key], want[i])
				}
			}
		}
		check("creation", w.do("POST", "/v1/nodes", `{"driver": "`+name+`"}`).want(201).object())
		// A node of another type that is changed has nothing left of what it was.
		w.do("POST", "/v1/nodes", `{"driver": "ipmi", "boot_interface": "ipxe", "name": "`+name+`"}`).want(201)
		path := "/v1/nodes/" + name
		for range 2 {
			w.do("PATCH", path, op("replace", "/driver", `"`+name+`"`))
			check("change", w.do("GET", path, "").want(200).object())
		}
	}
	// What is named beside it counts.
	n := w.do("POST", "/v1/nodes", `{"driver": "pxe_ipmitool", "boot_interface": "ipxe"}`).want(201).object()
	if n["boot_interface"] != "ipxe" || n["deploy_interface"] != "iscsi" {
		t.Errorf("boot %v, deploy %v", n["boot_interface"], n["deploy_interface"])
	}
	w.do("POST", "/v1/nodes", `{"driver": "pxe_drac"}`).refused(400, "No valid host was found. Reason: No "+
		"conductor service registered which supports driver pxe_drac for conductor group \"\".")
}
