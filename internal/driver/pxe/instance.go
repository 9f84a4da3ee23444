package pxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/glance"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/publish"
)

var _ driver.InstanceHolder = (*Boot)(nil)

// HoldInstance holds what an instance boots at each start, and puts it on record.
func (b *Boot) HoldInstance(ctx context.Context, t *driver.Task) error {
	n := t.Node
	before := n.Instance
	err := b.holdInstance(ctx, n)
	if err == nil {
		err = b.await(ctx, t)
	}
	switch {
	case err != nil || !givenDrive(n):
	case b.insertsDrive(n):
		_, err = b.Drive(ctx, n)
	default:
		t.Note(ingot.Entry{Source: "step", Level: ingot.LevelWarning, Text: "the config drive is ignored: boot " +
			"interface " + n.Interfaces["boot"] + " has nothing to put it into"})
	}
	if err != nil {
		n.Instance = before
	}
	return err
}

// givenDrive tells whether a node has a config drive.
func givenDrive(n *ingot.Node) bool {
	switch v := n.InstanceInfo["configdrive"].(type) {
	case nil:
		return false
	case string:
		return v != ""
	case ingot.Object:
		return len(v) > 0
	}
	return true
}

// insertsDrive tells whether the config drive of an instance without a disk is inserted by its BMC.
func (b *Boot) insertsDrive(n *ingot.Node) bool {
	return b.o.Drive != nil && driver.Diskless(n) && Kind(n) == MediaName && givenDrive(n)
}

// Drive is the config drive of an instance.
func (b *Boot) Drive(ctx context.Context, n *ingot.Node) ([]byte, error) {
	image, err := b.o.Drive(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("config drive: %w", err)
	}
	return image, nil
}

// holdInstance records what the instance will boot from the network, if it does. The root partition
// is for whoever writes it to fill in; one that was written before stays on record.
func (b *Boot) holdInstance(ctx context.Context, n *ingot.Node) error {
	if !driver.BootsFromNetwork(n) {
		n.Instance = nil
		return nil
	}
	next := ingot.Instance{}
	switch {
	case driver.Diskless(n): // it has another medium each time
		next.Diskless = true
	case n.Instance != nil:
		next.RootUUID, next.Key = n.Instance.RootUUID, n.Instance.Key
	}
	if iso := driver.BootISO(n); iso != "" {
		var err error
		if next.ISO, err = b.holdBootISO(ctx, n, iso); err != nil {
			return fmt.Errorf("boot_iso of instance_info: %w", err)
		}
		n.Instance = &next
		return nil
	}
	kernel, ramdisk := driver.InstanceKernel(n), driver.InstanceRamdisk(n)
	if err := b.visible(ctx, n, kernel, ramdisk); err != nil {
		return fmt.Errorf("kernel and ramdisk of the instance: %w", err)
	}
	var err error
	if next.Kernel, err = b.hold(ctx, n, kernel); err != nil {
		return fmt.Errorf("kernel of instance_info: %w", err)
	}
	if next.Ramdisk, err = b.hold(ctx, n, ramdisk); err != nil {
		return fmt.Errorf("ramdisk of instance_info: %w", err)
	}
	next.KernelArgs = b.instanceArgs(n)
	n.Instance = &next
	return nil
}

// visible tells whether a node's project may use images of Glance.
func (b *Boot) visible(ctx context.Context, n *ingot.Node, hrefs ...string) error {
	for _, href := range hrefs {
		id, image := glance.ID(href)
		if !image || b.o.Visible == nil || n.Owner+n.Lessee == "" {
			continue
		}
		if _, err := b.o.Visible(ctx, id, n.Owner, n.Lessee); err != nil {
			return err
		}
	}
	return nil
}

// instanceArgs are the kernel arguments of an instance. One without a disk has those of the configuration unless
// it has its own, as in Ironic, and more by an older name.
func (b *Boot) instanceArgs(n *ingot.Node) string {
	own, ok := n.InstanceInfo["kernel_append_params"].(string)
	if !driver.Diskless(n) {
		return driver.Text(n.InstanceInfo, "kernel_append_params")
	}
	args := b.o.Env.KernelArgs
	if ok {
		args = strings.ReplaceAll(own, "%default%", args)
	}
	return strings.TrimSpace(args + " " + driver.Text(n.InstanceInfo, "ramdisk_kernel_arguments"))
}

// downloadKey has who reads boot_iso from its source: local, which is the default and also what swift amounts to,
// is the servers; http is the BMC.
const downloadKey = "ramdisk_image_download_source"

// byBMC tells whether the BMC of a node reads boot_iso from its source.
func byBMC(n *ingot.Node) bool {
	u, err := url.Parse(driver.BootISO(n))
	return err == nil && readByBMC(u) && Kind(n) == MediaName && driver.Text(n.InstanceInfo, downloadKey) == "http"
}

// validateDiskless asks for what the boot interface can boot of an instance without a disk.
func (b *Boot) validateDiskless(n *ingot.Node) error {
	iso := driver.BootISO(n)
	source := driver.Text(n.InstanceInfo, downloadKey)
	switch {
	case !driver.Diskless(n):
		return nil
	case source != "" && source != "local" && source != "http" && source != "swift":
		return ingot.Errorf(ingot.Invalid, "instance_info.%s of node %s is %q; allowed: local, http, swift", downloadKey,
			n.UUID, source)
	case iso == "":
		return nil
	case Kind(n) == PlainName:
		return ingot.Errorf(ingot.Invalid, "boot interface %s cannot boot the boot_iso of node %s: neither PXELINUX nor "+
			"GRUB reads an ISO from the network; use ipxe, http or redfish-virtual-media", n.Interfaces["boot"], n.UUID)
	}
	if _, err := isoDigest(n); err != nil {
		return err
	}
	_, image := glance.ID(iso)
	u, err := url.Parse(iso)
	if image || err == nil && (readByBMC(u) && u.Host != "" || u.Scheme == "file") {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "instance_info.boot_iso of node %s is %q; write the URL of an ISO (http(s):// or "+
		"file:///...), or the UUID of an image of Glance", n.UUID, iso)
}

// isoDigest is the SHA-256 that the boot_iso of a node is to have, "" if nobody says.
func isoDigest(n *ingot.Node) (string, error) {
	algo, value := driver.Text(n.InstanceInfo, "image_os_hash_algo"), driver.Text(n.InstanceInfo, "image_os_hash_value")
	if value == "" {
		algo, value = "sha256", driver.Text(n.InstanceInfo, "image_checksum")
	}
	if value = strings.ToLower(value); value == "" {
		return "", nil
	}
	if algo != "sha256" || len(value) != 64 {
		return "", ingot.Errorf(ingot.Invalid, "the checksum of the boot_iso of node %s is no SHA-256 in 64 hex digits; set "+
			"image_os_hash_algo=sha256 and image_os_hash_value in instance_info, or unset both and image_checksum", n.UUID)
	}
	return value, nil
}

// holdBootISO finds the ISO that an instance boots, and holds it unless the BMC reads it from elsewhere.
func (b *Boot) holdBootISO(ctx context.Context, n *ingot.Node, iso string) (ingot.ISO, error) {
	if err := b.validateDiskless(n); err != nil {
		return ingot.ISO{}, err
	}
	if byBMC(n) {
		return ingot.ISO{URL: iso}, nil
	}
	if err := b.visible(ctx, n, iso); err != nil {
		return ingot.ISO{}, err
	}
	file, err := b.o.Files.Hold(ctx, iso)
	if err != nil {
		return ingot.ISO{}, err
	}
	if want, _ := isoDigest(n); want != "" && want != file.SHA256 {
		return ingot.ISO{}, ingot.Errorf(ingot.Invalid, "%s has the SHA-256 %s, and instance_info says %s; it was changed, "+
			"or is another one", file.Name, file.SHA256, want)
	}
	return ingot.ISO{File: file}, b.checkBoots(ctx, file)
}

// Where an ISO says that it is one, and that something on it boots: the primary volume descriptor (ECMA-119, 8.4)
// and the boot record of El Torito (El Torito 1.0, 2.0), in sectors 16 and 17 of 2048 bytes.
const (
	volumeMark, volumeAt = "CD001", 16*2048 + 1
	bootMark, bootAt     = "EL TORITO SPECIFICATION", 17*2048 + 7
)

// checkBoots refuses what no firmware boots as a CD.
func (b *Boot) checkBoots(ctx context.Context, f ingot.File) error {
	if b.o.Open == nil {
		return nil
	}
	file, err := b.o.Open(ctx, f.SHA256)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, mark := range []struct {
		text string
		at   int64
		what string
	}{{volumeMark, volumeAt, "is no ISO (ISO 9660)"}, {bootMark, bootAt, "is an ISO from which nothing boots (it has no boot record of El Torito)"}} {
		have := make([]byte, len(mark.text))
		if _, err := file.ReadAt(have, mark.at); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", f.Name, err)
		}
		if string(have) != mark.text {
			return ingot.Errorf(ingot.Invalid, "%s %s; check its URL, and what is there", f.Name, mark.what)
		}
	}
	return nil
}

// insertInstance inserts the medium of an instance, and has the machine boot it from now on.
func (b *Boot) insertInstance(ctx context.Context, t *driver.Task, persistent bool) error {
	if err := b.validateMedium(t); err != nil {
		return err
	}
	at, err := b.publish(ctx, t, publish.Boot)
	if err != nil {
		return err
	}
	return b.bootInstance(ctx, t, at, persistent)
}

// bootInstance has the machine boot the medium at a URL from now on.
func (b *Boot) bootInstance(ctx context.Context, t *driver.Task, at string, persistent bool) error {
	n, media := t.Node, t.Driver.Management.(driver.Media)
	if err := media.InsertMedium(ctx, t, driver.CD, at); err != nil {
		return err
	}
	t.Note(ingot.Entry{Source: "bmc", Text: "inserted the medium of the instance into the virtual CD drive"})
	if b.insertsDrive(n) {
		if err := media.InsertMedium(ctx, t, driver.Floppy, mediumServers(n)[0]+netboot.FloppyPath(n)); err != nil {
			return fmt.Errorf("config drive: %w", err)
		}
		t.Note(ingot.Entry{Source: "bmc", Text: "inserted the config drive into the virtual floppy drive"})
	}
	return t.SetBootDevice(ctx, driver.BootDevice{Device: "cdrom", Persistent: persistent})
}
