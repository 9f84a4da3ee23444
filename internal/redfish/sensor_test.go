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
Fan Fans/0@1 | Fan 1 | SystemBoard | 5400 RPM | OK
Fan Fans/1@1 | Fan 2 | SystemBoard | 5280 RPM | Critical
Power PowerControl/0@1 | Total | Chassis | 188 W | OK
Power PowerSupplies/0@1 | PSU 1 | PowerSupply | 96 W | OK
Power PowerSupplies/1@1 | PSU 2 | PowerSupply | 92 W | Warning
Temperature Temperatures/0@1 | CPU 1 | CPU | 48 Cel | OK
Temperature Temperatures/1@1 | Inlet | Intake | 23.5 Cel | OK
Voltage PowerSupplies/0@1 | PSU 1 | PowerSupply | 230 V |
Voltage PowerSupplies/1@1 | PSU 2 | PowerSupply | 229.5 V |
Voltage Voltages/0@1 | +12 V | SystemBoard | 12.06 V | OK`,
		true: `Drive 1/1@1 | Disk 1 |  | - | OK
Fan Fans/1@1 | Fan 1 | SystemBoard | 5400 RPM | OK
Fan Fans/2@1 | Fan 2 | SystemBoard | 5280 RPM | Critical
Power PowerSupplies/1@1 | PSU 1 | PowerSupply | 96 W | OK
Power PowerSupplies/2@1 | PSU 2 | PowerSupply | 92 W | Warning
Power Sensors/TotalPower@1 | PowerWatts | Chassis | 188 W |
Temperature Sensors/CPU1Temp@1 | CPU 1 | CPU | 48 Cel |
Temperature Sensors/InletTemp@1 | Inlet | Intake | 23.5 Cel |
Voltage PowerSupplies/1@1 | PSU 1 | PowerSupply | 230 V |
Voltage PowerSupplies/2@1 | PSU 2 | PowerSupply | 229.5 V |
Voltage Sensors/P12V@1 | +12 V | SystemBoard | 12.06 V | OK`}
	for _, model := range []sim.Model{"", sim.ILO5} {
		for subsystems, want := range want {
			s, b, c := simulated(t, sim.Options{Model: model, DiskBytes: []int64{1 << 40}}, sim.Quirks{Subsystems: subsystems})
			if err := b.Switch(t.Context(), sim.PowerOn); err != nil {
				t.Fatal(err)
			}
			s.SetPart("Fan 2", "Critical")
			s.SetPart("PSU 2", "Warning")
			got := sensors(t, c, redfish.Kinds...)
			if text := lines(got.All); text != want || got.Cut {
				t.Errorf("model %q, subsystems %v, cut %v:\n%s", model, subsystems, got.Cut, text)
			}
			// It is the same part when it is off, whichever others have a value then.
			if err := b.Switch(t.Context(), sim.ForceOff); err != nil {
				t.Fatal(err)
			}
			for _, r := range sensors(t, c, redfish.Kinds...).All {
				if !strings.Contains(want, fmt.Sprintf("%s %s | %s |", r.Kind, r.ID, r.Name)) {
					t.Errorf("subsystems %v: a machine that is off has %+v", subsystems, r)
				}
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
		redfish.PowerUse: "Power", redfish.Voltage: "Power", redfish.DriveHealth: "Storage"} {
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
	want := `Temperature Temperatures/#2@1U |  |  | 11 Cel |
Temperature Temperatures/#3@1U |  |  | 12 Cel |
Temperature Temperatures/1@1U | text |  | - | OK
Temperature Temperatures/5@1U | CPU 1 [31m` + strings.Repeat("x", 54) + ` | 7 | 0 Cel |
Temperature Temperatures/no id@1U | no id |  | 10 Cel |`
	if text := lines(got.All); text != want || err != nil {
		t.Errorf("%v:\n%s", err, text)
	}
}

func TestWhatABMCDoesNotHaveOrRefusesIsLeftOut(t *testing.T) {
	t.Parallel()
	power := text(200, `{"PowerSupplies": [{"MemberId": "0", "LastPowerOutputWatts": 90, "Status": {"Health": "OK"}}],
		"PowerControl": [{"PowerConsumedWatts": 120}, {"MemberId": "cpu", "PowerConsumedWatts": 40}], "Voltages": [{"MemberId": "9", "ReadingVolts": -12.1}]}`)
	want := `Power PowerControl/PowerControl@1U | PowerControl | Chassis | 120 W |
Power PowerControl/cpu@1U | PowerControl |  | 40 W |
Power PowerSupplies/0@1U |  | PowerSupply | 90 W | OK
Voltage Voltages/9@1U |  |  | -12.1 V |`
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

// What a BMC cannot tell now costs it the others only if it happens twice, and these no more time.
func TestAResourceThatHangsOrIsBusySpoilsNoOther(t *testing.T) {
	t.Parallel()
	busy := text(503, errorBody, "Retry-After", "60")
	released := make(chan struct{})
	hangs := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-released:
		}
	}
	t.Cleanup(func() { close(released) })
	for name, bad := range map[string]http.HandlerFunc{"hangs": hangs, "busy": busy} {
		at := func(what string) string { return `{"@odata.id": "` + chassis + what + `"}` }
		got, _, err := of(t, map[string]http.HandlerFunc{"GET " + chassis + "/Thermal": bad,
			"GET " + chassis + "/Power": text(200, `{"Voltages": [{"MemberId": "9", "ReadingVolts": 3}]}`)})
		if text := lines(got.All); text != "Voltage Voltages/9@1U |  |  | 3 V |" || !got.Cut || err != nil {
			t.Errorf("%s: cut %v, %v:\n%s", name, got.Cut, err, text)
		}
		got, b, err := of(t, map[string]http.HandlerFunc{
			"GET " + chassis:          text(200, `{"Id": "1U", "Thermal": `+at("/T")+`, "Sensors": `+at("/S")+`}`),
			"GET " + chassis + "/T":   text(200, `{"Temperatures": [{"MemberId": "0", "ReadingCelsius": 20}]}`),
			"GET " + chassis + "/S":   text(200, `{"Members": [`+at("/S/0")+`, `+at("/S/1")+`, `+at("/S/2")+`]}`),
			"GET " + chassis + "/S/0": bad, "GET " + chassis + "/S/1": bad,
			"GET " + chassis + "/S/2": text(200, `{"ReadingType": "Voltage", "Reading": 1}`)})
		if text := lines(got.All); text != "Temperature Temperatures/0@1U |  |  | 20 Cel |" || !got.Cut || err != nil {
			t.Errorf("%s twice: cut %v, %v:\n%s", name, got.Cut, err, text)
		}
		if n := b.times("GET " + chassis + "/S/2"); n != 0 {
			t.Errorf("%s twice: the next one was read", name)
		}
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
	if text := lines(got.All); text != "Fan Fans/Fan A@1U | Fan A |  | 30 % |" || err != nil {
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
	want := `Fan Fans/0@1U | Fan 0 |  | - | OK
Fan Sensors/tach@1U | a |  | 7000 RPM |
Temperature Sensors/cpu@1U | CPU |  | 40 Cel |
Voltage Sensors/volt@1U | a |  | 3.3 V | OK`
	if text := lines(got.All); text != want || err != nil {
		t.Errorf("%v:\n%s", err, text)
	}
	if n := b.times("GET " + chassis + "/S/cpu"); n != 0 {
		t.Errorf("read %d times", n)
	}
}

// Dozens of requests for voltages that may not be there are for who wants to know them.
func TestSingleSensorsAreNotReadForVoltagesUnasked(t *testing.T) {
	t.Parallel()
	for _, asked := range []bool{false, true} {
		var kinds []redfish.Kind
		if asked {
			kinds = redfish.Kinds
		}
		s, _, c := simulated(t, sim.Options{}, sim.Quirks{Subsystems: true})
		sensors(t, c, kinds...)
		read := slices.ContainsFunc(s.Requests(), func(r sim.Request) bool { return strings.Contains(r.Path, "/Sensors") })
		if read != asked {
			t.Errorf("asked %v, read %v", asked, read)
		}
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
