package redfish_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"ingot/internal/sim/redfish"
	"ingot/internal/testkit"
)

// said are the messages of an iLO's answer.
func said(a answer) string {
	text, err := json.Marshal(a.body["error"])
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func TestPathsOfAnILOEndWithASlash(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, redfish.Options{Model: redfish.ILO5})
	client := *testkit.Web
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Get(s.URL() + "/redfish/v1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "/redfish/v1/" {
		t.Errorf("status %d, to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	a := ask(t, s, "GET", drives+"/", "").want(t, "list the drives", 200)
	if text, err := json.Marshal(a.body["Members"]); err != nil ||
		string(text) != `[{"@odata.id":"`+drives+`/1/"},{"@odata.id":"`+drives+`/2/"}]` {
		t.Errorf("drives %s, %v", text, err)
	}
	a = ask(t, s, "POST", redfish.Root+"SessionService/Sessions/", `{"UserName": "admin", "Password": "secret"}`).
		want(t, "sign in", 201)
	if at := a.header.Get("Location"); !strings.HasPrefix(at, s.URL()) || !strings.HasSuffix(at, "/") {
		t.Errorf("session at %q", at)
	}
}

func TestAnILOTakesMediaItsOwnWay(t *testing.T) {
	t.Parallel()
	const cd = drives + "/2"
	insert := cd + "/Actions/Oem/Hp/HpiLOVirtualMedia.InsertVirtualMedia/"
	s, b := serve(t, redfish.Options{Model: redfish.ILO4})
	a := ask(t, s, "GET", cd+"/", "").want(t, "read the drive", 200)
	if a.body["Actions"] != nil || a.body["Image"] != "" || a.body["Id"] != "2" {
		t.Errorf("drive %v", a.body)
	}
	for _, c := range []struct{ method, path, body, says string }{
		{"POST", cd + "/Actions/VirtualMedia.InsertMedia/", `{"Image": "` + image + `"}`, "ResourceMissingAtURI"},
		{"POST", insert, `{"Image": "` + image + `", "Inserted": true}`, "ActionParameterUnknown"},
		{"POST", insert, `{}`, "ActionParameterMissing"},
		{"PATCH", cd + "/", `{"Inserted": true}`, "PropertyNotWritable"},
		{"PATCH", cd + "/", `{"Oem": {"Hpe": {"BootOnNextServerReset": true}}}`, "PropertyMissing"},
		{"PATCH", redfish.SystemPath + "/", `{"Boot": {"BootSourceOverrideMode": "UEFI"}}`, "PropertyNotWritable"},
		{"POST", redfish.SystemPath + "/Actions/ComputerSystem.Reset/", `{"ResetType": "GracefulShutdown"}`,
			"ActionParameterValueNotInList"},
	} {
		a := ask(t, s, c.method, c.path, c.body)
		if a.status < 400 || !strings.Contains(said(a), `"Base.0.10.`+c.says) {
			t.Errorf("%s %s: %d %s", c.path, c.body, a.status, said(a))
		}
	}
	ask(t, s, "PATCH", cd+"/", `{"Image": "`+image+`", "Oem": {"Hp": {"BootOnNextServerReset": true}}}`).
		want(t, "insert by a property", 200)
	if a := ask(t, s, "POST", insert, `{"Image": "`+image+`"}`); !strings.Contains(said(a), "iLO.0.10.MaxVirtual") {
		t.Errorf("into a full drive: %d %s", a.status, said(a))
	}
	// What lasts is back after the start for which the CD was meant.
	ask(t, s, "PATCH", redfish.SystemPath+"/",
		`{"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Continuous"}}`).
		want(t, "override", 200)
	for _, reset := range []string{"On", "ForceRestart"} {
		a := ask(t, s, "POST", redfish.SystemPath+"/Actions/ComputerSystem.Reset/", `{"ResetType": "`+reset+`"}`).
			want(t, reset, 200)
		if !strings.Contains(said(a), "Base.0.10.Success") {
			t.Errorf("%s: %s", reset, said(a))
		}
	}
	if got := b.Boots(); got[0] != redfish.CD || got[1] != redfish.PXE {
		t.Errorf("booted %v", got)
	}
	ask(t, s, "PATCH", cd+"/", `{"Image": null}`).want(t, "eject", 200)
	if s.Inserted(redfish.VirtualCD) != "" {
		t.Error("it is inserted still")
	}
}
