package redfish_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	client "ingot/internal/redfish"
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

// What sushy, with which Ironic reads sensors, makes of them is what our client does.
func TestSushyReadsTheSensors(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{true, false} {
		s, b := serve(t, redfish.Options{DiskBytes: []int64{1 << 40}})
		if on {
			if err := b.Switch(t.Context(), redfish.PowerOn); err != nil {
				t.Fatal(err)
			}
		}
		s.SetPart("Fan 2", "Critical")
		s.SetPart("Disk 1", "Warning")
		theirs := strings.Split(strings.TrimSpace(testkit.Run(t, python, "testdata/sensors.py", s.URL())), "\n")
		c, err := client.New(client.Options{Address: s.URL(), Username: user, Password: password})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close(t.Context()) }()
		machine, err := c.System(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Sensors(t.Context(), machine, nil)
		if err != nil {
			t.Fatal(err)
		}
		var ours []string
		for _, r := range got.All {
			value := "None"
			if r.Value != nil {
				value = strconv.FormatFloat(*r.Value, 'f', -1, 64)
			}
			if r.Kind != client.Voltage && r.Name != "Total" { // of which sushy does not know
				ours = append(ours, fmt.Sprintf("%s %s %s %s %s", r.Kind, r.Name, r.Context, value, r.Health))
			}
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		if !slices.Equal(ours, theirs) || len(ours) != 7 {
			t.Errorf("ours\n%s\nsushy's\n%s", strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
		}
	}
}
