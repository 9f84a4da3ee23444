package redfish_test

import (
	"strings"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

// A BMC is told what the machine boots by HTTP where it can be told, and where it cannot, DHCP tells the machine.
func TestUEFIHTTPIsTheNextBootAlsoWithoutItsURI(t *testing.T) {
	t.Parallel()
	const url = "http://10.0.0.1:8080/media/1/secret/boot.iso"
	for name, c := range map[string]struct {
		quirks sim.Quirks
		uri    string
		warns  bool
	}{
		"takes it":         {uri: url},
		"needs a tag":      {uri: url, quirks: sim.Quirks{NeedIfMatch: true}},
		"tells no targets": {uri: url, quirks: sim.Quirks{SilentTargets: true}},
		"has no property":  {quirks: sim.Quirks{NoHTTPBootURI: true}},
		"refuses it":       {quirks: sim.Quirks{RefuseHTTPBootURI: true}, warns: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b, tk := start(t, sim.Options{})
			s.SetQuirks(c.quirks)
			var warned []string
			tk.Note = func(e ingot.Entry) {
				if e.Level == ingot.LevelWarning {
					warned = append(warned, e.Text)
				}
			}
			m := family(redfish.Options{}).Management()
			for _, persistent := range []bool{false, true} {
				d := driver.BootDevice{Device: "uefihttp", Persistent: persistent, URL: url}
				if err := m.SetBootDevice(t.Context(), tk, d); err != nil {
					t.Fatal(err)
				}
				length := map[bool]sim.Enabled{false: sim.Once, true: sim.Continuous}[persistent]
				if got := b.Boot(); got != (sim.Boot{Target: sim.UEFIHTTP, Enabled: length, Mode: sim.UEFI, URI: c.uri}) {
					t.Errorf("override %+v", got)
				}
				got, err := m.BootDevice(t.Context(), tk)
				if err != nil || got != (driver.BootDevice{Device: "uefihttp", Persistent: persistent}) {
					t.Errorf("read back %+v, %v", got, err)
				}
			}
			if (len(warned) > 0) != c.warns || strings.Contains(strings.Join(warned, " "), "secret") {
				t.Errorf("warned %q", warned)
			}
		})
	}
}

// Invalid is what lets the boot interface ask for the network card instead.
func TestABMCWithoutUEFIHTTPIsNotAskedForIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		quirks sim.Quirks
		mode   string
		want   string
	}{
		"not among its targets": {sim.Quirks{NoUEFIHTTP: true}, "uefi", "cannot boot the machine from UefiHttp; it knows"},
		"refused":               {sim.Quirks{NoUEFIHTTP: true, SilentTargets: true}, "uefi", "cannot boot the machine from UefiHttp"},
		"a BIOS":                {sim.Quirks{}, "bios", "boots as BIOS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b, tk := start(t, sim.Options{})
			s.SetQuirks(c.quirks)
			tk.Node.Properties = ingot.Object{"capabilities": "boot_mode:" + c.mode}
			err := family(redfish.Options{}).Management().SetBootDevice(t.Context(), tk,
				driver.BootDevice{Device: "uefihttp"})
			if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v", err)
			}
			if got := b.Boot(); got.Target != sim.None {
				t.Errorf("override %+v", got)
			}
		})
	}
}
