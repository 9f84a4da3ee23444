package fake_test

import (
	"context"
	"log/slog"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/ingot"
)

func task() *driver.Task {
	return &driver.Task{
		Node: &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123"},
		Driver: driver.Driver{Power: fake.Power{}, Management: fake.Management{},
			Boot: fake.Boot{}, Deploy: fake.Deploy{}},
		Log: slog.New(slog.DiscardHandler), Note: func(ingot.Entry) {},
		Save: func(context.Context) error { return nil },
	}
}

func TestEveryStepMayRunTwice(t *testing.T) {
	t.Parallel()
	tk := task()
	for _, s := range tk.Driver.Deploy.Steps(tk.Node) {
		for range 2 {
			if out, err := tk.Driver.Deploy.Execute(t.Context(), tk, s); err != nil || out.Wait {
				t.Fatalf("step %s: %+v, %v", s.Name, out, err)
			}
		}
	}
	if tk.Node.PowerState != ingot.PowerOn || tk.Node.BootIntent != ingot.BootDisk {
		t.Errorf("deployed: power %q, boot intent %q", tk.Node.PowerState, tk.Node.BootIntent)
	}
	for range 2 {
		if err := tk.Driver.Deploy.CleanUp(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
	}
	if tk.Node.BootIntent != ingot.BootNone {
		t.Errorf("cleaned up: boot intent %q", tk.Node.BootIntent)
	}
}

func TestTheBootDeviceIsRemembered(t *testing.T) {
	t.Parallel()
	tk := task()
	want := driver.BootDevice{Device: "cdrom", Persistent: true}
	if err := tk.SetBootDevice(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got, err := tk.Driver.Management.BootDevice(t.Context(), tk); err != nil || got != want {
		t.Errorf("boot device %+v, %v", got, err)
	}
	err := tk.SetBootDevice(t.Context(), driver.BootDevice{Device: "tape"})
	if ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("a tape is a boot device: %v", err)
	}
}
