package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/extradhcpopts"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/portsbinding"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/testkit/openstack"
)

// TestS1_5_AMachineBootsByNeutronsDHCP has a real Neutron and a real DHCP server, dnsmasq, that knows of
// the port what Neutron's agent tells it: the boot program, and for iPXE the machine's script at a
// conductor (S0.11) in place of boot.ipxe.
func TestS1_5_AMachineBootsByNeutronsDHCP(t *testing.T) {
	t.Parallel()
	requirements(t)
	c := openstack.Start(t, openstack.Want{Services: "neutron"})
	l, m := startWith(t, sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM},
		lab.Options{Cache: buildDir(t, "cache"), DHCPMode: "off", Settings: map[string]string{
			"INGOT_CONDUCTOR_ENABLED_NETWORK_INTERFACES": "flat",
			"INGOT_NEUTRON_AUTH_TYPE":                    "none",
			"INGOT_NEUTRON_ENDPOINT_OVERRIDE":            c.Neutron,
		}})
	forward(t, l, c.Neutron)
	a := newAgent(t, l, c.Neutron)
	vif := a.port(t)
	enroll(t, l, m)
	name := m.Spec().Name
	baremetal(t, l, "node", "vif", "attach", name, vif)
	if got := baremetal(t, l, "node", "vif", "list", name, "-f", "value"); got != vif {
		t.Errorf("VIFs: %q", got)
	}
	baremetal(t, l, "node", "deploy", name, "--wait", "240")
	deployed(t, l, m)

	uuid := state(t, l, m, "uuid")
	want := []string{
		"tag:!ipxe,67=snponly.efi",
		"tag:ipxe,67=" + l.Server.Boot() + "/v1/drivers/ipmi/vendor_passthru/ipxe_config?node_uuid=" + uuid,
		"66=" + l.Addr().String(), "150=" + l.Addr().String(), "255=" + l.Addr().String(),
	}
	for _, option := range want {
		if !slices.Contains(a.seen(), option) {
			t.Errorf("Neutron was never told %q, but %q", option, a.seen())
		}
	}
	got := a.show(t, vif)
	if len(got.ExtraDHCPOpts) > 0 || got.HostID != uuid || got.MACAddress != m.Spec().MAC {
		t.Errorf("the port of an active machine that boots its disk: %+v", got)
	}
	for _, e := range timeline(t, l, m) {
		if e.Source == "dhcp" {
			t.Errorf("ingot's DHCP: %s", e.Text)
		}
	}
	baremetal(t, l, "node", "undeploy", name, "--wait", "60")
	got = a.show(t, vif)
	if left := baremetal(t, l, "node", "vif", "list", name, "-f", "value"); left != "" || got.HostID != "" {
		t.Errorf("after the instance: VIFs %q, bound to %q", left, got.HostID)
	}
}

// port is a port as Neutron shows it.
type port struct {
	ports.Port
	extradhcpopts.ExtraDHCPOptsExt
	portsbinding.PortsBindingExt
}

// agent does for one network what Neutron's DHCP agent does: dnsmasq is told what Neutron knows of its ports,
// in the agent's words (neutron/agent/linux/dhcp.py).
type agent struct {
	neutron         *gophercloud.ServiceClient
	network         *networks.Network
	hosts, opts, id string // files

	mu   sync.Mutex
	told []string // options that any port had; guarded by mu
}

func newAgent(t *testing.T, l *lab.Lab, neutron string) *agent {
	t.Helper()
	dir := t.TempDir()
	a := &agent{hosts: filepath.Join(dir, "host"), opts: filepath.Join(dir, "opts"), id: filepath.Join(dir, "pid"),
		neutron: &gophercloud.ServiceClient{ProviderClient: &gophercloud.ProviderClient{},
			Endpoint: neutron + "/v2.0/"}}
	var err error
	a.network, err = networks.Create(t.Context(), a.neutron, networks.CreateOpts{Name: "flat"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	_, err = subnets.Create(t.Context(), a.neutron, subnets.CreateOpts{NetworkID: a.network.ID, IPVersion: 4,
		CIDR: netip.PrefixFrom(l.Addr(), 24).Masked().String()}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(a.hosts, nil, 0o644), os.WriteFile(a.opts, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	stop, err := l.ForeignDHCP(t.Context(), "--dhcp-match=set:ipxe,175", "--dhcp-hostsfile="+a.hosts,
		"--dhcp-optsfile="+a.opts, "--pid-file="+a.id)
	if err != nil {
		t.Fatal(err)
	}
	var polls sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	polls.Go(func() { a.run(ctx, t) })
	t.Cleanup(func() {
		cancel()
		polls.Wait()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// port makes a port as Nova does for a server on bare metal, with an address of its own.
func (a *agent) port(t *testing.T) (id string) {
	t.Helper()
	p, err := ports.Create(t.Context(), a.neutron, portsbinding.CreateOptsExt{
		CreateOptsBuilder: ports.CreateOpts{NetworkID: a.network.ID}, VNICType: "baremetal"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	return p.ID
}

func (a *agent) show(t *testing.T, id string) (p port) {
	t.Helper()
	if err := ports.Get(t.Context(), a.neutron, id).ExtractInto(&p); err != nil {
		t.Fatal(err)
	}
	return p
}

// seen are the options that ports had so far, as NAME=VALUE.
func (a *agent) seen() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.told)
}

// run keeps dnsmasq informed.
func (a *agent) run(ctx context.Context, t *testing.T) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for last := ""; ; {
		hosts, opts, err := a.files(ctx)
		if err == nil && hosts+opts != last {
			last = hosts + opts
			err = errors.Join(os.WriteFile(a.hosts, []byte(hosts), 0o644), os.WriteFile(a.opts, []byte(opts), 0o644),
				a.reload())
		}
		if err != nil && ctx.Err() == nil {
			t.Error("agent of Neutron: ", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// files are what dnsmasq reads.
func (a *agent) files(ctx context.Context) (hosts, opts string, err error) {
	pages, err := ports.List(a.neutron, ports.ListOpts{NetworkID: a.network.ID}).AllPages(ctx)
	if err != nil {
		return "", "", err
	}
	var all []port
	if err := ports.ExtractPortsInto(pages, &all); err != nil {
		return "", "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range all {
		hosts += fmt.Sprintf("%s,%s,set:%s\n", p.MACAddress, p.FixedIPs[0].IPAddress, p.ID)
		for _, o := range p.ExtraDHCPOpts {
			opts += fmt.Sprintf("tag:%s,%s,%s\n", p.ID, o.OptName, o.OptValue)
			if option := o.OptName + "=" + o.OptValue; !slices.Contains(a.told, option) {
				a.told = append(a.told, option)
			}
		}
	}
	return hosts, opts, nil
}

// reload has dnsmasq read its files again.
func (a *agent) reload() error {
	text, err := os.ReadFile(a.id)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGHUP)
}
