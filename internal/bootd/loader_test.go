package bootd_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/bootd"
	"ingot/internal/ingot"
	"ingot/internal/ramdisk"
	"ingot/internal/sim"
	"ingot/internal/testkit"
)

// hold copies a file to the boot files.
func (s *site) hold(t *testing.T, path string) ingot.File {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	if err := os.WriteFile(filepath.Join(s.dir, digest), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return ingot.File{SHA256: digest, Name: filepath.Base(path), Size: int64(len(content))}
}

// deploying gives the enrolled node a real deploy ramdisk and the boot interface pxe.
func (s *site) deploying(t *testing.T) *ingot.Node {
	t.Helper()
	dir := t.TempDir()
	agent := filepath.Join(dir, "ingot-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agent,
		"ingot/cmd/ingot-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build agent: %v\n%s", err, out)
	}
	built, err := ramdisk.Build(t.Context(), ramdisk.Options{OutDir: dir, AgentPath: agent,
		Flavour: ramdisk.Cloud})
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.store.Node(t.Context(), "1be26c0b-03f2-4d2e-ae87-c02d7f33c123")
	if err != nil {
		t.Fatal(err)
	}
	n.ProvisionState = "wait call-back"
	n.Interfaces = map[string]string{"boot": "pxe"}
	n.Attempt = &ingot.Attempt{ID: "5f3a9c01", Key: "K3yK3yK3yK3yK3yK3yK3yK3yK3yK3yK3",
		Kernel: s.hold(t, built.Kernel.Path), Ramdisk: s.hold(t, built.Ramdisk.Path)}
	if err := s.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Boot interface pxe with real firmware and the boot loaders of the distribution: from power on
// to the call of the ramdisk, whose kernel got every argument. QEMU's BIOS has iPXE in the card's
// ROM and no other network boot; for PXELINUX that is a PXE ROM like any other.
func TestRealFirmwareBootsByPXELINUXAndByShimAndGRUB(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	for _, c := range []struct {
		name     string
		spec     sim.MachineSpec
		programs []string
		asks     string
	}{
		{"BIOS by PXELINUX", sim.MachineSpec{Firmware: sim.BIOS},
			[]string{"pxelinux.0", "ldlinux.c32"}, "PXELINUX configuration"},
		{"UEFI by shim and GRUB", sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM},
			[]string{"bootx64.efi", "grubx64.efi"}, "GRUB configuration"},
		{"Secure Boot by shim and GRUB", sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM,
			SecureBoot: true}, []string{"bootx64.efi", "grubx64.efi"}, "GRUB configuration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, bootd.ModeServer)
			n := s.deploying(t)
			m := s.powerOn(t, c.spec)
			defer func() {
				if t.Failed() {
					console, _ := os.ReadFile(m.Console().Path())
					t.Logf("console:\n%.4000s", console)
				}
			}()
			for _, program := range c.programs {
				s.journal.wait(t, "TFTP: "+program+" sent")
			}
			s.journal.wait(t, "asked for its "+c.asks+": deploy")
			s.journal.wait(t, "TFTP: ", n.Attempt.Kernel.SHA256+"/"+n.Attempt.Kernel.Name+" sent")
			s.journal.wait(t, "TFTP: ", n.Attempt.Ramdisk.SHA256+"/"+n.Attempt.Ramdisk.Name+" sent")
			s.journal.wait(t, "ramdisk called /v1/nodes/"+n.UUID)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := m.Console().Wait(ctx, "boot_attempt=5f3a9c01"); err != nil {
				t.Error(err)
			}
			if c.spec.SecureBoot {
				// The kernel itself says that everything before it was verified.
				console, err := os.ReadFile(m.Console().Path())
				if err != nil || !strings.Contains(string(console), "Secure boot enabled") {
					t.Errorf("the kernel does not know of Secure Boot (%v)", err)
				}
			}
			for _, e := range s.journal.all() {
				if e.Source == "tftp" && e.Level != ingot.LevelInfo {
					t.Errorf("TFTP fault in the journal: %s", e.Text)
				}
			}
			if !strings.Contains(s.journal.wait(t, "asked for its ").Attempt, "5f3a9c01") {
				t.Error("the answer is not marked with its attempt")
			}
		})
	}
}
