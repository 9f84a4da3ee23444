package redfish_test

import (
	"encoding/json"
	"testing"

	"ingot/internal/sim/redfish"
)

const (
	drives = redfish.ManagerPath + "/VirtualMedia"
	image  = "http://192.0.2.1/boot.iso"
)

// insert wants a status for an InsertMedia.
func insert(t *testing.T, s *redfish.Service, drive, url string, status int) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"Image": url})
	if err != nil {
		t.Fatal(err)
	}
	ask(t, s, "POST", drive+"/Actions/VirtualMedia.InsertMedia", string(body)).
		want(t, "insert "+url, status)
}

func TestMediaAreInsertedAndEjected(t *testing.T) {
	t.Parallel()
	s, b := serve(t, redfish.Options{})
	wantState := func(inserted bool, url any) {
		t.Helper()
		a := ask(t, s, "GET", drives+"/Cd", "").want(t, "read the drive", 200)
		if a.body["Inserted"] != inserted || a.body["Image"] != url {
			t.Errorf("the drive has %v, want %v in it: %v", a.body, url, inserted)
		}
	}
	wantState(false, nil)
	for _, wrong := range []string{"", "boot.iso", "ftp://192.0.2.1/boot.iso", "http:///boot.iso", "http://%"} {
		insert(t, s, drives+"/Cd", wrong, 400)
	}
	insert(t, s, drives+"/Tape", image, 404)
	insert(t, s, drives+"/Cd", image, 204)
	wantState(true, image)
	insert(t, s, drives+"/Cd", image+"2", 204)
	if got := b.Holds()[redfish.VirtualCD]; got != image+"2" {
		t.Errorf("the machine has %q in its drive", got)
	}
	ask(t, s, "POST", drives+"/Cd/Actions/VirtualMedia.EjectMedia", "").want(t, "eject", 204)
	ask(t, s, "POST", drives+"/Cd/Actions/VirtualMedia.EjectMedia", "{}").want(t, "eject again", 204)
	wantState(false, nil)
	b.Refuse(redfish.ErrUnreachable)
	insert(t, s, drives+"/Cd", image, 400)
	wantState(false, nil)
}

func TestQuirksOfMedia(t *testing.T) {
	t.Parallel()
	s, b := serve(t, redfish.Options{})
	s.SetQuirks(redfish.Quirks{InsertDoesNothing: true})
	insert(t, s, drives+"/Cd", image, 204)
	if s.Inserted(redfish.VirtualCD) != "" || len(b.Holds()) > 0 {
		t.Errorf("a medium is in %v", b.Holds())
	}
	s.SetQuirks(redfish.Quirks{PlainURLs: true})
	insert(t, s, drives+"/Cd", "http://192.0.2.1/boot", 400)
	insert(t, s, drives+"/Cd", image+"?signature=1", 400)
	insert(t, s, drives+"/Cd", image, 204)
	s.SetQuirks(redfish.Quirks{EjectFirst: true})
	insert(t, s, drives+"/Cd", image, 400)
	insert(t, s, drives+"/Floppy", image, 204)
	s.SetQuirks(redfish.Quirks{LoseMediaAtReset: true})
	reset(t, s, redfish.PowerOn, 204)
	if len(b.Holds()) != 2 {
		t.Errorf("after a power on the drives hold %v, want both media", b.Holds())
	}
	reset(t, s, redfish.ForceRestart, 204)
	if len(b.Holds()) != 0 || s.Inserted(redfish.VirtualCD) != "" {
		t.Errorf("after a reset the drives hold %v, want nothing", b.Holds())
	}
	ask(t, s, "GET", redfish.SystemPath+"/VirtualMedia/Cd", "").want(t, "drive of the system", 404)
	s.SetQuirks(redfish.Quirks{MediaUnderSystem: true})
	ask(t, s, "GET", drives+"/Cd", "").want(t, "drive of the manager", 404)
	if got := ask(t, s, "GET", redfish.ManagerPath, "").body["VirtualMedia"]; got != nil {
		t.Errorf("the manager links %v", got)
	}
	insert(t, s, redfish.SystemPath+"/VirtualMedia/Cd", image, 204)
}

func TestQuirksOfSwitches(t *testing.T) {
	t.Parallel()
	s, b := serve(t, redfish.Options{})
	patch := func(boot string, status int) {
		t.Helper()
		ask(t, s, "PATCH", redfish.SystemPath, `{"Boot": `+boot+`}`).want(t, boot, status)
	}
	s.SetQuirks(redfish.Quirks{ForceOffWhenOffFails: true})
	reset(t, s, redfish.ForceOff, 500)
	s.SetQuirks(redfish.Quirks{OnceReadsContinuous: true})
	patch(`{"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}`, 200)
	if got := ask(t, s, "GET", redfish.SystemPath, "").boot()[1]; got != "Continuous" {
		t.Errorf("the override reads %v, want Continuous", got)
	}
	if got := b.Boot().Enabled; got != redfish.Once {
		t.Errorf("the override is %v, want Once", got)
	}
	s.SetQuirks(redfish.Quirks{CDOverrideNeedsMedium: true})
	const cd = `{"BootSourceOverrideTarget": "Cd", "BootSourceOverrideEnabled": "Once"}`
	patch(cd, 500)
	insert(t, s, drives+"/Cd", image, 204)
	patch(cd, 200)
	s.SetQuirks(redfish.Quirks{BusyAfterPowerOn: 2})
	reset(t, s, redfish.PowerOn, 204)
	for range 2 {
		a := ask(t, s, "GET", redfish.SystemPath, "").want(t, "busy", 503)
		if a.header.Get("Retry-After") != "1" {
			t.Errorf("no Retry-After in %v", a.header)
		}
	}
	ask(t, s, "GET", redfish.SystemPath, "").want(t, "ready", 200)
}

func TestActionsAreTasks(t *testing.T) {
	t.Parallel()
	s, b := serve(t, redfish.Options{})
	s.SetQuirks(redfish.Quirks{Tasks: true})
	finish := func(a answer, status int, state string) {
		t.Helper()
		monitor := a.header.Get("Location")
		ask(t, s, "GET", monitor, "").want(t, "a task that runs", 202)
		got := a
		for got.status == 202 { // each look takes a request
			got = ask(t, s, "GET", monitor, "")
		}
		got.want(t, "the task's result", status)
		task := ask(t, s, "GET", a.body["@odata.id"].(string), "").want(t, "the task", 200)
		if task.body["TaskState"] != state {
			t.Errorf("the task is %v, want %s", task.body["TaskState"], state)
		}
	}
	finish(reset(t, s, redfish.PowerOn, 202), 204, "Completed")
	if got := b.PowerState(); got != redfish.On {
		t.Errorf("after the task the machine is %s", got)
	}
	b.Refuse(redfish.ErrUnreachable)
	a := ask(t, s, "POST", drives+"/Cd/Actions/VirtualMedia.InsertMedia", `{"Image": "`+image+`"}`)
	finish(a.want(t, "insert", 202), 400, "Exception")
	if got := ask(t, s, "GET", redfish.Root+"TaskService/Tasks", "").body["Members@odata.count"]; got != 2.0 {
		t.Errorf("%v tasks, want 2", got)
	}
}
