package redfish_test

import (
	"os"
	"path/filepath"
	"testing"

	"ingot/internal/sim/redfish"
	"ingot/internal/testkit"
)

// python is Debian's, which has sushy; another one may be before it in the path.
const python = "/usr/bin/python3"

func TestSushyUsesTheService(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		way  string
		tls  bool
		with redfish.Quirks
	}{
		"session":  {"session", false, redfish.Quirks{}},
		"basic":    {"basic", true, redfish.Quirks{}},
		"If-Match": {"session", true, redfish.Quirks{NeedIfMatch: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b := serve(t, redfish.Options{TLS: c.tls, MAC: "52:54:00:00:00:01", MemoryMB: 1024})
			b.Obey()
			s.SetQuirks(c.with)
			certificate := ""
			if c.tls {
				certificate = filepath.Join(t.TempDir(), "bmc.pem")
				if err := os.WriteFile(certificate, s.Certificate(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			testkit.Run(t, python, "testdata/client.py", s.URL(), certificate, c.way)
			if c.way == "session" && !used(s, "DELETE") {
				t.Error("no session was ended")
			}
		})
	}
}

func TestSushyChangesTheFirmware(t *testing.T) {
	t.Parallel()
	for when, quirks := range map[string]redfish.Quirks{"at-once": {}, "at-start": {FirmwareAtStart: true}} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			s, b := serve(t, redfish.Options{Mode: redfish.Legacy, NoKeys: true})
			s.SetQuirks(quirks)
			testkit.Run(t, python, "testdata/firmware.py", s.URL(), when)
			if starts := b.Starts(); when == "at-start" && len(starts) != 3 {
				t.Errorf("started as %v", starts)
			}
		})
	}
}

func TestSushyChangesBIOSSettings(t *testing.T) {
	t.Parallel()
	for _, model := range []redfish.Model{"", redfish.ILO5} {
		t.Run("model "+string(model), func(t *testing.T) {
			t.Parallel()
			s, _ := serve(t, redfish.Options{Model: model})
			testkit.Run(t, python, "testdata/bios.py", s.URL())
		})
	}
}

func TestSushyUsesAnILO(t *testing.T) {
	t.Parallel()
	for _, model := range []redfish.Model{redfish.ILO4, redfish.ILO5} {
		t.Run(string(model), func(t *testing.T) {
			t.Parallel()
			s, b := serve(t, redfish.Options{Model: model})
			b.Obey()
			testkit.Run(t, python, "testdata/ilo.py", s.URL(), string(model))
			if !used(s, "DELETE") {
				t.Error("no session was ended")
			}
		})
	}
}

// used says whether a method was among the requests.
func used(s *redfish.Service, method string) bool {
	for _, r := range s.Requests() {
		if r.Method == method {
			return true
		}
	}
	return false
}
