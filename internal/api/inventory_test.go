package api_test

import (
	"testing"

	"ingot/internal/ingot"
)

func TestTheInventoryOfANodeIsShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.addNode(func(n *ingot.Node) {
		n.DriverInternalInfo = ingot.Object{ingot.InspectionStarted: "2026-11-29T04:05:06.5Z",
			ingot.InspectionFinished: "yesterday"}
	})
	const path = "/v1/nodes/" + nodeID + "/inventory"
	w.do("GET", path, "").refused(404, "Inspection data for node "+nodeID+" not found.")
	if err := w.store.SaveInventory(w.Context(), n, ingot.Inventory{
		Interfaces: []ingot.InventoryInterface{{Name: "1", MAC: "52:54:00:00:00:01"}},
		CPU:        ingot.InventoryCPU{Count: 4, Architecture: "x86_64"}, Disks: []ingot.InventoryDisk{}}); err != nil {
		t.Fatal(err)
	}
	const want = `{"inventory":{"interfaces":[{"name":"1","mac_address":"52:54:00:00:00:01"}],` +
		`"cpu":{"architecture":"x86_64","count":4},"memory":{},"disks":[],"system_vendor":{},"boot":{}},` +
		`"plugin_data":{}}`
	for _, path := range []string{path, "/v1/nodes/n1/inventory"} {
		if got := string(w.do("GET", path, "").want(200).body); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	w.at("1.80", "GET", path, "").want(404)
	node := w.do("GET", "/v1/nodes/n1", "").want(200).object()
	if node["inspection_started_at"] != "2026-11-29T04:05:06.500000+00:00" || node["inspection_finished_at"] != nil {
		t.Errorf("inspected from %v to %v", node["inspection_started_at"], node["inspection_finished_at"])
	}
}
