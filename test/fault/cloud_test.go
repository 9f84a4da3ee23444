package fault

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"ingot/internal/config"
	"ingot/internal/ingot"
	"ingot/internal/testkit/openstack"
)

// cloud is a real Keystone, Glance and Swift, the latter two through proxies that a test can break, and the
// images of a site in them.
type cloud struct {
	*openstack.Cloud
	glance, swift          *openstack.Front
	kernel, ramdisk, image string
}

// newCloudSite is newSite beside a cloud: kernel, ramdisk and image are named by UUID.
func newCloudSite(t *testing.T, change ...func(s *site, disk *int64)) (*site, *cloud) {
	t.Helper()
	c := &cloud{Cloud: openstack.Start(t, openstack.Want{Services: "swift,glance", Keystone: true})}
	c.glance, c.swift = openstack.NewFront(t, c.Glance), openstack.NewFront(t, c.Swift)
	image := func(name, format string, data []byte) string {
		return c.Image(t, images.CreateOpts{Name: name, DiskFormat: format}, "swift", data)
	}
	with := func(s *site, _ *int64) {
		k, g := &s.cfg.Keystone, &s.cfg.Glance
		k.AuthURL, k.Username, k.Project = c.Keystone, "ironic", "service"
		k.Password = ingot.Secret(c.Password)
		g.Endpoint, g.SwiftURL = c.glance.URL, c.swift.URL
		c.kernel, c.ramdisk = image("kernel", "aki", []byte("kernel")), image("ramdisk", "ari", []byte("ramdisk"))
		s.cfg.Deploy.Kernel, s.cfg.Deploy.Ramdisk = c.kernel, c.ramdisk
		c.image = image("disk", "raw", s.image)
	}
	return newSite(t, append([]func(*site, *int64){with}, change...)...), c
}

// enrollWith is enroll with an image.
func (s *site) enrollWith(info object) {
	s.t.Helper()
	s.enroll()
	s.setImage(info)
}

// Between the wish and the writing of the image, which the machine's boot is.
func TestAnImageThatIsDeletedBeforeItIsWrittenFailsTheDeployment(t *testing.T) {
	t.Parallel()
	s, c := newCloudSite(t)
	s.enrollWith(object{"image_source": c.image})
	s.machine.behave(manner{report: func(object) { c.DeleteImage(t, c.image) }})
	s.verb("active")
	s.failed("write_image", c.image, "was deleted")
	s.recovers()
}

func TestS0_9_AnImageOfGlanceIsReadWhenItIsWritten(t *testing.T) {
	t.Parallel()
	s, c := newCloudSite(t)
	s.enrollWith(object{"image_source": c.image})
	var reads atomic.Int64
	c.glance.Watch(func(r *http.Request) {
		if strings.HasSuffix(r.URL.Path, c.image+"/file") {
			reads.Add(1)
		}
	})
	s.machine.behave(manner{report: func(object) {
		if n := reads.Load(); n > 0 {
			t.Errorf("the image was read %d times before its disk was there", n)
		}
	}})
	s.verb("active")
	s.deployed()
	if n := reads.Load(); n != 1 {
		t.Errorf("the image was read %d times", n)
	}
	for _, file := range s.files() {
		if data, err := os.ReadFile(filepath.Join(s.dir, file)); err != nil || len(data) >= imageSize {
			t.Errorf("on the disk: %s, %d bytes, %v", file, len(data), err)
		}
	}
}

func TestAGlanceThatIsAwayForAWhileOnlyDelaysADeployment(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]http.HandlerFunc{
		"hangs up": openstack.HangUp, "503": openstack.Status(503),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newCloudSite(t)
			s.enrollWith(object{"image_source": c.image})
			s.machine.behave(manner{report: func(object) {
				c.glance.Break(trouble)
				time.AfterFunc(2*time.Second, func() { c.glance.Break(nil) })
			}})
			s.verb("active")
			s.deployed()
		})
	}
}

func TestAGlanceThatStaysAwayFailsTheDeploymentAndSaysSo(t *testing.T) {
	t.Parallel()
	s, c := newCloudSite(t, func(s *site, _ *int64) { s.cfg.Image.Retries = 1 })
	s.enrollWith(object{"image_source": c.image})
	s.machine.behave(manner{report: func(object) { c.glance.Break(openstack.HangUp) }})
	s.verb("active")
	s.failed("write_image", "Glance", "does not answer")
	c.glance.Break(nil)
	s.machine.behave(manner{})
	s.verb("active")
	s.deployed()
}

// What a machine boots is held; Glance and Swift are for what is written.
func TestS4_3_WithoutUseSwiftAnActiveMachineBootsWithoutGlance(t *testing.T) {
	t.Parallel()
	s, c := newCloudSite(t, func(_ *site, disk *int64) { *disk = 2 << 30 })
	s.deployRoot(c)
	c.glance.Break(openstack.HangUp)
	c.swift.Break(openstack.HangUp)
	s.ok("PUT", "/v1/nodes/"+nodeName+"/states/power", object{"target": "rebooting"})
	s.bootsInstance("/files/")
}

// Nothing of it is held, and each boot has URLs of its own; Glance is not asked.
func TestS4_4_AnActiveMachineBootsFromSwift(t *testing.T) {
	t.Parallel()
	s, c := newCloudSite(t, func(s *site, disk *int64) { s.cfg.IPXE.UseSwift, *disk = true, 2<<30 })
	s.deployRoot(c)
	c.glance.Break(openstack.HangUp)
	for range 2 {
		s.bootsInstance("temp_url_sig=")
	}
	if held := s.files(); len(held) > 0 {
		t.Errorf("on the disk: %q", held)
	}
}

// deployRoot deploys a partition image whose kernel and ramdisk are images, too.
func (s *site) deployRoot(c *cloud) {
	s.t.Helper()
	s.enrollWith(object{"image_source": c.Image(s.t, images.CreateOpts{Name: "root", DiskFormat: "raw"}, "swift",
		fileSystem(s.t)), "image_type": "partition", "root_gb": 1, "kernel": c.kernel, "ramdisk": c.ramdisk})
	s.verb("active")
	s.await("active")
}

// bootsInstance has the machine of an instance ask for its script, and load what that names; all URLs
// contain a text.
func (s *site) bootsInstance(from string) {
	s.t.Helper()
	script := s.script(mac)
	files := fileForm.FindAllStringSubmatch(script, -1)
	if len(files) != 2 || !strings.Contains(script, "root=UUID=") {
		s.t.Fatalf("the script of the instance:\n%s", script)
	}
	for i, want := range []string{"kernel", "ramdisk"} {
		got, err := fetch(s.t.Context(), files[i][1])
		if err != nil || got != want || !strings.Contains(files[i][1], from) {
			s.t.Errorf("%s from %s: %q, %v", want, files[i][1], got, err)
		}
	}
}

// fileSystem is the image of one.
func fileSystem(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root")
	if out, err := exec.Command("/usr/sbin/mke2fs", "-q", "-t", "ext4", path, "4M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A machine that does not get its kernel is started again, with a URL of its own.
func TestASwiftInTroubleDelaysADeployment(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]http.HandlerFunc{
		"401": openstack.Status(401), "404": openstack.Status(404), "503": openstack.Status(503),
		"hangs up": openstack.HangUp, "half an object": half,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newCloudSite(t, func(s *site, _ *int64) {
				s.cfg.IPXE.UseSwift = true
				s.cfg.Conductor.BootRetryTimeout = config.Duration(time.Second)
			})
			s.enrollWith(object{"image_source": c.image})
			c.swift.Watch(func(r *http.Request) {
				if r.Method == http.MethodGet && r.URL.Query().Has("temp_url_sig") {
					c.swift.Watch(nil)
					c.swift.Break(trouble)
					time.AfterFunc(time.Second, func() { c.swift.Break(nil) })
				}
			})
			s.verb("active")
			s.deployed()
			if held := s.files(); len(held) > 0 {
				t.Errorf("on the disk: %q", held)
			}
			if !strings.Contains(strings.Join(s.machine.deeds(), "\n"), "no boot file") {
				t.Errorf("the machine was never in trouble: %q", s.machine.deeds())
			}
		})
	}
}

// half sends the beginning of an object and ends the connection.
func half(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "7")
	_, _ = io.WriteString(w, "ram")
	panic(http.ErrAbortHandler)
}
