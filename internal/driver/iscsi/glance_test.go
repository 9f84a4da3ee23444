package iscsi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"ingot/internal/driver"
	"ingot/internal/driver/iscsi"
	"ingot/internal/glance"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// What an image is, and which kernel and ramdisk it boots with, Glance tells; instance_info has the
// last word.
func TestGlanceTellsHowAnImageBoots(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Services: "glance"})
	s, err := keystone.NewSession(keystone.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := glance.NewOpen(s, c.Glance)
	web := &http.Transport{}
	web.RegisterProtocol(glance.Scheme, g)
	d := iscsi.New(iscsi.Options{Image: image.Options{Glance: g, Client: &http.Client{Transport: web}}})
	make := func(properties map[string]string) string {
		return c.Image(t, images.CreateOpts{Name: t.Name(), DiskFormat: "raw", Properties: properties}, "",
			[]byte("content"))
	}
	parts := make(map[string]string{"kernel_id": "k", "ramdisk_id": "r"})
	marked := make(map[string]string{"img_type": "partition"})
	whole := make(nil)
	for name, e := range map[string]struct {
		info            ingot.Object
		partition       bool
		kernel, ramdisk string
	}{
		"whole disk": {ingot.Object{"image_source": whole}, false, "", ""},
		"partition":  {ingot.Object{"image_source": "glance://" + parts}, true, "k", "r"},
		"by type":    {ingot.Object{"image_source": marked}, true, "", ""},
		"own kernel": {ingot.Object{"image_source": parts, "kernel": "own"}, true, "own", "r"},
		"own type":   {ingot.Object{"image_source": parts, "image_type": "whole-disk"}, false, "k", "r"},
	} {
		n := &ingot.Node{UUID: ingot.NewUUID(), InstanceInfo: e.info}
		if err := d.Resolve(t.Context(), &driver.Task{Node: n}); err != nil {
			t.Fatal(err)
		}
		if driver.IsPartitionImage(n) != e.partition || driver.InstanceKernel(n) != e.kernel ||
			driver.InstanceRamdisk(n) != e.ramdisk {
			t.Errorf("%s: partition %v, kernel %q, ramdisk %q", name, driver.IsPartitionImage(n),
				driver.InstanceKernel(n), driver.InstanceRamdisk(n))
		}
		n.InstanceInfo["image_source"] = "http://another"
		if got := driver.InstanceKernel(n); got != driver.Text(e.info, "kernel") {
			t.Errorf("%s: another image has kernel %q", name, got)
		}
		if err := d.Resolve(t.Context(), &driver.Task{Node: n}); err != nil ||
			len(n.DriverInternalInfo) > 0 {
			t.Errorf("%s: %v, %v", name, n.DriverInternalInfo, err)
		}
	}
	// One that is for all is for every project; one of nobody's is for none. Without Keystone an image
	// has no owner.
	hidden := images.ImageVisibilityPrivate
	secret := c.Image(t, images.CreateOpts{Name: "secret", DiskFormat: "raw", Visibility: &hidden}, "",
		[]byte("content"))
	for source, want := range map[string]ingot.Kind{whole: "", secret: ingot.NotFound} {
		n := &ingot.Node{Owner: "project", InstanceInfo: ingot.Object{"image_source": source}}
		if err := d.Resolve(t.Context(), &driver.Task{Node: n}); ingot.KindOf(err) != want {
			t.Errorf("a node of a project: %v", err)
		}
	}
	c.DeleteImage(t, whole)
	n := &ingot.Node{InstanceInfo: ingot.Object{"image_source": whole}}
	if err := d.Resolve(t.Context(), &driver.Task{Node: n}); ingot.KindOf(err) != ingot.NotFound ||
		!strings.Contains(err.Error(), "image_source") {
		t.Errorf("deleted: %v", err)
	}
}
