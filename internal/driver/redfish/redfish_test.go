package redfish_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

const (
	uuidA = "00112233-4455-6677-8899-010203040506"
	uuidB = "00112234-4455-6677-8899-010203040506"
)

// start starts a BMC in front of a board that obeys, and returns a task for a node behind it.
func start(t *testing.T, o sim.Options) (*sim.Service, *sim.Board, *driver.Task) {
	t.Helper()
	o.Name, o.User, o.Password = "n1", "admin", "secret"
	if o.UUID == "" {
		o.UUID = strings.ToUpper(uuidA)
	}
	b := &sim.Board{}
	b.Obey()
	s := sim.New(b, o)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s, b, task(s.URL())
}

func task(address string) *driver.Task {
	return &driver.Task{
		Node: &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", DriverInfo: ingot.Object{
			"redfish_address": address, "redfish_username": "admin", "redfish_password": "secret"}},
		Log: slog.New(slog.DiscardHandler), Note: func(ingot.Entry) {},
	}
}

func family(o redfish.Options) *redfish.Family {
	if o.PollInterval == 0 {
		o.PollInterval = time.Millisecond
	}
	return redfish.New(o)
}

// open counts the sessions that were begun and not ended.
func open(s *sim.Service) int {
	n := 0
	for _, r := range s.Requests() {
		switch {
		case r.Method == http.MethodPost && r.Status == http.StatusCreated:
			n++
		case r.Method == http.MethodDelete && r.Status < http.StatusBadRequest:
			n--
		}
	}
	return n
}

// quirks are BMCs, each with one way of its own.
var quirks = map[string]sim.Quirks{
	"none":         {},
	"continuous":   {OnceReadsContinuous: true},
	"off twice":    {ForceOffWhenOffFails: true},
	"busy":         {BusyAfterPowerOn: 1},
	"no sessions":  {NoMoreSessions: true},
	"needs a tag":  {NeedIfMatch: true},
	"tasks":        {Tasks: true},
	"needs medium": {CDOverrideNeedsMedium: true},
}

// Each target is asked for twice, and the second time changes nothing.
func TestPowerGoesWhereItIsToldAlsoTwice(t *testing.T) {
	t.Parallel()
	for name, q := range quirks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b, tk := start(t, sim.Options{})
			s.SetQuirks(q)
			p := family(redfish.Options{}).Power()
			var want []sim.ResetType
			for _, c := range []struct {
				target, state ingot.PowerState
				resets        []sim.ResetType
			}{
				{ingot.PowerOff, ingot.PowerOff, nil}, // is off
				{ingot.PowerOn, ingot.PowerOn, []sim.ResetType{sim.PowerOn}},
				{ingot.SoftPowerOff, ingot.PowerOff, []sim.ResetType{sim.GracefulShutdown}},
				{ingot.PowerOn, ingot.PowerOn, []sim.ResetType{sim.PowerOn}},
				{ingot.PowerOff, ingot.PowerOff, []sim.ResetType{sim.ForceOff}},
			} {
				for range 2 {
					if err := p.SetPower(t.Context(), tk, c.target); err != nil {
						t.Fatalf("%s: %v", c.target, err)
					}
					if state, err := p.PowerState(t.Context(), tk); err != nil || state != c.state {
						t.Errorf("%s: state %q, %v", c.target, state, err)
					}
				}
				want = append(want, c.resets...)
			}
			for _, c := range []struct {
				target ingot.PowerState
				resets []sim.ResetType
			}{
				{ingot.Rebooting, []sim.ResetType{sim.PowerOn}}, // was off
				{ingot.Rebooting, []sim.ResetType{sim.ForceOff, sim.PowerOn}},
				{ingot.SoftReboot, []sim.ResetType{sim.GracefulShutdown, sim.PowerOn}},
			} {
				if err := p.SetPower(t.Context(), tk, c.target); err != nil {
					t.Fatalf("%s: %v", c.target, err)
				}
				want = append(want, c.resets...)
			}
			if got := s.Resets(); !slices.Equal(got, want) || b.PowerState() != sim.On {
				t.Errorf("resets %v, want %v; the machine is %s", got, want, b.PowerState())
			}
			if n := open(s); n != 0 {
				t.Errorf("%d sessions are left", n)
			}
		})
	}
	err := family(redfish.Options{}).Power().SetPower(t.Context(), task("127.0.0.1:1"), "sideways")
	if ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("sideways: %v", err)
	}
}

func TestBootDevicesAreSetWithModeAndDurationAlsoTwice(t *testing.T) {
	t.Parallel()
	for name, q := range quirks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b, tk := start(t, sim.Options{Mode: sim.Legacy})
			q.CDOverrideNeedsMedium = false
			s.SetQuirks(q)
			m := family(redfish.Options{}).Management()
			for _, c := range []struct {
				mode string
				dev  driver.BootDevice
				want sim.Boot
			}{
				{"bios", driver.BootDevice{Device: "pxe"}, sim.Boot{Target: sim.PXE, Enabled: sim.Once}},
				{"uefi", driver.BootDevice{Device: "disk", Persistent: true},
					sim.Boot{Target: sim.HDD, Enabled: sim.Continuous}},
				{"", driver.BootDevice{Device: "cdrom", Persistent: true},
					sim.Boot{Target: sim.CD, Enabled: sim.Continuous}},
				{"bios", driver.BootDevice{Device: "bios"}, sim.Boot{Target: sim.BIOSSetup, Enabled: sim.Once}},
			} {
				tk.Node.Properties = ingot.Object{"capabilities": "boot_mode:" + c.mode}
				for range 2 {
					if err := m.SetBootDevice(t.Context(), tk, c.dev); err != nil {
						t.Fatalf("%+v: %v", c.dev, err)
					}
					got, err := m.BootDevice(t.Context(), tk)
					if q.OnceReadsContinuous {
						got.Persistent = c.dev.Persistent
					}
					if err != nil || got != c.dev {
						t.Errorf("set %+v, got %+v, %v", c.dev, got, err)
					}
					have := b.Boot()
					if have.Target != c.want.Target || have.Enabled != c.want.Enabled {
						t.Errorf("%+v: override %+v", c.dev, have)
					}
				}
			}
		})
	}
	s, _, tk := start(t, sim.Options{})
	s.SetQuirks(sim.Quirks{CDOverrideNeedsMedium: true})
	m := family(redfish.Options{}).Management()
	err := m.SetBootDevice(t.Context(), tk, driver.BootDevice{Device: "cdrom"})
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "refused to set the boot device") {
		t.Errorf("cdrom without a medium: %v", err)
	}
	for _, none := range []string{"safe", "tape"} {
		err := m.SetBootDevice(t.Context(), tk, driver.BootDevice{Device: none})
		if ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%s: %v", none, err)
		}
	}
}

func TestTheMachineOfAnotherNodeIsNotTouched(t *testing.T) {
	t.Parallel()
	s, b, tk := start(t, sim.Options{UUID: uuidB})
	f := family(redfish.Options{})
	tk.Node.DriverInternalInfo = ingot.Object{"redfish_system_uuid": uuidA}
	pxe := driver.BootDevice{Device: "pxe"}
	actions := map[string]func() error{
		"off":    func() error { return f.Power().SetPower(t.Context(), tk, ingot.PowerOff) },
		"on":     func() error { return f.Power().SetPower(t.Context(), tk, ingot.PowerOn) },
		"reboot": func() error { return f.Power().SetPower(t.Context(), tk, ingot.Rebooting) },
		"boot":   func() error { return f.Management().SetBootDevice(t.Context(), tk, pxe) },
	}
	for name, action := range actions {
		err := action()
		if ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range []string{"belongs to another machine", uuidA, uuidB, "Check redfish_address",
			"--driver-info redfish_system_uuid=" + uuidB} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v lacks %q", name, err, want)
			}
		}
	}
	if len(s.Resets()) > 0 || b.Boot().Target != sim.None {
		t.Errorf("resets %v, override %+v", s.Resets(), b.Boot())
	}
	// A person may say that it is right, and what was recorded does not count then.
	for _, say := range []string{uuidB, strings.ToUpper(uuidB), "any"} {
		tk.Node.DriverInfo["redfish_system_uuid"] = say
		for name, action := range actions {
			if err := action(); err != nil {
				t.Errorf("%s, with %s: %v", name, say, err)
			}
		}
	}
	// A node that is managed anew gets the machine that is there now.
	delete(tk.Node.DriverInfo, "redfish_system_uuid")
	for range 2 {
		if err := f.Power().Identify(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
		if got := tk.Node.DriverInternalInfo["redfish_system_uuid"]; got != uuidB {
			t.Errorf("recorded %v", got)
		}
	}
}

func TestTheFirstMachineIsPutOnRecord(t *testing.T) {
	t.Parallel()
	for uuid, want := range map[string]any{strings.ToUpper(uuidA): uuidA, "none": nil,
		"00000000-0000-0000-0000-000000000000": nil, "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF": nil} {
		_, _, tk := start(t, sim.Options{UUID: uuid})
		if err := family(redfish.Options{}).Power().SetPower(t.Context(), tk, ingot.PowerOn); err != nil {
			t.Fatal(err)
		}
		if got := tk.Node.DriverInternalInfo["redfish_system_uuid"]; got != want {
			t.Errorf("UUID %s: recorded %v", uuid, got)
		}
	}
}

func TestTheCertificateIsChecked(t *testing.T) {
	t.Parallel()
	s, _, tk := start(t, sim.Options{TLS: true})
	p := family(redfish.Options{}).Power()
	ask := func(verify any) error {
		tk.Node.DriverInfo["redfish_verify_ca"] = verify
		_, err := p.PowerState(t.Context(), tk)
		return err
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "bmc.pem")
	if err := os.WriteFile(file, s.Certificate(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, believed := range []any{file, dir, false, "False", "no", 0} {
		if err := ask(believed); err != nil {
			t.Errorf("%v: %v", believed, err)
		}
	}
	// One that is listed may have any name; one that its CA signed may not.
	_, port, _ := strings.Cut(s.Addr().String(), ":")
	tk.Node.DriverInfo["redfish_address"] = "localhost:" + port
	if err := ask(file); err != nil {
		t.Error(err)
	}
	tk.Node.DriverInfo["redfish_address"] = s.URL()
	if err := s.RenewCertificate(); err != nil {
		t.Fatal(err)
	}
	for _, doubted := range []any{nil, true, "yes", file} {
		err := ask(doubted)
		if ingot.KindOf(err) != ingot.Unavailable ||
			!strings.Contains(err.Error(), "certificate is not trusted") ||
			!strings.Contains(err.Error(), "set redfish_verify_ca") {
			t.Errorf("%v: %v", doubted, err)
		}
	}
	tk.Node.DriverInfo["redfish_address"] = "http://" + s.Addr().String()
	if err := ask(nil); err == nil || !strings.Contains(err.Error(), "check redfish_address") {
		t.Errorf("without TLS: %v", err)
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	t.Parallel()
	nothing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nothing.Close()
	s, _, _ := start(t, sim.Options{})
	for _, c := range []struct {
		key   string
		value any
		want  string
	}{
		{"redfish_password", "wrong", "check redfish_username and redfish_password"},
		{"redfish_username", "nobody", "check redfish_username and redfish_password"},
		{"redfish_system_id", "/redfish/v1/Systems/7",
			"has the systems /redfish/v1/Systems/1; set redfish_system_id"},
		{"redfish_system_id", "7", "no system 7"},
		{"redfish_address", "http://" + nothing.Addr().String(), "nothing listens there"},
		{"redfish_address", "http://bmc.invalid", "cannot be resolved"},
		{"redfish_address", s.Addr().String(), "whether it speaks TLS"},
	} {
		for _, auth := range []string{"auto", "basic", "session"} {
			tk := task(s.URL())
			tk.Node.DriverInfo["redfish_auth_type"] = auth
			tk.Node.DriverInfo[c.key] = c.value
			_, err := family(redfish.Options{}).Power().PowerState(t.Context(), tk)
			if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s=%v, %s: %v", c.key, c.value, auth, err)
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "wrong") {
				t.Errorf("%s: the error tells the password: %v", c.key, err)
			}
		}
	}
	for _, id := range []string{"1", "/redfish/v1/Systems/1", "/redfish/v1/Systems/1/"} {
		tk := task(s.URL())
		tk.Node.DriverInfo["redfish_system_id"] = id
		if _, err := family(redfish.Options{}).Power().PowerState(t.Context(), tk); err != nil {
			t.Errorf("system %s: %v", id, err)
		}
	}
	if n := open(s); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestABMCWithoutSessionsIsUsedByBasic(t *testing.T) {
	t.Parallel()
	s, _, tk := start(t, sim.Options{})
	s.SetQuirks(sim.Quirks{NoMoreSessions: true})
	p := family(redfish.Options{}).Power()
	if _, err := p.PowerState(t.Context(), tk); err != nil {
		t.Error(err)
	}
	tk.Node.DriverInfo["redfish_auth_type"] = "session"
	if _, err := p.PowerState(t.Context(), tk); ingot.KindOf(err) != ingot.Unavailable ||
		!strings.Contains(err.Error(), "set redfish_auth_type to auto or basic") {
		t.Errorf("session: %v", err)
	}
}

func TestASilentBMCIsNamedInTime(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tk, notes := task("http://"+l.Addr().String()), []string{}
	tk.Note = func(e ingot.Entry) { notes = append(notes, e.Text) }
	tk.Node.ProvisionState, tk.Node.TargetProvisionState = "verifying", "manageable"
	_, err = family(redfish.Options{Timeout: 200 * time.Millisecond}).Power().PowerState(t.Context(), tk)
	if ingot.KindOf(err) != ingot.Unavailable ||
		!strings.Contains(err.Error(), l.Addr().String()+" did not answer within 200ms") {
		t.Errorf("error %v", err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "does not answer yet; it has 200ms") {
		t.Errorf("the journal says %q", notes)
	}
}

func TestABMCThatRestartsInADeploymentIsTriedForLonger(t *testing.T) {
	t.Parallel()
	s, b, tk := start(t, sim.Options{})
	p := family(redfish.Options{Timeout: time.Second, PollInterval: 10 * time.Millisecond}).Power()
	if err := p.SetPower(t.Context(), tk, ingot.PowerOn); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.PowerState(t.Context(), tk); err == nil {
		t.Error("a BMC that is not there has answered")
	}
	tk.Node.ProvisionState, tk.Node.TargetProvisionState = "deploying", "active"
	tried := make(chan struct{})
	tk.Log = slog.New(warned{slog.DiscardHandler, sync.OnceFunc(func() { close(tried) })})
	restarted := make(chan error)
	go func() {
		<-tried
		restarted <- s.Start()
	}()
	err := p.SetPower(t.Context(), tk, ingot.PowerOff)
	if again := <-restarted; again != nil {
		t.Fatal(again)
	}
	if err != nil || b.PowerState() != sim.Off {
		t.Errorf("the machine is %s, %v", b.PowerState(), err)
	}
}

// warned is a log that tells of its first warning.
type warned struct {
	slog.Handler
	tell func()
}

func (w warned) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w warned) Handle(context.Context, slog.Record) error {
	w.tell()
	return nil
}

func TestAMachineThatDoesNotSwitchIsReported(t *testing.T) {
	t.Parallel()
	s := sim.New(&sim.Board{}, sim.Options{Name: "n1", UUID: uuidA, User: "admin", Password: "secret"})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	tk, p := task(s.URL()), family(redfish.Options{}).Power()
	if err := p.SetPower(t.Context(), tk, ingot.PowerOn); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := p.SetPower(ctx, tk, ingot.SoftPowerOff)
	if err == nil || !strings.Contains(err.Error(), "did not change its state") {
		t.Errorf("error %v", err)
	}
}

func TestOperationsOnOneBMCQueueUp(t *testing.T) {
	t.Parallel()
	s, _, tk := start(t, sim.Options{Sessions: 1})
	tk.Node.DriverInfo["redfish_auth_type"] = "session" // a second one at a time would be refused
	f := family(redfish.Options{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := f.Power().PowerState(t.Context(), tk); err != nil {
				t.Error(err)
			}
			if _, err := f.Management().BootDevice(t.Context(), tk); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := open(s); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// Between the off and the on of a restart the right to switch the machine may end.
func TestNoCommandIsSentOnceTheMachineIsAnothers(t *testing.T) {
	t.Parallel()
	s, _, tk := start(t, sim.Options{})
	f := family(redfish.Options{})
	if err := f.Power().SetPower(t.Context(), tk, ingot.PowerOn); err != nil {
		t.Fatal(err)
	}
	asked := 0
	tk.May = func() error {
		if asked++; asked > 1 {
			return errors.New("lost")
		}
		return nil
	}
	err := f.Power().SetPower(t.Context(), tk, ingot.Rebooting)
	if err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("error %v", err)
	}
	err = f.Management().SetBootDevice(t.Context(), tk, driver.BootDevice{Device: "pxe"})
	if err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("boot device: %v", err)
	}
	if got := s.Resets(); !slices.Equal(got, []sim.ResetType{sim.PowerOn, sim.ForceOff}) {
		t.Errorf("resets %v", got)
	}
}

func TestDriverInfoIsChecked(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, info := range map[string]ingot.Object{
		"['redfish_address']":         {},
		"is no address":               {"redfish_address": "https://"},
		"has the scheme ftp":          {"redfish_address": "ftp://a"},
		"redfish_auth_type":           {"redfish_address": "a", "redfish_auth_type": "Basic"},
		"no redfish_username":         {"redfish_address": "a", "redfish_auth_type": "basic"},
		"redfish_tls_minimum_version": {"redfish_address": "a", "redfish_tls_minimum_version": "TLS"},
		"redfish_tls_ciphers":         {"redfish_address": "a", "redfish_tls_ciphers": "ALL"},
		"an absolute path":            {"redfish_address": "a", "redfish_verify_ca": "ca.pem"},
		"no such file":                {"redfish_address": "a", "redfish_verify_ca": empty + "x"},
		"no certificate":              {"redfish_address": "a", "redfish_verify_ca": empty},
		"must be a UUID":              {"redfish_address": "a", "redfish_system_uuid": "x"},
	} {
		tk := &driver.Task{Node: &ingot.Node{UUID: "u", DriverInfo: info}}
		for _, v := range []driver.Validator{family(redfish.Options{}).Power(),
			family(redfish.Options{}).Management()} {
			err := v.Validate(t.Context(), tk)
			if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: error %v, want %q", info, err, want)
			}
		}
	}
	for _, address := range []string{"bmc", "bmc:8443", "https://[::1]:1/", "http://10.0.0.1/redfish/v1/"} {
		ok := &driver.Task{Node: &ingot.Node{DriverInfo: ingot.Object{"redfish_address": address,
			"redfish_tls_minimum_version": 1.2, "redfish_verify_ca": true}}}
		if err := family(redfish.Options{}).Power().Validate(t.Context(), ok); err != nil {
			t.Error(err)
		}
	}
}

// Many BMCs answer 503 for a while after a power on, longer than one operation has.
func TestABMCThatIsBusyAfterPowerOnIsWaitedForInADeployment(t *testing.T) {
	t.Parallel()
	for _, inDeployment := range []bool{true, false} {
		s, _, tk := start(t, sim.Options{})
		f := family(redfish.Options{Timeout: 900 * time.Millisecond}) // less than its Retry-After
		if err := f.Power().Identify(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
		s.SetQuirks(sim.Quirks{BusyAfterPowerOn: 5})
		if inDeployment {
			tk.Node.ProvisionState, tk.Node.TargetProvisionState = "deploying", "active"
		}
		ctx, cancel := context.WithCancel(t.Context())
		tk.Note = func(e ingot.Entry) {
			if e.Text == "told the BMC: power up" {
				cancel() // nobody waits for the state, which would use the refusals up
			}
		}
		_ = f.Power().SetPower(ctx, tk, ingot.PowerOn)
		err := f.Management().SetBootDevice(t.Context(), tk, driver.BootDevice{Device: "disk"})
		if inDeployment != (err == nil) {
			t.Errorf("in a deployment: %v: %v", inDeployment, err)
		}
		if err != nil && !strings.Contains(err.Error(), "busy") {
			t.Errorf("error %v", err)
		}
	}
}

// front stands before a BMC; answer tells whether it has answered itself.
func front(t *testing.T, s *sim.Service, answer func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	at, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	behind := httputil.NewSingleHostReverseProxy(at)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			behind.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestALastingBootDeviceMayBeOneForTheNextBoot(t *testing.T) {
	t.Parallel()
	s, b, tk := start(t, sim.Options{})
	refused := 0
	tk.Node.DriverInfo["redfish_address"] = front(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !bytes.Contains(body, []byte("Continuous")) {
			return false
		}
		refused++
		w.WriteHeader(http.StatusBadRequest)
		return true
	})
	notes := []string{}
	tk.Note = func(e ingot.Entry) { notes = append(notes, e.Text) }
	m := family(redfish.Options{}).Management()
	err := m.SetBootDevice(t.Context(), tk, driver.BootDevice{Device: "disk", Persistent: true})
	if err != nil || refused == 0 || b.Boot().Target != sim.HDD || b.Boot().Enabled != sim.Once {
		t.Errorf("%v; refused %d times, override %+v", err, refused, b.Boot())
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "for the next boot only") {
		t.Errorf("the journal says %q", notes)
	}
}

// Between the question and the command the machine may have switched itself off.
func TestAResetThatCameTooLateIsNoError(t *testing.T) {
	t.Parallel()
	s, b, tk := start(t, sim.Options{})
	s.SetQuirks(sim.Quirks{ForceOffWhenOffFails: true})
	p := family(redfish.Options{}).Power()
	if err := p.SetPower(t.Context(), tk, ingot.PowerOn); err != nil {
		t.Fatal(err)
	}
	tk.Node.DriverInfo["redfish_address"] = front(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".Reset") {
			if err := b.Switch(t.Context(), sim.ForceOff); err != nil {
				t.Error(err)
			}
		}
		return false
	})
	if err := p.SetPower(t.Context(), tk, ingot.PowerOff); err != nil {
		t.Error(err)
	}
	// One that is refused for another reason is an error.
	if err := p.SetPower(t.Context(), task(s.URL()), ingot.PowerOn); err != nil {
		t.Fatal(err)
	}
	tk.Node.DriverInfo["redfish_address"] = front(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		reset := strings.HasSuffix(r.URL.Path, ".Reset")
		if reset {
			w.WriteHeader(http.StatusForbidden)
		}
		return reset
	})
	err := p.SetPower(t.Context(), tk, ingot.PowerOff)
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "privileges of user") {
		t.Errorf("refused: %v", err)
	}
}

func TestAResetWhoseTaskNeverEndsIsSeenByThePowerState(t *testing.T) {
	t.Parallel()
	s, b, tk := start(t, sim.Options{})
	s.SetQuirks(sim.Quirks{Tasks: true})
	tk.Node.DriverInfo["redfish_address"] = front(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		task := strings.Contains(r.URL.Path, "TaskMonitors")
		if task {
			w.WriteHeader(http.StatusAccepted)
		}
		return task
	})
	p := family(redfish.Options{Timeout: 600 * time.Millisecond}).Power()
	if err := p.SetPower(t.Context(), tk, ingot.PowerOn); err != nil || b.PowerState() != sim.On {
		t.Errorf("%v; the machine is %s", err, b.PowerState())
	}
}

func TestAMachineWithoutAPowerStateIsNeitherOnNorOff(t *testing.T) {
	t.Parallel()
	s, _, tk := start(t, sim.Options{})
	for state, want := range map[string]ingot.PowerState{`null`: ingot.PowerError, `"PoweringOff"`: ingot.PowerOn,
		`"PoweringOn"`: ingot.PowerOn, `"Paused"`: ingot.PowerOn, `"Off"`: ingot.PowerOff} {
		tk.Node.DriverInfo["redfish_address"] = front(t, s, func(w http.ResponseWriter, r *http.Request) bool {
			system := r.URL.Path == sim.SystemPath
			if system {
				_, _ = io.WriteString(w, `{"PowerState": `+state+`}`)
			}
			return system
		})
		got, err := family(redfish.Options{}).Power().PowerState(t.Context(), tk)
		if got != want || (err != nil) != (want == ingot.PowerError) {
			t.Errorf("%s: %q, %v", state, got, err)
		}
	}
}
