package image

import (
	"bytes"

	"ingot/internal/ingot"
	"ingot/internal/qcow2"
)

// sniffSize is how many first bytes sniff wants to see; fewer are fine if there are no more. It
// reaches to the first volume descriptor of a CD.
const sniffSize = 34 << 10

// foreign lists contents that would boot no machine if they were written to its disk, where
// they are recognised, and what to do. They are refused because the usual cause is a wrong
// image_source, and because a format that this package does not know could refer to files.
var foreign = []struct {
	offset       int
	magic        string
	what, remedy string
}{
	{0, "KDMV", "a VMDK disk", convertFrom("vmdk")},
	{0, "COWD", "a VMDK disk", convertFrom("vmdk")},
	{0, "# Disk DescriptorFile", "a VMDK descriptor, which only names the files of a disk",
		convertFrom("vmdk")},
	{0, "vhdxfile", "a VHDX disk", convertFrom("vhdx")},
	{0, "conectix", "a VHD disk", convertFrom("vpc")},
	{64, "\x7f\x10\xda\xbe", "a VDI disk", convertFrom("vdi")},
	{0, "QED\x00", "a QED disk", convertFrom("qed")},
	{0, "WithoutFreeSpace", "a Parallels disk", convertFrom("parallels")},
	{0, "WithouFreSpacExt", "a Parallels disk", convertFrom("parallels")},
	{0, "LUKS\xba\xbe", "encrypted with LUKS", "no firmware can boot it; decrypt it with: " +
		"qemu-img convert --object secret,id=key,file=KEY --image-opts " +
		"driver=luks,file.filename=in,key-secret=key -O qcow2 out.qcow2"},
	{0, "BZh", "compressed with bzip2", recompress},
	{0, "\x04\x22\x4d\x18", "compressed with lz4", recompress},
	{0, "]\x00\x00", "compressed with lzma", recompress},
	{0, "PK\x03\x04", "a zip archive", unpack},
	{0, "7z\xbc\xaf\x27\x1c", "a 7z archive", unpack},
	{0, "Rar!\x1a\x07", "a RAR archive", unpack},
	{257, "ustar", "a tar archive", unpack},
	{0, "070701", "a cpio archive", unpack},
	{0, "hsqs", "a squashfs file system", "publish the image of a whole disk"},
	{0, "\x7fELF", "a program or kernel", "publish the image of a whole disk"},
}

const (
	recompress = "unpack it, or compress it with gzip, xz or zstd"
	unpack     = "unpack it and use the disk image inside"
	webPage    = "the content is a web page (%[2]q); check that %[1]s is the address of the file " +
		"itself and not of a page about it or of a login"
)

func convertFrom(format string) string {
	return "convert it with: qemu-img convert -f " + format + " -O qcow2 in out.qcow2"
}

// sniff tells the format from the first bytes of the content. Everything that it does not
// recognise is raw.
func sniff(head []byte) (Format, error) {
	if bytes.HasPrefix(head, []byte(qcow2.Magic)) {
		return QCOW2, nil
	}
	for _, f := range foreign {
		if len(head) > f.offset && bytes.HasPrefix(head[f.offset:], []byte(f.magic)) {
			return Unknown, ingot.Errorf(ingot.Invalid, "the content is %s; %s", f.what, f.remedy)
		}
	}
	if p := packingOf(head); p != nil {
		return Unknown, ingot.Errorf(ingot.Invalid, "the content is compressed with %s once more; "+
			"compress it once only", p.name)
	}
	if onlyCD(head) {
		return Unknown, ingot.Errorf(ingot.Invalid, "the content is the image of a CD without a "+
			"boot sector for disks, which no machine can boot from its disk; make it hybrid with "+
			"isohybrid or xorriso, or publish the image of an installed disk")
	}
	text := bytes.ToLower(bytes.TrimSpace(head[:min(len(head), 512)]))
	for _, tag := range []string{"<!doctype html", "<html"} {
		if bytes.HasPrefix(text, []byte(tag)) {
			return Unknown, ingot.Errorf(ingot.Invalid, webPage, "image_source",
				head[:min(len(head), 40)])
		}
	}
	return Raw, nil
}

// onlyCD tells whether head is that of an ISO 9660 file system (ECMA-119, 8.1) that begins
// without a partition table or boot sector, as those that boot from disks, too, have one.
func onlyCD(head []byte) bool {
	const descriptor, signature = 32 << 10, 510
	return len(head) > descriptor+6 && string(head[descriptor+1:descriptor+6]) == "CD001" &&
		string(head[signature:signature+2]) != "\x55\xaa"
}

// agree checks what was found against what was declared. To write a qcow2 file as raw would
// boot nothing; to read a raw disk as qcow2 would let the owner of the disk's first bytes
// choose what is read.
func agree(declared, found Format) error {
	if declared == Unknown || declared == found {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "image_disk_format is %s, but the content is %s; set "+
		"image_disk_format to %[2]s, or convert the image with: qemu-img convert -f %[2]s -O %[1]s "+
		"in out.%[1]s", declared, found)
}
