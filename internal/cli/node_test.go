package cli

import "testing"

func TestInterfacesOfANodeAreChosen(t *testing.T) {
	t.Parallel()
	f := createFlags{driver: redfish, bmc: "https://192.0.2.1", boot: "redfish-virtual-media", deploy: "direct"}
	n, err := f.node("n1")
	if err != nil || n.BootInterface != f.boot || n.DeployInterface != f.deploy {
		t.Errorf("%+v, %v", n, err)
	}
	f.boot, f.deploy = "", ""
	n, err = f.node("n1")
	if err != nil {
		t.Fatal(err)
	}
	request, err := n.ToNodeCreateMap()
	if err != nil || request["boot_interface"] != nil || request["deploy_interface"] != nil {
		t.Errorf("interfaces that nobody chose: %v, %v", request, err)
	}
}
