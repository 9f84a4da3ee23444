package redfish

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

// Management is the management interface redfish.
type Management struct{ f *Family }

var (
	_ driver.Management = (*Management)(nil)
	_ driver.Properties = (*Management)(nil)
)

// Properties are the driver_info keys of the BMC.
func (m *Management) Properties() map[string]string { return maps.Clone(m.f.properties) }

// Validate checks driver_info.
func (m *Management) Validate(_ context.Context, t *driver.Task) error {
	_, err := m.f.parse(t.Node)
	return err
}

// uefiHTTP is the boot device of UEFI's own HTTP client.
const uefiHTTP = "uefihttp"

// devices are the boot devices that Redfish can name, in the order in which they are listed, each with
// its targets, the best first. It has nothing for "safe".
var devices = []struct {
	name    string
	targets []string
}{
	{"pxe", []string{"Pxe"}},
	{"disk", []string{"Hdd"}},
	{"cdrom", []string{"Cd", "UsbCd"}},
	{"bios", []string{"BiosSetup"}},
	{uefiHTTP, []string{"UefiHttp"}},
}

// SupportedBootDevices lists what Redfish can name; a BMC may know less.
func (m *Management) SupportedBootDevices(context.Context, *driver.Task) ([]string, error) {
	return deviceNames(), nil
}

func deviceNames() []string {
	names := make([]string, len(devices))
	for i, d := range devices {
		names[i] = d.name
	}
	return names
}

// BootDevice asks the BMC; no device means that the machine's own boot order counts. Some BMCs tell of
// one that is for the next boot that it is for all of them.
func (m *Management) BootDevice(ctx context.Context, t *driver.Task) (driver.BootDevice, error) {
	var out driver.BootDevice
	err := m.f.ask(ctx, t, "read the boot device", func(_ context.Context, s machine) error {
		out = driver.BootDevice{}
		for _, d := range devices {
			if slices.Contains(d.targets, s.Boot.Override()) {
				out = driver.BootDevice{Device: d.name, Persistent: s.Boot.Enabled == redfish.Continuous}
			}
		}
		return nil
	})
	return out, err
}

// SetBootDevice tells the BMC what the machine boots next, or from now on, and in which mode if the BMC
// knows modes: without it a UEFI machine may try to boot as a BIOS or ignore the device.
func (m *Management) SetBootDevice(ctx context.Context, t *driver.Task, d driver.BootDevice) error {
	k := slices.Index(deviceNames(), d.Device)
	if k < 0 {
		return ingot.Errorf(ingot.Invalid, "Invalid boot device %s specified; supported: %s.",
			d.Device, strings.Join(deviceNames(), ", "))
	}
	mode := redfish.Legacy
	if driver.BootMode(t.Node, m.f.DefaultBootMode) == driver.UEFI {
		mode = redfish.UEFI
	}
	if d.Device == uefiHTTP && mode != redfish.UEFI {
		return ingot.Errorf(ingot.Invalid, "Boot device uefihttp is of UEFI, and node %s boots as BIOS; set "+
			"boot_mode:uefi in properties.capabilities, if the machine can.", t.Node.UUID)
	}
	return m.f.change(ctx, t, "set the boot device", func(ctx context.Context, s machine) error {
		target, err := allowed(devices[k].targets, s.Boot.Targets)
		if err != nil {
			return err
		}
		b := redfish.Boot{Target: target, Enabled: redfish.Once}
		if d.URL != "" && s.Boot.TakesURI() {
			b = b.WithURI(d.URL)
		}
		if d.Persistent {
			b.Enabled = redfish.Continuous
		}
		if s.Boot.KnowsMode() {
			b.Mode = mode
		}
		return override(ctx, t, s, b)
	})
}

// override overrides the boot order of a machine, without what its BMC refuses and is not needed.
func override(ctx context.Context, t *driver.Task, s machine, b redfish.Boot) error {
	err := s.c.SetBoot(ctx, s.System, b)
	refused, picky := refusal(err)
	if picky && b.TakesURI() {
		t.Note(ingot.Entry{Source: "bmc", Level: ingot.LevelWarning, Text: "the BMC refused to be told what the " +
			"machine boots by HTTP (HttpBootUri); DHCP alone tells it: " + refused.Error()})
		b.URI = nil
		err = s.c.SetBoot(ctx, s.System, b)
		refused, picky = refusal(err)
	}
	if picky && len(s.Boot.Targets) == 0 && refused.UnknownValue() {
		return ingot.Errorf(ingot.Invalid, "The BMC cannot boot the machine from %s (%w).", b.Target, refused)
	}
	if !picky || b.Enabled != redfish.Continuous {
		return err
	}
	// Redfish has given lasting overrides up, and so have some BMCs.
	b.Enabled = redfish.Once
	if s.c.SetBoot(ctx, s.System, b) != nil {
		return err
	}
	t.Note(ingot.Entry{Source: "bmc", Level: ingot.LevelWarning, Text: "the BMC takes boot device " +
		b.Target + " for the next boot only; after that the machine's own boot order counts"})
	return nil
}

// refusal is the answer of a BMC that refuses, without URLs; picky tells whether it may take another way to say
// the same.
func refusal(err error) (refused *redfish.StatusError, picky bool) {
	if !errors.As(err, &refused) {
		return nil, false
	}
	refused.Text = hide(refused.Text)
	return refused, refused.Picky()
}

// allowed is the first target that the BMC allows; none tells that it does not say which.
func allowed(targets, allowed []string) (string, error) {
	for _, t := range targets {
		if len(allowed) == 0 || slices.Contains(allowed, t) {
			return t, nil
		}
	}
	return "", ingot.Errorf(ingot.Invalid, "The BMC cannot boot the machine from %s; it knows %s.",
		strings.Join(targets, " or "), strings.Join(allowed, ", "))
}
