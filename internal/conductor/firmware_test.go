package conductor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

// withBMC is a world whose nodes have one BMC that speaks Redfish; they are deployed by the fake interface.
func withBMC(t *testing.T, o sim.Options) (*world, *sim.Service, *sim.Board) {
	t.Helper()
	o.Name, o.User, o.Password, o.UUID = "n1", "admin", "secret", "11111111-2222-3333-4444-555555555555"
	b := &sim.Board{}
	s := sim.New(b, o)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t)
	f := redfish.New(redfish.Options{PollInterval: time.Millisecond})
	h := redfish.Hardware()
	h.Supported["boot"], h.Supported["deploy"] = []string{fake.Name}, []string{fake.Name}
	w.o.Table.Hardware = append(w.o.Table.Hardware, h)
	w.o.Table.Power[redfish.Name], w.o.Table.Management[redfish.Name] = f.Power(), f.Management()
	w.o.PowerSyncInterval = time.Hour
	return w, s, b
}

// enrollBMC creates a node of that BMC.
func (w *world) enrollBMC(c *conductor.Conductor, s *sim.Service, state string) {
	w.t.Helper()
	no := false
	_, err := c.CreateNode(w.t.Context(), &ingot.Node{Name: "n1", Driver: redfish.Name, ProvisionState: state,
		AutomatedClean: &no, DriverInfo: ingot.Object{"redfish_address": s.URL(), "redfish_username": "admin",
			"redfish_password": "secret"}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// firmware waits for what is on record of it, of a node that nobody works on.
func (w *world) firmware(want string) *ingot.Node {
	w.t.Helper()
	return w.until("n1", "firmware "+want, func(n *ingot.Node) bool {
		return n.BootMode+" "+driver.Words(n.SecureBoot) == want && n.Reservation == ""
	})
}

func TestTheFirmwareOfAMachineIsOnRecordAndChanged(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{Mode: sim.Legacy})
	c, _ := w.start()
	w.enrollBMC(c, s, "enroll")
	w.provision(c, "n1", "manage")
	w.state("n1", "manageable")
	w.firmware("bios off")

	s.SetQuirks(sim.Quirks{FirmwareAtStart: true})
	if err := c.SetBootMode(t.Context(), "n1", "uefi"); err != nil {
		t.Fatal(err)
	}
	n := w.firmware("uefi off")
	if n.LastError != "" || n.PowerState != ingot.PowerOff {
		t.Errorf("the machine is %s, last error %q", n.PowerState, n.LastError)
	}
	if err := c.SetSecureBoot(t.Context(), "n1", true); err != nil {
		t.Fatal(err)
	}
	w.firmware("uefi on")
	for _, want := range []string{"boot mode uefi: requested", "it is restarted", "Secure Boot: on"} {
		if !strings.Contains(w.journal("n1"), want) {
			t.Errorf("no %q in the journal:\n%s", want, w.journal("n1"))
		}
	}

	// A BMC that refuses: what is on record is what is.
	if err := c.SetBootMode(t.Context(), "n1", "bios"); err != nil {
		t.Fatal(err)
	}
	n = w.until("n1", "an error", func(n *ingot.Node) bool { return n.LastError != "" && n.Reservation == "" })
	if !strings.HasPrefix(n.LastError, "Failed to set boot mode bios. Error: set boot mode bios: ") || n.BootMode != "uefi" {
		t.Errorf("%q, in mode %s", n.LastError, n.BootMode)
	}

	// At the machine somebody changes it.
	s.SetQuirks(sim.Quirks{NoSecureBoot: true})
	c.Wake()
	w.firmware("uefi unknown")
}

func TestChangesOfTheFirmwareAreRefused(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	c, _ := w.start()
	w.enroll(c, "fake", "manageable")
	w.enrollBMC(c, s, "wait call-back")
	for _, r := range []struct {
		err  error
		kind ingot.Kind
		text string
	}{
		{c.SetBootMode(t.Context(), "n1", "efi"), ingot.Invalid, "it is uefi or bios"},
		{c.SetBootMode(t.Context(), "n1", "bios"), ingot.Conflict, "is in state wait call-back"},
		{c.SetSecureBoot(t.Context(), "fake", true), ingot.Invalid, "its management interface fake cannot"},
		{c.SetSecureBoot(t.Context(), "none", true), ingot.NotFound, "none"},
	} {
		if ingot.KindOf(r.err) != r.kind || !strings.Contains(fmt.Sprint(r.err), r.text) {
			t.Errorf("%v, want %s", r.err, r.text)
		}
	}
	if len(s.Requests()) > 0 {
		t.Errorf("the BMC was asked: %v", s.Requests())
	}
}

func TestSecureBootEndsWithItsInstance(t *testing.T) {
	t.Parallel()
	w, s, b := withBMC(t, sim.Options{SecureBoot: true})
	c, _ := w.start()
	w.enrollBMC(c, s, "active")
	w.change("n1", func(n *ingot.Node) { n.InstanceInfo = ingot.Object{"capabilities": `secure_boot:true`} })
	w.provision(c, "n1", "delete")
	w.state("n1", "available")
	w.firmware("uefi off")
	if err := b.Switch(t.Context(), sim.PowerOn); err != nil {
		t.Fatal(err)
	}
	if last := b.Starts(); last[len(last)-1].Secure {
		t.Error("the next one has it still")
	}
}

// Also where that fails at first, by when nothing else tells of the instance any more.
func TestSecureBootOfAnInstanceEndsAfterATearDownThatFailed(t *testing.T) {
	t.Parallel()
	w, s, b := withBMC(t, sim.Options{SecureBoot: true})
	c, _ := w.start()
	w.enrollBMC(c, s, "active")
	w.change("n1", func(n *ingot.Node) { n.InstanceInfo = ingot.Object{"capabilities": `secure_boot:true`} })
	s.SetQuirks(sim.Quirks{FirmwareFails: true})
	w.provision(c, "n1", "delete")
	if n := w.state("n1", "error"); len(n.InstanceInfo) > 0 || !strings.Contains(n.LastError, "switch Secure Boot off") {
		t.Errorf("%q, instance_info %v", n.LastError, n.InstanceInfo)
	}
	s.SetQuirks(sim.Quirks{})
	w.provision(c, "n1", "delete")
	w.state("n1", "available")
	w.firmware("uefi off")
	if err := b.Switch(t.Context(), sim.PowerOn); err != nil {
		t.Fatal(err)
	}
	if last := b.Starts(); last[len(last)-1].Secure {
		t.Error("the next one has it still")
	}
}

func TestASilentRamdiskUnderSecureBootIsExplained(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{SecureBoot: true})
	w.o.CheckInterval = 20 * time.Millisecond
	c, _ := w.start()
	w.enrollBMC(c, s, "wait call-back")
	on, past := true, time.Now().Add(-time.Hour)
	w.change("n1", func(n *ingot.Node) { n.SecureBoot, n.WaitUntil = &on, &past })
	if n := w.state("n1", "deploy failed"); !strings.Contains(n.LastError, "Secure Boot is on") {
		t.Error(n.LastError)
	}
}

// An instance that asks for what its driver cannot do is refused, before anything is done.
func TestSecureBootIsRefusedToDriversWithoutIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	w.enroll(c, "n1", "available")
	w.change("n1", func(n *ingot.Node) {
		n.InstanceInfo = ingot.Object{"capabilities": ingot.Object{"secure_boot": true}}
	})
	v, err := c.Validate(t.Context(), "n1")
	if err != nil || !strings.Contains(v["deploy"].Reason, "management interface fake cannot switch") {
		t.Errorf("%+v, %v", v["deploy"], err)
	}
}
