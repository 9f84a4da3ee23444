package netboot

import (
	"fmt"
	"net/url"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/roothint"
)

// script writes the text of one node. iPXE's language has words split at blanks, ${settings},
// "||" and "#"; nothing else is needed from it and nothing else may get in (clean.go).
type script struct {
	node *ingot.Node
	env  Env
	b    strings.Builder
}

func (s *script) line(format string, args ...any) {
	fmt.Fprintf(&s.b, format+"\n", args...)
}

// begin writes the first lines of every script of a node.
func (s *script) begin(what string) {
	s.line("#!ipxe")
	s.line("echo ingot: node %s: %s", text(s.node.Label()), text(what))
}

// deploy boots the ramdisk. A server that is down, slow or lacks the file is skipped; when all
// were tried the machine pauses and asks for a fresh script, because the truth may have changed
// meanwhile (another server, deployment given up). There is no path to a prompt.
func (s *script) deploy() string {
	a := s.node.Attempt
	s.begin("deploy ramdisk, attempt " + a.ID)
	// The setting outlives a chained script: pauses grow over all of them.
	s.line("isset ${pause} || set pause:int32 0")
	s.line(":again")
	args := s.kernelArgs()
	for i, base := range s.env.BaseURLs {
		next := fmt.Sprintf("server%d", i+1)
		s.line("imgfree")
		// --timeout is about silence, not about the whole transfer, in milliseconds.
		s.line("kernel --timeout 30000 %s %s || goto %s", fileURL(base, a.Kernel), args, next)
		// EFI kernels look for initrd= by image name, so the name must not depend on the URL.
		s.line("initrd --timeout 30000 --name initrd %s || goto %s",
			fileURL(base, a.Ramdisk), next)
		s.line("boot || goto %s", next)
		s.line(":%s", next)
		s.line("echo ingot: no boot from %s", text(base))
	}
	s.line("iseq ${pause} 10 || inc pause")
	s.line("echo ingot: every server was tried; asking again in ${pause} seconds")
	s.line("sleep ${pause}")
	s.askAgain()
	s.line("goto again")
	return s.b.String()
}

// kernelArgs is what the deploy ramdisk is told (seed 2, and the argument names of Ironic's
// Liberty release). ${netX} is the interface iPXE booted from; the ramdisk uses that one.
func (s *script) kernelArgs() string {
	n := s.node
	apis := s.env.APIURLs
	if len(apis) == 0 {
		apis = s.env.BaseURLs
	}
	clean := make([]string, len(apis))
	for i, u := range apis {
		clean[i] = link(strings.TrimRight(u, "/"))
	}
	args := []string{
		"initrd=initrd",
		"deployment_id=" + word(n.UUID),
		"deployment_key=" + word(n.Attempt.Key.Reveal()),
		"iscsi_target_iqn=" + targetName(n),
		"ironic_api_url=" + strings.Join(clean, ","),
		"ipa-api-url=" + clean[0],
		"boot_attempt=" + word(n.Attempt.ID),
		"BOOTIF=01-${netX/mac:hexhyp}",
	}
	if hints, _ := roothint.Of(n.InstanceInfo, n.Properties); hints != nil {
		// A node that would not validate asks for a disk that is not there, rather than for any.
		encoded := "invalid"
		if h, err := roothint.Parse(hints); err == nil {
			encoded = h.Encode()
		}
		args = append(args, "root_device="+encoded)
	}
	extra := s.env.KernelArgs
	if own, ok := n.DriverInfo["kernel_append_params"].(string); ok {
		extra = strings.ReplaceAll(own, "%default%", extra)
	}
	return strings.Join(append(args, kernelWords(extra)...), " ")
}

// targetName is the iSCSI name under which the ramdisk exports the node's disk.
func targetName(n *ingot.Node) string { return "iqn.2008-10.org.openstack:" + word(n.UUID) }

// disk boots the local disk. A BIOS boots drive 0x80 from here. UEFI firmware has no such call
// (sanboot fails there with "No such device"): the boot order that the BMC set decides, and
// exit hands over to it.
func (s *script) disk() string {
	s.begin("boot from disk")
	s.line("iseq ${platform} pcbios || goto firmware")
	s.line("sanboot --no-describe --drive 0x80 || exit 0")
	s.line(":firmware")
	s.line("echo ingot: the boot device set through the BMC decides; leaving to the firmware")
	s.line("exit 0")
	return s.b.String()
}

func (s *script) none() string {
	s.begin("nothing to boot from the network in state " + s.node.ProvisionState +
		"; next boot device")
	s.line("exit 0")
	return s.b.String()
}

// failed shows why the machine does not boot and switches it off. Builds without the poweroff
// command wait and ask again.
func (s *script) failed(why string) string {
	if why == "" {
		why = "no reason on record"
	}
	s.begin("stopped in state " + s.node.ProvisionState)
	s.line("echo ingot: %s", text(why))
	s.line("echo ingot: more with: ingot node journal %s", text(s.node.Label()))
	s.line("echo ingot: power off in 30 seconds")
	s.line("sleep 30")
	s.line("poweroff || goto wait")
	s.line(":wait")
	s.line("sleep 60")
	s.askAgain()
	s.line("goto wait")
	return s.b.String()
}

// askAgain fetches the script of this moment from the first server that answers. A failing
// chain falls through to the next line.
func (s *script) askAgain() {
	for i, base := range s.env.BaseURLs {
		s.line("chain --replace --autofree --timeout 10000 %s || goto asked%d",
			configURL(base, s.node.Driver), i+1)
		s.line(":asked%d", i+1)
	}
}

// configURL is where a machine that runs iPXE asks for its script (S1.3); iPXE fills in the
// address of the interface it booted from.
func configURL(base, driver string) string {
	return link(strings.TrimRight(base, "/")) + "/v1/drivers/" + url.PathEscape(word(driver)) +
		"/vendor_passthru/ipxe_config?port_address=${netX/mac}"
}

// UnknownMachine is the script for a machine nobody knows; mac is what it called itself, shown
// so that a person at the console can enroll it. It tells nothing about known ones.
func UnknownMachine(mac string) string {
	if mac == "" {
		mac = "it did not name"
	}
	return Problem("unknown", fmt.Sprintf("no node has a port with the address %s; "+
		"to manage this machine enroll a node and create the port", mac))
}

// Problem is the script that says on the console what is wrong with the boot of node label and
// goes on to the next boot device. It is served with status 200: iPXE shows nothing useful on
// any other.
func Problem(label, problem string) string {
	return "#!ipxe\n" +
		"echo ingot: node " + text(label) + ": cannot tell what to boot\n" +
		"echo ingot: " + text(problem) + "\n" +
		"echo ingot: next boot device in 10 seconds\n" +
		"sleep 10\n" +
		"exit 0\n"
}

// filePath is the path of a boot file on every server.
func filePath(f ingot.File) string {
	name := word(f.Name)
	if name == "" || strings.Trim(name, ".") == "" {
		name = "file"
	}
	return "/files/" + word(f.SHA256) + "/" + name
}

func fileURL(base string, f ingot.File) string {
	return link(strings.TrimRight(base, "/")) + filePath(f)
}
