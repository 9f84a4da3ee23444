package store_test

import (
	"fmt"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

// open returns an empty store of the engine under test.
func open(t testing.TB) *store.Store {
	t.Helper()
	return openWith(t, storetest.Options(t))
}

// openAt opens a file.
func openAt(t testing.TB, path string) *store.Store {
	t.Helper()
	return openWith(t, store.Options{Path: path})
}

func openWith(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// uuid returns the i-th UUID of the tests.
func uuid(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", i) }

// newNode returns a node as a conductor creates it.
func newNode(i int) *ingot.Node {
	return &ingot.Node{UUID: uuid(i), Driver: "ipmi", ProvisionState: "available",
		BootIntent: ingot.BootNone}
}

// create stores a node.
func create(t testing.TB, s *store.Store, n *ingot.Node) *ingot.Node {
	t.Helper()
	if err := s.CreateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n
}

// wantKind checks the kind of an error, and its text if one is given.
func wantKind(t testing.TB, err error, kind ingot.Kind, text ...string) {
	t.Helper()
	if ingot.KindOf(err) != kind {
		t.Errorf("error %v (%s), want %s", err, ingot.KindOf(err), kind)
		return
	}
	if len(text) > 0 && err.Error() != text[0] {
		t.Errorf("error text\n %q, want\n %q", err, text[0])
	}
}

func ptr[T any](v T) *T { return &v }

// fullNode returns a node with something in every field that a caller sets.
func fullNode() *ingot.Node {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	return &ingot.Node{
		UUID: uuid(1), Name: "r1-n1", ChassisUUID: uuid(2), InstanceUUID: uuid(3),
		Driver: "ipmi", Owner: "o", Lessee: "l", Description: "100% 'quoted' _", Shard: "s",
		ResourceClass: "baremetal", ConductorGroup: "g", ParentNode: uuid(4), InstanceName: "i",
		DriverInfo:         ingot.Object{"ipmi_address": "10.0.0.1", "nested": []any{"a", nil, true}},
		DriverInternalInfo: ingot.Object{"a": "b"},
		InstanceInfo:       ingot.Object{"image_source": "http://x/<y>&z"},
		Properties:         ingot.Object{}, Extra: ingot.Object{"e": ""}, NetworkData: ingot.Object{},
		Interfaces: map[string]string{"power": "ipmitool"}, Traits: []string{"CUSTOM_A", "HW_B"},
		PowerState: ingot.PowerOn, TargetPowerState: ingot.Rebooting,
		ProvisionState: "wait call-back", TargetProvisionState: "active",
		ProvisionUpdatedAt: &at, LastError: "boom", Maintenance: true, MaintenanceReason: "m",
		Fault: ingot.FaultPower, Protected: true, ProtectedReason: "p", Retired: true,
		RetiredReason: "r", AutomatedClean: ptr(false), ConsoleEnabled: true, BootMode: "uefi",
		SecureBoot: ptr(true), BootIntent: ingot.BootDeploy,
		Steps: []ingot.Step{{Interface: "deploy", Name: "deploy", Priority: 100,
			Args: ingot.Object{"x": "y"}}, {Interface: "deploy", Name: "write_image", Priority: 80}},
		Step: 1, WaitUntil: &at,
		Attempt: &ingot.Attempt{ID: "0a1b2c3d", Key: "secretkey",
			Kernel:  ingot.File{SHA256: "aa", Name: "vmlinuz", Size: 7},
			Ramdisk: ingot.File{SHA256: "bb", Name: "initrd", Size: 8},
			ISO:     ingot.ISO{File: ingot.File{SHA256: "ab", Name: "ipa.iso", Size: 9}, URL: "http://site/ipa.iso"},
			Target: &ingot.ISCSITarget{Address: "10.0.0.2", Port: 3260, IQN: "iqn.x", LUN: 1,
				Username: "u", Password: "chapsecret"},
			Completed: true, Written: true, Kexec: ingot.KexecLoaded, NeedsLoader: true, Boots: 2,
			BootedAt: time.Date(2026, 8, 1, 2, 3, 4, 5000, time.UTC),
			Agent: &ingot.Agent{Token: "agentsecret", OnMedium: true, URL: "https://10.0.0.2:9999",
				CA: "PEM", Version: "1.0", HeardAt: time.Date(2026, 8, 1, 2, 3, 5, 0, time.UTC), Done: 9},
			Content: ingot.File{SHA256: "ff", Name: "disk.raw", Size: 11}},
		Instance: &ingot.Instance{Diskless: true, ISO: ingot.ISO{File: ingot.File{SHA256: "ee", Name: "live.iso", Size: 7}},
			Kernel:  ingot.File{SHA256: "cc", Name: "vmlinuz", Size: 9},
			Ramdisk: ingot.File{SHA256: "dd", Name: "initrd", Size: 10}, RootUUID: "ee",
			KernelArgs: "quiet", Key: "mediumsecret"},
	}
}
