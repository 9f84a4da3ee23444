package conductor_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

const rootUUID = "6f0d2a1c-58b3-4c5e-9c66-0c2b8f3f9a10"

// partitioned makes the image of n1 a partition image, with kernel and ramdisk.
func (x *metal) partitioned(more ingot.Object) {
	x.t.Helper()
	dir := filepath.Dir(strings.TrimPrefix(x.info["image_source"].(string), "file://"))
	path := filepath.Join(dir, "root.img")
	out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-U",
		rootUUID, path, "3M").CombinedOutput()
	if err != nil {
		x.t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		x.t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	n := x.node("n1")
	n.InstanceInfo = ingot.Object{"image_source": "file://" + path,
		"image_checksum": hex.EncodeToString(sum[:]), "kernel": "file://" + dir + "/vmlinuz",
		"ramdisk": "file://" + dir + "/ramdisk", "root_gb": 0.003, "swap_mb": "1",
		"capabilities": "disk_label:msdos"}
	for k, v := range more {
		n.InstanceInfo[k] = v
	}
	if err := x.store.UpdateNode(x.t.Context(), n); err != nil {
		x.t.Fatal(err)
	}
}

func TestS2_5_APartitionImageIsWrittenAndItsRootNamed(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.partitioned(nil)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	n := x.state("n1", "active")
	if n.Instance == nil || n.Instance.RootUUID != rootUUID ||
		n.DriverInternalInfo["root_uuid_or_disk_id"] != rootUUID ||
		n.DriverInternalInfo["is_whole_disk_image"] != false ||
		n.BootIntent != ingot.BootInstance {
		t.Errorf("instance %+v, internal info %v, intent %s", n.Instance, n.DriverInternalInfo,
			n.BootIntent)
	}
	out, err := exec.Command("sfdisk", "-d", x.m.target.Backing).CombinedOutput()
	if err != nil || strings.Count(string(out), "start=") != 2 ||
		!strings.Contains(string(out), "size=        2048, type=82") {
		t.Errorf("sfdisk: %v\n%s", err, out)
	}
}

func TestAnEphemeralPartitionThatIsNotThereStopsADeployment(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.partitioned(ingot.Object{"ephemeral_gb": 0.016, "preserve_ephemeral": true,
		"swap_mb": 0, "root_gb": 0.003})
	before, err := os.ReadFile(x.m.target.Backing)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.failed("but the disk has 8 MiB")
	x.partitioned(ingot.Object{"ephemeral_gb": "big"})
	err = c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy"})
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "ephemeral_gb") {
		t.Errorf("ephemeral_gb: %v", err)
	}
	after, err := os.ReadFile(x.m.target.Backing)
	if err != nil || string(after) != string(before) {
		t.Errorf("the disk was written to (%v)", err)
	}
}

func TestS1_4_APartitionImageBootsFromItsDisk(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	local := ingot.Object{"capabilities": "boot_option:local,boot_mode:bios"}
	x.partitioned(local)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.failed("no boot loader in its boot sector")

	// A ramdisk of old installs one, and says so instead of Completed.
	x.m.set(func(m *machine) { m.loader = "FAILED" })
	x.provision(c, "n1", "deploy")
	x.failed("boot loader not installed: no reason given")
	x.m.set(func(m *machine) { m.loader = "SUCCEEDED" })
	x.provision(c, "n1", "deploy")
	n := x.state("n1", "active")
	if n.BootIntent != ingot.BootDisk || n.Instance != nil ||
		n.DriverInternalInfo["root_uuid_or_disk_id"] != rootUUID {
		t.Errorf("intent %s, instance %+v, internal info %v", n.BootIntent, n.Instance,
			n.DriverInternalInfo)
	}
	if !strings.Contains(x.journal("n1"), "the ramdisk has installed a boot loader") {
		t.Error(x.journal("n1"))
	}
	out, err := exec.Command("sfdisk", "-d", x.m.target.Backing).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "type=83, bootable") {
		t.Errorf("sfdisk: %v\n%s", err, out)
	}
}
