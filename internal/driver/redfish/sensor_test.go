package redfish_test

import (
	"net/http"
	"slices"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

func TestSensors(t *testing.T) {
	for name, model := range kinds {
		s, _, tk, f := faulty(t, model, sim.Quirks{})
		all, err := f.Management().Sensors(t.Context(), tk, nil)
		if err != nil {
			t.Fatal(err)
		}
		fan := slices.IndexFunc(all, func(r driver.Reading) bool { return r.Name == "Fan 1" })
		if fan < 0 || all[fan].Kind != driver.Fan || all[fan].Unit != driver.RPM || all[fan].Health != "OK" {
			t.Errorf("%s: %+v", name, all)
		}
		for _, r := range all {
			if !slices.Contains(driver.SensorKinds, r.Kind) ||
				r.Value != nil && !slices.Contains([]string{driver.Celsius, driver.RPM, driver.Watt, driver.Volt}, r.Unit) {
				t.Errorf("%s: %+v", name, r)
			}
		}
		fans, err := f.Management().Sensors(t.Context(), tk, []string{driver.Fan})
		if err != nil || len(fans) != 2 {
			t.Errorf("%s: fans %+v, %v", name, fans, err)
		}
		if n := open(s); n != 0 {
			t.Errorf("%s: %d sessions were left", name, n)
		}
		for _, r := range s.Requests() {
			if r.Method == http.MethodPatch {
				t.Errorf("%s: something was changed: %v", name, r)
			}
		}
	}
}

func TestSensorsOfAnotherMachineAreNotTheNodes(t *testing.T) {
	_, _, tk := start(t, sim.Options{})
	tk.Node.DriverInfo["redfish_system_uuid"] = uuidB
	if got, err := family(redfish.Options{}).Management().Sensors(t.Context(), tk, nil); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("read %+v, %v", got, err)
	}
}
