package pxe

import (
	"context"

	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// HTTPBootURL is what UEFI's HTTP client loads from a server to boot the machine of a node; "" if there is
// nothing for its architecture. With HTTPName that is the medium of the node, which firmware makes a disk in
// memory (its path ends in .iso) and Secure Boot trusts; the GRUB of Debian 12 would find no configuration over
// HTTP. All others get iPXE.
func HTTPBootURL(n *ingot.Node, base string, arch iana.Arch) string {
	if Kind(n) == HTTPName {
		if path := netboot.MediumPath(n); path != "" && arch == iana.EFI_X86_64_HTTP {
			return base + path
		}
		return ""
	}
	if program := netboot.Program(false, arch); program != "" {
		return base + netboot.ProgramPath + program
	}
	return ""
}

// httpArch is the architecture that the HTTP client of a node's machine will name.
func httpArch(n *ingot.Node) iana.Arch {
	if driver.Text(n.Properties, "cpu_arch") == "aarch64" {
		return iana.EFI_ARM64_HTTP
	}
	return iana.EFI_X86_64_HTTP
}

// validateHTTP asks for a machine that has UEFI.
func (b *Boot) validateHTTP(n *ingot.Node) error {
	if !byHTTP(n) || driver.BootMode(n, b.o.DefaultBootMode) == driver.UEFI {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "boot interface %s is for machines that boot by UEFI, and node %s boots as "+
		"BIOS; set boot_mode:uefi in properties.capabilities if its machine can, or use boot interface ipxe",
		n.Interfaces["boot"], n.UUID)
}

// setNetwork has the machine boot from the network. A BMC that knows nothing of UEFI's HTTP client is told to
// boot from the card, as in Ironic: firmware that has both comes to HTTP when PXE is told of no file.
func (b *Boot) setNetwork(ctx context.Context, t *driver.Task, persistent bool) error {
	n := t.Node
	if !byHTTP(n) {
		return t.SetBootDevice(ctx, driver.BootDevice{Device: "pxe", Persistent: persistent})
	}
	url := HTTPBootURL(n, b.mediaURL(), httpArch(n))
	err := t.SetBootDevice(ctx, driver.BootDevice{Device: "uefihttp", Persistent: persistent, URL: url})
	if ingot.KindOf(err) != ingot.Invalid || n.Interfaces["boot"] == strictHTTPName {
		return err
	}
	t.Note(ingot.Entry{Source: "bmc", Level: ingot.LevelWarning, Text: "the machine cannot be told to boot by UEFI " +
		"HTTP, and is told to boot from its network card (pxe); its firmware has to try HTTP by itself: " + err.Error()})
	return t.SetBootDevice(ctx, driver.BootDevice{Device: "pxe", Persistent: persistent})
}
