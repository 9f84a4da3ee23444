package ramdisk

import "fmt"

type flavour struct {
	name        Flavour
	metaPackage string   // Debian package that depends on the current kernel
	roots       []string // modules wanted; what they depend on is found
	later       []string // those that are not loaded when the agent starts
}

// later are the file systems of instances, from which the agent reads what they boot, if it is to go on into them by
// kexec. The kernel asks for the code pages of vfat by a modprobe, and there is none. XFS, three times as large as the
// rest, is for servers, whose firmware takes long.
var (
	later      = []string{"crc32c_generic", "ext4", "nls_cp437", "nls_ascii", "vfat"}
	laterMetal = append([]string{"xfs"}, later...)
)

// target are the modules of the iSCSI target. crc32c comes first: the target asks the crypto
// API for it at login, the kernel would then call modprobe, and there is none.
var target = []string{
	"crc32c_generic", "configfs", "target_core_mod", "target_core_iblock", "iscsi_target_mod",
}

// virtual are the devices of virtual machines; af_packet is for DHCP.
var virtual = []string{
	"af_packet", "virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "sd_mod", "nvme",
}

// metal are controllers and cards of servers of the last fifteen years that work without a
// firmware file, and QEMU's imitations of older ones.
var metal = []string{
	"ahci", "ata_piix", "megaraid_sas", "mpt3sas", "hpsa", "smartpqi", "vmw_pvscsi",
	"xhci_pci", "ehci_pci", "uhci_hcd", "usb_storage", // virtual drives of BMCs
	"e1000", "e1000e", "igb", "igc", "ixgbe", "i40e", "tg3", "bnxt_en", "realtek", "r8169", "8139cp",
	"vmxnet3",
}

var flavours = []flavour{
	{Cloud, "linux-image-cloud-amd64", append(append([]string{}, target...), virtual...), later},
	{Generic, "linux-image-amd64", append(append(append([]string{}, target...), virtual...),
		metal...), laterMetal},
}

func flavourOf(name Flavour) (flavour, error) {
	if name == "" {
		name = Cloud
	}
	for _, f := range flavours {
		if f.name == name {
			return f, nil
		}
	}
	return flavour{}, fmt.Errorf("there is no ramdisk flavour %q: choose %s for virtual machines "+
		"or %s for any hardware", name, Cloud, Generic)
}
