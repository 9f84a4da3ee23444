package server_test

import (
	"os"
	"strings"
	"testing"
	"time"

	sim "ingot/internal/sim/redfish"
)

// bmc starts a BMC that speaks Redfish, and enrolls its machine, n1, with the baremetal client.
func (s *sandbox) bmc(o sim.Options) (*sim.Service, *sim.Board) {
	s.Helper()
	o.Name, o.User, o.Password, o.UUID = "n1", "admin", "secret", "11111111-2222-3333-4444-555555555555"
	b := &sim.Board{}
	b.Obey()
	bmc := sim.New(b, o)
	if err := bmc.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := bmc.Stop(); err != nil {
			s.Error(err)
		}
	})
	s.baremetal("node create --driver redfish --name n1 --driver-info redfish_address=" + bmc.URL() +
		" --driver-info redfish_username=admin --driver-info redfish_password=secret")
	s.baremetal("node manage n1 --wait 60")
	return bmc, b
}

// baremetal runs a command of the real client, and returns what it printed.
func (s *sandbox) baremetal(command string) string {
	s.Helper()
	out, err := run(s.T, append(os.Environ(), "OS_AUTH_TYPE=none", "OS_ENDPOINT="+s.url), "/usr/bin/baremetal",
		strings.Fields(command)...)
	if err != nil {
		s.Fatalf("baremetal %s: %v\n%s", command, err, out)
	}
	return out
}

func TestTheBaremetalClientChangesTheFirmware(t *testing.T) {
	t.Parallel()
	s := start(t)
	bmc, b := s.bmc(sim.Options{Mode: sim.Legacy})
	bmc.SetQuirks(sim.Quirks{FirmwareAtStart: true})
	const show = "node show n1 -f value -c boot_mode -c secure_boot -c last_error"
	if got := strings.Join(strings.Fields(s.baremetal(show)), " "); got != "bios None False" {
		t.Errorf("after manage: %q", got)
	}
	for _, step := range []struct{ command, want string }{
		{"node boot mode set n1 uefi", "uefi None False"},
		{"node secure boot on n1", "uefi None True"},
		{"node secure boot off n1", "uefi None False"},
		{"node boot mode set n1 bios", "bios None False"},
	} {
		s.baremetal(step.command)
		for deadline := time.Now().Add(time.Minute); ; {
			got := strings.Join(strings.Fields(s.baremetal(show)), " ")
			if got == step.want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %q", step.command, got)
			}
		}
	}
	if starts := b.Starts(); len(starts) != 4 || starts[1] != (sim.Start{Mode: sim.UEFI, Secure: true}) {
		t.Errorf("the machine has started as %v", starts)
	}
}

func TestTheBaremetalClientShowsBIOSSettings(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.bmc(sim.Options{})
	for command, want := range map[string]string{
		"node bios setting list n1 -f csv":                                                  `"ProcVirtualization","Enabled"`,
		"node bios setting list n1 --long -f csv":                                           `"QuietBoot","True","Boolean"`,
		"node bios setting show n1 CoresPerSocket -f value -c name -c value -c upper_bound": "CoresPerSocket\n64\n0",
		"node show n1 -f value -c bios_interface":                                           "redfish",
	} {
		if out := s.baremetal(command); !strings.Contains(out, want) {
			t.Errorf("%s has no %q:\n%s", command, want, out)
		}
	}
}
