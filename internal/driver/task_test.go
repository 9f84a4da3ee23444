package driver_test

import (
	"context"
	"errors"
	"regexp"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

func TestBootModeFollowsIronicsOrder(t *testing.T) {
	t.Parallel()
	caps := func(v any) ingot.Object { return ingot.Object{"capabilities": v} }
	for _, c := range []struct {
		node     ingot.Node
		fallback string
		want     string
	}{
		{ingot.Node{}, "uefi", "uefi"},
		{ingot.Node{}, "bios", "bios"},
		{ingot.Node{}, "nonsense", "uefi"},
		{ingot.Node{BootMode: "bios"}, "uefi", "bios"},
		{ingot.Node{BootMode: "bios", Properties: caps("a:b, boot_mode:uefi")}, "bios", "uefi"},
		{ingot.Node{Properties: caps("boot_mode:uefi"),
			InstanceInfo: caps(ingot.Object{"boot_mode": "bios"})}, "uefi", "bios"},
		{ingot.Node{Properties: caps("boot_mode:maybe")}, "bios", "bios"},
	} {
		if got := driver.BootMode(&c.node, c.fallback); got != c.want {
			t.Errorf("BootMode(%+v, %q) = %q, want %q", c.node, c.fallback, got, c.want)
		}
	}
}

func TestAttemptsAreMarkedAndKeyedApart(t *testing.T) {
	t.Parallel()
	a, b := driver.NewAttempt(), driver.NewAttempt()
	if a.ID == b.ID || a.Key == b.Key {
		t.Errorf("two attempts are the same: %v %v", a, b)
	}
	if !regexp.MustCompile(`^[a-zA-Z0-9]{32}$`).MatchString(a.Key.Reveal()) {
		t.Errorf("deploy key %q", a.Key.Reveal())
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(a.ID) {
		t.Errorf("attempt ID %q", a.ID)
	}
}

// table is what the tests of composition work with; its implementations are never called.
func table() *driver.Table {
	type power struct{ driver.Power }
	type management struct{ driver.Management }
	type boot struct{ driver.Boot }
	type deploy struct{ driver.Deploy }
	return &driver.Table{
		Hardware: []driver.Hardware{{Name: "metal", Supported: map[string][]string{
			"power": {"absent", "wire"}, "management": {"wire"}, "boot": {"ipxe", "fake"},
			"deploy": {"iscsi"},
		}}},
		Power:      map[string]driver.Power{"wire": power{}},
		Management: map[string]driver.Management{"wire": management{}},
		Boot:       map[string]driver.Boot{"ipxe": boot{}, "fake": boot{}},
		Deploy:     map[string]driver.Deploy{"iscsi": deploy{}},
	}
}

func TestInterfacesAreCompletedWithTheFirstThatIsEnabled(t *testing.T) {
	t.Parallel()
	n := &ingot.Node{Driver: "metal", Interfaces: map[string]string{"boot": "fake"}}
	if err := table().Complete(n); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{
		"power": "wire", "boot": "fake", "deploy": "iscsi", "network": "noop", "raid": "no-raid",
	} {
		if got := n.Interfaces[kind]; got != want {
			t.Errorf("%s interface %q, want %q", kind, got, want)
		}
	}
	if len(n.Interfaces) != len(driver.Kinds) {
		t.Errorf("%d interfaces, want %d", len(n.Interfaces), len(driver.Kinds))
	}
	if _, err := table().Compose(n); err != nil {
		t.Errorf("what was completed does not compose: %v", err)
	}
}

func TestInterfacesThatAreNotEnabledAreRefused(t *testing.T) {
	t.Parallel()
	for _, n := range []*ingot.Node{
		{Driver: "no such type"},
		{Driver: "metal", Interfaces: map[string]string{"power": "absent"}},
		{Driver: "metal", Interfaces: map[string]string{"rescue": "agent"}},
	} {
		before := len(n.Interfaces)
		if err := table().Complete(n); ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%+v: error %v", n, err)
		}
		if len(n.Interfaces) != before {
			t.Errorf("interfaces were changed: %v", n.Interfaces)
		}
		if _, err := table().Compose(n); ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%+v composes: %v", n, err)
		}
	}
}

// power and management count what they are told.
type power struct {
	driver.Power
	told *int
}

func (p power) SetPower(context.Context, *driver.Task, ingot.PowerState) error {
	*p.told++
	return nil
}

type management struct {
	driver.Management
	told *int
}

func (m management) SetBootDevice(context.Context, *driver.Task, driver.BootDevice) error {
	*m.told++
	return nil
}

func TestNoCommandLeavesWithoutTheRightTo(t *testing.T) {
	t.Parallel()
	told, lost := 0, errors.New("lost")
	tk := &driver.Task{Node: &ingot.Node{}, Note: func(ingot.Entry) {},
		Driver: driver.Driver{Power: power{told: &told}, Management: management{told: &told}},
		May:    func() error { return lost }}
	if err := tk.SetPower(t.Context(), ingot.PowerOn); !errors.Is(err, lost) {
		t.Errorf("power: %v", err)
	}
	if err := tk.SetBootDevice(t.Context(), driver.BootDevice{Device: "pxe"}); !errors.Is(err, lost) {
		t.Errorf("boot device: %v", err)
	}
	if told != 0 || tk.Node.PowerState != "" {
		t.Errorf("told %d times, power state %q", told, tk.Node.PowerState)
	}
	tk.May = nil
	if err := tk.SetPower(t.Context(), ingot.PowerOn); err != nil || told != 1 {
		t.Errorf("told %d times: %v", told, err)
	}
}
