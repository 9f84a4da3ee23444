package pxe

import (
	"cmp"
	"context"
	"fmt"
	"net/url"

	"ingot/internal/driver"
	"ingot/internal/glance"
	"ingot/internal/ingot"
)

// siteKey is where DriverInternalInfo has what the URL of the site's own medium has in it, for as long as it may
// be in the machine's drive, and the floppy with it.
const siteKey = "boot_medium_site"

// isoKeys are where DriverInfo names the site's own medium with a deploy ramdisk.
var isoKeys = []string{"deploy_iso", "redfish_deploy_iso", "ilo_deploy_iso"}

// deployISO is the site's own medium; "" is none: ours.
func deployISO(n *ingot.Node) string {
	if Kind(n) != MediaName || driver.Diskless(n) {
		return ""
	}
	var names []string
	for _, key := range isoKeys {
		names = append(names, driver.Text(n.DriverInfo, key))
	}
	return cmp.Or(names...)
}

// readByBMC tells whether a medium is inserted by its URL, as it is.
func readByBMC(u *url.URL) bool { return u.Scheme == "http" || u.Scheme == "https" }

func checkISO(iso string) error {
	_, image := glance.ID(iso)
	u, err := url.Parse(iso)
	if image || err == nil && (readByBMC(u) && u.Host != "" || u.Scheme == "file") {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "driver_info.deploy_iso is %q; write the URL of an ISO (http(s):// that the BMC "+
		"reaches, or file:///...), or the UUID of an image of Glance", iso)
}

// holdISO finds the site's own medium, and holds it unless the BMC reads it from elsewhere.
func (b *Boot) holdISO(ctx context.Context, n *ingot.Node, iso string) error {
	if err := checkISO(iso); err != nil {
		return err
	}
	n.Attempt.Kernel, n.Attempt.Ramdisk = ingot.File{}, ingot.File{}
	u, err := url.Parse(iso)
	if _, image := glance.ID(iso); !image && err == nil && readByBMC(u) {
		n.Attempt.ISO = ingot.ISO{URL: iso}
		return nil
	}
	file, err := b.o.Files.Hold(ctx, iso)
	if err != nil {
		return fmt.Errorf("deploy_iso of driver_info: %w", err)
	}
	n.Attempt.ISO = ingot.ISO{File: file}
	return nil
}

// siteMedium is what tells the URL of the medium from those of others, iso if it is not ours; it is no secret.
func siteMedium(n *ingot.Node, iso string) string {
	if u, err := url.Parse(iso); err == nil && u.Host != "" {
		return u.Host + u.EscapedPath()
	}
	return n.UUID
}

// boots are the files that the ramdisk of an attempt is loaded from, and how a person calls them.
func boots(a *ingot.Attempt) (files []ingot.File, text string) {
	switch {
	case a.ISO.URL != "":
		return nil, "the ISO of deploy_iso, read by the BMC"
	case a.ISO.Known():
		return []ingot.File{a.ISO.File}, "the ISO " + a.ISO.File.Name
	}
	return []ingot.File{a.Kernel, a.Ramdisk}, "kernel " + a.Kernel.Name + ", ramdisk " + a.Ramdisk.Name
}
