package redfish_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

// ilos are HPE's BMCs, by generation and by what their firmware lacks.
var ilos = map[string]struct {
	model sim.Model
	with  sim.Quirks
}{
	"4":                        {sim.ILO4, sim.Quirks{}},
	"4, without actions":       {sim.ILO4, sim.Quirks{NoMediaActions: true}},
	"5":                        {sim.ILO5, sim.Quirks{}},
	"5, without the schema's":  {sim.ILO5, sim.Quirks{NoSchemaMedia: true, NeedIfMatch: true}},
	"5, busy, with no session": {sim.ILO5, sim.Quirks{BusyAfterPowerOn: 1, NoMoreSessions: true}},
}

// iloTask is a task for a node of the hardware type ilo.
func iloTask(address string) *driver.Task {
	return &driver.Task{
		Node: &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", DriverInfo: ingot.Object{
			"ilo_address": address, "ilo_username": "admin", "ilo_password": "secret"}},
		Log: slog.New(slog.DiscardHandler), Note: func(ingot.Entry) {},
	}
}

func iloFamily() *redfish.Family { return family(redfish.Options{}).ILO(redfish.ILOOptions{}) }

func TestAnILOIsUsedAlsoTwice(t *testing.T) {
	t.Parallel()
	for name, c := range ilos {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b, _ := start(t, sim.Options{Model: c.model})
			s.SetQuirks(c.with)
			tk := iloTask(s.URL())
			p, m := iloFamily().Power(), iloFamily().Management()
			if err := p.Identify(t.Context(), tk); err != nil ||
				tk.Node.DriverInternalInfo["ilo_system_uuid"] != uuidA {
				t.Fatalf("%v, %v", err, tk.Node.DriverInternalInfo)
			}
			medium := "http://192.0.2.1/media/1/a/boot.iso"
			for range 2 {
				if err := m.InsertMedium(t.Context(), tk, driver.CD, medium); err != nil {
					t.Fatal(err)
				}
				if err := m.SetBootDevice(t.Context(), tk, driver.BootDevice{Device: "cdrom"}); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.Inserted(sim.VirtualCD); got != medium {
				t.Errorf("inserted %q", got)
			}
			for _, target := range []ingot.PowerState{ingot.PowerOn, ingot.Rebooting, ingot.SoftPowerOff,
				ingot.PowerOn, ingot.PowerOff} {
				for range 2 {
					if target == ingot.Rebooting && b.PowerState() == sim.Off {
						continue
					}
					if err := p.SetPower(t.Context(), tk, target); err != nil {
						t.Fatalf("%s: %v", target, err)
					}
				}
			}
			for range 2 {
				if err := m.EjectMedium(t.Context(), tk, driver.CD, "/media/1/"); err != nil || s.Inserted(sim.VirtualCD) != "" {
					t.Errorf("eject: %v, inserted %q", err, s.Inserted(sim.VirtualCD))
				}
			}
			// The CD once, by both ways of asking for it, and then the machine's own order.
			if got := b.Boots(); got[0] != sim.CD || slices.Contains(got[1:], sim.CD) {
				t.Errorf("booted %v", got)
			}
			if n := open(s); n != 0 {
				t.Errorf("%d sessions are left", n)
			}
		})
	}
}

func TestAnILOHasAFloppyDriveAndKnowsItsMachine(t *testing.T) {
	t.Parallel()
	for name, c := range ilos {
		s, _, _ := start(t, sim.Options{Model: c.model, MAC: "52:54:00:00:00:01", MemoryMB: 2048})
		s.SetQuirks(c.with)
		tk, m := iloTask(s.URL()), iloFamily().Management()
		const floppy = "http://192.0.2.1/media/1/a/parameters.img"
		if err := m.InsertMedium(t.Context(), tk, driver.Floppy, floppy); err != nil ||
			s.Inserted(sim.VirtualFloppy) != floppy || s.Inserted(sim.VirtualCD) != "" {
			t.Errorf("%s: %v, in the drives %q and %q", name, err, s.Inserted(sim.VirtualFloppy),
				s.Inserted(sim.VirtualCD))
		}
		if err := m.EjectMedium(t.Context(), tk, driver.Floppy, "/media/1/"); err != nil ||
			s.Inserted(sim.VirtualFloppy) != "" {
			t.Errorf("%s: eject: %v", name, err)
		}
		found, err := iloFamily().Inspect().Inspect(t.Context(), tk)
		if err != nil || found.Memory.PhysicalMB != 2048 || len(found.Interfaces) != 1 ||
			found.Interfaces[0].MAC != "52:54:00:00:00:01" || found.BMCAddress != "127.0.0.1" {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
}

// The switches of an iLO whose firmware knows nothing but the medium to boot: the boot device need not be told.
func TestAnILOBootsTheMediumWithoutABootDevice(t *testing.T) {
	t.Parallel()
	s, b, _ := start(t, sim.Options{Model: sim.ILO4})
	tk := iloTask(s.URL())
	if err := iloFamily().Management().InsertMedium(t.Context(), tk, driver.CD, "http://192.0.2.1/boot.iso"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := iloFamily().Power().SetPower(t.Context(), tk, ingot.Rebooting); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Boots(); !slices.Equal(got, []sim.Target{sim.CD, sim.None}) {
		t.Errorf("booted %v", got)
	}
}

func TestDriverInfoOfAnILOIsChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	none := filepath.Join(dir, "none.pem")
	if err := os.WriteFile(none, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	validate := func(changes ingot.Object) error {
		tk := iloTask("bmc.example.com")
		for key, value := range changes {
			if tk.Node.DriverInfo[key] = value; value == nil {
				delete(tk.Node.DriverInfo, key)
			}
		}
		p, m := iloFamily().Power().Validate(t.Context(), tk), iloFamily().Management().Validate(t.Context(), tk)
		if (p == nil) != (m == nil) || p != nil && p.Error() != m.Error() {
			t.Errorf("power %v, management %v", p, m)
		}
		return p
	}
	for _, right := range []ingot.Object{{}, {"client_port": 8443, "client_timeout": "5"}, {"ilo_address": "fd00::1"},
		{"ilo_address": "https://10.0.0.1:444/"}, {"ilo_address": "10.0.0.1:444", "client_port": 444},
		{"ilo_address": "http://10.0.0.1", "client_port": 8080}, {"ilo_verify_ca": false}, {"ilo_verify_ca": "True"}, {"ilo_system_uuid": "any"}} {
		if err := validate(right); err != nil {
			t.Errorf("%v: %v", right, err)
		}
	}
	for _, c := range []struct {
		info ingot.Object
		want string
	}{
		{ingot.Object{"ilo_address": nil}, "['ilo_address']"},
		{ingot.Object{"ilo_username": "", "ilo_password": nil}, "['ilo_username', 'ilo_password']"},
		{ingot.Object{"ilo_address": "ftp://x"}, "ilo_address"},
		{ingot.Object{"client_port": 0}, `client_port of node 1be26c0b-03f2-4d2e-ae87-c02d7f33c123 is "0"`},
		{ingot.Object{"client_port": "https"}, "client_port"},
		{ingot.Object{"client_port": 65536}, "from 1 to 65535"},
		{ingot.Object{"ilo_address": "10.0.0.1:444", "client_port": 443}, "remove one of them"},
		{ingot.Object{"client_timeout": -1}, "client_timeout"},
		{ingot.Object{"client_timeout": 86400}, "from 1 to 3600"},
		{ingot.Object{"ilo_verify_ca": "bmc.pem"}, "ilo_verify_ca"},
		{ingot.Object{"ilo_verify_ca": none}, "ilo_verify_ca"},
		{ingot.Object{"ca_file": none}, "ca_file"},
		{ingot.Object{"ca_file": "bmc.pem"}, "ca_file"},
		{ingot.Object{"ca_file": none, "ilo_verify_ca": false}, "remove one of them"},
		{ingot.Object{"ilo_system_uuid": "x"}, "ilo_system_uuid"},
	} {
		err := validate(c.info)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), c.want) ||
			strings.Contains(err.Error(), "redfish_") {
			t.Errorf("%v: %v", c.info, err)
		}
	}
}

// What goes wrong with an iLO is told in the keys of its hardware type.
func TestWhatIsWrongWithAnILOIsSaidByItsKeys(t *testing.T) {
	t.Parallel()
	s, _, _ := start(t, sim.Options{Model: sim.ILO5, TLS: true})
	file := filepath.Join(t.TempDir(), "ilo.pem")
	if err := os.WriteFile(file, s.Certificate(), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(changes ingot.Object) error {
		tk := iloTask(s.Addr().Addr().String())
		tk.Node.DriverInfo["client_port"] = strconv.Itoa(int(s.Addr().Port()))
		tk.Node.DriverInfo["ca_file"] = file
		for key, value := range changes {
			tk.Node.DriverInfo[key] = value
		}
		_, err := iloFamily().Power().PowerState(t.Context(), tk)
		return err
	}
	if err := ask(nil); err != nil {
		t.Fatal(err)
	}
	if err := ask(ingot.Object{"ca_file": nil, "ilo_verify_ca": file}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		info ingot.Object
		want string
	}{
		{ingot.Object{"ilo_password": "wrong"}, "check ilo_username and ilo_password"},
		{ingot.Object{"ca_file": nil}, "set ilo_verify_ca"},
		{ingot.Object{"client_port": 1}, "nothing listens there; check ilo_address"},
		{ingot.Object{"ilo_address": "ilo.invalid"}, "cannot be resolved; check ilo_address"},
		{ingot.Object{"ilo_address": "http://" + s.Addr().String()}, "check ilo_address"},
	} {
		err := ask(c.info)
		if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), c.want) ||
			strings.Contains(err.Error(), "redfish_") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%v: %v", c.info, err)
		}
	}
}

func TestASlowILOHasAsLongAsItsNodeSays(t *testing.T) {
	t.Parallel()
	s, _, _ := start(t, sim.Options{Model: sim.ILO5})
	s.Silence()
	tk := iloTask(s.URL())
	tk.Node.DriverInfo["client_timeout"] = 1
	begun := time.Now()
	_, err := iloFamily().Power().PowerState(t.Context(), tk)
	if err == nil || !strings.Contains(err.Error(), "did not answer within 1s") ||
		!strings.Contains(err.Error(), "set a larger client_timeout") || time.Since(begun) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
}

// Who talks to a BMC as redfish and who does as ilo wait for one another.
func TestOneBMCHasOneTurnWhateverTheHardwareType(t *testing.T) {
	t.Parallel()
	s, _, plain := start(t, sim.Options{Model: sim.ILO5, Sessions: 1})
	plain.Node.DriverInfo["redfish_auth_type"] = "session" // a second one at a time would be refused
	f := family(redfish.Options{})
	done := make(chan error)
	for range 8 {
		go func() {
			_, err := f.Power().PowerState(t.Context(), plain)
			done <- err
		}()
		go func() {
			_, err := f.ILO(redfish.ILOOptions{}).Power().PowerState(t.Context(), iloTask(s.URL()))
			done <- err
		}()
	}
	for range 16 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestTheHardwareTypeILO(t *testing.T) {
	t.Parallel()
	h := redfish.HardwareILO()
	if h.Name != "ilo" || !slices.Equal(h.Supported["power"], []string{"ilo"}) ||
		h.Supported["boot"][0] != "ilo-virtual-media" || !slices.Contains(h.Supported["deploy"], "iscsi") {
		t.Errorf("%+v", h)
	}
	if plain := redfish.Hardware(); plain.Name != "redfish" || plain.Supported["power"][0] != "redfish" {
		t.Errorf("redfish: %+v", plain)
	}
	help := iloFamily().Power().Properties()
	for _, key := range []string{"ilo_address", "ilo_username", "ilo_password", "client_port", "client_timeout",
		"ca_file", "ilo_verify_ca", "ilo_system_uuid"} {
		if help[key] == "" {
			t.Errorf("no help for %s", key)
		}
	}
	for key := range iloFamily().Management().Properties() {
		if strings.HasPrefix(key, "redfish_") {
			t.Errorf("it has %s", key)
		}
	}
}
