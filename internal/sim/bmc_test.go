package sim_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"ingot/internal/sim"
	"ingot/internal/testkit"
)

// ipmitool speaks to a machine's BMC as a program beside it.
type ipmitool struct {
	network  *sim.Network
	machine  *sim.Machine
	suite    string
	password string
}

func newIPMITool(t *testing.T, n *sim.Network, m *sim.Machine) ipmitool {
	t.Helper()
	program(t, "ipmitool")
	return ipmitool{network: n, machine: m, suite: "17", password: m.Spec().Password}
}

// command runs one command. A retry after four seconds of silence covers a loaded host.
func (i ipmitool) command(ctx context.Context, args ...string) *exec.Cmd {
	addr := i.machine.BMC().Addr()
	return i.network.Command(ctx, "ipmitool", append([]string{
		"-I", "lanplus", "-C", i.suite, "-N", "4", "-R", "2",
		"-H", addr.Addr().String(), "-p", fmt.Sprint(addr.Port()),
		"-U", i.machine.Spec().User, "-P", i.password,
	}, args...)...)
}

// run wants a command to succeed and its output to hold some words.
func (i ipmitool) run(t *testing.T, command string, want ...string) {
	t.Helper()
	out, err := i.command(limit(t), strings.Fields(command)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ipmitool %s: %v\n%s", command, err, out)
	}
	for _, words := range want {
		if !strings.Contains(string(out), words) {
			t.Errorf("ipmitool %s: no %q in\n%s", command, words, out)
		}
	}
}

// refused wants a command to fail with some words.
func (i ipmitool) refused(t *testing.T, command, want string) {
	t.Helper()
	out, err := i.command(limit(t), strings.Fields(command)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), want) {
		t.Errorf("ipmitool %s: error %v, want one with %q in\n%s", command, err, want, out)
	}
}

func TestIPMIToolControlsThePowerOfTheMachine(t *testing.T) {
	t.Parallel()
	n, m := newMachine(t, sim.MachineSpec{Name: "bmc"})
	for _, suite := range []string{"3", "17"} {
		tool := newIPMITool(t, n, m)
		tool.suite = suite
		tool.run(t, "power status", "Chassis Power is off")
		tool.refused(t, "power cycle", "not supported in present state")
		tool.run(t, "power on")
		see(t, m, banner)
		tool.run(t, "power status", "Chassis Power is on")
		for _, command := range []string{"power reset", "power cycle"} {
			skip(t, m)
			tool.run(t, command)
			see(t, m, banner)
		}
		tool.run(t, "power soft") // no operating system is there to hear it
		tool.run(t, "power off")
		if got := m.PowerState(); got != sim.Off {
			t.Errorf("after `power off` the machine is %s", got)
		}
		tool.run(t, "-I lan power status", "Chassis Power is off") // IPMI 1.5 has no suites
	}
}

func TestIPMIToolSetsTheBootDevice(t *testing.T) {
	t.Parallel()
	n, m := newMachine(t, sim.MachineSpec{})
	tool := newIPMITool(t, n, m)
	for _, c := range []struct {
		command string
		want    sim.BootOverride
		words   []string
	}{
		{
			"chassis bootdev pxe",
			sim.BootOverride{Device: sim.PXE},
			[]string{"Boot Flag Valid", "only next boot", "BIOS PC Compatible", "Force PXE"},
		},
		{
			"chassis bootdev disk options=persistent,efiboot",
			sim.BootOverride{Device: sim.Disk, Persistent: true, EFI: true},
			[]string{"Boot Flag Valid", "all future boots", "BIOS EFI boot",
				"Force Boot from default Hard-Drive"},
		},
		{
			"chassis bootdev cdrom options=efiboot",
			sim.BootOverride{Device: sim.CDROM, EFI: true},
			[]string{"Force Boot from CD/DVD"},
		},
		{
			"chassis bootdev bios",
			sim.BootOverride{Device: sim.Setup},
			[]string{"Force Boot into BIOS Setup"},
		},
		{
			"chassis bootdev none",
			sim.BootOverride{Device: sim.NoOverride},
			[]string{"No override"},
		},
	} {
		tool.run(t, c.command)
		if got := m.BootOverride(); got != c.want {
			t.Errorf("%s: the machine has %+v, want %+v", c.command, got, c.want)
		}
		tool.run(t, "chassis bootparam get 5", c.words...)
	}
	tool.run(t, "chassis bootdev floppy", "Parameter out of range") // which ipmitool calls success
	tool.run(t, "chassis bootdev pxe")
	tool.run(t, "power on")
	see(t, m, triesNetwork)
	wantFirst(t, m, triesNetwork)
	tool.run(t, "chassis bootparam get 5", "Boot Flag Invalid")
}

func TestBMCRefusesAWrongPassword(t *testing.T) {
	t.Parallel()
	n, m := newMachine(t, sim.MachineSpec{User: "root", Password: "calvin-20-characters"})
	tool := newIPMITool(t, n, m)
	tool.run(t, "mc info", "IPMI Version              : 2.0")
	tool.password = "wrong"
	tool.refused(t, "power on", "Unable to establish IPMI v2 / RMCP+ session")
	if got := m.PowerState(); got != sim.Off {
		t.Errorf("a wrong password turned the machine %s", got)
	}
}

func TestBMCThatIsSilentOrStoppedComesBack(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	n, m := newMachine(t, sim.MachineSpec{})
	tool := newIPMITool(t, n, m)
	impatient := func() error {
		return tool.command(limit(t), "-N", "1", "-R", "1", "power", "status").Run()
	}
	m.BMC().Silence()
	if err := impatient(); err == nil {
		t.Error("a silent BMC answers")
	}
	m.BMC().Speak()
	tool.run(t, "power status", "Chassis Power is off")
	for range 2 { // twice is as once
		if err := m.BMC().Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if err := impatient(); err == nil {
		t.Error("a stopped BMC answers")
	}
	for range 2 {
		if err := m.BMC().Start(); err != nil {
			t.Fatal(err)
		}
	}
	tool.run(t, "power status", "Chassis Power is off")
}
