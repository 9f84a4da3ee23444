package netboot

import "github.com/insomniacslk/dhcp/iana"

// ProgramPath is where boot programs are at every server, for UEFI HTTP boot.
const ProgramPath = "/programs/"

// Program names the boot program by the architecture of option 93 (RFC 4578 section 2.1, as assigned by
// IANA); "" if there is none. plain is for the boot interface pxe, else it is for ipxe.
//
// ipxe: snponly.efi and not ipxe.efi for UEFI. It uses the firmware's own network driver, which by
// then has proven to work, and starts about five seconds earlier.
//
// pxe: PXELINUX for BIOS; for UEFI the signed shim, which loads the signed GRUB and so boots
// machines with Secure Boot. UEFI HTTP boot gets iPXE all the same: the GRUB of Debian 12 finds no
// configuration over HTTP and ends at its prompt.
func Program(plain bool, arch iana.Arch) string {
	if plain {
		return pxePrograms[arch]
	}
	return ipxePrograms[arch]
}

var (
	ipxePrograms = map[iana.Arch]string{
		iana.INTEL_X86PC:     "undionly.kpxe",
		iana.EFI_BC:          "snponly.efi", // 7: what x86-64 UEFI sends, in spite of its name
		iana.EFI_X86_64:      "snponly.efi", // 9: what the RFC has for x86-64, sent by some
		iana.EFI_X86_64_HTTP: "snponly.efi", // 16: UEFI HTTP boot
		iana.EFI_ARM64:       "snponly-arm64.efi",
		iana.EFI_ARM64_HTTP:  "snponly-arm64.efi",
	}
	pxePrograms = map[iana.Arch]string{
		iana.INTEL_X86PC:     "pxelinux.0",
		iana.EFI_BC:          "bootx64.efi",
		iana.EFI_X86_64:      "bootx64.efi",
		iana.EFI_X86_64_HTTP: "snponly.efi",
		iana.EFI_ARM64:       "bootaa64.efi",
		iana.EFI_ARM64_HTTP:  "snponly-arm64.efi",
	}
)
