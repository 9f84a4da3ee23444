package redfish_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

// withFirmware completes a task with what a whole change of the firmware needs, and collects its notes.
func withFirmware(tk *driver.Task, o redfish.Options) *[]string {
	f := family(o)
	tk.Driver = driver.Driver{Power: f.Power(), Management: f.Management()}
	tk.Save = func(context.Context) error { return nil }
	notes := &[]string{}
	tk.Note = func(e ingot.Entry) { *notes = append(*notes, e.Text) }
	return notes
}

// seen is what is on record of the firmware.
func seen(n *ingot.Node) string { return n.BootMode + " " + driver.Words(n.SecureBoot) }

// Each is changed twice, the second time nothing happens; a machine is as on or off as it was before.
func TestBootModeAndSecureBootAreChanged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		model sim.Model
		q     sim.Quirks
	}{
		"at once":              {"", sim.Quirks{}},
		"tag":                  {"", sim.Quirks{NeedIfMatch: true}},
		"at next start":        {"", sim.Quirks{FirmwareAtStart: true}},
		"away then":            {"", sim.Quirks{FirmwareAtStart: true, AwayAfterPowerOn: 100 * time.Millisecond}},
		"without session":      {"", sim.Quirks{FirmwareAtStart: true, NoMoreSessions: true}},
		"iLO 4":                {sim.ILO4, sim.Quirks{}},
		"iLO 4, tag":           {sim.ILO4, sim.Quirks{NeedIfMatch: true}},
		"iLO 4, at next start": {sim.ILO4, sim.Quirks{FirmwareAtStart: true}},
	} {
		for _, on := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", on ", on), func(t *testing.T) {
				t.Parallel()
				s, b, tk := start(t, sim.Options{Model: c.model, Mode: sim.Legacy})
				s.SetQuirks(c.q)
				withFirmware(tk, redfish.Options{})
				power := map[bool]sim.PowerState{true: sim.On, false: sim.Off}[on]
				if on {
					if err := b.Switch(t.Context(), sim.PowerOn); err != nil {
						t.Fatal(err)
					}
				}
				for _, step := range []struct {
					do   func() error
					want string
				}{
					{func() error { return tk.SetBootMode(t.Context(), "uefi") }, "uefi off"},
					{func() error { return tk.SetSecureBoot(t.Context(), true) }, "uefi on"},
					{func() error { return tk.SetSecureBoot(t.Context(), false) }, "uefi off"},
					{func() error { return tk.SetBootMode(t.Context(), "bios") }, "bios off"},
				} {
					for round := range 2 {
						resets := len(s.Resets())
						if err := step.do(); err != nil {
							t.Fatalf("to %s: %v", step.want, err)
						}
						if again := len(s.Resets()) > resets; again != (c.q.FirmwareAtStart && round == 0) {
							t.Errorf("to %s: restarted %t", step.want, again)
						}
						if got := seen(tk.Node); got != step.want || b.PowerState() != power {
							t.Errorf("%s, and the machine is %s, want %s", got, b.PowerState(), step.want)
						}
					}
				}
				if n := open(s); n != 0 {
					t.Errorf("%d sessions are left", n)
				}
			})
		}
	}
}

func TestWhatABMCDoesNotTakeIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o           sim.Options
		q           sim.Quirks
		on          bool // the machine is
		do          func(ctx context.Context, tk *driver.Task) error
		want        string
		unsupported bool
	}{
		"on": {q: sim.Quirks{FirmwareNeedsOff: true}, on: true, do: toMode("bios"),
			want: "and the machine is on; switch it off, and try again"},
		"on, Secure Boot": {q: sim.Quirks{FirmwareNeedsOff: true}, on: true, do: toSecure(true),
			want: "and the machine is on; switch it off, and try again"},
		"none":    {q: sim.Quirks{NoSecureBoot: true}, do: toSecure(true), want: "tells of no Secure Boot", unsupported: true},
		"as BIOS": {o: sim.Options{Mode: sim.Legacy}, do: toSecure(true), want: "baremetal node boot mode set"},
		"to BIOS": {o: sim.Options{SecureBoot: true}, do: toMode("bios"), want: "PropertyValueConflict"},
		"iLO 4, on": {o: sim.Options{Model: sim.ILO4}, q: sim.Quirks{FirmwareNeedsOff: true}, on: true, do: toMode("bios"),
			want: "and the machine is on; switch it off, and try again"},
		"no modes": {o: sim.Options{Model: sim.ILO4}, q: sim.Quirks{NoBIOS: true}, do: toMode("uefi"), want: "knows no boot modes", unsupported: true},
		"no word":  {do: toMode("efi"), want: "supported: uefi, bios"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b, tk := start(t, c.o)
			s.SetQuirks(c.q)
			withFirmware(tk, redfish.Options{})
			if c.on {
				if err := b.Switch(t.Context(), sim.PowerOn); err != nil {
					t.Fatal(err)
				}
			}
			err := c.do(t.Context(), tk)
			if err == nil || !strings.Contains(fmt.Sprint(err), c.want) && !refuses(err, c.want) ||
				errors.Is(err, driver.ErrUnsupported) != c.unsupported {
				t.Errorf("%v", err)
			}
			if len(s.Resets()) > 0 {
				t.Errorf("resets %v", s.Resets())
			}
		})
	}
}

// refuses tells whether the BMC said so, whose words are not ours.
func refuses(err error, id string) bool {
	return id == "PropertyValueConflict" && strings.Contains(err.Error(), "would conflict with the value")
}

func toMode(mode string) func(context.Context, *driver.Task) error {
	return func(ctx context.Context, tk *driver.Task) error { return tk.SetBootMode(ctx, mode) }
}

func toSecure(on bool) func(context.Context, *driver.Task) error {
	return func(ctx context.Context, tk *driver.Task) error { return tk.SetSecureBoot(ctx, on) }
}

func TestAMachineWithoutKeysIsGivenThem(t *testing.T) {
	t.Parallel()
	_, _, tk := start(t, sim.Options{NoKeys: true})
	notes := withFirmware(tk, redfish.Options{})
	if err := tk.SetSecureBoot(t.Context(), true); err != nil || seen(tk.Node) != "uefi on" {
		t.Errorf("%s, %v", seen(tk.Node), err)
	}
	if !slices.ContainsFunc(*notes, func(n string) bool { return strings.Contains(n, "was given those of its vendor") }) {
		t.Errorf("nobody was told: %q", *notes)
	}
}

func TestSecureBootOfAnILO4IsWhereHPEHasIt(t *testing.T) {
	t.Parallel()
	_, _, tk := start(t, sim.Options{Model: sim.ILO4})
	withFirmware(tk, redfish.Options{})
	if err := tk.SetSecureBoot(t.Context(), true); err != nil || seen(tk.Node) != "uefi on" {
		t.Errorf("%q, %v", seen(tk.Node), err)
	}
}

// The settings of an iLO 4's machine lie in the resource itself, and count from the next start on.
func TestTheSettingsOfAnILO4(t *testing.T) {
	t.Parallel()
	s, b, tk := start(t, sim.Options{Model: sim.ILO4})
	s.SetQuirks(sim.Quirks{FirmwareAtStart: true})
	f := family(redfish.Options{})
	now := func() map[string]any {
		t.Helper()
		all, err := f.BIOS().Settings(t.Context(), tk)
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]any{}
		for _, s := range all {
			values[s.Name] = s.Value
		}
		return values
	}
	factory := now()
	if len(factory) != 8 || factory["BootMode"] != "Uefi" || factory["ProcVirtualization"] != "Enabled" {
		t.Fatalf("%v", factory)
	}
	for _, r := range s.Requests() {
		if strings.Contains(r.Path, "Registries") {
			t.Errorf("%s was read", r.Path)
		}
	}
	for range 2 {
		if err := f.BIOS().Apply(t.Context(), tk, map[string]any{"ProcVirtualization": "Disabled",
			"BootMode": "LegacyBios"}); err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(now(), factory) {
		t.Errorf("they count before a start: %v", now())
	}
	if err := b.Switch(t.Context(), sim.PowerOn); err != nil {
		t.Fatal(err)
	}
	if err := f.Power().SetPower(t.Context(), tk, ingot.Rebooting); err != nil {
		t.Fatal(err)
	}
	if v := now(); v["ProcVirtualization"] != "Disabled" || v["BootMode"] != "LegacyBios" {
		t.Errorf("after the start: %v", v)
	}
	if err := f.BIOS().Apply(t.Context(), tk, map[string]any{"Nonsense": 1}); err == nil {
		t.Error("a setting that is not there was taken")
	}
	if err := f.BIOS().Reset(t.Context(), tk); err != nil {
		t.Fatal(err)
	}
	if err := f.Power().SetPower(t.Context(), tk, ingot.Rebooting); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(now(), factory) {
		t.Errorf("after the reset: %v", now())
	}
	s.SetQuirks(sim.Quirks{NoBIOS: true})
	if _, err := f.BIOS().Settings(t.Context(), tk); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("without any: %v", err)
	}
}

// What takes too long ends in an error that tells what is seen.
func TestAChangeThatNeverCountsIsTold(t *testing.T) {
	t.Parallel()
	s, b, tk := start(t, sim.Options{})
	s.SetQuirks(sim.Quirks{FirmwareAtStart: true, AwayAfterPowerOn: 2 * time.Second})
	withFirmware(tk, redfish.Options{Timeout: time.Second})
	tk.FirmwareTimeout = time.Nanosecond
	err := tk.SetBootMode(t.Context(), "bios")
	if err == nil || !strings.Contains(err.Error(), "boot mode bios does not count within 1ns of the start") {
		t.Errorf("%v", err)
	}
	// Nobody waits: a machine that is off stays off.
	tk.FirmwareTimeout = -1
	s.SetQuirks(sim.Quirks{FirmwareAtStart: true})
	starts := len(b.Starts())
	if err := tk.SetBootMode(t.Context(), "uefi"); err != nil || b.PowerState() != sim.Off || len(b.Starts()) != starts {
		t.Errorf("%v, and the machine is %s after %d starts", err, b.PowerState(), len(b.Starts())-starts)
	}
}

// bootless is a boot interface that has nothing to prepare.
type bootless struct{ driver.Boot }

func (bootless) PrepareRamdisk(context.Context, *driver.Task) error { return nil }

// Each step of a deployment is done twice, as after a crash, and starts the machine as it is asked to.
func TestADeploymentSwitchesTheFirmware(t *testing.T) {
	t.Parallel()
	legacy, uefi, secure := sim.Start{Mode: sim.Legacy}, sim.Start{Mode: sim.UEFI}, sim.Start{Mode: sim.UEFI, Secure: true}
	for name, c := range map[string]struct {
		o                    sim.Options
		instance, properties string // capabilities
		ramdisk, deployed    sim.Start
		after                string // when the instance is gone
	}{
		"nothing asked":  {sim.Options{Mode: sim.Legacy}, "", "", sim.Start{}, sim.Start{}, "bios off"},
		"is so":          {sim.Options{SecureBoot: true}, "", "boot_mode:uefi", sim.Start{}, sim.Start{}, "uefi on"},
		"by the node":    {sim.Options{}, "", "boot_mode:bios", legacy, legacy, "bios off"},
		"by instance":    {sim.Options{Mode: sim.Legacy}, "boot_mode:uefi", "boot_mode:bios", uefi, uefi, "uefi off"},
		"Secure Boot":    {sim.Options{Mode: sim.Legacy}, "secure_boot:true", "", uefi, secure, "uefi off"},
		"rebuilt":        {sim.Options{SecureBoot: true}, "secure_boot:True", "", uefi, secure, "uefi off"},
		"iLO 4, is so":   {sim.Options{Model: sim.ILO4}, "", "boot_mode:uefi", sim.Start{}, sim.Start{}, "uefi off"},
		"iLO 4":          {sim.Options{Model: sim.ILO4, Mode: sim.Legacy}, "", "boot_mode:uefi", uefi, uefi, "uefi off"},
		"keys are given": {sim.Options{NoKeys: true}, "secure_boot:true", "", sim.Start{}, secure, "uefi off"},
	} {
		for _, pending := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", at start ", pending), func(t *testing.T) {
				t.Parallel()
				s, b, tk := start(t, c.o)
				s.SetQuirks(sim.Quirks{FirmwareAtStart: pending, FirmwareNeedsOff: true})
				withFirmware(tk, redfish.Options{})
				tk.Driver.Boot = bootless{}
				tk.Node.InstanceInfo = ingot.Object{"capabilities": c.instance}
				tk.Node.Properties = ingot.Object{"capabilities": c.properties}
				driver.NextAttempt(tk.Node)
				last := func() sim.Start { all := b.Starts(); return all[len(all)-1] }
				for range 2 {
					if err := tk.BootRamdisk(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if got := last(); got != c.ramdisk {
					t.Errorf("the ramdisk is booted by %v", got)
				}
				for range 2 {
					if err := tk.BootInstance(t.Context(), ingot.Rebooting); err != nil {
						t.Fatal(err)
					}
				}
				if got := last(); got != c.deployed || b.PowerState() != sim.On {
					t.Errorf("the instance is booted by %v", got)
				}
				if err := tk.SetPower(t.Context(), ingot.PowerOff); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if err := tk.EndSecureBoot(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if got := seen(tk.Node); got != c.after {
					t.Errorf("afterwards %s, want %s", got, c.after)
				}
				if err := tk.SetPower(t.Context(), ingot.PowerOn); err != nil {
					t.Fatal(err)
				}
				if last().Secure && c.deployed == secure {
					t.Error("who has the machine next boots with Secure Boot")
				}
			})
		}
	}
}

// Whatever instance_info says by then, Secure Boot of an instance is off for the next ramdisk, and the operator's is not.
func TestSecureBootOfAnInstanceDoesNotStopTheNextRamdisk(t *testing.T) {
	t.Parallel()
	for asked, after := range map[string]bool{"secure_boot:true": false, "": true} {
		_, b, tk := start(t, sim.Options{})
		withFirmware(tk, redfish.Options{})
		tk.Driver.Boot = bootless{}
		tk.Node.InstanceInfo = ingot.Object{"capabilities": asked}
		driver.NextAttempt(tk.Node)
		if asked == "" {
			if err := tk.SetSecureBoot(t.Context(), true); err != nil {
				t.Fatal(err)
			}
		}
		if err := tk.BootInstance(t.Context(), ingot.Rebooting); err != nil {
			t.Fatal(err)
		}
		tk.Node.InstanceInfo = nil
		for range 2 {
			if err := tk.BootRamdisk(t.Context()); err != nil {
				t.Fatal(err)
			}
			if all := b.Starts(); !all[0].Secure && asked != "" || all[len(all)-1].Secure != after {
				t.Errorf("%q: %+v", asked, all)
			}
		}
	}
}

func TestAMachineWithoutSecureBootIsNotDeployedWithIt(t *testing.T) {
	t.Parallel()
	s, b, tk := start(t, sim.Options{})
	s.SetQuirks(sim.Quirks{NoSecureBoot: true})
	withFirmware(tk, redfish.Options{})
	tk.Driver.Boot = bootless{}
	tk.Node.InstanceInfo = ingot.Object{"capabilities": ingot.Object{"secure_boot": "true"}}
	driver.NextAttempt(tk.Node)
	if err := tk.BootRamdisk(t.Context()); !errors.Is(err, driver.ErrUnsupported) || len(b.Starts()) > 0 {
		t.Errorf("%v after %d starts", err, len(b.Starts()))
	}
}
