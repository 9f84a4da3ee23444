package image

import (
	"bytes"
	"fmt"

	"ingot/internal/ingot"
	"ingot/internal/qcow2"
)

// sniffSize is how many first bytes sniff wants to see; fewer are fine if there are no more.
const sniffSize = 512

const gzipMagic = "\x1f\x8b"

// foreign lists contents that would boot no machine if they were written to its disk, where
// they are recognised, and what to do. They are refused because the usual cause is a wrong
// image_source, and because a format that this package does not know could refer to files.
var foreign = []struct {
	offset       int
	magic        string
	what, remedy string
}{
	{0, "KDMV", "a VMDK disk", convert},
	{0, "COWD", "a VMDK disk", convert},
	{0, "# Disk DescriptorFile", "a VMDK descriptor", convert},
	{0, "vhdxfile", "a VHDX disk", convert},
	{0, "conectix", "a VHD disk", convert},
	{64, "\x7f\x10\xda\xbe", "a VDI disk", convert},
	{0, "QED\x00", "a QED disk", convert},
	{0, "\xfd7zXZ\x00", "compressed with xz", recompress},
	{0, "\x28\xb5\x2f\xfd", "compressed with zstd", recompress},
	{0, "BZh", "compressed with bzip2", recompress},
	{0, "PK\x03\x04", "a zip archive", unpack},
	{257, "ustar", "a tar archive", unpack},
}

const (
	convert    = "convert it with: qemu-img convert -O qcow2 in out"
	recompress = "unpack it, or compress it with gzip"
	unpack     = "unpack it and use the disk image inside"
	webPage    = "the content is a web page (%q); check that image_source is the address of the " +
		"image and not of a page about it or of a login"
)

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
	text := bytes.ToLower(bytes.TrimSpace(head))
	for _, tag := range []string{"<!doctype html", "<html"} {
		if bytes.HasPrefix(text, []byte(tag)) {
			return Unknown, ingot.Errorf(ingot.Invalid, webPage, head[:min(len(head), 40)])
		}
	}
	return Raw, nil
}

// agree checks what was found against what was declared. To write a qcow2 file as raw would
// boot nothing; to read a raw disk as qcow2 would let the owner of the disk's first bytes
// choose what is read.
func agree(declared, found Format) error {
	if declared == Unknown || declared == found {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "image_disk_format is %s, but the content is %s; set "+
		"image_disk_format to %[2]s%[3]s", declared, found, alternative(declared))
}

func alternative(declared Format) string {
	return fmt.Sprintf(", or convert the image with: qemu-img convert -O %s in out", declared)
}
