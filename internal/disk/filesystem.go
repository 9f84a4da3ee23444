package disk

import "fmt"

// Filesystem is what a file system says of itself.
type Filesystem struct {
	Kind string // ext (2 to 4), xfs, btrfs, vfat
	// UUID as blkid and the kernel's command line write it: root=UUID=.
	UUID string
}

// IdentifySize is how many bytes of the head of a partition Identify and Other want.
const IdentifySize = 0x10050

// Other tells what else than a file system of [Identify] a partition has, by its head, in the words of blkid: what is
// to be a part of something, swap, or a file system of optical disks, as config drives have it. "" is nothing of that.
func Other(head []byte) string {
	for _, m := range []struct {
		at          int
		magic, name string
	}{
		{0, "LUKS\xBA\xBE", "crypto_LUKS"}, {4096, "\xFC\x4E\x2B\xA9", "linux_raid_member"},
		{0, "LABELONE", "LVM2_member"}, {512, "LABELONE", "LVM2_member"}, {1024, "LABELONE", "LVM2_member"},
		{1536, "LABELONE", "LVM2_member"}, {swapPage - 10, "SWAPSPACE2", "swap"}, {0x8001, "CD001", "iso9660"},
	} {
		if len(head) >= m.at+len(m.magic) && string(head[m.at:m.at+len(m.magic)]) == m.magic {
			return m.name
		}
	}
	return ""
}

// Identify looks for a file system in the head of a partition; false if there is none it knows.
func Identify(head []byte) (Filesystem, bool) {
	has := func(at int, magic string) bool {
		return len(head) >= at+len(magic) && string(head[at:at+len(magic)]) == magic
	}
	uuid := func(at int) string {
		b := head[at : at+16]
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
	}
	serial := func(at int) string {
		n := le.Uint32(head[at:])
		return fmt.Sprintf("%04X-%04X", n>>16, n&0xFFFF)
	}
	switch {
	case has(1024+0x38, "\x53\xEF") && len(head) >= 1024+0x78:
		return Filesystem{"ext", uuid(1024 + 0x68)}, true
	case has(0, "XFSB") && len(head) >= 48:
		return Filesystem{"xfs", uuid(32)}, true
	case has(0x10040, "_BHRfS_M"):
		return Filesystem{"btrfs", uuid(0x10020)}, true
	case has(0x52, "FAT32   "):
		return Filesystem{"vfat", serial(0x43)}, true
	case has(0x36, "FAT16   "), has(0x36, "FAT12   "):
		return Filesystem{"vfat", serial(0x27)}, true
	}
	return Filesystem{}, false
}

// swapPage is the unit of a swap area on all machines that Linux runs servers on; others can
// not use it.
const swapPage = 4096

// SwapHeader returns the first bytes of a swap area of size bytes, as mkswap writes them (Linux,
// include/linux/swap.h). uuid is in reading order.
func SwapHeader(size int64, uuid [16]byte, label string) []byte {
	h := make([]byte, swapPage)
	le.PutUint32(h[1024:], 1) // version
	le.PutUint32(h[1028:], uint32(min(size/swapPage-1, 1<<32-1)))
	copy(h[1036:1052], uuid[:])
	copy(h[1052:1068], label)
	copy(h[swapPage-10:], "SWAPSPACE2")
	return h
}
