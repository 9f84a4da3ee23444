package redfish_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

func TestInspect(t *testing.T) {
	s, _, tk := start(t, sim.Options{MAC: "52:54:00:77:00:01", MemoryMB: 1536, CPUs: 2, DiskBytes: []int64{8 << 30, 1 << 40}})
	found, err := family(redfish.Options{}).Inspect().Inspect(t.Context(), tk)
	if err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	serial := found.Vendor.Serial
	want := ingot.Inventory{
		Interfaces: []ingot.InventoryInterface{{Name: "1", MAC: "52:54:00:77:00:01", HasCarrier: &yes, SpeedMbps: 1000}},
		CPU:        ingot.InventoryCPU{Model: "simulated", Architecture: "x86_64", Count: 2},
		Memory:     ingot.InventoryMemory{PhysicalMB: 1536},
		Disks: []ingot.InventoryDisk{
			{Name: "Disk 1", Size: 8 << 30, Model: "simulated disk", Serial: serial + "-1", Rotational: &no},
			{Name: "Disk 2", Size: 1 << 40, Model: "simulated disk", Serial: serial + "-2", Rotational: &no}},
		Vendor:     ingot.InventoryVendor{Product: "simulated machine", Serial: serial, Manufacturer: "ingot"},
		Boot:       ingot.InventoryBoot{Mode: "uefi"},
		BMCAddress: "127.0.0.1",
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
	if n := open(s); n != 0 {
		t.Errorf("%d sessions were left", n)
	}
	for _, r := range s.Requests() {
		if r.Method == http.MethodPatch {
			t.Errorf("something was changed: %v", r)
		}
	}
}

func TestInspectOfABMCThatTellsLittle(t *testing.T) {
	_, _, tk := start(t, sim.Options{})
	found, err := family(redfish.Options{}).Inspect().Inspect(t.Context(), tk)
	if err != nil || len(found.Interfaces)+len(found.Disks) > 0 || found.CPU.Count != 0 {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestAnotherMachineIsNotInspected(t *testing.T) {
	_, _, tk := start(t, sim.Options{MAC: "52:54:00:77:00:01"})
	tk.Node.DriverInfo["redfish_system_uuid"] = uuidB
	if found, err := family(redfish.Options{}).Inspect().Inspect(t.Context(), tk); err == nil {
		t.Errorf("found %+v", found)
	}
}
