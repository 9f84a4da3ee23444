package conductor_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

// inspector finds what it is told.
type inspector struct {
	found ingot.Inventory
	err   atomic.Pointer[error]
	calls atomic.Int64
}

func (*inspector) Validate(context.Context, *driver.Task) error { return nil }

func (i *inspector) Inspect(context.Context, *driver.Task) (ingot.Inventory, error) {
	i.calls.Add(1)
	if err := i.err.Load(); err != nil {
		return ingot.Inventory{}, *err
	}
	return i.found, nil
}

// inspected is a world whose nodes can be inspected.
func inspected(t *testing.T, found ingot.Inventory) (*world, *inspector) {
	w := newWorld(t)
	i := &inspector{found: found}
	w.o.Table.Inspect = map[string]driver.Inspect{"fake": i}
	w.o.Table.Hardware[0].Supported["inspect"] = []string{"fake", "no-inspect"}
	return w, i
}

func TestInspectionPutsOnRecordWhatIsThere(t *testing.T) {
	t.Parallel()
	w, _ := inspected(t, ingot.Inventory{
		Interfaces: []ingot.InventoryInterface{{MAC: "52-54-00-00-00-0A"}, {MAC: "52:54:00:00:00:0b"},
			{MAC: "52:54:00:00:00:0c"}, {MAC: "of InfiniBand"}},
		CPU: ingot.InventoryCPU{Count: 8, Architecture: "x86_64"}, Memory: ingot.InventoryMemory{PhysicalMB: 4096},
		Disks: []ingot.InventoryDisk{{Size: 1 << 40}, {Size: 100 << 30}, {Size: 1 << 30}},
		Boot:  ingot.InventoryBoot{Mode: "uefi"},
	})
	c, _ := w.start()
	other := w.enroll(c, "n2", "manageable")
	n := w.enroll(c, "n1", "manageable")
	for _, p := range []*ingot.Port{{NodeUUID: other.UUID, Address: "52:54:00:00:00:0c"},
		{NodeUUID: n.UUID, Address: "52:54:00:00:00:0b"}} {
		p.UUID = ingot.NewUUID()
		if err := w.store.CreatePort(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	w.change("n1", func(n *ingot.Node) {
		n.Properties = ingot.Object{"capabilities": "boot_mode:bios,cpu_vt:true", "cpus": 1}
	})
	for range 2 { // the second time nothing is made
		w.provision(c, "n1", "inspect")
		n = w.until("n1", "inspection", func(n *ingot.Node) bool {
			return n.ProvisionState == "manageable" && n.Reservation == "" &&
				n.DriverInternalInfo[ingot.InspectionFinished] != nil
		})
		if got := fmt.Sprint(n.Properties, n.LastError); got != "map[capabilities:cpu_vt:true,boot_mode:uefi "+
			"cpu_arch:x86_64 cpus:8 local_gb:99 memory_mb:4096]" {
			t.Errorf("properties and error %s", got)
		}
		ports, err := w.store.Ports(t.Context(), store.PortFilter{NodeID: n.ID}, store.Page{})
		if err != nil || len(ports) != 2 || ports[1].Address != "52:54:00:00:00:0a" || !ports[1].PXEEnabled {
			t.Errorf("ports %+v, %v", ports, err)
		}
		if inv, err := w.store.Inventory(t.Context(), n.ID); err != nil || inv.CPU.Count != 8 {
			t.Errorf("inventory %+v, %v", inv, err)
		}
	}
	for _, want := range []string{"inspect info found 8 processors, 4096 MiB of memory, 3 disks, 4 network cards, " +
		"for 1 of which a port was created", "52:54:00:00:00:0c", "of InfiniBand"} {
		if !strings.Contains(w.journal("n1"), want) {
			t.Errorf("the journal lacks %q:\n%s", want, w.journal("n1"))
		}
	}
}

func TestAnInspectionThatFailsMayBeRepeated(t *testing.T) {
	t.Parallel()
	w, i := inspected(t, ingot.Inventory{})
	gone := errors.New("the BMC is away")
	i.err.Store(&gone)
	c, _ := w.start()
	w.enroll(c, "n1", "manageable")
	w.provision(c, "n1", "inspect")
	if n := w.state("n1", "inspect failed"); !strings.Contains(n.LastError, "the BMC is away") {
		t.Errorf("last error %q", n.LastError)
	}
	i.err.Store(nil)
	w.provision(c, "n1", "inspect")
	w.state("n1", "manageable")
}

func TestADriverWithoutInspectionSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	w.enroll(c, "n1", "manageable")
	err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "inspect"})
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(),
		"Driver fake-hardware does not support inspect (disabled or not implemented).") {
		t.Error(err)
	}
}
