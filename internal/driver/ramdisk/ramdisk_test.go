package ramdisk_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/driver/ramdisk"
	"ingot/internal/driver/redfish"
	"ingot/internal/image"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

// machine is power and boot of a machine; what was done to it is in did.
type machine struct {
	fake.Power
	fake.Boot
	did  []string
	fail string
}

func (m *machine) do(what string) error {
	m.did = append(m.did, what)
	if what == m.fail {
		return errors.New(what + " failed")
	}
	return nil
}

func (m *machine) Validate(context.Context, *driver.Task) error { return nil }

func (m *machine) SetPower(_ context.Context, _ *driver.Task, target ingot.PowerState) error {
	return m.do(string(target))
}

func (m *machine) HoldInstance(context.Context, *driver.Task) error { return m.do("hold") }

func (m *machine) PrepareInstance(context.Context, *driver.Task) error { return m.do("prepare") }

func (m *machine) CleanUpInstance(context.Context, *driver.Task) error { return m.do("clean up") }

// task is of a node that boots what instance_info says.
func task(info ingot.Object) (*driver.Task, *machine) {
	m := &machine{}
	n := &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", InstanceInfo: info,
		Interfaces: map[string]string{"deploy": "ramdisk", "boot": "ipxe"}}
	return &driver.Task{Node: n, Driver: driver.Driver{Power: m, Boot: m}, Log: slog.New(slog.DiscardHandler),
		Note: func(ingot.Entry) {}}, m
}

func TestAMachineIsOffWhileWhatItBootsChanges(t *testing.T) {
	t.Parallel()
	tk, m := task(ingot.Object{"boot_iso": "file:///live.iso", "configdrive": "http://x/drive"})
	d := ramdisk.New(image.Options{})
	steps := d.Steps(tk.Node)
	for range 2 { // a step may run twice
		m.did = nil
		out, err := d.Execute(t.Context(), tk, steps[0])
		if err != nil || out != driver.Done || len(steps) != 1 {
			t.Fatalf("%v, %v, %v", steps, out, err)
		}
		if want := []string{"hold", "power off", "prepare", "power on"}; !slices.Equal(m.did, want) {
			t.Errorf("did %q, want %q", m.did, want)
		}
	}
	if err := d.CleanUp(t.Context(), tk); err != nil || tk.Node.Attempt != nil || m.did[len(m.did)-1] != "clean up" {
		t.Errorf("clean-up: %v, did %q", err, m.did)
	}
}

// A running instance is left alone if there is nothing to take its place. What fails afterwards is a failure of
// the machine, which an attempt on record tells apart.
func TestAMachineIsNotTouchedBeforeThereIsSomethingToBoot(t *testing.T) {
	t.Parallel()
	for _, fail := range []string{"hold", "power off", "prepare", "power on"} {
		tk, m := task(ingot.Object{"boot_iso": "file:///live.iso"})
		m.fail = fail
		_, err := ramdisk.New(image.Options{}).Execute(t.Context(), tk, ingot.Step{Name: "deploy"})
		if err == nil || m.did[len(m.did)-1] != fail || (tk.Node.Attempt == nil) != (fail == "hold") {
			t.Errorf("%s: %v, did %q, attempt %v", fail, err, m.did, tk.Node.Attempt)
		}
	}
	tk, _ := task(nil)
	if _, err := ramdisk.New(image.Options{}).Execute(t.Context(), tk, ingot.Step{Name: "write_image"}); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("another step: %v", err)
	}
}

func TestOneThingIsToBeBooted(t *testing.T) {
	t.Parallel()
	for want, info := range map[string]ingot.Object{
		"":  {"boot_iso": "file:///live.iso"},
		" ": {"kernel": "file:///k", "ramdisk": "file:///r"},
		"'image_source' and 'boot_iso' may not be specified at the same time":      {"boot_iso": "file:///live.iso", "image_source": "file:///x"},
		"'kernel', 'ramdisk' and 'boot_iso' may not be specified at the same time": {"boot_iso": "file:///live.iso", "kernel": "file:///k", "ramdisk": "file:///r"},
		"config drive": {"boot_iso": "file:///live.iso", "configdrive": "ftp://x/drive"},
		"Set 'kernel' and 'ramdisk', or 'boot_iso'": {"kernel": "file:///k"},
		"are missing from its instance_info":        {},
	} {
		tk, _ := task(info)
		err := ramdisk.New(image.Options{}).Validate(t.Context(), tk)
		if want = strings.TrimSpace(want); (err == nil) != (want == "") ||
			err != nil && (ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: %v", info, err)
		}
	}
	tk, _ := task(ingot.Object{"boot_iso": "file:///live.iso"})
	tk.Driver.Boot = fake.Boot{}
	if err := ramdisk.New(image.Options{}).Validate(t.Context(), tk); err == nil || !strings.Contains(err.Error(), "ramdisk_boot") {
		t.Errorf("boot interface fake: %v", err)
	}
}

// An instance without a disk is booted under Secure Boot as any other, and the next one is not.
func TestADisklessInstanceIsBootedUnderSecureBoot(t *testing.T) {
	t.Parallel()
	for _, atStart := range []bool{false, true} {
		tk, m := task(ingot.Object{"boot_iso": "file:///live.iso", "capabilities": "secure_boot:true"})
		board := &sim.Board{}
		board.Obey()
		bmc := sim.New(board, sim.Options{Name: "n1", User: "admin", Password: "secret"})
		bmc.SetQuirks(sim.Quirks{FirmwareAtStart: atStart, FirmwareNeedsOff: true})
		if err := bmc.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := bmc.Stop(); err != nil {
				t.Error(err)
			}
		})
		family := redfish.New(redfish.Options{PollInterval: time.Millisecond})
		tk.Node.DriverInfo = ingot.Object{"redfish_address": bmc.URL(), "redfish_username": "admin",
			"redfish_password": "secret"}
		tk.Driver = driver.Driver{Power: family.Power(), Management: family.Management(), Boot: m}
		tk.Save = func(context.Context) error { return nil }
		d := ramdisk.New(image.Options{})
		for range 2 { // a step may run twice
			if _, err := d.Execute(t.Context(), tk, ingot.Step{Name: "deploy"}); err != nil {
				t.Fatal(err)
			}
		}
		starts := board.Starts()
		if last := starts[len(starts)-1]; !last.Secure || board.PowerState() != sim.On {
			t.Errorf("the instance is started by %+v", starts)
		}
		err := errors.Join(tk.SetPower(t.Context(), ingot.PowerOff), d.CleanUp(t.Context(), tk),
			tk.EndSecureBoot(t.Context()), tk.SetPower(t.Context(), ingot.PowerOn))
		starts = board.Starts()
		if last := starts[len(starts)-1]; err != nil || last.Secure {
			t.Errorf("%v; who has the machine next is started by %+v", err, starts)
		}
	}
}
