package pxe_test

import (
	"context"
	"slices"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// dhcp remembers what the DHCP of a network was told.
type dhcp struct {
	driver.Network
	options []driver.DHCPOption
}

func (d *dhcp) SetDHCP(_ context.Context, _ *driver.Task, options []driver.DHCPOption) error {
	d.options = options
	return nil
}

// Options as Ironic has them, of each kind of machine; one that boots its disk has none.
func TestDHCPOfOthersIsToldWhatTheMachineBoots(t *testing.T) {
	t.Parallel()
	const base = "http://10.0.0.1:8080"
	server := []driver.DHCPOption{{Name: "66", Value: "10.0.0.1", Version: 4},
		{Name: "150", Value: "10.0.0.1", Version: 4}, {Name: "255", Value: "10.0.0.1", Version: 4}}
	for name, c := range map[string]struct {
		boot, mode string
		want       func(n *ingot.Node, script string) []driver.DHCPOption
	}{
		"ipxe": {"ipxe", "uefi", func(_ *ingot.Node, script string) []driver.DHCPOption {
			return append([]driver.DHCPOption{{Name: "tag:!ipxe,67", Value: "snponly.efi", Version: 4},
				{Name: "tag:ipxe,67", Value: script, Version: 4}}, server...)
		}},
		"pxe": {"pxe", "bios", func(*ingot.Node, string) []driver.DHCPOption {
			return append([]driver.DHCPOption{{Name: "67", Value: "pxelinux.0", Version: 4}}, server...)
		}},
		"http": {"http", "uefi", func(n *ingot.Node, _ string) []driver.DHCPOption {
			return []driver.DHCPOption{{Name: "60", Value: "HTTPClient", Version: 4},
				{Name: "67", Value: base + netboot.MediumPath(n), Version: 4}}
		}},
		"http-ipxe": {"http-ipxe", "uefi", func(_ *ingot.Node, script string) []driver.DHCPOption {
			return []driver.DHCPOption{{Name: "60", Value: "HTTPClient", Version: 4},
				{Name: "tag:!ipxe,67", Value: base + netboot.ProgramPath + "snponly.efi", Version: 4},
				{Name: "tag:ipxe,67", Value: script, Version: 4}}
		}},
	} {
		w := newWorld(nil)
		d := &dhcp{}
		n := w.task.Node
		w.task.Driver.Network, n.BootIntent = d, ingot.BootDeploy
		n.Interfaces = map[string]string{"boot": c.boot}
		n.Properties = ingot.Object{"capabilities": "boot_mode:" + c.mode}
		for range 2 {
			if err := w.boot.Repoint(t.Context(), w.task); err != nil {
				t.Fatal(err)
			}
		}
		want := c.want(n, base+netboot.ConfigPath(n.Driver)+"node_uuid="+uuid)
		if !slices.Equal(d.options, want) || slices.ContainsFunc(want, func(o driver.DHCPOption) bool { return o.Value == base }) {
			t.Errorf("%s: %v, want %v", name, d.options, want)
		}
		n.BootIntent = ingot.BootDisk
		if err := w.boot.Repoint(t.Context(), w.task); err != nil || len(d.options) > 0 {
			t.Errorf("%s, from disk: %v, %v", name, d.options, err)
		}
	}
}
