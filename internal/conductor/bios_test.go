package conductor_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	sim "ingot/internal/sim/redfish"
	"ingot/internal/testkit"
)

// withBIOS is withBMC with the settings of its firmware.
func withBIOS(t *testing.T, o sim.Options) (*world, *sim.Service, *sim.Board) {
	t.Helper()
	w, s, b := withBMC(t, o)
	w.o.Table.BIOS = map[string]driver.Setup{redfish.Name: redfish.New(redfish.Options{
		PollInterval: time.Millisecond}).BIOS()}
	return w, s, b
}

// settings are those on record, by name.
func (w *world) settings(ident string) map[string]ingot.BIOSSetting {
	w.t.Helper()
	all, err := w.store.BIOS(w.t.Context(), w.node(ident).ID)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]ingot.BIOSSetting{}
	for _, s := range all {
		out[s.Name] = s
	}
	return out
}

// apply is a step that changes settings, in pairs.
func apply(priority int, pairs ...any) ingot.Step {
	list := []any{}
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, ingot.Object{"name": pairs[i], "value": pairs[i+1]})
	}
	return ingot.Step{Interface: "bios", Name: "apply_configuration", Priority: priority,
		Args: ingot.Object{"settings": list}}
}

func reset(priority int) ingot.Step {
	return ingot.Step{Interface: "bios", Name: "factory_reset", Priority: priority, Args: ingot.Object{}}
}

func TestBIOSSettingsAreOnRecordFromTheStart(t *testing.T) {
	t.Parallel()
	w, s, _ := withBIOS(t, sim.Options{})
	c, _ := w.start()
	w.enrollBMC(c, s, "enroll")
	w.provision(c, "n1", "manage")
	w.state("n1", "manageable")
	got := w.settings("n1")
	if v := got["ProcVirtualization"]; v.Value != "Enabled" || v.Type != "Enumeration" || len(v.Allowed) != 2 ||
		v.ResetRequired == nil || !*v.ResetRequired || len(got) != 5 {
		t.Errorf("on record %+v", got)
	}
	if v := got["CoresPerSocket"]; v.Value != 0.0 || v.UpperBound == nil || *v.UpperBound != 64 {
		t.Errorf("on record %+v", v)
	}
	v, err := c.Validate(t.Context(), "n1")
	if err != nil || !v["bios"].Result {
		t.Errorf("validation %+v, %v", v["bios"], err)
	}
}

// A machine whose BMC tells none is as good as any.
func TestAMachineWithoutBIOSSettingsIsManaged(t *testing.T) {
	t.Parallel()
	w, s, _ := withBIOS(t, sim.Options{})
	s.SetQuirks(sim.Quirks{NoBIOS: true})
	c, _ := w.start()
	w.enrollBMC(c, s, "enroll")
	w.provision(c, "n1", "manage")
	w.state("n1", "manageable")
	if got := w.settings("n1"); len(got) > 0 || !strings.Contains(w.journal("n1"), "BIOS settings are not on record") {
		t.Errorf("on record %v\n%s", got, w.journal("n1"))
	}
}

func TestADeploymentChangesBIOSSettingsFirst(t *testing.T) {
	t.Parallel()
	w, s, b := withBIOS(t, sim.Options{})
	s.SetQuirks(sim.Quirks{NeedIfMatch: true, AwayAfterPowerOn: 50 * time.Millisecond})
	c, _ := w.start()
	w.enrollBMC(c, s, "available")
	deploy := func(steps ...ingot.Step) {
		t.Helper()
		if err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy",
			DeploySteps: steps}); err != nil {
			t.Fatal(err)
		}
		w.state("n1", "active")
		w.provision(c, "n1", "delete")
		w.state("n1", "available")
	}
	starts := func() int { return len(b.Starts()) }

	deploy(apply(10, "AssetTag", "rack1", "CoresPerSocket", "8", "QuietBoot", "False"))
	if got := fmt.Sprint(s.BIOS()); got != "map[AssetTag:rack1 CoresPerSocket:8 ProcVirtualization:Enabled "+
		"QuietBoot:false SystemBiosVersion:1.0]" || starts() != 2 {
		t.Errorf("after %d starts %s", starts(), got)
	}
	if v := w.settings("n1")["AssetTag"].Value; v != "rack1" {
		t.Errorf("on record %v", v)
	}
	deploy(apply(10, "AssetTag", "rack1"), apply(0, "QuietBoot", true)) // is so, and is none
	if starts() != 3 {
		t.Errorf("%d starts for what is so already", starts())
	}
	// The most urgent goes first.
	deploy(apply(10, "CoresPerSocket", 4.0), reset(20))
	if got := fmt.Sprint(s.BIOS()); got != "map[AssetTag: CoresPerSocket:4 ProcVirtualization:Enabled "+
		"QuietBoot:true SystemBiosVersion:1.0]" || starts() != 6 {
		t.Errorf("after %d starts %s", starts(), got)
	}
}

// Whoever goes on has the settings changed, and on record, whatever the killed one has got to; and switches off no
// machine that is changing its firmware.
func TestBIOSSettingsSurviveAKilledConductorAtEveryWrite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	for at, killed := int64(1), true; killed; at++ {
		w, s, b := withBIOS(t, sim.Options{})
		s.SetQuirks(sim.Quirks{ProgressLooks: 3})
		step, want := apply(1, "AssetTag", "x"), "x"
		if at%2 == 0 { // both begin and end alike
			step, want = reset(1), ""
		}
		killed = w.outlives(at, rpc.ProvisionRequest{Ident: "n1", Event: "deploy", DeploySteps: []ingot.Step{step}},
			"active", func(c *conductor.Conductor) { w.enrollBMC(c, s, "available") })
		if got := w.settings("n1"); s.BIOS()["AssetTag"] != want || got["AssetTag"].Value != want {
			t.Errorf("killed before write %d: %v, on record %v", at, s.BIOS(), got)
		}
		if told := w.node("n1").DriverInternalInfo["bios_step_told"]; told != nil {
			t.Errorf("killed before write %d: %v is left", at, told)
		}
		// One start for the step and one for the instance; one more if it was killed before it knew.
		if n := len(b.Starts()); n < 2 || n > 3 {
			t.Errorf("killed before write %d: %d starts\n%s", at, n, w.journal("n1"))
		}
		if at > 100 {
			t.Fatal("it does not end")
		}
	}
}

// While a machine starts its BMC may tell none of its settings: that is not the answer that is waited for.
func TestSettingsThatAreNotToldYetAreWaitedFor(t *testing.T) {
	t.Parallel()
	w, s, _ := withBIOS(t, sim.Options{})
	s.SetQuirks(sim.Quirks{BIOSInPOST: 2})
	c, _ := w.start()
	w.enrollBMC(c, s, "available")
	if err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy",
		DeploySteps: []ingot.Step{apply(1, "AssetTag", "x")}}); err != nil {
		t.Fatal(err)
	}
	w.state("n1", "active")
	if got := w.settings("n1"); len(got) != 5 || got["AssetTag"].Value != "x" {
		t.Errorf("on record %v", got)
	}
}

// A conductor that was killed when the settings were right has left the machine on, and nothing on record; and
// that nobody waits for the boot mode is no reason not to wait for settings.
func TestSettingsThatAreSoAreOnRecordAndTheMachineIsOff(t *testing.T) {
	t.Parallel()
	w, s, b := withBIOS(t, sim.Options{})
	w.o.FirmwareTimeout = -1
	c, _ := w.start()
	w.enrollBMC(c, s, "available")
	if err := c.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: ingot.PowerOn}); err != nil {
		t.Fatal(err)
	}
	w.until("n1", "power on", func(n *ingot.Node) bool {
		return n.PowerState == ingot.PowerOn && n.Reservation == ""
	})
	if err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy",
		DeploySteps: []ingot.Step{apply(2, "QuietBoot", true), apply(1, "Turbo", "x")}}); err != nil {
		t.Fatal(err)
	}
	w.state("n1", "deploy failed") // at the second step
	off := strings.Index(w.journal("n1"), "power off: done")
	if got := w.settings("n1"); len(got) != 5 || b.PowerState() != sim.Off || off < 0 ||
		off > strings.Index(w.journal("n1"), "(2 of ") {
		t.Errorf("the machine is %s, on record %v\n%s", b.PowerState(), got, w.journal("n1"))
	}
	s.SetQuirks(sim.Quirks{BIOSInPOST: 6}) // for longer than a second
	if err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy",
		DeploySteps: []ingot.Step{apply(1, "AssetTag", "x")}}); err != nil {
		t.Fatal(err)
	}
	w.state("n1", "active")
}

func TestBIOSSettingsThatDoNotTakeEffectFailADeployment(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		quirks sim.Quirks
		step   ingot.Step
		want   string
	}{
		"forgotten": {sim.Quirks{BIOSForgets: true}, apply(1, "AssetTag", "x"), "AssetTag is still as it was"},
		"none":      {sim.Quirks{NoBIOS: true}, apply(1, "AssetTag", "x"), "tells no BIOS settings"},
		"unknown":   {sim.Quirks{}, apply(1, "Turbo", "x"), `has no BIOS setting "Turbo"`},
		"untold":    {sim.Quirks{BIOSInPOST: 1 << 30}, apply(1, "AssetTag", "x"), "the BMC tells no BIOS settings now"},
		"fixed":     {sim.Quirks{}, apply(1, "SystemBiosVersion", "2"), "cannot be changed"},
		"no value":  {sim.Quirks{}, apply(1, "ProcVirtualization", "Maybe"), "is one of Enabled, Disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, s, b := withBIOS(t, sim.Options{})
			w.o.FirmwareTimeout = time.Millisecond
			s.SetQuirks(c.quirks)
			conductor, _ := w.start()
			w.enrollBMC(conductor, s, "available")
			if err := conductor.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy",
				DeploySteps: []ingot.Step{c.step}}); err != nil {
				t.Fatal(err)
			}
			n := w.state("n1", "deploy failed")
			if !strings.Contains(n.LastError, c.want) || b.PowerState() != sim.Off {
				t.Errorf("%q, and the machine is %s", n.LastError, b.PowerState())
			}
		})
	}
}

func TestDeployStepsThatCannotBeRunAreRefused(t *testing.T) {
	t.Parallel()
	w, s, _ := withBIOS(t, sim.Options{})
	c, _ := w.start()
	w.enrollBMC(c, s, "available")
	w.enroll(c, "fake", "available")
	testkit.Eventually(t, "a setting without a type is on record", func() bool { // its power state is read meanwhile
		return w.store.SaveBIOS(t.Context(), w.node("n1"), []ingot.BIOSSetting{{Name: "AdminPassword"}}) == nil
	})
	for name, step := range map[string]ingot.Step{
		"another":        {Interface: "bios", Name: "update", Priority: 1},
		"not of the API": {Interface: "deploy", Name: "tear_down", Priority: 1},
		"no settings":    apply(1),
		"a password":     apply(1, "AdminPassword", "x"),
		"twice":          apply(1, "a", "b", "a", "c"),
		"an object":      apply(1, "a", ingot.Object{}),
		"no value":       {Interface: "bios", Name: "apply_configuration", Args: ingot.Object{"settings": []any{ingot.Object{"name": "a"}}}},
		"more arguments": {Interface: "bios", Name: "factory_reset", Args: ingot.Object{"x": 1}},
	} {
		err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy", DeploySteps: []ingot.Step{step}})
		if ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "fake", Event: "deploy",
		DeploySteps: []ingot.Step{reset(1)}})
	var refused *ingot.Error
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "another bios_interface than no-bios") {
		t.Errorf("%v", err)
	}
}

// On many machines some settings are never those of the factory, and on others all are so already: a reset that
// changes nothing is over when the machine has started, and not before.
func TestAResetOfBIOSSettingsThatChangesNothingEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		quirks sim.Quirks
		change []any
	}{
		"never the factory's, told":   {sim.Quirks{BIOSForgets: true, ProgressLooks: 5}, []any{"QuietBoot", false}},
		"never the factory's, silent": {sim.Quirks{BIOSForgets: true}, []any{"QuietBoot", false}},
		"the factory's already":       {sim.Quirks{ProgressLooks: 5}, []any{"QuietBoot", true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, s, b := withBIOS(t, sim.Options{})
			if c.quirks.ProgressLooks == 0 {
				w.o.FirmwareTimeout = time.Second // of which a third is enough for a start
			}
			conductor, _ := w.start()
			w.enrollBMC(conductor, s, "available")
			deploy := func(step ingot.Step) {
				t.Helper()
				if err := conductor.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy",
					DeploySteps: []ingot.Step{step}}); err != nil {
					t.Fatal(err)
				}
				w.state("n1", "active")
				w.provision(conductor, "n1", "delete")
				w.state("n1", "available")
			}
			deploy(apply(1, c.change...))
			s.SetQuirks(c.quirks)
			before := len(b.Starts())
			deploy(reset(1))
			if n := len(b.Starts()) - before; n != 2 {
				t.Errorf("%d starts, not one for the reset and one for the instance", n)
			}
			if told := strings.Contains(w.journal("n1"), "not the factory's after the reset: QuietBoot"); told !=
				c.quirks.BIOSForgets {
				t.Errorf("the journal:\n%s", w.journal("n1"))
			}
		})
	}
}
