package redfish_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/redfish"
	sim "ingot/internal/sim/redfish"
)

// models are the BMCs whose virtual media are used in each way there is.
var models = map[string]struct {
	model sim.Model
	with  sim.Quirks
	asks  []string // how media are inserted and ejected, in the end
	boots bool     // knows BootOnReset
}{
	"schema": {"", sim.Quirks{}, []string{"POST Managers/1/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia",
		"POST Managers/1/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia"}, false},
	"iLO 4": {sim.ILO4, sim.Quirks{}, []string{
		"POST Managers/1/VirtualMedia/2/Actions/Oem/Hp/HpiLOVirtualMedia.InsertVirtualMedia",
		"POST Managers/1/VirtualMedia/2/Actions/Oem/Hp/HpiLOVirtualMedia.EjectVirtualMedia"}, true},
	"iLO 4 before it had actions": {sim.ILO4, sim.Quirks{NoMediaActions: true}, []string{
		"PATCH Managers/1/VirtualMedia/2", "PATCH Managers/1/VirtualMedia/2"}, true},
	"iLO 5": {sim.ILO5, sim.Quirks{}, []string{"POST Managers/1/VirtualMedia/2/Actions/VirtualMedia.InsertMedia",
		"POST Managers/1/VirtualMedia/2/Actions/VirtualMedia.EjectMedia"}, true},
	"iLO 5 without the schema's": {sim.ILO5, sim.Quirks{NoSchemaMedia: true, NeedIfMatch: true}, []string{
		"POST Managers/1/VirtualMedia/2/Actions/Oem/Hpe/HpeiLOVirtualMedia.InsertVirtualMedia",
		"POST Managers/1/VirtualMedia/2/Actions/Oem/Hpe/HpeiLOVirtualMedia.EjectVirtualMedia"}, true},
}

// simulated starts a simulated BMC and a client of it.
func simulated(t *testing.T, o sim.Options, q sim.Quirks) (*sim.Service, *sim.Board, *redfish.Client) {
	t.Helper()
	o.Name, o.UUID, o.User, o.Password = "n1", "38947555-7742-3448-3784-823347823834", "admin", "secret"
	b := &sim.Board{}
	s := sim.New(b, o)
	s.SetQuirks(q)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	c, err := redfish.New(redfish.Options{Address: s.URL(), Username: "admin", Password: "secret",
		Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(t.Context()) })
	return s, b, c
}

// asked lists the requests that changed something with virtual media and were taken.
func asked(s *sim.Service) (list []string) {
	for _, r := range s.Requests() {
		if r.Method != "GET" && strings.Contains(r.Path, "/VirtualMedia/") && r.Status < 300 {
			list = append(list, r.Method+" "+strings.TrimPrefix(r.Path, sim.Root))
		}
	}
	return list
}

func TestMediaAreInsertedInTheBMCsOwnWay(t *testing.T) {
	t.Parallel()
	for name, m := range models {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _, c := simulated(t, sim.Options{Model: m.model}, m.with)
			d, err := c.DriveFor(t.Context(), read(t, c), redfish.CD, redfish.DVD)
			if err != nil || d == nil {
				t.Fatal(d, err)
			}
			// The second takes the place of the first.
			for _, url := range []string{"http://192.0.2.1/a.iso", "http://192.0.2.1/b.iso"} {
				if err := c.Insert(t.Context(), d, url); err != nil {
					t.Fatal(err)
				}
				if !d.Full() || d.Image != url || s.Inserted(sim.VirtualCD) != url {
					t.Errorf("%s: drive %+v, inserted %q", url, d, s.Inserted(sim.VirtualCD))
				}
			}
			for range 2 {
				if err := c.Eject(t.Context(), d); err != nil || s.Inserted(sim.VirtualCD) != "" {
					t.Errorf("eject: %v, inserted %q", err, s.Inserted(sim.VirtualCD))
				}
			}
			insert, eject := m.asks[0], m.asks[1]
			if got := asked(s); !slices.Equal(got, []string{insert, eject, insert, eject}) {
				t.Errorf("asked %q", got)
			}
		})
	}
}

func TestDrivesAreFoundByWhatTheyTake(t *testing.T) {
	t.Parallel()
	for name, m := range models {
		s, _, c := simulated(t, sim.Options{Model: m.model}, m.with)
		for _, want := range []struct {
			types []string
			drive sim.Drive
		}{
			{[]string{redfish.CD}, sim.VirtualCD},
			{[]string{redfish.DVD, redfish.Floppy}, sim.VirtualCD},
			{[]string{"Tape", redfish.Floppy, redfish.CD}, sim.VirtualFloppy},
			{[]string{redfish.USBStick}, sim.VirtualFloppy},
		} {
			d, err := c.DriveFor(t.Context(), read(t, c), want.types...)
			if err != nil || d == nil {
				t.Fatalf("%s: %v: %v, %v", name, want.types, d, err)
			}
			url := "http://192.0.2.1/x.img"
			if err := c.Insert(t.Context(), d, url); err != nil || s.Inserted(want.drive) != url {
				t.Errorf("%s: %v: %v, in the drive %q", name, want.types, err, s.Inserted(want.drive))
			}
		}
		if d, err := c.DriveFor(t.Context(), read(t, c), "Tape"); d != nil || err != nil {
			t.Errorf("%s: a drive for tapes: %v, %v", name, d, err)
		}
	}
}

func TestAMediumIsBootedAtTheNextStart(t *testing.T) {
	t.Parallel()
	for name, m := range models {
		s, b, c := simulated(t, sim.Options{Model: m.model}, m.with)
		d, err := c.DriveFor(t.Context(), read(t, c), redfish.CD)
		if err != nil || c.Insert(t.Context(), d, "http://192.0.2.1/a.iso") != nil {
			t.Fatal(err)
		}
		for range 2 {
			if known, err := c.BootOnReset(t.Context(), d); err != nil || known != m.boots {
				t.Errorf("%s: %v, %v", name, known, err)
			}
			if d, err = c.DriveFor(t.Context(), read(t, c), redfish.CD); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			for _, reset := range []redfish.ResetType{redfish.ResetOn, redfish.ResetForceOff} {
				if _, err := c.Reset(t.Context(), read(t, c), reset); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := []sim.Target{sim.None, sim.None}
		if m.boots {
			want[0] = sim.CD
		}
		if got := b.Boots(); !slices.Equal(got, want) {
			t.Errorf("%s: booted %v", name, got)
		}
		// What was asked of a medium that is not there any more does not count.
		if _, err := c.BootOnReset(t.Context(), d); err != nil || c.Eject(t.Context(), d) != nil ||
			c.Insert(t.Context(), d, "http://192.0.2.1/b.iso") != nil {
			t.Fatal(err)
		}
		if _, err := c.Reset(t.Context(), read(t, c), redfish.ResetOn); err != nil {
			t.Fatal(err)
		}
		if got := b.Boots(); got[2] != sim.None || s.Inserted(sim.VirtualCD) == "" {
			t.Errorf("%s: booted %v", name, got)
		}
	}
}

// A BMC that has no action for it may take the medium as a property.
func TestMediaAreAPropertyWhereThereIsNoAction(t *testing.T) {
	t.Parallel()
	const drive = "/redfish/v1/Systems/437XR1138R2/VirtualMedia/EXT1"
	empty := `{"MediaTypes": ["CD"], "Inserted": false, "Image": null, "Oem": {"Hp": 7}}`
	b, c := start(t, nil)
	b.answers["GET "+system] = text(200, strings.TrimSuffix(systemBody, "}")+
		`, "VirtualMedia": {"@odata.id": "`+system+`/VirtualMedia"}}`)
	b.answers["GET "+system+"/VirtualMedia"] = text(200, `{"Members": [{"@odata.id": "`+drive+`"}]}`)
	b.answers["GET "+drive] = inTurn(text(200, empty),
		text(200, `{"MediaTypes": ["CD"], "Inserted": true, "Image": "http://192.0.2.1/a.iso"}`), text(200, empty))
	b.answers["PATCH "+drive] = text(204, "")
	b.answers["POST "+drive+"/Actions/VirtualMedia.InsertMedia"] = text(405, "")
	d, err := c.DriveFor(t.Context(), read(t, c), redfish.CD)
	if err != nil || d == nil {
		t.Fatal(d, err)
	}
	if err := c.Insert(t.Context(), d, "http://192.0.2.1/a.iso"); err != nil {
		t.Error(err)
	}
	if err := c.Eject(t.Context(), d); err != nil {
		t.Error(err)
	}
	if n := b.times("PATCH " + drive); n != 2 {
		t.Errorf("%d changes: %v", n, b.asked)
	}
	if known, err := c.BootOnReset(t.Context(), d); known || err != nil {
		t.Errorf("boot on reset: %v, %v", known, err)
	}
}

// A BMC may have drives that take what is uploaded, or comes from a remote console, and nothing from a URL.
func TestADriveThatTakesURLsIsPreferred(t *testing.T) {
	t.Parallel()
	const drives = system + "/VirtualMedia"
	drive := func(more string) string {
		return `{"MediaTypes": ["CD", "DVD", "Floppy"], "Inserted": false` + more + `}`
	}
	action := `, "Actions": {"#VirtualMedia.InsertMedia": {"target": "/x"}}`
	for want, members := range map[string][]struct{ name, more string }{
		"EXT1": {{"RDOC1", ""}, {"RDOC2", ""}, {"Remote1", ""}, {"EXT1", ""}, {"EXT2", ""}},
		"EXT2": {{"RDOC1", ""}, {"EXT1", ""}, {"EXT2", action}, {"EXT3", action}},
		"1":    {{"1", ""}, {"2", ""}},
	} {
		b, c := start(t, nil)
		b.answers["GET "+system] = text(200, strings.TrimSuffix(systemBody, "}")+
			`, "VirtualMedia": {"@odata.id": "`+drives+`"}}`)
		var links []string
		for _, m := range members {
			links = append(links, `{"@odata.id": "`+drives+"/"+m.name+`"}`)
			b.answers["GET "+drives+"/"+m.name] = text(200, drive(m.more))
		}
		b.answers["GET "+drives] = text(200, `{"Members": [`+strings.Join(links, ",")+`]}`)
		d, err := c.DriveFor(t.Context(), read(t, c), redfish.CD)
		if err != nil || d == nil || d.Path != drives+"/"+want {
			t.Errorf("%s: %+v, %v", want, d, err)
		}
	}
}

// HPE's name the messages of an error and leave the text to a registry.
func TestAMessageWithoutATextIsTold(t *testing.T) {
	t.Parallel()
	s, b, c := simulated(t, sim.Options{Model: sim.ILO4}, sim.Quirks{})
	b.Refuse(sim.ErrUnreachable)
	d, err := c.DriveFor(t.Context(), read(t, c), redfish.CD)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Insert(t.Context(), d, "http://192.0.2.1/a.iso")
	var refused *redfish.StatusError
	if !errors.As(err, &refused) || refused.Text != "Base.0.10.CouldNotEstablishConnection" {
		t.Errorf("error %v", err)
	}
	if s.Inserted(sim.VirtualCD) != "" {
		t.Error("it is inserted")
	}
}
