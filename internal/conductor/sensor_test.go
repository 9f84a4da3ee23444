package conductor_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/redfish"
	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
	"ingot/internal/testkit"
)

// onBMC creates a node of a BMC, which other nodes may have, too.
func (w *world) onBMC(c *conductor.Conductor, s *sim.Service, name, state string) *ingot.Node {
	w.t.Helper()
	no := false
	n, err := c.CreateNode(w.t.Context(), &ingot.Node{Name: name, Driver: redfish.Name, ProvisionState: state,
		AutomatedClean: &no, DriverInfo: ingot.Object{"redfish_address": s.URL(), "redfish_username": "admin",
			"redfish_password": "secret"}})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// sensed are the names of the nodes whose readings a conductor tells.
func sensed(c *conductor.Conductor) []string {
	var names []string
	for _, s := range c.Sensors() {
		if s.Readings != nil {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

// tells waits until those are the ones.
func tells(t *testing.T, c *conductor.Conductor, names ...string) {
	t.Helper()
	testkit.Eventually(t, "sensors of "+strings.Join(names, ", "), func() bool { return slices.Equal(sensed(c), names) })
}

func TestSensorsAreReadOfDeployedMachines(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	c, stop := w.start()
	w.onBMC(c, s, "active", "active")
	w.onBMC(c, s, "free", "available")
	w.onBMC(c, s, "new", "enroll")
	w.enroll(c, "fake", "active") // its hardware type tells of no sensors
	w.onBMC(c, s, "repaired", "active")
	w.change("repaired", func(n *ingot.Node) { n.Maintenance = true })
	w.onBMC(c, s, "used", "available")
	const instance = "2be26c0b-03f2-4d2e-ae87-c02d7f33c123"
	w.change("used", func(n *ingot.Node) { n.InstanceUUID = instance })
	stop()
	w.o.Sensors = conductor.SensorOptions{Interval: time.Hour, Kinds: []string{driver.Fan, driver.Temperature}}
	c, stop = w.start()
	tells(t, c, "active", "used")
	for _, m := range c.Sensors() {
		if len(m.Readings) != 4 || time.Since(m.At) > patience || m.Name == "used" && m.Instance != instance {
			t.Errorf("%+v", m)
		}
	}
	asked := func() (n int) {
		for _, r := range s.Requests() {
			if strings.HasSuffix(r.Path, "/Thermal") {
				n++
			}
		}
		return n
	}
	if n := asked(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	stop()
	w.o.Sensors.Undeployed = true
	c, _ = w.start()
	tells(t, c, "active", "free", "used")
	if strings.Contains(w.log.String(), "read sensors failed") {
		t.Error(w.log)
	}
}

func TestSensorsOfADeletedNodeAreForgotten(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	w.o.Sensors = conductor.SensorOptions{Interval: time.Hour, Undeployed: true}
	c, _ := w.start()
	w.onBMC(c, s, "n1", "available")
	other := w.onBMC(c, s, "n2", "available")
	c.Wake()
	tells(t, c, "n1", "n2")
	// Its power state may be put on record at this moment.
	testkit.Eventually(t, "n1 is deleted", func() bool { return c.DeleteNode(t.Context(), "n1") == nil })
	if got := sensed(c); !slices.Equal(got, []string{"n2"}) {
		t.Errorf("told of %v", got)
	}
	testkit.Eventually(t, "n2 is deleted by another conductor", func() bool {
		return w.store.DeleteNode(t.Context(), w.node(other.UUID)) == nil
	})
	c.Wake()
	tells(t, c)
}

// A BMC that is away costs the others nothing but a worker for its own time, and what it told grows old. Since when it
// is away is told as long as it is to be read, also if it never was.
func TestSensorsOfABMCThatIsAwayGrowOld(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	_, lost, _ := withBMC(t, sim.Options{})
	_, never, _ := withBMC(t, sim.Options{})
	if err := never.Stop(); err != nil {
		t.Fatal(err)
	}
	w.o.Sensors = conductor.SensorOptions{Interval: time.Second, Workers: 1, Undeployed: true}
	c, _ := w.start()
	w.onBMC(c, s, "n1", "available")
	w.onBMC(c, lost, "n2", "available")
	w.onBMC(c, never, "n3", "available")
	tells(t, c, "n1", "n2")
	if err := lost.Stop(); err != nil {
		t.Fatal(err)
	}
	tells(t, c, "n1")
	testkit.Eventually(t, "those that are away are told of", func() bool {
		read := map[string]bool{}
		for _, m := range c.Sensors() {
			read[m.Name] = !m.At.IsZero()
		}
		return len(read) == 3 && read["n1"] && read["n2"] && !read["n3"]
	})
	if !strings.Contains(w.log.String(), "read sensors failed") || !strings.Contains(w.log.String(), "nothing listens there") {
		t.Errorf("the log does not tell\n%s", w.log)
	}
	if err := lost.Start(); err != nil {
		t.Fatal(err)
	}
	tells(t, c, "n1", "n2")
}

// Readings are told under what the node is now, not under what it was when they were read.
func TestSensorsAreThoseOfTheNodeAsItIs(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	w.o.Sensors = conductor.SensorOptions{Interval: time.Hour}
	c, _ := w.start()
	w.onBMC(c, s, "n1", "active")
	w.onBMC(c, s, "n2", "active")
	c.Wake()
	tells(t, c, "n1", "n2")
	change := func(ident string, fn func(*ingot.Node)) {
		t.Helper()
		testkit.Eventually(t, ident+" is changed", func() bool {
			n := w.node(ident)
			fn(n)
			return w.store.UpdateNode(t.Context(), n) == nil // as another conductor does
		})
		c.Wake()
	}
	change("n1", func(n *ingot.Node) { n.Name, n.InstanceUUID = "n9", "2be26c0b-03f2-4d2e-ae87-c02d7f33c123" })
	testkit.Eventually(t, "the new name and instance", func() bool {
		return slices.ContainsFunc(c.Sensors(), func(m conductor.Sensed) bool {
			return m.Name == "n9" && m.Instance == "2be26c0b-03f2-4d2e-ae87-c02d7f33c123" && len(m.Readings) > 0
		})
	})
	change("n9", func(n *ingot.Node) { n.ConductorGroup = "elsewhere" })
	tells(t, c, "n2")
	change("n2", func(n *ingot.Node) { n.ProvisionState = "available" })
	tells(t, c)
	if all := c.Sensors(); len(all) > 0 {
		t.Errorf("%+v", all)
	}
}

// A node may be told of another machine than before.
func TestPartsOfTheMachineBeforeAreForgotten(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	c, _ := w.start()
	w.onBMC(c, s, "n1", "enroll")
	w.change("n1", func(n *ingot.Node) {
		n.DriverInternalInfo = ingot.Object{"sensor_health": ingot.Object{"Fan Fans/0@1": "Critical"}}
	})
	w.provision(c, "n1", "manage")
	if n := w.state("n1", "manageable"); n.DriverInternalInfo["sensor_health"] != nil {
		t.Errorf("%v", n.DriverInternalInfo)
	}
}

// That not all is read is told once, not with each reading.
func TestReadingsThatWereCutAreToldOnce(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	w.o.Sensors = conductor.SensorOptions{Interval: 50 * time.Millisecond, Undeployed: true}
	c, _ := w.start()
	n := w.onBMC(c, s, "n1", "available")
	at, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	behind := httputil.NewSingleHostReverseProxy(at)
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/Thermal") {
			rw.Header().Set("Retry-After", "60")
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		behind.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	testkit.Eventually(t, "n1 has that BMC", func() bool {
		n = w.node("n1")
		n.DriverInfo["redfish_address"] = front.URL
		return w.store.UpdateNode(t.Context(), n) == nil
	})
	for range 3 {
		since := time.Now()
		testkit.Eventually(t, "another look", func() bool { all := c.Sensors(); return len(all) == 1 && all[0].At.After(since) })
	}
	if got := strings.Count(w.log.String(), "not all sensors could be read"); got != 1 {
		t.Errorf("told %d times\n%s", got, w.log)
	}
}

// A machine's sensors are told of by its owner alone, and at once by the next one.
func TestSensorsAreTheOwners(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	w.o.Sensors = conductor.SensorOptions{Interval: time.Hour, Undeployed: true}
	one, two := w.second("host1"), w.second("host2")
	stop := w.run(one)
	w.run(two)
	var names []string
	for i := range 6 {
		names = append(names, w.onBMC(one, s, fmt.Sprintf("n%d", i), "available").Name)
	}
	one.Wake()
	two.Wake()
	testkit.Eventually(t, "each node is told of by its owner", func() bool {
		both := slices.Concat(sensed(one), sensed(two))
		slices.Sort(both)
		return slices.Equal(both, names)
	})
	for c, others := range map[*conductor.Conductor]*conductor.Conductor{one: two, two: one} {
		for _, m := range c.Sensors() {
			if n := w.node(m.Node); !conductor.Owns(c, n) || conductor.Owns(others, n) {
				t.Errorf("node %s is told of by another one than its owner", m.Name)
			}
		}
	}
	stop()
	tells(t, two, names...)
	if got := sensed(one); len(got) > 0 {
		t.Errorf("the one that is no more tells of %v", got)
	}
}

func TestAPartThatGetsCriticalIsToldOnce(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	w.o.Sensors = conductor.SensorOptions{Interval: 50 * time.Millisecond, Undeployed: true}
	c, stop := w.start()
	w.onBMC(c, s, "n1", "available")
	told := func() string {
		var told []string
		for line := range strings.Lines(w.journal("n1")) {
			if _, text, about := strings.Cut(line, "that the health of "); about {
				told = append(told, strings.Fields(line)[1]+" "+strings.TrimSpace(text))
			}
		}
		slices.Sort(told)
		return strings.Join(told, "\n")
	}
	unwell := func(want string) {
		t.Helper()
		w.until("n1", "parts "+want, func(n *ingot.Node) bool {
			return fmt.Sprint(n.DriverInternalInfo["sensor_health"]) == want && n.Reservation == ""
		})
	}
	// looks waits until the sensors were read again.
	looks := func(c *conductor.Conductor) {
		t.Helper()
		since := time.Now()
		testkit.Eventually(t, "another look", func() bool {
			all := c.Sensors()
			return len(all) == 1 && all[0].At.After(since)
		})
	}
	looks(c)
	s.SetPart("Fan 2", "Critical")
	s.SetPart("PSU 1", "Warning")
	unwell("map[Fan Fans/1@1:Critical Power PowerSupplies/0@1:Warning]")
	looks(c)
	stop()
	c, _ = w.start() // what was told is on record
	looks(c)
	want := `error Fan "Fan 2" (Fans/1@1) is Critical
warning Power "PSU 1" (PowerSupplies/0@1) is Warning`
	if got := told(); got != want {
		t.Errorf("told\n%s", got)
	}
	s.SetPart("Fan 2", "Warning")
	unwell("map[Fan Fans/1@1:Warning Power PowerSupplies/0@1:Warning]")
	s.SetPart("Fan 2", "OK")
	s.SetPart("PSU 1", "OK")
	unwell("<nil>")
	looks(c)
	want = `error Fan "Fan 2" (Fans/1@1) is Critical
info Fan "Fan 2" (Fans/1@1) is OK, before Warning
info Power "PSU 1" (PowerSupplies/0@1) is OK, before Warning
warning Fan "Fan 2" (Fans/1@1) is Warning, before Critical
warning Power "PSU 1" (PowerSupplies/0@1) is Warning`
	if got := told(); got != want {
		t.Errorf("told\n%s", got)
	}
}
