package agent_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/agent"
	"ingot/internal/disk"
	"ingot/internal/iso9660"
	"ingot/internal/testkit"
)

const rootFS = "6f0d2a1c-58b3-4c5e-9c66-0c2b8f3f9a10"

// rootImage is a root file system of so many MiB, made by mke2fs.
func rootImage(t *testing.T) []byte {
	t.Helper()
	path, tree := filepath.Join(t.TempDir(), "root"), t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "marker"), []byte("root file system"), 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-U", rootFS, "-d", tree, path, "4M")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// partition is image_info of a partition image, as Ironic and ingot send it.
func partition(image []byte, url string, more map[string]any) map[string]any {
	info := imageInfo(image, url)
	for k, v := range map[string]any{"image_type": "partition", "root_gb": 1, "root_mb": 6, "swap_mb": 1,
		"ephemeral_mb": 18, "ephemeral_format": "ext4", "preserve_ephemeral": false, "disk_label": "gpt",
		"deploy_boot_mode": "uefi", "boot_option": "netboot", "kernel": nil, "ramdisk": nil} {
		info[k] = v
	}
	for k, v := range more {
		info[k] = v
	}
	return info
}

// part cuts a partition out of the disk: by its number, into a file.
func (c *conductor) part(number int) (table disk.Table, path string) {
	c.Helper()
	all := c.disk()
	table, err := disk.Parse(all[:disk.HeadSize], int64(len(all)), 512)
	if err != nil {
		c.Fatal(err)
	}
	for _, p := range table.Partitions {
		if p.Number == number {
			path = filepath.Join(c.TempDir(), p.Name+"part")
			if err := os.WriteFile(path, all[p.Start:p.End()], 0o600); err != nil {
				c.Fatal(err)
			}
			return table, path
		}
	}
	c.Fatalf("no partition %d in %+v", number, table)
	return table, ""
}

// Programs of the world look at what is on the disk.
func TestAPartitionImageIsWrittenIntoPartitions(t *testing.T) {
	t.Parallel()
	image := rootImage(t)
	c := commission(t, newAPI(t), &agent.Agent{}, 100)
	iso, err := iso9660.Build(iso9660.Options{Label: "config-2"}, []iso9660.File{
		{Path: "openstack/latest/meta_data.json", Data: []byte(`{}`)}})
	if err != nil {
		t.Fatal(err)
	}
	url, drive := publish(t, image), base64.StdEncoding.EncodeToString(iso)
	write := func(info map[string]any) result {
		t.Helper()
		return c.write(info, drive)
	}
	// What is to be kept has to be there, and nothing is written before.
	r := write(partition(image, url, map[string]any{"preserve_ephemeral": "True"}))
	if r.Status != "FAILED" || !strings.Contains(r.Fault.Details, "no ephemeral partition to preserve") ||
		c.disk()[0] != oldByte {
		t.Fatalf("%+v %+v", r, r.Fault)
	}
	if r := write(partition(image, url, nil)); r.Status != "SUCCEEDED" {
		t.Fatalf("%+v", r.Fault)
	}
	table, ephemeral := c.part(1)
	_, swap := c.part(2)
	_, config := c.part(3)
	_, root := c.part(4)
	if table.Label != disk.GPT || len(table.Partitions) != 4 {
		t.Errorf("%+v", table)
	}
	testkit.Run(t, "e2fsck", "-f", "-n", root)
	testkit.Run(t, "e2fsck", "-f", "-n", ephemeral)
	for file, want := range map[string]string{ephemeral: `LABEL="ephemeral0"`, swap: `TYPE="swap"`,
		root: `UUID="` + rootFS + `"`} {
		if out := testkit.Run(t, "blkid", "-p", file); !strings.Contains(out, want) {
			t.Errorf("want %s: %s", want, out)
		}
	}
	if b, err := os.ReadFile(config); err != nil || !bytes.HasPrefix(b, iso) {
		t.Errorf("config drive: %v", err)
	}
	r = c.run("standby.get_partition_uuids", map[string]any{}, true)
	parts, _ := r.Result["partitions"].(map[string]any)
	if r.Result["root uuid"] != rootFS || parts["root"] != "/dev/test4" || parts["swap"] != "/dev/test2" {
		t.Errorf("%+v", r)
	}
	if r := c.run("image.install_bootloader", map[string]any{"root_uuid": rootFS}, true); r.Status != "SUCCEEDED" {
		t.Errorf("an instance that boots from the network: %+v", r.Fault)
	}

	// A rebuild keeps the ephemeral partition, also after one that failed.
	f, err := os.OpenFile(c.agent.Disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("precious"), 10*mib); err != nil {
		t.Fatal(err)
	}
	bad := newImage(1, 2)
	keep := map[string]any{"preserve_ephemeral": true}
	if r := write(partition(bad, publish(t, bad), keep)); r.Status != "FAILED" ||
		!strings.Contains(r.Fault.Details, "no file system") {
		t.Errorf("%+v", r.Fault)
	}
	if r := c.run("standby.get_partition_uuids", map[string]any{}, true); len(r.Result) != 0 {
		t.Errorf("after a failure: %+v", r)
	}
	for range 2 {
		if r := write(partition(image, url, keep)); r.Status != "SUCCEEDED" {
			t.Fatalf("%+v", r.Fault)
		}
		if all := c.disk(); !bytes.Equal(all[10*mib:10*mib+8], []byte("precious")) {
			t.Fatal("the ephemeral partition was written to")
		}
	}
}

func TestAPartitionImageBootsByItsLoaderOrItIsSaid(t *testing.T) {
	t.Parallel()
	image := rootImage(t)
	c := commission(t, newAPI(t), &agent.Agent{}, 16)
	local := map[string]any{"boot_option": "local", "deploy_boot_mode": "bios", "disk_label": "msdos", "ephemeral_mb": 0}
	for _, loader := range []bool{true, false} {
		image[510], image[511] = 0, 0
		if loader {
			image[510], image[511] = 0x55, 0xAA
		}
		info := partition(image, publish(t, image), local)
		if r := c.write(info, nil); r.Status != "SUCCEEDED" {
			t.Fatalf("%+v", r.Fault)
		}
		if table, _ := c.part(2); !bytes.HasPrefix(c.disk(), disk.BootCode()) || table.Label != disk.MBR ||
			table.Partitions[0].Active || !table.Partitions[1].Active {
			t.Errorf("%+v", table)
		}
		for ignore, ok := range map[bool]bool{false: loader, true: true} {
			r := c.run("image.install_bootloader", map[string]any{"root_uuid": rootFS,
				"target_boot_mode": "bios", "ignore_bootloader_failure": ignore}, true)
			if (r.Status == "SUCCEEDED") != ok || !ok && !strings.Contains(r.Fault.Details, "no boot loader in its boot sector") {
				t.Errorf("loader %v, ignore %v: %+v %+v", loader, ignore, r, r.Fault)
			}
		}
	}
	for want, change := range map[string]map[string]any{
		"no EFI system partition":   {"boot_option": "local"},
		"only from a table of kind": {"boot_option": "local", "deploy_boot_mode": "bios"},
		"known are msdos and gpt":   {"disk_label": "sun"},
		"only ext4":                 {"ephemeral_format": "xfs"},
		"neither true nor false":    {"preserve_ephemeral": "ture"},
		"and no ephemeral_mb":       {"preserve_ephemeral": true, "ephemeral_mb": 0},
		"is one of a whole disk":    {"preserve_ephemeral": true, "image_type": "whole-disk-image"},
		"but the disk has 16 MiB":   {"swap_mb": "20"},
	} {
		if r := c.write(partition(image, publish(t, image), change), nil); r.Status != "FAILED" ||
			r.Fault.Type != "InvalidCommandParamsError" || !strings.Contains(r.Fault.Details, want) {
			t.Errorf("%v: %+v, want %q", change, r.Fault, want)
		}
	}
}
