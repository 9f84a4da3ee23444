package redfish_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/redfish"
)

// systemBody is a system in the shape of DMTF's mock-up of a rack server.
const systemBody = `{
	"@odata.type": "#ComputerSystem.v1_20_1.ComputerSystem", "Id": "437XR1138R2", "Name": "WebFrontEnd483",
	"SystemType": "Physical", "UUID": "38947555-7742-3448-3784-823347823834", "PowerState": "On",
	"@odata.etag": "W/\"4711\"",
	"Boot": {
		"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe",
		"BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Cd", "Usb", "Hdd", "BiosSetup"],
		"BootSourceOverrideMode": "UEFI", "UefiTargetBootSourceOverride": null
	},
	"Actions": {"#ComputerSystem.Reset": {
		"target": "/redfish/v1/Systems/437XR1138R2/Actions/ComputerSystem.Reset",
		"ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown", "PushPowerButton"]
	}},
	"@odata.id": "/redfish/v1/Systems/437XR1138R2"
}`

// errorBody is an error in the shape of DSP0266.
const errorBody = `{"error": {"code": "Base.1.8.GeneralError", "message": "See @Message.ExtendedInfo.",
	"@Message.ExtendedInfo": [{"MessageId": "Base.1.8.PropertyValueNotInList", "Severity": "Warning",
	"Message": "The value 'Tape' for the property is not in the list of acceptable values.",
	"Resolution": "Choose a value from the enumeration list."}]}}`

const (
	systems = "/redfish/v1/Systems"
	system  = systems + "/437XR1138R2"
	action  = system + "/Actions/ComputerSystem.Reset"
)

// bmc is a service whose answers a test replaces, by method and path.
type bmc struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]http.HandlerFunc
	asked   []string // METHOD PATH, and If-Match if there was one
	bodies  []string // of PATCH and POST to the system
}

func text(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=iso-8859-1") // as some do
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// start starts a BMC; its sessions are numbered.
func start(t *testing.T, answers map[string]http.HandlerFunc) (*bmc, *redfish.Client) {
	t.Helper()
	b := &bmc{answers: map[string]http.HandlerFunc{
		"GET /redfish/v1/": text(200, `{"@odata.id": "/redfish/v1/", "RedfishVersion": "1.6.0",
			"Systems": {"@odata.id": "/redfish/v1/Systems"},
			"Links": {"Sessions": {"@odata.id": "/redfish/v1/SessionService/Sessions"}}}`),
		"POST /redfish/v1/SessionService/Sessions": text(201, `{}`, "X-Auth-Token", "t1",
			"Location", "https://10.1.2.3/redfish/v1/SessionService/Sessions/1"),
		"DELETE /redfish/v1/SessionService/Sessions/1": text(204, ""),
		"GET " + systems:      text(200, `{"Members": [{"@odata.id": "`+system+`"}], "Members@odata.count": 1}`),
		"GET " + system:       text(200, systemBody),
		"PATCH " + system:     text(204, ""),
		"POST " + action:      text(204, ""),
		"GET " + system + "/": text(404, ""),
	}}
	for what, answer := range answers {
		b.answers[what] = answer
	}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b, b.client(t, redfish.Options{})
}

func (b *bmc) client(t *testing.T, o redfish.Options) *redfish.Client {
	t.Helper()
	o.Address, o.Username, o.Password = b.URL, "admin", "secret"
	c, err := redfish.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(t.Context()) })
	return c
}

func (b *bmc) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what := r.Method + " " + r.URL.Path
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	answer := b.answers[what]
	b.asked = append(b.asked, strings.TrimSpace(what+" "+r.Header.Get("If-Match")))
	if strings.HasPrefix(r.URL.Path, system) && len(body) > 0 {
		b.bodies = append(b.bodies, string(body))
	}
	b.mu.Unlock()
	if answer == nil {
		answer = text(404, "<html>no such page</html>")
	}
	answer(w, r)
}

// times counts the requests.
func (b *bmc) times(what string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.asked {
		if a == what {
			n++
		}
	}
	return n
}

// inTurn gives one answer after the other, the last one again and again.
func inTurn(answers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		answer := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		mu.Unlock()
		answer(w, r)
	}
}

func read(t *testing.T, c *redfish.Client) *redfish.System {
	t.Helper()
	s, err := c.System(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheOnlySystemIsRead(t *testing.T) {
	t.Parallel()
	b, c := start(t, nil)
	s := read(t, c)
	if s.Path != system || s.PowerState != redfish.On || s.UUID != "38947555-7742-3448-3784-823347823834" ||
		s.ETag != `W/"4711"` || s.Boot.Override() != "Pxe" || !s.Boot.KnowsMode() || len(s.Boot.Targets) != 6 {
		t.Errorf("%+v", s)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	// The session's own address is not ours.
	if b.times("DELETE /redfish/v1/SessionService/Sessions/1") != 1 {
		t.Errorf("asked %q", b.asked)
	}
}

func TestSystemsThatCannotBeMeantAreListed(t *testing.T) {
	t.Parallel()
	_, c := start(t, map[string]http.HandlerFunc{
		"GET " + systems: text(200, `{"Members": [{"@odata.id": "/a"}, {"@odata.id": "/b"}, null]}`)})
	for _, id := range []string{"", "/redfish/v1/Systems/9", "../x"} {
		_, err := c.System(t.Context(), id)
		var none *redfish.NoSystemError
		if !errors.As(err, &none) || !slices.Equal(none.There, []string{"/a", "/b"}) || none.Wanted != id {
			t.Errorf("%q: %v", id, err)
		}
	}
	_, c = start(t, map[string]http.HandlerFunc{"GET " + systems: text(200, `{"Members": []}`)})
	if _, err := c.System(t.Context(), ""); err == nil || err.Error() != "the service has no system" {
		t.Errorf("none: %v", err)
	}
}

func TestASessionThatEndedIsRenewedOnce(t *testing.T) {
	t.Parallel()
	const sessions = "POST /redfish/v1/SessionService/Sessions"
	second := text(201, `{"@odata.id": "/redfish/v1/SessionService/Sessions/2"}`, "X-Auth-Token", "t2")
	b, c := start(t, map[string]http.HandlerFunc{
		sessions: inTurn(text(201, `{"@odata.id": "/redfish/v1/SessionService/Sessions/1"}`, "X-Auth-Token",
			"t1"), second),
		"GET " + systems: func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Auth-Token") == "t1" {
				text(401, "")(w, r)
				return
			}
			text(200, `{"Members": [{"@odata.id": "`+system+`"}]}`)(w, r)
		},
		"DELETE /redfish/v1/SessionService/Sessions/2": text(404, ""), // it has ended again
	})
	read(t, c)
	if b.times(sessions) != 2 {
		t.Errorf("asked %q", b.asked)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	b, c = start(t, map[string]http.HandlerFunc{"GET " + systems: text(401, "")})
	var refused *redfish.StatusError
	if _, err := c.System(t.Context(), ""); !errors.As(err, &refused) || refused.Status != 401 ||
		b.times(sessions) != 2 {
		t.Errorf("%v; asked %q", err, b.asked)
	}
}

func TestBasicWhereThereIsNoSession(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"none":      text(404, ""),
		"not built": text(501, ""),
		"no token":  text(201, `{}`),
		"full, 503": text(503,
			`{"error": {"@Message.ExtendedInfo": [{"MessageId": "Base.1.8.1.SessionLimitExceeded"}]}}`),
		"full, 400":  text(400, `{"error": {"code": "Base.1.4.CreateLimitReachedForResource"}}`),
		"full, bare": text(500, ``),
	} {
		b, c := start(t, map[string]http.HandlerFunc{
			"POST /redfish/v1/SessionService/Sessions": answer,
			"GET " + systems: func(w http.ResponseWriter, r *http.Request) {
				if user, password, _ := r.BasicAuth(); user != "admin" || password != "secret" {
					text(401, "")(w, r)
					return
				}
				text(200, `{"Members": [{"@odata.id": "`+system+`"}]}`)(w, r)
			}})
		if _, err := c.System(t.Context(), ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		only := b.client(t, redfish.Options{Auth: redfish.Session})
		if _, err := only.System(t.Context(), ""); !errors.Is(err, redfish.ErrNoSessions) {
			t.Errorf("%s, sessions only: %v", name, err)
		}
	}
}

func TestABMCThatIsBusyIsAskedAgain(t *testing.T) {
	t.Parallel()
	busy := text(503, errorBody, "Retry-After", "0")
	_, c := start(t, map[string]http.HandlerFunc{
		"GET /redfish/v1/": inTurn(busy, text(200, `{"Systems": {"@odata.id": "/redfish/v1/Systems"}}`)),
		"GET " + system:    inTurn(busy, text(429, "", "Retry-After", "0"), text(200, systemBody)),
	})
	read(t, c)
	b, _ := start(t, map[string]http.HandlerFunc{"GET " + system: text(503, errorBody, "Retry-After", "60")})
	c = b.client(t, redfish.Options{Timeout: 100 * time.Millisecond})
	var refused *redfish.StatusError
	if _, err := c.System(t.Context(), ""); !errors.As(err, &refused) || !refused.Busy() ||
		!strings.Contains(refused.Text, "not in the list of acceptable values") {
		t.Errorf("%v", err)
	}
}

func TestTheTagOfASystemIsSentAndRenewed(t *testing.T) {
	t.Parallel()
	accepts := func(good string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch tag := r.Header.Get("If-Match"); {
			case tag == good:
				w.WriteHeader(204)
			case tag == "":
				w.WriteHeader(428)
			default:
				w.WriteHeader(412)
			}
		}
	}
	boot := redfish.Boot{Target: "Hdd", Enabled: redfish.Continuous, Mode: redfish.UEFI}
	for good, want := range map[string][]string{
		`W/"4711"`: {`W/"4711"`},
		`W/"new"`:  {`W/"4711"`, `W/"new"`},
		`"new"`:    {`W/"4711"`, `W/"new"`, `"new"`},
		"":         {`W/"4711"`, `W/"new"`, `"new"`, ""},
	} {
		patch := accepts(good)
		if good == "" {
			patch = func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(map[bool]int{true: 204, false: 412}[r.Header.Get("If-Match") == ""])
			}
		}
		b, c := start(t, map[string]http.HandlerFunc{"PATCH " + system: patch,
			"GET " + system: inTurn(text(200, systemBody), text(200, systemBody, "ETag", `W/"new"`))})
		if err := c.SetBoot(t.Context(), read(t, c), boot); err != nil {
			t.Errorf("%q: %v", good, err)
		}
		var sent []string
		for _, a := range b.asked {
			if tag, ok := strings.CutPrefix(a, "PATCH "+system); ok {
				sent = append(sent, strings.TrimSpace(tag))
			}
		}
		if !slices.Equal(sent, want) {
			t.Errorf("%q: sent %q", good, sent)
		}
	}
	_, c := start(t, map[string]http.HandlerFunc{"PATCH " + system: accepts("another")})
	var refused *redfish.StatusError
	if err := c.SetBoot(t.Context(), read(t, c), boot); !errors.As(err, &refused) || refused.Status != 428 {
		t.Errorf("no tag is right: %v", err)
	}
}

// What a BMC does not take is left out only where it is so already.
func TestAnOverrideIsSaidInOtherWays(t *testing.T) {
	t.Parallel()
	without := func(word string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var body map[string]map[string]string
			if json.NewDecoder(r.Body).Decode(&body); body["Boot"][word] != "" {
				text(400, errorBody)(w, r)
			}
		}
	}
	for _, c := range []struct {
		refuses, enabled, mode string
		taken                  bool
	}{
		{"BootSourceOverrideMode", "Once", "UEFI", true},
		{"BootSourceOverrideMode", "Once", "Legacy", false},
		{"BootSourceOverrideEnabled", "Once", "UEFI", true},
		{"BootSourceOverrideEnabled", "Continuous", "UEFI", false},
		{"BootSourceOverrideTarget", "Once", "UEFI", false},
	} {
		b, client := start(t, nil)
		var last string
		refuse := without(c.refuses)
		b.answers["PATCH "+system] = func(w http.ResponseWriter, r *http.Request) {
			b.mu.Lock()
			last = b.bodies[len(b.bodies)-1]
			b.mu.Unlock()
			r.Body = io.NopCloser(strings.NewReader(last))
			refuse(w, r)
		}
		err := client.SetBoot(t.Context(), read(t, client), redfish.Boot{Target: "Hdd", Enabled: c.enabled,
			Mode: c.mode})
		if (err == nil) != c.taken {
			t.Errorf("%+v: %v after %s", c, err, last)
		}
		if err != nil && !strings.Contains(err.Error(), "not in the list of acceptable values") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestResetsAreThoseThatTheBMCAllows(t *testing.T) {
	t.Parallel()
	up := []redfish.ResetType{redfish.ResetForceOn, redfish.ResetOn, redfish.PushPowerButton}
	b, c := start(t, nil)
	if got, err := c.Reset(t.Context(), read(t, c), up...); got != redfish.ResetOn || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if want := []string{`{"ResetType":"On"}`}; !slices.Equal(b.bodies, want) {
		t.Errorf("sent %q", b.bodies)
	}
	_, err := c.Reset(t.Context(), read(t, c), "Nmi")
	var not *redfish.NotAllowedError
	if !errors.As(err, &not) || !strings.Contains(err.Error(), "GracefulShutdown") {
		t.Errorf("not allowed: %v", err)
	}
	// One that tells them elsewhere, and one that does not tell them.
	info := `{"Parameters": [{"Name": "ResetType", "AllowableValues": ["PushPowerButton"]}]}`
	_, c = start(t, map[string]http.HandlerFunc{"GET /info": text(200, info), "GET " + system: text(200,
		`{"Actions": {"#ComputerSystem.Reset": {"@Redfish.ActionInfo": "/info"}}}`)})
	if got, err := c.Reset(t.Context(), read(t, c), up...); got != redfish.PushPowerButton || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	_, c = start(t, map[string]http.HandlerFunc{"GET " + system: text(200, `{}`),
		"POST " + action: inTurn(text(400, errorBody), text(200, `{}`))})
	if got, err := c.Reset(t.Context(), read(t, c), up...); got != redfish.ResetOn || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestTasksAreFollowedToTheirEnd(t *testing.T) {
	t.Parallel()
	running := `{"TaskState": "Running"}`
	for _, c := range []struct {
		name, location, body string
		answers              []http.HandlerFunc
		want                 string
	}{
		{"monitor", "/mon", "", []http.HandlerFunc{text(202, running), text(204, "")}, ""},
		{"task itself", "https://10.1.2.3/mon", "", []http.HandlerFunc{text(200, running),
			text(200, `{"TaskState": "Completed", "TaskStatus": "OK"}`)}, ""},
		{"named in the body", "", `{"@odata.id": "/x", "TaskMonitor": "/mon"}`,
			[]http.HandlerFunc{text(202, "", "Retry-After", "0"), text(200, `{}`)}, ""},
		{"forgotten", "/mon", "", []http.HandlerFunc{text(202, running), text(404, "")}, ""},
		{"nobody to ask", "", "", nil, ""},
		{"failed", "/mon", "", []http.HandlerFunc{text(200,
			`{"TaskState": "Exception", "Messages": [{"Message": "The fan\nis gone."}]}`)},
			"ended as Exception: The fan is gone."},
		{"failed at the monitor", "/mon", "", []http.HandlerFunc{text(202, running), text(400, errorBody)},
			"not in the list of acceptable values"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			answers := map[string]http.HandlerFunc{"POST " + action: text(202, c.body, "Location", c.location)}
			if c.answers != nil {
				answers["GET /mon"] = inTurn(c.answers...)
			}
			b, client := start(t, answers)
			_, err := client.Reset(t.Context(), read(t, client), redfish.ResetOn)
			if got := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
				t.Errorf("%v", err)
			}
			if n := b.times("GET /mon"); n != len(c.answers) {
				t.Errorf("%d questions, want %d", n, len(c.answers))
			}
		})
	}
}

// Whoever is named, the password stays with the BMC.
func TestRedirectsStayAtTheBMC(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("another host was asked")
	}))
	defer other.Close()
	b, c := start(t, map[string]http.HandlerFunc{
		"GET " + systems: text(301, "", "Location", other.URL+"/there"),
		"GET /there":     text(308, "", "Location", "/there/"),
		"GET /there/":    text(200, `{"Members": [{"@odata.id": "`+other.URL+system+`"}]}`),
		"POST " + action: text(307, "", "Location", "/act"),
		"POST /act":      text(204, ""),
	})
	if _, err := c.Reset(t.Context(), read(t, c), redfish.ResetOn); err != nil {
		t.Error(err)
	}
	if b.times("POST /act") != 1 {
		t.Errorf("asked %q", b.asked)
	}
	for to, want := range map[string]string{
		strings.Replace(b.URL, "http:", "https:", 1) + "/redfish/v1/": "redirected to \"https:",
		"":   "redirected to \"\"",
		"/a": "again and again",
	} {
		_, c := start(t, map[string]http.HandlerFunc{"GET /redfish/v1/": text(302, "", "Location", to),
			"GET /a": text(302, "", "Location", "/b"), "GET /b": text(302, "", "Location", "/a")})
		if _, err := c.System(t.Context(), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", to, err)
		}
	}
}

func TestWhatIsNoRedfishIsToldWithoutItsWords(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"page": text(200, "<html>hush</html>"), "other JSON": text(200, `{"hush": 1}`),
		"list": text(200, `[1]`), "empty": text(200, ""),
	} {
		_, c := start(t, map[string]http.HandlerFunc{"GET /redfish/v1/": answer})
		if _, err := c.System(t.Context(), ""); !errors.Is(err, redfish.ErrNoService) ||
			strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, c := start(t, map[string]http.HandlerFunc{"GET /redfish/v1/": text(500, "hush")})
	if _, err := c.System(t.Context(), ""); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("error %v", err)
	}
	_, c = start(t, map[string]http.HandlerFunc{
		"GET " + system: func(w http.ResponseWriter, _ *http.Request) {
			for range 5 << 4 {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}})
	if _, err := c.System(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("endless: %v", err)
	}
}

func TestOldTLSIsSpokenIfItIsWanted(t *testing.T) {
	t.Parallel()
	b, _ := start(t, nil)
	old := httptest.NewUnstartedServer(b)
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11,
		CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}
	old.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are wanted
	old.StartTLS()
	defer old.Close()
	b.URL = old.URL
	for version, want := range map[uint16]bool{0: false, tls.VersionTLS10: true, tls.VersionTLS13: false} {
		c := b.client(t, redfish.Options{MinTLS: version, AnyCertificate: true})
		if _, err := c.System(t.Context(), ""); (err == nil) != want {
			t.Errorf("from %x: %v", version, err)
		}
	}
}
