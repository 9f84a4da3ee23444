package pxe

import (
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/ring"
)

// toldKey is where DriverInternalInfo has the server that the DHCP of others was told of.
const toldKey = "dhcp_boot_server"

// prepareDHCP decides of which server the DHCP of others shall tell a machine that boots from the network
// (S0.11): one that lives and has its hardware type, the same for as long as it lives.
func (b *Boot) prepareDHCP(t *driver.Task) {
	n := t.Node
	if t.Driver.Network == nil || n.BootIntent != ingot.BootDeploy && n.BootIntent != ingot.BootInstance {
		delete(n.DriverInternalInfo, toldKey)
		return
	}
	if n.DriverInternalInfo[toldKey] != nil && !b.Lost(n) {
		return
	}
	if n.DriverInternalInfo == nil {
		n.DriverInternalInfo = ingot.Object{}
	}
	n.DriverInternalInfo[toldKey] = ring.Rank(n.UUID, b.serversOf(n))[0]
}

// tellDHCP has the DHCP of others answer the machine as prepareDHCP has decided.
func (b *Boot) tellDHCP(ctx context.Context, t *driver.Task) error {
	if t.Driver.Network == nil {
		return nil
	}
	var options []driver.DHCPOption
	if base := driver.Text(t.Node.DriverInternalInfo, toldKey); base != "" {
		options = b.dhcpOptions(t.Node, base)
	}
	return t.Driver.Network.SetDHCP(ctx, t, options)
}

// Lost tells whether a machine would be sent to a server that lives no more.
func (b *Boot) Lost(n *ingot.Node) bool {
	told := driver.Text(n.DriverInternalInfo, toldKey)
	return told != "" && !slices.Contains(b.serversOf(n), told)
}

// Repoint sends the machine to a server that lives. That is on record when DHCP has been told, and not
// before: what was not done is found by Lost again.
func (b *Boot) Repoint(ctx context.Context, t *driver.Task) error {
	b.prepareDHCP(t)
	if err := b.tellDHCP(ctx, t); err != nil {
		return err
	}
	return t.Save(ctx)
}

// serversOf are the servers that can answer the machine of a node; this one is among them.
func (b *Boot) serversOf(n *ingot.Node) []string {
	servers := slices.Clone(b.o.Env.BaseURLs)
	if b.o.Servers != nil {
		servers = append(servers, b.o.Servers(n.Driver)...)
	}
	return servers
}

// dhcpOptions are what Ironic sets (ironic/common/pxe_utils.py, dhcp_options_for_instance), with the
// script of the machine in place of boot.ipxe (S1.5). 255 is dnsmasq's name of the server's address in the
// header (siaddr).
func (b *Boot) dhcpOptions(n *ingot.Node, base string) []driver.DHCPOption {
	host := base
	if u, err := url.Parse(base); err == nil {
		host = u.Hostname()
	}
	arch := iana.EFI_X86_64
	switch {
	case driver.Text(n.Properties, "cpu_arch") == "aarch64":
		arch = iana.EFI_ARM64
	case driver.BootMode(n, b.o.DefaultBootMode) == driver.BIOS:
		arch = iana.INTEL_X86PC
	}
	script := strings.TrimRight(base, "/") + netboot.ConfigPath(n.Driver) + "node_uuid=" + n.UUID
	plain := Kind(n) == PlainName
	program := netboot.Program(plain, arch)
	if byHTTP(n) {
		return httpOptions(n, base, script)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		program = "tftp://[" + host + "]/" + program
		if plain {
			return []driver.DHCPOption{{Name: "59", Value: program, Version: 6}}
		}
		return []driver.DHCPOption{
			{Name: "tag:!ipxe6,59", Value: program, Version: 6},
			{Name: "tag:ipxe6,59", Value: script, Version: 6},
		}
	}
	boot := []driver.DHCPOption{{Name: "67", Value: program, Version: 4}}
	if !plain {
		boot = []driver.DHCPOption{
			{Name: "tag:!ipxe,67", Value: program, Version: 4},
			{Name: "tag:ipxe,67", Value: script, Version: 4},
		}
	}
	for _, name := range []string{"66", "150", "255"} {
		boot = append(boot, driver.DHCPOption{Name: name, Value: host, Version: 4})
	}
	return boot
}

// httpOptions are those for UEFI's HTTP client, which drops an answer without its own name in option 60.
func httpOptions(n *ingot.Node, base, script string) []driver.DHCPOption {
	file, no, yes, version := "67", "tag:!ipxe,", "tag:ipxe,", 4
	u, err := url.Parse(base)
	if err == nil {
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.Is6() {
			file, no, yes, version = "59", "tag:!ipxe6,", "tag:ipxe6,", 6
		}
	}
	boot := HTTPBootURL(n, strings.TrimRight(base, "/"), httpArch(n))
	var options []driver.DHCPOption
	if version == 4 {
		options = append(options, driver.DHCPOption{Name: "60", Value: "HTTPClient", Version: 4})
	}
	if Kind(n) == HTTPName {
		return append(options, driver.DHCPOption{Name: file, Value: boot, Version: version})
	}
	return append(options, driver.DHCPOption{Name: no + file, Value: boot, Version: version},
		driver.DHCPOption{Name: yes + file, Value: script, Version: version})
}
