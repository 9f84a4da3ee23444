package agent

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"ingot/internal/roothint"
)

// readFacts reads from an entry of /sys/block what udev would make of it: there is no udev.
func readFacts(dir, name string, size uint64) roothint.Facts {
	device := filepath.Join(dir, "device")
	f := roothint.Facts{
		Name: "/dev/" + name, Bytes: size,
		Model:      readText(filepath.Join(device, "model")),
		Vendor:     readText(filepath.Join(device, "vendor")),
		Serial:     readSerial(dir),
		Rotational: readNumber(filepath.Join(dir, "queue/rotational")) != 0,
		ByPath:     byPath(dir),
	}
	if entries, err := os.ReadDir(filepath.Join(device, "scsi_device")); err == nil &&
		len(entries) == 1 {
		f.HCTL = entries[0].Name()
	}
	id := readText(filepath.Join(device, "wwid")) // SCSI and SATA
	if id == "" {
		id = readText(filepath.Join(dir, "wwid")) // NVMe
	}
	f.WWN, f.WWNWithExtension, f.WWNVendorExtension = worldWideName(id)
	return f
}

// readText returns the text of a file of sysfs without padding, "" if there is none.
func readText(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(printable(string(text)))
}

// readSerial looks where virtio, NVMe and SCSI (also SATA) disks have it; the latter as page 80
// of the vital product data (SPC-5 7.7.15), 4 bytes of header before the text.
func readSerial(dir string) string {
	for _, file := range []string{"serial", "device/serial"} {
		if s := readText(filepath.Join(dir, file)); s != "" {
			return s
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80"))
	if err != nil || len(page) < 4 {
		return ""
	}
	return strings.TrimSpace(printable(string(page[4:])))
}

// worldWideName makes of the kernel's wwid what udev shows as ID_WWN, ID_WWN_WITH_EXTENSION and
// ID_WWN_VENDOR_EXTENSION: an NAA name (SPC-5 7.7.6.6) as hexadecimal number, which is 64 bits
// long and, where it has 128 of them, ends in the vendor's extension; those of NVMe as they are.
func worldWideName(id string) (wwn, with, extension string) {
	digits, naa := strings.CutPrefix(id, "naa.")
	if !naa {
		if strings.HasPrefix(id, "eui.") || strings.HasPrefix(id, "nvme.") ||
			strings.HasPrefix(id, "uuid.") {
			return id, id, ""
		}
		return "", "", ""
	}
	if _, err := hex.DecodeString(digits); err != nil {
		return "", "", ""
	}
	switch len(digits) {
	case 16:
		return "0x" + digits, "0x" + digits, ""
	case 32:
		return "0x" + digits[:16], "0x" + digits, "0x" + digits[16:]
	}
	return "", "", ""
}

// Parts of a device's path in sysfs that udev's path_id makes a name of.
var (
	pciPart  = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	ataPart  = regexp.MustCompile(`^ata[0-9]+$`)
	hctlPart = regexp.MustCompile(`^[0-9]+:([0-9]+:[0-9]+:[0-9]+)$`)
)

// byPath is udev's persistent name of where a disk is connected; "" for connections it does not
// know (USB, SAS expanders): a wrong name would be worse than none.
func byPath(dir string) string {
	path, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return ""
	}
	var pci, tail string
	for part := range strings.SplitSeq(path, "/") {
		m := hctlPart.FindStringSubmatch(part)
		switch {
		case pciPart.MatchString(part):
			pci, tail = "pci-"+part, "" // the last one is the controller, others are bridges
		case ataPart.MatchString(part):
			// The kernel counts ATA ports over all controllers, udev within one.
			tail = "-ata-" + readText(filepath.Join(before(path, part), part, "ata_port", part,
				"port_no"))
		case m != nil && tail == "":
			tail = "-scsi-0:" + m[1]
		case strings.HasPrefix(part, "nvme") && tail == "":
			if ns := readText(filepath.Join(dir, "nsid")); ns != "" {
				tail = "-nvme-" + ns
			}
		case strings.HasPrefix(part, "usb"), strings.HasPrefix(part, "port-"),
			strings.HasPrefix(part, "rport-"), strings.HasPrefix(part, "session"):
			return ""
		}
	}
	if pci == "" || tail == "-ata-" {
		return ""
	}
	return "/dev/disk/by-path/" + pci + tail
}

// before is what comes before part in path.
func before(path, part string) string {
	head, _, _ := strings.Cut(path, "/"+part+"/")
	return head
}
