package redfish_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

func TestSensors(t *testing.T) {
	for name, model := range kinds {
		s, _, tk, f := faulty(t, model, sim.Quirks{})
		got, err := f.Management().Sensors(t.Context(), tk, nil)
		if err != nil || got.Cut {
			t.Fatalf("%s: cut %v, %v", name, got.Cut, err)
		}
		all := got.All
		fan := slices.IndexFunc(all, func(r driver.Reading) bool { return r.Name == "Fan 1" })
		if fan < 0 || all[fan].Kind != driver.Fan || all[fan].Unit != driver.RPM || all[fan].Health != "OK" {
			t.Errorf("%s: %+v", name, all)
		}
		for _, r := range all {
			if !slices.Contains([]string{driver.Temperature, driver.Fan, driver.PowerUse, driver.Voltage, driver.DriveHealth},
				r.Kind) || r.Value != nil && !slices.Contains([]string{driver.Celsius, driver.RPM, driver.Watt, driver.Volt}, r.Unit) {
				t.Errorf("%s: %+v", name, r)
			}
		}
		fans, err := f.Management().Sensors(t.Context(), tk, []string{driver.Fan})
		if err != nil || len(fans.All) != 2 {
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

// A resource that never answers, or is always busy, costs its own readings; whatever the BMC tells of them it is asked
// once, and its turn is free then.
func TestAResourceThatIsNotToldCostsNoOther(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	t.Cleanup(func() { close(released) }) // before the server is closed
	for name, bad := range map[string]func(w http.ResponseWriter, r *http.Request){
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-released:
			}
		},
		"busy": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}} {
		for _, all := range []bool{false, true} {
			s, _, tk, f := faulty(t, "", sim.Quirks{})
			tk.Node.DriverInfo["redfish_address"] = front(t, s, func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, sim.ChassisPath) || !all && !strings.HasSuffix(r.URL.Path, "/Thermal") {
					return false
				}
				bad(w, r)
				return true
			})
			got, err := f.Management().Sensors(t.Context(), tk, []string{driver.Temperature, driver.PowerUse})
			if power := slices.ContainsFunc(got.All, func(r driver.Reading) bool { return r.Kind == driver.PowerUse }); !all &&
				(!power || !got.Cut || err != nil) || all && (ingot.KindOf(err) != ingot.Unavailable || len(got.All) > 0) {
				t.Errorf("%s, all %v: %+v, %v", name, all, got, err)
			}
			if _, err := f.Power().PowerState(t.Context(), tk); err != nil {
				t.Errorf("%s: the power state after that: %v", name, err)
			}
			begun := 0
			for _, r := range s.Requests() {
				if r.Method == http.MethodPost && r.Status == http.StatusCreated {
					begun++
				}
			}
			if begun != 2 || open(s) != 0 { // one for the sensors, one for the power state
				t.Errorf("%s, all %v: %d sessions, %d are left", name, all, begun, open(s))
			}
		}
	}
}

// A BMC that never gets on with it holds up those who switch its machine for half of their time.
func TestSensorsTakeHalfOfTheTimeThatOthersHave(t *testing.T) {
	t.Parallel()
	s, _, tk, _ := faulty(t, "", sim.Quirks{})
	released := make(chan struct{})
	tk.Node.DriverInfo["redfish_address"] = front(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-r.Context().Done():
		case <-released:
		}
		return true
	})
	t.Cleanup(func() { close(released) })
	tk.PowerTimeout = time.Second
	f := family(redfish.Options{Timeout: time.Hour})
	if got, err := f.Management().Sensors(t.Context(), tk, nil); ingot.KindOf(err) != ingot.Unavailable ||
		!strings.Contains(err.Error(), "did not answer within 125ms") {
		t.Errorf("%+v, %v", got, err)
	}
}
