package conductor_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver/ramdisk"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/testkit"
)

// newDiskless is a metal whose machine boots a kernel and a ramdisk at each start.
func newDiskless(t *testing.T) *metal {
	t.Helper()
	x := newMetal(t)
	x.o.Table.Deploy[ramdisk.Name] = ramdisk.New(image.Options{})
	n := x.node("n1")
	dir, _, _ := strings.Cut(n.InstanceInfo["image_source"].(string), "/disk.raw")
	x.info = ingot.Object{"kernel": dir + "/vmlinuz", "ramdisk": dir + "/ramdisk"}
	n.Interfaces["deploy"], n.InstanceInfo = ramdisk.Name, x.info
	x.o.Table.Hardware[0].Supported["deploy"] = append(x.o.Table.Hardware[0].Supported["deploy"], ramdisk.Name)
	if err := x.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return x
}

// runs checks that the machine boots its instance.
func (x *metal) runs() {
	x.t.Helper()
	n := x.state("n1", "active")
	if n.BootIntent != ingot.BootInstance || n.Attempt != nil || n.LastError != "" || n.PowerState != ingot.PowerOn ||
		n.Instance == nil || !n.Instance.Diskless {
		x.t.Errorf("active: %+v", n)
	}
	testkit.Eventually(x.t, "the machine boots its instance", func() bool { return x.m.has("instance") })
	if x.m.has("ramdisk") || x.m.has("disk") {
		x.t.Errorf("the machine did %v", x.m.story())
	}
}

func TestADisklessDeploymentSurvivesAKilledConductorAtEveryWrite(t *testing.T) {
	t.Parallel()
	x := newDiskless(t)
	for at, killed := int64(1), true; killed; at++ {
		x.m.set(func(m *machine) { m.events = nil })
		c, stop, died := x.mortal(at)
		x.m.set(func(m *machine) { m.cond = c })
		err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy"})
		if err != nil && !conductor.Crashed(c) {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			select {
			case <-died:
			case <-time.After(2 * time.Millisecond):
				if n := x.node("n1"); n.ProvisionState != "active" || n.Reservation != "" {
					continue
				}
				killed = false
			}
			break
		}
		if killed {
			x.m.set(func(m *machine) { m.cond = nil })
			stop()
			c, stop = x.start()
			if err != nil {
				x.provision(c, "n1", "deploy")
			}
		}
		x.runs()
		stop()
		if t.Failed() {
			t.Fatalf("killed before write %d; the machine did %v\n%s", at, x.m.story(), x.journal("n1"))
		}
		if !killed && at < 4 {
			t.Errorf("only %d writes", at)
		}
		x.freed()
		if n := x.node("n1"); n.Instance != nil || n.BootIntent != ingot.BootNone || x.m.power() != ingot.PowerOff {
			t.Errorf("undeployed: %+v, machine %s", n, x.m.power())
		}
	}
}

// A rebuild that finds nothing to boot leaves the machine running what it runs.
func TestARebuildWithoutAnythingToBootLeavesTheInstance(t *testing.T) {
	t.Parallel()
	x := newDiskless(t)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.runs()
	was := x.node("n1").Instance
	kernel := strings.TrimPrefix(x.info["kernel"].(string), "file://")
	if err := os.Rename(kernel, filepath.Join(filepath.Dir(kernel), "gone")); err != nil {
		t.Fatal(err)
	}
	x.m.set(func(m *machine) { m.events = nil })
	x.provision(c, "n1", "rebuild")
	n := x.state("n1", "deploy failed")
	if *n.Instance != *was || n.BootIntent != ingot.BootInstance || len(x.m.story()) != 0 ||
		!strings.Contains(n.LastError, "kernel of instance_info") {
		t.Errorf("after the rebuild: %s, instance %+v, the machine did %v", n.LastError, n.Instance, x.m.story())
	}
}
