package redfish_test

import (
	"encoding/json"
	"io"
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

func TestTheURLOfAMediumIsInNoError(t *testing.T) {
	const secret = "http://10.0.0.1:8080/media/1be26c0b-03f2-4d2e-ae87-c02d7f33c123/5f3a9c01d2/boot.iso"
	for _, text := range []string{
		"cannot open " + secret + ".", "cannot open " + secret[:70], "cannot open HTTP:\\/\\/10.0.0.1:8080\\/media\\/5f3a9c01d2",
		`no "/media/1be26c0b-03f2-4d2e-ae87-c02d7f33c123/5f3a9c01d2/boot.iso" there`,
		"no boot-1be26c0b-03f2-4d2e-ae87-c02d7f33c123-5f3a9c01d2.iso there",
		"no https://swift/v1/AUTH_x/c/o?temp_url_sig=5f3a9c01d2&filename=boot.iso",
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "InsertMedia"):
				w.WriteHeader(http.StatusBadRequest)
				json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": text}})
			case r.URL.Path == "/redfish/v1/":
				io.WriteString(w, `{"Systems": {"@odata.id": "/redfish/v1/Systems"}}`)
			case r.URL.Path == "/redfish/v1/Systems":
				io.WriteString(w, `{"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]}`)
			case r.URL.Path == "/redfish/v1/Systems/1":
				io.WriteString(w, `{"UUID": "`+uuidA+`", "VirtualMedia": {"@odata.id": "/redfish/v1/M"}}`)
			case r.URL.Path == "/redfish/v1/M":
				io.WriteString(w, `{"Members": [{"@odata.id": "/redfish/v1/M/1"}]}`)
			case r.URL.Path == "/redfish/v1/M/1":
				io.WriteString(w, `{"MediaTypes": ["CD"], "Actions": {"#VirtualMedia.InsertMedia": {"target": `+
					`"/redfish/v1/M/1/InsertMedia"}}}`)
			default:
				http.NotFound(w, r)
			}
		}))
		defer web.Close()
		tk := task(web.URL)
		tk.Node.DriverInfo["redfish_auth_type"] = "basic"
		err := family(redfish.Options{Timeout: time.Second}).Management().InsertMedium(t.Context(), tk, driver.CD, secret)
		if err == nil || strings.Contains(err.Error(), "5f3a9c01") || !strings.Contains(err.Error(), "the URL") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
