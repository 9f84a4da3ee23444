package pxe_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// webBMC can have its machine boot by UEFI HTTP.
type webBMC struct {
	fake.Management
	set driver.BootDevice
	// refuse is the error of the next commands.
	refuse error
}

func (m *webBMC) SetBootDevice(_ context.Context, _ *driver.Task, d driver.BootDevice) error {
	if m.refuse == nil {
		m.set = d
	}
	return m.refuse
}

// webWorld is one whose node boots by UEFI HTTP.
func webWorld(boot string, change func(*pxe.Options)) (*world, *webBMC) {
	w := newWorld(change)
	m := &webBMC{}
	w.task.Driver.Management = m
	w.task.Node.Driver, w.task.Node.Interfaces = "redfish", map[string]string{"boot": boot, "management": "redfish"}
	return w, m
}

func TestTheBMCIsToldWhatTheMachineBootsByHTTP(t *testing.T) {
	t.Parallel()
	const base = "http://10.0.0.1:8080"
	for _, boot := range []string{"http", "http-ipxe", "redfish-https"} {
		t.Run(boot, func(t *testing.T) {
			t.Parallel()
			w, m := webWorld(boot, nil)
			n := w.task.Node
			n.Attempt.Agent = &ingot.Agent{}
			for range 2 {
				if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
					t.Fatal(err)
				}
			}
			want := base + netboot.MediumPath(n)
			if boot == "http-ipxe" {
				want = base + "/programs/snponly.efi"
			}
			if m.set != (driver.BootDevice{Device: "uefihttp", URL: want}) || w.saved[0] != ingot.BootDeploy {
				t.Errorf("boot device %+v, saved intents %v", m.set, w.saved)
			}
			medium, ok := w.boot.Medium(n, w.task.Ports, netboot.MediumPath(n))
			if ok != (boot != "http-ipxe") || ok && (!medium.ByHTTP || medium.Kernel.Name != "vmlinuz" ||
				!slices.Contains(medium.Args, "ipa-agent-token="+n.Attempt.Agent.Token.Reveal())) {
				t.Errorf("medium %+v, %v", medium, ok)
			}
			if _, ok := w.boot.Medium(n, w.task.Ports, netboot.FloppyPath(n)); ok {
				t.Error("there is a floppy")
			}
			if err := w.boot.PrepareInstance(t.Context(), w.task); err != nil {
				t.Fatal(err)
			}
			if m.set != (driver.BootDevice{Device: "disk", Persistent: true}) || len(n.DriverInternalInfo) != 0 {
				t.Errorf("instance: boot device %+v, %v", m.set, n.DriverInternalInfo)
			}
		})
	}
}

// An instance on a partition image boots its kernel the same way, for as long as it is active.
func TestAnInstanceBootsItsKernelByHTTP(t *testing.T) {
	t.Parallel()
	w, m := webWorld("http", nil)
	w.partitioned()
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	n := w.task.Node
	n.Instance.RootUUID = "7c0e5c6f-35a2-4f5f-8d8b-9f6f1c4f7a11"
	var urls []string
	for range 2 {
		if err := w.boot.PrepareInstance(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
		urls = append(urls, m.set.URL)
	}
	n.ProvisionState, n.Attempt = "active", nil
	path := netboot.MediumPath(n)
	if urls[0] != urls[1] || urls[0] != "http://10.0.0.1:8080"+path || !m.set.Persistent || m.set.Device != "uefihttp" {
		t.Errorf("boot device %+v, before %s", m.set, urls[0])
	}
	medium, ok := w.boot.Medium(n, w.task.Ports, path)
	if !ok || medium.Kernel.Name != "vmlinuz-6" ||
		strings.Join(medium.Args, " ") != "root=UUID="+n.Instance.RootUUID+" ro console=ttyS1" {
		t.Errorf("medium %+v, %v", medium, ok)
	}
	other := *n
	other.Instance = &ingot.Instance{Key: "another"}
	if _, ok := w.boot.Medium(n, w.task.Ports, netboot.MediumPath(&other)); ok {
		t.Error("the path can be guessed")
	}
}

// As in Ironic; redfish-https is for those who want nothing else.
func TestAMachineThatCannotBeToldBootsFromItsCard(t *testing.T) {
	t.Parallel()
	for _, boot := range []string{"http", "http-ipxe", "redfish-https"} {
		w, _ := webWorld(boot, nil)
		w.task.Driver.Management = fake.Management{} // knows no uefihttp
		err := w.boot.PrepareRamdisk(t.Context(), w.task)
		if boot == "redfish-https" {
			if ingot.KindOf(err) != ingot.Invalid {
				t.Errorf("%s: %v", boot, err)
			}
			continue
		}
		d, _ := fake.Management{}.BootDevice(t.Context(), w.task)
		warned := slices.ContainsFunc(w.notes, func(e ingot.Entry) bool {
			return e.Level == ingot.LevelWarning && strings.Contains(e.Text, "its firmware has to try HTTP by itself")
		})
		if err != nil || d.Device != "pxe" || !warned {
			t.Errorf("%s: %v, boot device %+v, notes %+v", boot, err, d, w.notes)
		}
	}
	w, m := webWorld("http", nil)
	m.refuse = ingot.Errorf(ingot.Unavailable, "the BMC is away")
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); !errors.Is(err, m.refuse) {
		t.Errorf("a BMC that is away: %v", err)
	}
}

func TestOnlyUEFIBootsByHTTP(t *testing.T) {
	t.Parallel()
	for boot, wrong := range map[string]bool{"http": true, "http-ipxe": true, "redfish-https": true, "ipxe": false} {
		w, m := webWorld(boot, nil)
		n := w.task.Node
		n.Properties = ingot.Object{"capabilities": "boot_mode:bios"}
		for what, err := range map[string]error{"validate": w.boot.Validate(t.Context(), w.task),
			"prepare": w.boot.PrepareRamdisk(t.Context(), w.task)} {
			if (err != nil) != wrong || wrong && (ingot.KindOf(err) != ingot.Invalid ||
				!strings.Contains(err.Error(), "boot_mode:uefi in properties.capabilities")) {
				t.Errorf("%s of %s: %v", what, boot, err)
			}
		}
		if wrong && m.set.Device != "" {
			t.Errorf("%s: boot device %+v", boot, m.set)
		}
	}
	w, _ := webWorld("http", nil)
	w.task.Node.Properties = ingot.Object{"cpu_arch": "aarch64"}
	if err := w.boot.Validate(t.Context(), w.task); err == nil || !strings.Contains(err.Error(), "x86_64") {
		t.Errorf("a medium for arm64: %v", err)
	}
	if url := pxe.HTTPBootURL(w.task.Node, "http://x", iana.EFI_ARM64_HTTP); url != "" {
		t.Errorf("arm64 is told %s", url)
	}
}

// The server that a BMC was told of is dead: the machine is told of one that lives.
func TestTheMachineOfADeadServerBootsByHTTPFromAnother(t *testing.T) {
	t.Parallel()
	for _, boot := range []string{"http", "http-ipxe"} {
		living := []string{deadBase, ownBase}
		w, m := webWorld(boot, at(deadBase, &living, nil))
		n := w.task.Node
		if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
		n.ProvisionState = "wait call-back"
		next, _ := webWorld(boot, at(ownBase, &living, nil))
		if next.boot.Bereft(n) {
			t.Errorf("%s: the server lives", boot)
		}
		living = nil
		m.refuse = errors.New("the BMC is away")
		if !next.boot.Bereft(n) || next.boot.Restore(t.Context(), w.task) == nil || !next.boot.Bereft(n) {
			t.Errorf("%s: a BMC that is away was told", boot)
		}
		m.refuse = nil
		if err := next.boot.Restore(t.Context(), w.task); err != nil || next.boot.Bereft(n) ||
			!strings.HasPrefix(m.set.URL, ownBase+"/") || m.set.Device != "uefihttp" {
			t.Errorf("%s: %v, boot device %+v", boot, err, m.set)
		}
	}
}
