package redfish

import (
	"context"
	"net"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

// Inspect is the inspect interface redfish: the BMC tells what is in its machine.
type Inspect struct{ f *Family }

var _ driver.Inspect = (*Inspect)(nil)

// Validate checks driver_info.
func (i *Inspect) Validate(_ context.Context, t *driver.Task) error {
	_, err := i.f.parse(t.Node)
	return err
}

// Inspect asks the BMC.
func (i *Inspect) Inspect(ctx context.Context, t *driver.Task) (found ingot.Inventory, err error) {
	err = i.f.ask(ctx, t, "tell what is in the machine", func(ctx context.Context, m machine) error {
		if err := i.f.identify(t, m); err != nil {
			return err
		}
		inv, err := m.c.Inventory(ctx, m.System)
		if err != nil {
			return err
		}
		found = inventory(inv)
		if found.Boot.Mode, err = m.mode(ctx); err != nil {
			t.Log.Debug("boot mode not read", "error", err)
		}
		return nil
	})
	if err != nil {
		return ingot.Inventory{}, err
	}
	if info, err := i.f.parse(t.Node); err == nil {
		if ip := net.ParseIP(info.address.Hostname()); ip != nil {
			found.BMCAddress = ip.String()
		}
	}
	return found, nil
}

func inventory(inv redfish.Inventory) ingot.Inventory {
	found := ingot.Inventory{Interfaces: []ingot.InventoryInterface{}, Disks: []ingot.InventoryDisk{},
		CPU:    ingot.InventoryCPU{Model: inv.CPUModel, Architecture: inv.CPUArchitecture, Count: inv.CPUs},
		Memory: ingot.InventoryMemory{PhysicalMB: inv.MemoryMiB},
		Vendor: ingot.InventoryVendor{Product: inv.Model, Serial: inv.Serial, Manufacturer: inv.Manufacturer}}
	for _, n := range inv.NICs {
		found.Interfaces = append(found.Interfaces, ingot.InventoryInterface{Name: n.Name, MAC: n.MAC,
			HasCarrier: n.Linked, SpeedMbps: n.SpeedMbps})
	}
	for _, d := range inv.Disks {
		found.Disks = append(found.Disks, ingot.InventoryDisk{Name: d.Name, Size: d.Bytes, Model: d.Model,
			Serial: d.Serial, Rotational: d.Rotational})
	}
	return found
}
