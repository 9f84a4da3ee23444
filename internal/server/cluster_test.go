package server_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/config"
	"ingot/internal/ingot"
	"ingot/internal/postgres"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// Which conductors can serve a driver is in their table, with their addresses; scripts name them for
// as long as their lease lasts. Two of the three here are rows only.
func TestS0_11_MachinesArePointedAtConductorsOfTheirDriver(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	database := storetest.Postgres(t)
	const lease = 3 * time.Second
	r1 := startWith(t, func(c *config.Config) {
		c.Store.URL, c.Conductor.Host, c.Cluster.Listen = database, "r1", "127.0.0.1:0"
		c.Conductor.HeartbeatTimeout = config.Duration(lease)
		c.Conductor.HeartbeatInterval = config.Duration(100 * time.Millisecond)
		c.Conductor.EnabledHardwareTypes = []string{"ipmi", "fake-hardware"}
	})
	st, err := store.Open(t.Context(), store.Options{URL: database, ConductorLease: lease})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	n := &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", Driver: "ipmi",
		ProvisionState: "deploy failed", BootIntent: ingot.BootError, LastError: "broken"}
	if err := st.CreateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	err = st.CreatePort(t.Context(), &ingot.Port{UUID: "00000000-0000-4000-8000-000000000001",
		NodeUUID: n.UUID, Address: "52:54:00:77:00:01", PXEEnabled: true})
	if err != nil {
		t.Fatal(err)
	}
	beat := func() {
		t.Helper()
		for name, driver := range map[string]string{"r2": "ipmi", "r3": "other"} {
			address := "10.9.9." + name[1:]
			err := st.Heartbeat(t.Context(), ingot.Conductor{Hostname: name, Incarnation: name,
				Address: address, Drivers: []ingot.Driver{{Name: driver}},
				Services: map[string]string{ingot.ServiceBoot: "http://" + address + ":8080"}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	// serving are the addresses for a driver, S0.12.
	serving := func(driver string) (addresses []string) {
		t.Helper()
		all, err := st.Conductors(t.Context(), store.Page{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range ingot.Serving(all, driver) {
			addresses = append(addresses, c.Address)
		}
		slices.Sort(addresses)
		return addresses
	}
	beat()
	if got := serving("ipmi"); !slices.Equal(got, []string{"10.9.9.2", "127.0.0.1"}) {
		t.Errorf("of ipmi: %v", got)
	}
	if got := serving(""); len(got) != 3 {
		t.Errorf("of any: %v", got)
	}

	self, err := st.Conductor(t.Context(), "r1")
	if err != nil {
		t.Fatal(err)
	}
	boot := self.Services[ingot.ServiceBoot]
	names := func(path, server string) bool {
		t.Helper()
		answer, err := testkit.Web.Get(boot + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(text), boot+"/") {
			t.Fatalf("%s: %d, %v, %s", path, answer.StatusCode, err, text)
		}
		return strings.Contains(string(text), "http://"+server+":8080/")
	}
	const script = "/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address=52:54:00:77:00:01"
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	until("a conductor of the driver is not named", func() bool {
		beat()
		return names(script, "10.9.9.2") && names("/boot.ipxe", "10.9.9.3")
	})
	beat()
	if names(script, "10.9.9.3") {
		t.Error("a conductor without the driver is named")
	}
	until("dead conductors are named", func() bool {
		return !names(script, "10.9.9.2") && !names("/boot.ipxe", "10.9.9.3")
	})
	if got := serving(""); !slices.Equal(got, []string{"127.0.0.1"}) {
		t.Errorf("alive are %v, of %s", got, r1.url)
	}
}

// A server with another key is no member of the bus. Both say so, and a call that would go to the
// other one is done where it arrives.
func TestAServerWithAnotherKeyDoesItsCallsItself(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	p, err := postgres.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	host := func(name, key string) *sandbox {
		return startWith(t, func(c *config.Config) {
			c.Store.URL, c.Conductor.Host, c.Cluster.Listen = p.URL, name, "127.0.0.1:0"
			c.Conductor.HeartbeatInterval = config.Duration(100 * time.Millisecond)
			c.Cluster.Key = key
		})
	}
	r1, r2 := host("r1", ""), host("r2", strings.Repeat("07", 32))
	for _, s := range []*sandbox{r1, r2} {
		testkit.Eventually(t, "both say so", func() bool {
			return s.log.says("it has another [cluster] key")
		})
	}
	for _, name := range []string{"one", "two", "three", "four"} {
		r2.done("create", name, "--driver", "fake-hardware")
		r1.done("power", name, "on")
		r2.done("deploy", name)
	}
	if !r1.log.says("the owner does not answer; doing it here") &&
		!r2.log.says("the owner does not answer; doing it here") {
		t.Error("no call had to be done elsewhere")
	}
}
