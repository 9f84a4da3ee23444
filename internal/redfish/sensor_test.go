package redfish_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/redfish"
	sim "ingot/internal/sim/redfish"
)

// lines are readings, one a line, in a fixed order.
func lines(all []redfish.Reading) string {
	var out []string
	for _, r := range all {
		value := "-"
		if r.Value != nil {
			value = fmt.Sprint(*r.Value, " ", r.Unit)
		}
		out = append(out, strings.TrimRight(fmt.Sprintf("%s %s | %s | %s | %s | %s", r.Kind, r.ID, r.Name, r.Context,
			value, r.Health), " "))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// sensors are the readings of a machine.
func sensors(t *testing.T, c *redfish.Client, kinds ...redfish.Kind) redfish.Readings {
	t.Helper()
	got, err := c.Sensors(t.Context(), read(t, c), kinds)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSensorsOfASimulatedMachine(t *testing.T) {
	t.Parallel()
	want := map[bool]string{false: `Drive 1/1@1 | Disk 1 |  | - | OK
Fan 0@1 | Fan 1 | SystemBoard | 5400 RPM | OK
Fan 1@1 | Fan 2 | SystemBoard | 5280 RPM | Critical
Power 0#0@1 | PSU 1 | PowerSupply | 96 W | OK
Power 0@1 | Total | Chassis | 188 W | OK
Power 1@1 | PSU 2 | PowerSupply | 92 W | Warning
Temperature 0@1 | CPU 1 | CPU | 48 Cel | OK
Temperature 1@1 | Inlet | Intake | 23.5 Cel | OK
Voltage 0#0@1 | PSU 1 | PowerSupply | 230 V |
Voltage 0@1 | +12 V | SystemBoard | 12.06 V | OK
Voltage 1@1 | PSU 2 | PowerSupply | 229.5 V |`,
		true: `Drive 1/1@1 | Disk 1 |  | - | OK
Fan 1@1 | Fan 1 | SystemBoard | 5400 RPM | OK
Fan 2@1 | Fan 2 | SystemBoard | 5280 RPM | Critical
Power 1@1 | PSU 1 | PowerSupply | 96 W | OK
Power 2@1 | PSU 2 | PowerSupply | 92 W | Warning
Power TotalPower@1 | PowerWatts | Chassis | 188 W |
Temperature CPU1Temp@1 | CPU 1 | CPU | 48 Cel |
Temperature InletTemp@1 | Inlet | Intake | 23.5 Cel |
Voltage 1@1 | PSU 1 | PowerSupply | 230 V |
Voltage 2@1 | PSU 2 | PowerSupply | 229.5 V |
Voltage P12V@1 | +12 V | SystemBoard | 12.06 V | OK`}
	for _, model := range []sim.Model{"", sim.ILO5} {
		for subsystems, want := range want {
			s, b, c := simulated(t, sim.Options{Model: model, DiskBytes: []int64{1 << 40}}, sim.Quirks{Subsystems: subsystems})
			if err := b.Switch(t.Context(), sim.PowerOn); err != nil {
				t.Fatal(err)
			}
			s.SetPart("Fan 2", "Critical")
			s.SetPart("PSU 2", "Warning")
			got := sensors(t, c)
			if text := lines(got.All); text != want || got.Cut {
				t.Errorf("model %q, subsystems %v, cut %v:\n%s", model, subsystems, got.Cut, text)
			}
		}
	}
}

// A machine that is off has fewer readings, and none that is 0 for want of one.
func TestSensorsOfAMachineThatIsOff(t *testing.T) {
	t.Parallel()
	for _, subsystems := range []bool{false, true} {
		_, _, c := simulated(t, sim.Options{}, sim.Quirks{Subsystems: subsystems})
		for _, r := range sensors(t, c).All {
			if r.Name == "CPU 1" && r.Value != nil || r.Name == "Inlet" && (r.Value == nil || *r.Value != 22) ||
				r.Kind == redfish.Fan && (r.Value == nil || *r.Value != 0) {
				t.Errorf("subsystems %v: %+v", subsystems, r)
			}
		}
	}
}

// Of what nobody wants to know the BMC is not asked.
func TestOnlyTheSensorsThatAreWantedAreRead(t *testing.T) {
	t.Parallel()
	for kind, wants := range map[redfish.Kind]string{redfish.Temperature: "Thermal", redfish.Fan: "Thermal",
		redfish.Power: "Power", redfish.Voltage: "Power", redfish.DriveHealth: "Storage"} {
		for _, subsystems := range []bool{false, true} {
			s, _, c := simulated(t, sim.Options{DiskBytes: []int64{1}}, sim.Quirks{Subsystems: subsystems})
			got := sensors(t, c, kind)
			if len(got.All) == 0 || slices.ContainsFunc(got.All, func(r redfish.Reading) bool { return r.Kind != kind }) {
				t.Errorf("%s: %s", kind, lines(got.All))
			}
			for _, other := range []string{"Thermal", "Power", "Storage"} {
				asked := slices.ContainsFunc(s.Requests(), func(r sim.Request) bool { return strings.Contains(r.Path, "/"+other) })
				if asked != (other == wants) {
					t.Errorf("%s, subsystems %v: asked for %s: %v", kind, subsystems, other, asked)
				}
			}
		}
	}
}

const (
	chassis = "/redfish/v1/Chassis/1U"
	// chassisOld and chassisNew are in the shape of DMTF's mock-ups of a rack server.
	chassisOld = `{"@odata.id": "` + chassis + `", "Id": "1U", "Thermal": {"@odata.id": "` + chassis + `/Thermal"},
		"Power": {"@odata.id": "` + chassis + `/Power"}}`
	withChassis = `{"@odata.id": "` + system + `", "Links": {"Chassis": [{"@odata.id": "` + chassis + `"}]}}`
)

// of reads the sensors of a BMC with some answers besides the usual ones.
func of(t *testing.T, answers map[string]http.HandlerFunc) (redfish.Readings, *bmc, error) {
	t.Helper()
	all := map[string]http.HandlerFunc{"GET " + system: text(200, withChassis), "GET " + chassis: text(200, chassisOld)}
	for what, answer := range answers {
		all[what] = answer
	}
	b, _ := start(t, all)
	c := b.client(t, redfish.Options{Timeout: time.Second})
	s, err := c.System(t.Context(), system)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Sensors(t.Context(), s, nil)
	return got, b, err
}

// What firmware writes in the place of a reading is none, and spoils no other.
func TestReadingsThatAreNoneAreLeftOut(t *testing.T) {
	t.Parallel()
	got, _, err := of(t, map[string]http.HandlerFunc{
		"GET " + chassis + "/Thermal": text(200, `{"Temperatures": [
			{"MemberId": "0", "Name": "null", "ReadingCelsius": null},
			{"MemberId": "1", "Name": "text", "ReadingCelsius": "48", "Status": {"Health": "OK"}},
			{"MemberId": "2", "Name": "object", "ReadingCelsius": {"x": 1}},
			{"MemberId": "3", "Name": "too cold", "ReadingCelsius": -500},
			{"MemberId": "4", "Name": "absent", "ReadingCelsius": 0, "Status": {"State": "Absent", "Health": "OK"}},
			{"MemberId": 5, "Name": "CPU\n1 \u001b[31m`+strings.Repeat("x", 200)+`", "ReadingCelsius": 0, "Oem": {"a": []},
				"PhysicalContext": 7, "Status": {"Health": "Fine"}},
			7, null, "x",
			{"Name": "no id", "ReadingCelsius": 1e1}, {"ReadingCelsius": 11}, {"ReadingCelsius": 12},
			{"MemberId": "5", "ReadingCelsius": 1e400}],
			"Fans": {"MemberId": "0"}, "Redundancy": "none"}`),
		"GET " + chassis + "/Power": text(404, ""),
	})
	want := `Temperature #0@1U |  |  | 11 Cel |
Temperature #1@1U |  |  | 12 Cel |
Temperature 1@1U | text |  | - | OK
Temperature 5@1U | CPU 1 [31m` + strings.Repeat("x", 54) + ` | 7 | 0 Cel |
Temperature no id@1U | no id |  | 10 Cel |`
	if text := lines(got.All); text != want || err != nil {
		t.Errorf("%v:\n%s", err, text)
	}
}

func TestWhatABMCDoesNotHaveOrRefusesIsLeftOut(t *testing.T) {
	t.Parallel()
	power := text(200, `{"PowerSupplies": [{"MemberId": "0", "LastPowerOutputWatts": 90, "Status": {"Health": "OK"}}],
		"PowerControl": [{"PowerConsumedWatts": 120}], "Voltages": [{"MemberId": "9", "ReadingVolts": -12.1}]}`)
	want := `Power 0@1U |  | PowerSupply | 90 W | OK
Power PowerControl@1U | PowerControl | Chassis | 120 W |
Voltage 9@1U |  |  | -12.1 V |`
	for name, thermal := range map[string]http.HandlerFunc{"gone": text(404, ""), "broken": text(500, "oops"),
		"no JSON": text(200, "<html>"), "a list": text(200, "[1]"), "forbidden": text(403, errorBody)} {
		got, _, err := of(t, map[string]http.HandlerFunc{"GET " + chassis + "/Power": power, "GET " + chassis + "/Thermal": thermal})
		if text := lines(got.All); text != want || err != nil {
			t.Errorf("%s: %v:\n%s", name, err, text)
		}
	}
	// One that refuses everything is told, one that has nothing has nothing.
	no := text(403, errorBody)
	var refused *redfish.StatusError
	if _, _, err := of(t, map[string]http.HandlerFunc{"GET " + chassis: no}); !errors.As(err, &refused) || refused.Status != 403 {
		t.Errorf("refused: %v", err)
	}
	if got, _, err := of(t, map[string]http.HandlerFunc{"GET " + chassis: text(404, "")}); err != nil || len(got.All) > 0 {
		t.Errorf("nothing: %+v, %v", got, err)
	}
}

func TestABMCThatIsBusyTellsNoSensors(t *testing.T) {
	t.Parallel()
	var refused *redfish.StatusError
	_, _, err := of(t, map[string]http.HandlerFunc{"GET " + chassis + "/Thermal": text(503, errorBody, "Retry-After", "60")})
	if !errors.As(err, &refused) || !refused.Busy() {
		t.Errorf("%v", err)
	}
	got, _, err := of(t, map[string]http.HandlerFunc{"GET " + chassis + "/Thermal": inTurn(text(503, "", "Retry-After", "0"),
		text(200, `{"Fans": [{"FanName": "Fan A", "CurrentReading": 30, "Units": "Percent"}]}`))})
	if text := lines(got.All); text != "Fan Fan A@1U | Fan A |  | 30 % |" || err != nil {
		t.Errorf("%v:\n%s", err, text)
	}
}

// OpenBMC tells the health of fans by ThermalSubsystem, and their speed by a sensor alone. What a sensor is repeated
// of elsewhere is not read again, and of kinds that are told nothing is.
func TestSensorsAreReadForWhatIsToldInNoOtherWay(t *testing.T) {
	t.Parallel()
	at := func(what string) string { return `{"@odata.id": "` + chassis + what + `"}` }
	sensor := func(kind string, value any) http.HandlerFunc {
		return text(200, fmt.Sprintf(`{"Id": "x%s", "Name": "a", "ReadingType": "%s", "Reading": %v, "Status": {"Health": "OK"}}`,
			kind, kind, value))
	}
	got, b, err := of(t, map[string]http.HandlerFunc{
		"GET " + chassis: text(200, `{"Id": "1U", "ThermalSubsystem": `+at("/T")+`, "Sensors": `+at("/S")+`,
			"EnvironmentMetrics": `+at("/E")+`, "PowerSubsystem": `+at("/missing")+`}`),
		"GET " + chassis + "/T": text(200, `{"Fans": `+at("/F")+`, "ThermalMetrics": `+at("/M")+`}`),
		"GET " + chassis + "/F": text(200, `{"Members": [`+at("/F/0")+`]}`),
		"GET " + chassis + "/F/0": text(200, `{"Id": "0", "Name": "Fan 0", "Status": {"State": "Enabled", "Health": "OK"},
			"SpeedPercent": null}`),
		"GET " + chassis + "/M": text(200, `{"TemperatureReadingsCelsius": [
			{"DeviceName": "CPU", "Reading": 40, "DataSourceUri": "`+chassis+`/S/cpu"},
			{"DeviceName": "CPU", "Reading": 40, "DataSourceUri": "https://other`+chassis+`/S/cpu/"}]}`),
		"GET " + chassis + "/E": text(200, `{"PowerWatts": {"Reading": null}}`),
		"GET " + chassis + "/S": text(200, `{"Members": [`+strings.Join([]string{at("/S/cpu"), at("/S/tach"), at("/S/volt"),
			at("/S/watt"), at("/S/temp"), at("/S/load"), at("/S/gone")}, ", ")+`]}`),
		"GET " + chassis + "/S/cpu":  sensor("Temperature", 40),
		"GET " + chassis + "/S/tach": sensor("Rotational", 7000),
		"GET " + chassis + "/S/volt": sensor("Voltage", 3.3),
		"GET " + chassis + "/S/watt": sensor("Power", 100),
		"GET " + chassis + "/S/temp": sensor("Temperature", 30),
		"GET " + chassis + "/S/load": sensor("Percent", 3),
	})
	want := `Fan 0@1U | Fan 0 |  | - | OK
Fan xRotational@1U | a |  | 7000 RPM | OK
Temperature cpu@1U | CPU |  | 40 Cel |
Voltage xVoltage@1U | a |  | 3.3 V | OK`
	if text := lines(got.All); text != want || err != nil {
		t.Errorf("%v:\n%s", err, text)
	}
	if n := b.times("GET " + chassis + "/S/cpu"); n != 0 {
		t.Errorf("read %d times", n)
	}
}

func TestSensorsAreBounded(t *testing.T) {
	t.Parallel()
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf(`{"MemberId": "%d", "ReadingCelsius": 1, "@odata.id": "%s/S/%d"}`, i, chassis, i)
	}
	list := strings.Join(many, ", ")
	got, _, err := of(t, map[string]http.HandlerFunc{"GET " + chassis + "/Thermal": text(200, `{"Temperatures": [`+list+`]}`)})
	if err != nil || len(got.All) != 256 || !got.Cut {
		t.Errorf("%d readings, cut %v, %v", len(got.All), got.Cut, err)
	}
	// As many chassis as one likes, each with as many sensors.
	var all []string
	answers := map[string]http.HandlerFunc{}
	for i := range 20 {
		at := fmt.Sprintf("%s/%d", chassis, i)
		all = append(all, `{"@odata.id": "`+at+`"}`, `{"@odata.id": "`+at+`/"}`)
		answers["GET "+at] = text(200, `{"Sensors": {"@odata.id": "`+chassis+`/S"}}`)
	}
	answers["GET "+system] = text(200, `{"Links": {"Chassis": [`+strings.Join(all, ", ")+`]}}`)
	answers["GET "+chassis+"/S"] = text(200, `{"Members": [`+list+`]}`)
	got, b, err := of(t, answers)
	if asked := len(b.asked); err != nil || !got.Cut || asked > 140 {
		t.Errorf("%d requests, cut %v, %v", asked, got.Cut, err)
	}
}

// What was read of a slow BMC counts when the time is up.
func TestWhatWasReadInTimeIsKept(t *testing.T) {
	t.Parallel()
	b, _ := start(t, map[string]http.HandlerFunc{"GET " + system: text(200, withChassis), "GET " + chassis: text(200, chassisOld),
		"GET " + chassis + "/Thermal": text(200, `{"Temperatures": [{"ReadingCelsius": 20}]}`)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.answers["GET "+chassis+"/Power"] = func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}
	c := b.client(t, redfish.Options{})
	s, err := c.System(ctx, system)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Sensors(ctx, s, nil)
	if err != nil || len(got.All) != 1 || !got.Cut {
		t.Errorf("%+v, %v", got, err)
	}
}
