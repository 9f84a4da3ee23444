package server_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/extradhcpopts"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"ingot/internal/config"
	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// Neutron's DHCP names a conductor that lives, and another one when that has died. One of the two here is
// a row only, which owns none of the nodes.
func TestS0_11_NeutronIsToldOfAnotherConductor(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	c := openstack.Start(t, openstack.Want{Services: "neutron"})
	database := storetest.Postgres(t)
	const lease = 3 * time.Second
	r1, images := startBeside(t, c.Neutron, func(o *config.Config) {
		o.Store.URL, o.Conductor.Host, o.Cluster.Listen = database, "r1", "127.0.0.1:0"
		o.Conductor.HeartbeatTimeout = config.Duration(lease)
		o.Conductor.HeartbeatInterval = config.Duration(100 * time.Millisecond)
		o.Boot.Quorum = config.QuorumAny
	})
	st, err := store.Open(t.Context(), store.Options{URL: database, ConductorLease: lease})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	const other = "http://10.9.9.2:8080"
	die := lives(t, st, &ingot.Conductor{Hostname: "r2", Incarnation: "r2", Group: "elsewhere",
		Drivers:  []ingot.Driver{{Name: "fake-hardware"}},
		Services: map[string]string{ingot.ServiceBoot: other}})
	self, err := st.Conductor(t.Context(), "r1")
	if err != nil {
		t.Fatal(err)
	}
	own := self.Services[ingot.ServiceBoot]
	n := newNetwork(t, c.Neutron)
	// Which of the two a machine is told of is by chance.
	told := map[string]string{} // base URL by port of Neutron
	for i := 0; i < 3 || !contains(told, own) || !contains(told, other); i++ {
		if i == 30 {
			t.Fatalf("only one conductor is named: %v", told)
		}
		vif := n.port(t)
		r1.deployOn(t, i, vif, images)
		told[vif] = n.named(t, vif)
	}
	die()
	for vif, base := range told {
		testkit.Eventually(t, "port "+vif+", which was told of "+base+", is told of "+own, func() bool {
			return n.named(t, vif) == own
		})
	}
}

// startBeside starts a server beside a Neutron, whose machines are of fake-hardware; images is a directory
// with a file that may be deployed.
func startBeside(t *testing.T, neutron string, change func(*config.Config)) (s *sandbox, images string) {
	t.Helper()
	images = t.TempDir()
	if err := os.WriteFile(filepath.Join(images, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	return startWith(t, func(o *config.Config) {
		o.Conductor.EnabledHardwareTypes = []string{"fake-hardware"}
		o.Conductor.EnabledNetworkInterfaces = []string{"flat"}
		o.Conductor.BootRetryTimeout = 0
		o.Neutron.AuthType, o.Neutron.Endpoint = config.AuthNone, neutron
		o.Image.AllowedPaths = []string{images}
		o.Deploy.Kernel, o.Deploy.Ramdisk = "file://"+images+"/file", "file://"+images+"/file"
		change(o)
	}), images
}

// lives has a conductor live that is a row only, until it is told to die.
func lives(t *testing.T, st *store.Store, c *ingot.Conductor) (die func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	if err := st.Heartbeat(ctx, *c); err != nil {
		t.Fatal(err)
	}
	var beats sync.WaitGroup
	beats.Go(func() {
		for ctx.Err() == nil {
			if err := st.Heartbeat(ctx, *c); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	die = func() { stop(); beats.Wait() }
	t.Cleanup(die)
	return die
}

func contains(told map[string]string, base string) bool {
	for _, b := range told {
		if b == base {
			return true
		}
	}
	return false
}

// What has a VIF is not taken away under it, and an instance can be deleted whatever became of its VIFs.
func TestNodesWithVIFs(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	c := openstack.Start(t, openstack.Want{Services: "neutron"})
	s, images := startBeside(t, c.Neutron, func(o *config.Config) {
		o.Conductor.EnabledNetworkInterfaces = []string{"flat", "noop"}
	})
	n := newNetwork(t, c.Neutron)
	vif := n.port(t)
	s.deployOn(t, 0, vif, images)
	refused := func(method, path, body, words string) {
		t.Helper()
		if got := s.as("", method, path, body); got.status != 409 || !strings.Contains(got.body, words) {
			t.Errorf("%s %s: %d %s", method, path, got.status, got.body)
		}
	}
	const at = "/v1/nodes/metal-0"
	port, _, _ := strings.Cut(strings.SplitN(s.as("", "GET", at+"/ports", "").body, `"uuid":"`, 2)[1], `"`)
	refused("DELETE", "/v1/ports/"+port, "", "as it is bound to VIF "+vif+" for tenant use")
	if err := ports.Delete(t.Context(), n.client, vif).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	s.as("", "PUT", at+"/states/provision", `{"target": "deleted"}`)
	s.becomes("metal-0", "available")
	if got := s.as("", "GET", at+"/vifs", ""); !strings.Contains(got.body, `"vifs":[]`) {
		t.Errorf("left: %s", got.body)
	}
	if got := s.as("", "POST", at+"/vifs", fmt.Sprintf(`{"id": %q}`, n.port(t))); got.status != 204 {
		t.Fatalf("attach: %d %s", got.status, got.body)
	}
	refused("DELETE", at, "", "Detach it first")
	s.as("", "PUT", at+"/maintenance", "")
	refused("PATCH", at, `[{"op": "replace", "path": "/network_interface", "value": "noop"}]`,
		"network_interface cannot become noop")
	if got := s.as("", "DELETE", "/v1/ports/"+port, ""); got.status != 204 {
		t.Errorf("in maintenance: %d %s", got.status, got.body)
	}
}

// becomes waits for a provision state, and ends the test if something fails on the way.
func (s *sandbox) becomes(node, state string) {
	s.Helper()
	testkit.Eventually(s, node+" is "+state, func() bool {
		got := s.as("", "GET", "/v1/nodes/"+node+"?fields=provision_state,last_error", "").body
		if strings.Contains(got, "failed") || strings.Contains(got, `"error"`) {
			s.Fatalf("not %s: %s", state, got)
		}
		return strings.Contains(got, `"`+state+`"`)
	})
}

// deployOn has a node wait for its ramdisk with a VIF.
func (s *sandbox) deployOn(t *testing.T, i int, vif, images string) {
	t.Helper()
	name := fmt.Sprintf("metal-%d", i)
	do := func(want int, method, path, body string) string {
		t.Helper()
		answer := s.as("", method, path, body)
		if answer.status != want {
			t.Fatalf("%s %s: %d %s", method, path, answer.status, answer.body)
		}
		return answer.body
	}
	var node struct{ UUID string }
	if err := json.Unmarshal([]byte(do(201, "POST", "/v1/nodes", fmt.Sprintf(`{"name": %q,
		"driver": "fake-hardware", "boot_interface": "ipxe", "deploy_interface": "iscsi",
		"automated_clean": false, "instance_info": {"image_source": "file://%s/file", "image_checksum": "%x"}}`,
		name, images, sha256.Sum256([]byte("content"))))), &node); err != nil {
		t.Fatal(err)
	}
	do(201, "POST", "/v1/ports", fmt.Sprintf(`{"node_uuid": %q, "address": "52:54:00:77:01:%02x"}`, node.UUID, i))
	for _, v := range []struct{ target, state string }{
		{"manage", "manageable"}, {"provide", "available"}, {"active", "wait call-back"},
	} {
		if v.target == "active" {
			do(204, "POST", "/v1/nodes/"+name+"/vifs", fmt.Sprintf(`{"id": %q}`, vif))
		}
		do(202, "PUT", "/v1/nodes/"+name+"/states/provision", fmt.Sprintf(`{"target": %q}`, v.target))
		s.becomes(name, v.state)
	}
}

// neutronNetwork is a network of Neutron.
type neutronNetwork struct {
	client *gophercloud.ServiceClient
	id     string
}

func newNetwork(t *testing.T, neutron string) neutronNetwork {
	t.Helper()
	n := neutronNetwork{client: &gophercloud.ServiceClient{ProviderClient: &gophercloud.ProviderClient{},
		Endpoint: neutron + "/v2.0/"}}
	made, err := networks.Create(t.Context(), n.client, networks.CreateOpts{Name: t.Name()}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	n.id = made.ID
	_, err = subnets.Create(t.Context(), n.client, subnets.CreateOpts{NetworkID: n.id, IPVersion: 4,
		CIDR: "10.9.9.0/24"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// port makes a port, and returns its id.
func (n neutronNetwork) port(t *testing.T) string {
	t.Helper()
	made, err := ports.Create(t.Context(), n.client, ports.CreateOpts{NetworkID: n.id}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	return made.ID
}

// named is the base URL of the script that DHCP names on a port.
func (n neutronNetwork) named(t *testing.T, id string) string {
	t.Helper()
	var p extradhcpopts.ExtraDHCPOptsExt
	if err := ports.Get(t.Context(), n.client, id).ExtractInto(&p); err != nil {
		t.Fatal(err)
	}
	for _, o := range p.ExtraDHCPOpts {
		if base, _, script := strings.Cut(o.OptValue, "/v1/drivers/"); script && o.OptName == "tag:ipxe,67" {
			return base
		}
	}
	return ""
}
