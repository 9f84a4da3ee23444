package redfish_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

// kinds are the BMCs that each fault is tried on.
var kinds = map[string]sim.Model{"schema": "", "iLO 4": sim.ILO4, "iLO 5": sim.ILO5}

// faulty starts a BMC of a kind, with a node of its hardware type.
func faulty(t *testing.T, model sim.Model, q sim.Quirks) (*sim.Service, *sim.Board, *driver.Task, *redfish.Family) {
	t.Helper()
	s, b, tk := start(t, sim.Options{Model: model})
	s.SetQuirks(q)
	f := family(redfish.Options{Timeout: time.Second})
	if model != "" {
		tk, f = iloTask(s.URL()), f.ILO(redfish.ILOOptions{})
		tk.Node.DriverInfo["client_timeout"] = 1
	}
	return s, b, tk, f
}

const medium = "http://192.0.2.1:8080/media/1be26c0b/c2VjcmV0/boot.iso"

// The URLs of media have an extension and no query, without which some BMCs take none.
func TestABMCThatIsPickyAboutURLsTakesOurs(t *testing.T) {
	t.Parallel()
	for name, model := range kinds {
		s, _, tk, f := faulty(t, model, sim.Quirks{PlainURLs: true})
		if err := f.Management().InsertMedium(t.Context(), tk, driver.CD, medium); err != nil ||
			s.Inserted(sim.VirtualCD) != medium {
			t.Errorf("%s: %v, inserted %q", name, err, s.Inserted(sim.VirtualCD))
		}
	}
}

func TestABMCThatRefusesTheURLIsSaidToWithoutIt(t *testing.T) {
	t.Parallel()
	for name, model := range kinds {
		for what, cause := range map[string]error{"unreachable": sim.ErrUnreachable, "broken": errors.New("no")} {
			s, b, tk, f := faulty(t, model, sim.Quirks{})
			b.Refuse(cause)
			err := f.Management().InsertMedium(t.Context(), tk, driver.CD, medium)
			if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "refused the medium") ||
				!strings.Contains(err.Error(), "it reaches 192.0.2.1:8080") || strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("%s, %s: %v", name, what, err)
			}
			if n := open(s); n != 0 {
				t.Errorf("%s: %d sessions are left", name, n)
			}
			b.Refuse(nil) // once it can read it, the same again works
			if err := f.Management().InsertMedium(t.Context(), tk, driver.CD, medium); err != nil {
				t.Errorf("%s, %s, again: %v", name, what, err)
			}
		}
	}
}

// A BMC that refuses a medium at an https URL may not trust the certificate there.
func TestABMCThatMayNotTrustAWebServerIsSaidSo(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]bool{medium: false, strings.Replace(medium, "http:", "https:", 1): true} {
		_, b, tk, f := faulty(t, "", sim.Quirks{})
		b.Refuse(sim.ErrUnreachable)
		err := f.Management().InsertMedium(t.Context(), tk, driver.CD, at)
		if err == nil || strings.Contains(err.Error(), "that it trusts the certificate there") != want {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// What is in a drive is ours unless the BMC tells the URL of something else.
func TestWhatIsInADriveMayBeOurs(t *testing.T) {
	t.Parallel()
	for name, model := range kinds {
		_, _, tk, f := faulty(t, model, sim.Quirks{})
		m := f.Management()
		holds := func(part string) bool {
			t.Helper()
			yes, err := m.HoldsMedium(t.Context(), tk, driver.CD, part)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return yes
		}
		if holds("c2VjcmV0") {
			t.Errorf("%s: an empty drive holds it", name)
		}
		if err := m.InsertMedium(t.Context(), tk, driver.CD, medium); err != nil {
			t.Fatal(err)
		}
		if !holds("c2VjcmV0") || holds("other") {
			t.Errorf("%s: it is not told whose it is", name)
		}
	}
}

// A reboot is off, then on, and so none to a BMC that loses the medium at a reset.
func TestAMediumIsThereAfterARebootOfABMCThatLosesItAtAReset(t *testing.T) {
	t.Parallel()
	for name, model := range kinds {
		s, b, tk, f := faulty(t, model, sim.Quirks{LoseMediaAtReset: true})
		steps := []func() error{
			func() error { return f.Power().SetPower(t.Context(), tk, ingot.PowerOn) },
			func() error { return f.Management().InsertMedium(t.Context(), tk, driver.CD, medium) },
			func() error {
				return f.Management().SetBootDevice(t.Context(), tk, driver.BootDevice{Device: "cdrom"})
			},
			func() error { return f.Power().SetPower(t.Context(), tk, ingot.Rebooting) },
		}
		for i, step := range steps {
			if err := step(); err != nil {
				t.Fatalf("%s, step %d: %v", name, i, err)
			}
		}
		if s.Inserted(sim.VirtualCD) != medium || !slices.Equal(b.Boots(), []sim.Target{sim.None, sim.CD}) {
			t.Errorf("%s: inserted %q, booted %v", name, s.Inserted(sim.VirtualCD), b.Boots())
		}
	}
}

// A medium that was lost is inserted anew by whoever boots the machine again; ejecting finds nothing.
func TestAMediumThatWasEjectedInMidBootIsInsertedAgain(t *testing.T) {
	t.Parallel()
	for name, model := range kinds {
		s, b, tk, f := faulty(t, model, sim.Quirks{EjectInBoot: time.Millisecond})
		m := f.Management()
		boot := func() {
			t.Helper()
			for _, err := range []error{m.InsertMedium(t.Context(), tk, driver.CD, medium),
				m.SetBootDevice(t.Context(), tk, driver.BootDevice{Device: "cdrom"}),
				f.Power().SetPower(t.Context(), tk, ingot.Rebooting)} {
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
		boot()
		for end := time.Now().Add(5 * time.Second); s.Inserted(sim.VirtualCD) != ""; {
			if time.Now().After(end) {
				t.Fatalf("%s: it is not ejected", name)
			}
			time.Sleep(time.Millisecond)
		}
		s.SetQuirks(sim.Quirks{})
		boot()
		if s.Inserted(sim.VirtualCD) != medium || !slices.Equal(b.Boots(), []sim.Target{sim.CD, sim.CD}) {
			t.Errorf("%s: inserted %q, booted %v", name, s.Inserted(sim.VirtualCD), b.Boots())
		}
		s.LoseMedia(t.Context())
		if err := m.EjectMedium(t.Context(), tk, driver.CD, "/media/1be26c0b/"); err != nil {
			t.Errorf("%s: eject: %v", name, err)
		}
	}
}

// The switch-on counts when the BMC says so again, and commands wait for it, for much longer than one request.
func TestABMCThatIsAwayForLongAfterPowerOnIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, model := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, b, tk, f := faulty(t, model, sim.Quirks{AwayAfterPowerOn: 3 * time.Second})
			tk.Node.ProvisionState, tk.Node.TargetProvisionState = "deploying", "active"
			if err := f.Power().SetPower(t.Context(), tk, ingot.PowerOn); err != nil {
				t.Fatal(err)
			}
			if err := f.Management().SetBootDevice(t.Context(), tk,
				driver.BootDevice{Device: "disk", Persistent: true}); err != nil || b.Boot().Target != sim.HDD {
				t.Errorf("%v, override %v", err, b.Boot())
			}
		})
	}
}

func TestAPasswordThatWasRotatedIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, model := range kinds {
		s, _, tk, f := faulty(t, model, sim.Quirks{})
		if _, err := f.Power().PowerState(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
		s.SetPassword("another")
		_, err := f.Power().PowerState(t.Context(), tk)
		if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "refused the login") ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
		for _, key := range []string{"redfish_password", "ilo_password"} {
			if tk.Node.DriverInfo[key] != nil {
				tk.Node.DriverInfo[key] = "another"
			}
		}
		if _, err := f.Power().PowerState(t.Context(), tk); err != nil {
			t.Errorf("%s, with the new one: %v", name, err)
		}
	}
}

// An iLO takes no boot device while the firmware of its machine starts, which a deployment waits for.
func TestABootDeviceIsSetWhenTheFirmwareHasStarted(t *testing.T) {
	t.Parallel()
	for name, model := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, b, tk, f := faulty(t, model, sim.Quirks{LockedInPOST: 3 * time.Second})
			if err := f.Power().SetPower(t.Context(), tk, ingot.PowerOn); err != nil {
				t.Fatal(err)
			}
			set := func() error {
				return f.Management().SetBootDevice(t.Context(), tk, driver.BootDevice{Device: "pxe"})
			}
			tk.Node.ProvisionState, tk.Node.TargetProvisionState = "deploying", "active"
			if err := set(); err != nil || b.Boot().Target != sim.PXE {
				t.Errorf("%v, override %v", err, b.Boot())
			}
		})
	}
	_, _, tk, _ := faulty(t, sim.ILO5, sim.Quirks{LockedInPOST: time.Hour})
	delete(tk.Node.DriverInfo, "client_timeout") // the configuration counts
	f := family(redfish.Options{PollInterval: time.Second}).ILO(redfish.ILOOptions{Timeout: time.Second})
	if err := f.Power().SetPower(t.Context(), tk, ingot.PowerOn); err != nil {
		t.Fatal(err)
	}
	err := f.Management().SetBootDevice(t.Context(), tk, driver.BootDevice{Device: "pxe"})
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "UnableToModifyDuringSystemPOST") {
		t.Errorf("for ever: %v", err)
	}
}
