package pxe_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// diskless makes the world's node one without a disk that boots what instance_info says.
func (w *world) diskless(info ingot.Object) *ingot.Node {
	n := w.task.Node
	n.Interfaces["deploy"], n.InstanceInfo = "ramdisk", info
	return n
}

// prepared has an instance held and prepared, twice, as after a crash.
func (w *world) prepared(t *testing.T) {
	t.Helper()
	for range 2 {
		if err := w.boot.HoldInstance(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
		if err := w.boot.PrepareInstance(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
	}
	w.task.Node.ProvisionState, w.task.Node.Attempt = "active", nil
}

func TestADisklessInstanceBootsWhatWasInserted(t *testing.T) {
	t.Parallel()
	const site = "http://site.example/live.iso"
	for name, c := range map[string]struct {
		info ingot.Object
		want string // "" is a medium of ours
	}{
		"kernel and ramdisk": {info: ingot.Object{"kernel": "file:///i/vmlinuz-6", "ramdisk": "file:///i/initrd-6"}},
		"an ISO":             {info: ingot.Object{"boot_iso": site}},
		"an ISO from its source": {ingot.Object{"boot_iso": site, "ramdisk_image_download_source": "http"},
			site},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, m := mediaWorld(nil)
			n := w.diskless(c.info)
			w.task.Ports = nil // none is needed
			if err := w.boot.Validate(t.Context(), w.task); err != nil {
				t.Fatal(err)
			}
			w.prepared(t)
			want := c.want
			if want == "" {
				want = "http://10.0.0.1:8080" + netboot.MediumPath(n)
			}
			d, _ := m.BootDevice(t.Context(), w.task)
			if m.cd != want || (d != driver.BootDevice{Device: "cdrom", Persistent: true}) {
				t.Errorf("inserted %s, want %s; boot device %+v", m.cd, want, d)
			}
			medium, ok := w.boot.Medium(n, nil, netboot.MediumPath(n))
			if ok != (c.want == "") || ok && medium.ISO.Known() != (c.info["boot_iso"] != nil) {
				t.Errorf("medium %+v, %v", medium, ok)
			}
			if err := w.boot.CleanUpInstance(t.Context(), w.task); err != nil || m.cd != "" {
				t.Errorf("after the end: %v, inserted %s", err, m.cd)
			}
			for key, value := range n.DriverInternalInfo {
				if key != "fake_boot_device" {
					t.Errorf("left: %s %v", key, value)
				}
			}
		})
	}
}

func TestADisklessInstanceBootsFromTheNetwork(t *testing.T) {
	t.Parallel()
	const args = "root=/dev/ram0 text console=ttyS9 a=1"
	for name, c := range map[string]struct {
		boot string
		info ingot.Object
		want string
	}{
		"ramdisk":  {"ipxe", ingot.Object{"kernel": "file:///i/vmlinuz-6", "ramdisk": "file:///i/initrd-6", "ramdisk_kernel_arguments": "a=1"}, " " + args + " ||"},
		"replaced": {"ipxe", ingot.Object{"kernel": "file:///i/vmlinuz-6", "ramdisk": "file:///i/initrd-6", "kernel_append_params": "b=2 %default%"}, " root=/dev/ram0 text b=2 console=ttyS9 ||"},
		"ISO": {"ipxe", ingot.Object{"boot_iso": "file:///i/live.iso"}, "\nsanboot --no-describe http://10.0.0.1:8080/files/" +
			strings.Repeat("a", 64) + "/live.iso || goto server1\n"},
		"ISO by http-ipxe": {"http-ipxe", ingot.Object{"boot_iso": "file:///i/live.iso"}, "/live.iso || goto server1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, m := webWorld(c.boot, func(o *pxe.Options) { o.Env.KernelArgs = "console=ttyS9"; o.Kernel, o.Ramdisk = "", "" })
			n := w.diskless(c.info)
			if err := w.boot.Validate(t.Context(), w.task); err != nil {
				t.Fatal(err) // no deploy ramdisk is needed
			}
			w.prepared(t)
			script := w.config(t, ingot.Object{"port_address": mac})
			if !strings.Contains(script, c.want) {
				t.Errorf("no %q in\n%s", c.want, script)
			}
			if device := map[string]string{"ipxe": "pxe", "http-ipxe": "uefihttp"}[c.boot]; m.set.Device != device ||
				!m.set.Persistent {
				t.Errorf("boot device %+v", m.set)
			}
			grub := w.boot.Answer(netboot.GRUB, pxe.Machine{MAC: mac, Node: n, Port: w.task.Ports[0]})
			if said := strings.Contains(grub, "which only iPXE reads"); said != (c.info["boot_iso"] != nil) {
				t.Errorf("GRUB is told\n%s", grub)
			}
		})
	}
}

func TestABootISOThatCannotBeIsFoundOutBeforeTheMachineIsTouched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, marks map[int64]string) string {
		path := filepath.Join(dir, name)
		data := make([]byte, 64<<10)
		for at, text := range marks {
			copy(data[at:], text)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	volume, boots := map[int64]string{32769: "CD001"}, map[int64]string{32769: "CD001", 34823: "EL TORITO SPECIFICATION"}
	for name, c := range map[string]struct {
		info   ingot.Object
		path   string
		want   string // "" is none
		refuse bool   // by validate already
	}{
		"it is there": {info: ingot.Object{"boot_iso": "file:///live.iso"}, path: write("good", boots)},
		"with the right checksum": {info: ingot.Object{"boot_iso": "file:///live.iso", "image_os_hash_algo": "sha256",
			"image_os_hash_value": strings.Repeat("A", 64)}, path: write("good too", boots)},
		"it is not there": {info: ingot.Object{"boot_iso": "http://gone/live.iso"}, want: "boot_iso of instance_info: no such file"},
		"another one": {info: ingot.Object{"boot_iso": "file:///live.iso", "image_checksum": strings.Repeat("b", 64)},
			path: write("other", boots), want: "was changed, or is another one"},
		"an odd checksum": {info: ingot.Object{"boot_iso": "file:///live.iso", "image_checksum": strings.Repeat("b", 32)},
			want: "no SHA-256", refuse: true},
		"no ISO":          {info: ingot.Object{"boot_iso": "file:///live.iso"}, path: write("zeros", nil), want: "is no ISO"},
		"nothing boots":   {info: ingot.Object{"boot_iso": "file:///live.iso"}, path: write("data", volume), want: "nothing boots"},
		"no URL":          {info: ingot.Object{"boot_iso": "live.iso"}, want: "write the URL of an ISO", refuse: true},
		"an odd download": {info: ingot.Object{"boot_iso": "file:///live.iso", "ramdisk_image_download_source": "tape"}, want: "allowed: local, http, swift", refuse: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, m := mediaWorld(func(o *pxe.Options) {
				o.Files = holder{broken: "http://gone/live.iso"}
				o.Open = func(context.Context, string) (*os.File, error) { return os.Open(c.path) }
			})
			n := w.diskless(c.info)
			running := &ingot.Instance{Key: "running"}
			n.Instance = running
			err := w.boot.Validate(t.Context(), w.task)
			if (err != nil) != c.refuse {
				t.Errorf("validate: %v", err)
			}
			err = w.boot.HoldInstance(t.Context(), w.task)
			switch {
			case c.want == "" && (err != nil || n.Instance == running || n.Instance.Key != ""):
				t.Errorf("error %v, instance %+v", err, n.Instance)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || n.Instance != running):
				t.Errorf("error %v, instance %+v", err, n.Instance)
			}
			if m.cd != "" || len(w.saved) != 0 {
				t.Errorf("inserted %s, saved %v", m.cd, w.saved)
			}
		})
	}
	w, _ := webWorld("pxe", nil)
	w.diskless(ingot.Object{"boot_iso": "file:///live.iso"})
	if err := w.boot.Validate(t.Context(), w.task); err == nil || !strings.Contains(err.Error(), "use ipxe, http or") {
		t.Errorf("by PXELINUX: %v", err)
	}
}

// The machine of an active node looks into its drive, or asks for its URL, when it starts again.
func TestADisklessInstanceOutlivesTheServerOfItsMedium(t *testing.T) {
	t.Parallel()
	living := []string{deadBase, ownBase}
	w, m := mediaWorld(at(deadBase, &living, nil))
	n := w.diskless(ingot.Object{"boot_iso": "file:///live.iso"})
	w.prepared(t)
	b := heir(w, &living, nil)
	if b.Bereft(n) {
		t.Error("the server lives")
	}
	living = nil
	m.refuse = context.DeadlineExceeded
	if !b.Bereft(n) || b.Restore(t.Context(), w.task) == nil || !b.Bereft(n) {
		t.Error("a BMC that is away had it inserted")
	}
	m.refuse = nil
	path := netboot.MediumPath(n)
	if err := b.Restore(t.Context(), w.task); err != nil || m.cd != ownBase+path || b.Bereft(n) {
		t.Errorf("%v, inserted %s", err, m.cd)
	}

	living = []string{deadBase, ownBase}
	web, bmc := webWorld("http", at(deadBase, &living, nil))
	n = web.diskless(ingot.Object{"kernel": "file:///i/vmlinuz-6", "ramdisk": "file:///i/initrd-6"})
	web.prepared(t)
	next, _ := webWorld("http", at(ownBase, &living, nil))
	if living = nil; !next.boot.Bereft(n) {
		t.Error("not bereft")
	}
	if err := next.boot.Restore(t.Context(), web.task); err != nil || bmc.set.URL != ownBase+netboot.MediumPath(n) ||
		!bmc.set.Persistent || next.boot.Bereft(n) {
		t.Errorf("%v, boot device %+v", err, bmc.set)
	}
}

// Its config drive has a drive of its own, where the BMC has one, and else is told of in the journal.
func TestTheConfigDriveOfADisklessInstanceIsInserted(t *testing.T) {
	t.Parallel()
	drive := func(o *pxe.Options) {
		o.Drive = func(_ context.Context, n *ingot.Node) ([]byte, error) {
			if n.InstanceInfo["configdrive"] == "broken" {
				return nil, errors.New("no such drive")
			}
			return []byte("drive"), nil
		}
	}
	for _, source := range []string{"local", "http"} {
		w, m := mediaWorld(drive)
		n := w.diskless(ingot.Object{"boot_iso": "http://site.example/live.iso", "ramdisk_image_download_source": source,
			"configdrive": ingot.Object{"meta_data": ingot.Object{"hostname": "h"}}})
		w.prepared(t)
		if m.floppy != "http://10.0.0.1:8080"+netboot.FloppyPath(n) || m.cd == "" {
			t.Errorf("%s: inserted %s and %s", source, m.cd, m.floppy)
		}
		medium, ok := w.boot.Medium(n, nil, netboot.FloppyPath(n))
		if image, err := w.boot.Drive(t.Context(), n); !ok || !medium.Drive || err != nil || string(image) != "drive" {
			t.Errorf("%s: medium %+v, %v; drive %q, %v", source, medium, ok, image, err)
		}
		if w.boot.Bereft(n) {
			t.Errorf("%s: bereft", source)
		}
		if err := w.boot.CleanUpInstance(t.Context(), w.task); err != nil || m.cd != "" || m.floppy != "" {
			t.Errorf("%s: after the end: %v, inserted %s and %s", source, err, m.cd, m.floppy)
		}
		n.InstanceInfo["configdrive"] = "broken"
		if err := w.boot.HoldInstance(t.Context(), w.task); err == nil || !strings.Contains(err.Error(), "config drive: no such drive") {
			t.Errorf("%s: a broken one: %v", source, err)
		}
	}
	w, _ := webWorld("ipxe", drive)
	w.diskless(ingot.Object{"boot_iso": "file:///live.iso", "configdrive": "x"})
	if err := w.boot.HoldInstance(t.Context(), w.task); err != nil || !strings.Contains(w.notes[len(w.notes)-1].Text, "config drive is ignored") {
		t.Errorf("by iPXE: %v, notes %+v", err, w.notes)
	}
}
