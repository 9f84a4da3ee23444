package redfish_test

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"ingot/internal/redfish"
)

// FuzzBody reads a body as everything that it could be. What is repeated of it is one line and short, and
// no link leads elsewhere.
func FuzzBody(f *testing.F) {
	for _, body := range []string{systemBody, errorBody, `{"Members": [{"@odata.id": "/a"}, 7, null]}`,
		`{"TaskState": "Exception", "Messages": {"Message": "no\nway"}}`, `null`, "\xef\xbb\xbf{}", `[`,
		`{"Oem": {"Hp": {"Actions": {"#HpiLOVirtualMedia.1.1.0.InsertVirtualMedia": {"target": "/x"}, "a": 7},
			"BootOnNextServerReset": "yes"}, "Hpe": null}, "MediaTypes": "CD"}`,
		`{"SecureBootEnable": "on", "SecureBootMode": 7, "Actions": {"#SecureBoot.ResetKeys": {"target": "https://x/y",
			"ResetKeysType@Redfish.AllowableValues": ["ResetAllKeysToDefault"]}}}`,
		`{"Attributes": {"a": 1, "b": [], "c": null}, "AttributeRegistry": "r", "Actions": {"#Bios.ResetBios":
			{"target": "/r"}}, "@Redfish.Settings": {"SettingsObject": {"@odata.id": "/s"}}}`,
		`{"links": {"Settings": {"href": "/rest/v1/s"}, "BaseConfigs": {"href": 7}}, "Id": "1", "BootMode": "Uefi"}`,
		`{"Id": "r", "Location": [{"Language": "de", "Uri": "/de"}, {"Language": "en", "Uri": "https://h/en"}]}`,
		`{"RegistryEntries": {"Attributes": [{"AttributeName": "a", "Type": 7, "UpperBound": 1e300, "Value":
			[{"ValueName": "x"}, 7]}, null, {"AttributeName": "b", "DefaultValue": {}}]}}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_, text := redfish.DecodeError(body)
		for _, words := range []string{text, redfish.TaskEnd(body)} {
			if len(words) > redfish.MaxText+len("...") || strings.ContainsFunc(words, unicode.IsControl) {
				t.Errorf("%q", words)
			}
		}
		paths, _ := redfish.DecodeMembers(body)
		for _, p := range paths {
			if !strings.HasPrefix(p, "/") {
				t.Errorf("path %q", p)
			}
		}
		redfish.DecodeActionInfo(body)
		at := redfish.Insertions(body)
		if len(at) == 0 || slices.ContainsFunc(at, func(p string) bool { return !strings.HasPrefix(p, "/") }) {
			t.Errorf("media are sent to %q", at)
		}
		if b, _ := redfish.DecodeSecureBoot(body); b.TakesDefaultKeys() &&
			!strings.HasPrefix(redfish.Location(b.Actions.ResetKeys.Path), "/") {
			t.Errorf("keys are reset at %q", b.Actions.ResetKeys.Path)
		}
		if b, _ := redfish.DecodeBIOS(body); b.Resets() && redfish.Location(b.Actions.Reset.Path) == "" {
			t.Errorf("the BIOS is reset at %q", b.Actions.Reset.Path)
		}
		if b := redfish.DecodeHPE(body); b.Settings.Object.ID != "" && !strings.HasPrefix(b.Settings.Object.ID, "/") ||
			b.Attributes["Id"] != nil {
			t.Errorf("%+v", b)
		}
		for name, a := range redfish.DecodeRegistry(body) {
			if name == "" || name != a.Name || len(a.Allowed()) != len(a.Values) {
				t.Errorf("%q is %+v", name, a)
			}
			redfish.Whole(a.UpperBound)
		}
		if at := redfish.RegistryFile(body, "r"); at != "" && !strings.HasPrefix(at, "/") {
			t.Errorf("the registry is at %q", at)
		}
		s, _ := redfish.DecodeSystem(body)
		if s.Boot.Override() == "None" {
			t.Error("None is a device")
		}
	})
}

// FuzzLocation reads links of headers: what comes of them is a path that may stand in a request.
func FuzzLocation(f *testing.F) {
	for _, l := range []string{"/redfish/v1/Systems/1", "https://10.0.0.1/a%2fb?c=d", "//host/x", "x", "/%zz",
		"https://h//other/x", ""} {
		f.Add(l)
	}
	f.Fuzz(func(t *testing.T, l string) {
		got := redfish.Location(l)
		if got != "" && !strings.HasPrefix(got, "/") || strings.ContainsAny(got, " \r\n") {
			t.Errorf("%q is %q", l, got)
		}
	})
}

// FuzzSensors reads a body as each of the resources that tell of sensors, with links to itself: it ends, and what
// comes of it are numbers, short texts of one line, and IDs that are one reading's each.
func FuzzSensors(f *testing.F) {
	for _, body := range []string{
		`{"Id": "1", "Thermal": {"@odata.id": "/t"}, "Power": {"@odata.id": "/p"}, "Temperatures": [{"MemberId": "0", "Name":
			"CPU", "ReadingCelsius": 48.5, "PhysicalContext": "CPU", "Status": {"State": "Enabled", "Health": "OK"}}, null, 7],
			"Fans": [{"Reading": 10, "ReadingUnits": "Percent"}], "PowerSupplies": [{"MemberId": 0, "LineInputVoltage": 230}],
			"Voltages": [{"ReadingVolts": "12"}], "PowerControl": [{"PowerConsumedWatts": 1e300}]}`,
		`{"ThermalSubsystem": {"@odata.id": "/a"}, "ThermalMetrics": {"@odata.id": "/a"}, "PowerSubsystem": {"@odata.id": "/a"},
			"PowerSupplies": {"@odata.id": "/a"}, "Metrics": {"@odata.id": "/a"}, "Members": [{"@odata.id": "/a"}, {"@odata.id":
			"/b"}], "EnvironmentMetrics": {"@odata.id": "/a"}, "PowerWatts": {"Reading": 3}, "OutputPowerWatts": {"Reading": 4,
			"DataSourceUri": "/s"}, "TemperatureReadingsCelsius": [{"Reading": 5, "DataSourceUri": "/s/"}]}`,
		`{"Fans": {"@odata.id": "/a"}, "ThermalSubsystem": {"@odata.id": "/a"}, "Members": [{"@odata.id": "/a"}], "SpeedPercent":
			{"Reading": 1, "SpeedRPM": null}, "Sensors": {"@odata.id": "/s"}, "ReadingType": "Voltage", "Reading": -3}`,
		`{"Storage": {"@odata.id": "/s"}, "Members": [{"@odata.id": "/1"}], "Drives": [{"@odata.id": "/d"}], "Name": "a\nb",
			"Devices": [{"Name": "x", "Status": {"Health": "Critical"}}], "SimpleStorage": {"@odata.id": "/s"}}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, _ := redfish.SensorsOf(body)
		seen := map[string]bool{}
		for _, r := range got.All {
			key := string(r.Kind) + " " + r.ID
			if seen[key] || r.Value == nil && r.Health == "" || r.Value != nil && !(*r.Value >= -1e9 && *r.Value <= 1e9) {
				t.Errorf("%+v", r)
			}
			seen[key] = true
			for _, text := range []string{r.ID, r.Name, r.Context} {
				if len(text) > 200 || strings.ContainsFunc(text, unicode.IsControl) || !utf8.ValidString(text) {
					t.Errorf("%q", text)
				}
			}
		}
		if len(got.All) > 256 {
			t.Errorf("%d readings", len(got.All))
		}
	})
}
