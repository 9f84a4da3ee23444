package redfish_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

func TestMediaAreInsertedAndEjected(t *testing.T) {
	t.Parallel()
	medium := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	t.Cleanup(medium.Close)
	for name, q := range quirks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _, tk := start(t, sim.Options{})
			s.SetQuirks(q)
			m := family(redfish.Options{}).Management()
			first := medium.URL + "/media/1/a/boot.iso"
			for range 2 { // again changes nothing
				if err := m.InsertMedium(t.Context(), tk, driver.CD, first); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.Inserted(sim.VirtualCD); got != first {
				t.Errorf("inserted %q", got)
			}
			next := medium.URL + "/media/1/b/boot.iso"
			if err := m.InsertMedium(t.Context(), tk, driver.CD, next); err != nil || s.Inserted(sim.VirtualCD) != next {
				t.Errorf("another medium: %v, inserted %q", err, s.Inserted(sim.VirtualCD))
			}
			if err := m.EjectMedium(t.Context(), tk, driver.CD, "/media/2/"); err != nil || s.Inserted(sim.VirtualCD) != next {
				t.Errorf("somebody else's: %v, inserted %q", err, s.Inserted(sim.VirtualCD))
			}
			for range 2 {
				if err := m.EjectMedium(t.Context(), tk, driver.CD, "/media/1/"); err != nil {
					t.Error(err)
				}
			}
			if got := s.Inserted(sim.VirtualCD); got != "" {
				t.Errorf("inserted %q", got)
			}
			if n := open(s); n != 0 {
				t.Errorf("%d sessions are left", n)
			}
		})
	}
}

func TestAMediumThatIsTakenAndNotInsertedIsAnError(t *testing.T) {
	t.Parallel()
	s, _, tk := start(t, sim.Options{})
	s.SetQuirks(sim.Quirks{InsertDoesNothing: true})
	err := family(redfish.Options{Timeout: time.Second}).Management().InsertMedium(t.Context(), tk, driver.CD, "http://127.0.0.1:9/boot.iso")
	if err == nil || !strings.Contains(err.Error(), "the drive is empty still") ||
		strings.Contains(err.Error(), "boot.iso") {
		t.Errorf("error %v", err)
	}
}

// Nothing was inserted where there is no drive, so that ejecting holds nobody up.
func TestABMCWithoutDrivesHasNothingToEject(t *testing.T) {
	t.Parallel()
	s, _, tk := start(t, sim.Options{})
	bmc, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(bmc)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(strings.TrimRight(r.URL.Path, "/"), "/VirtualMedia") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	tk.Node.DriverInfo["redfish_address"] = front.URL
	m := family(redfish.Options{}).Management()
	err = m.InsertMedium(t.Context(), tk, driver.CD, "http://127.0.0.1:9/boot.iso")
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "has no virtual CD drive") {
		t.Errorf("insert: %v", err)
	}
	if err := m.EjectMedium(t.Context(), tk, driver.CD, "/media/"); err != nil {
		t.Errorf("eject: %v", err)
	}
}
