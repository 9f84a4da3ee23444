package iscsi_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ingot/internal/disk"
	"ingot/internal/driver"
	"ingot/internal/driver/iscsi"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/iscsi/iscsitest"
)

const mib = 1 << 20

// written runs the step write_image for an image on a real target, and returns how it ended.
func written(t *testing.T, target *iscsitest.Target, content []byte, info ingot.Object,
	tk *driver.Task) error {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	host, text, _ := net.SplitHostPort(target.Addr)
	port, _ := strconv.Atoi(text)
	n := tk.Node
	n.InstanceInfo = ingot.Object{"image_source": "file://" + path,
		"image_checksum": hex.EncodeToString(sum[:])}
	for k, v := range info {
		n.InstanceInfo[k] = v
	}
	n.Attempt.Target = &ingot.ISCSITarget{Address: host, Port: port, IQN: target.IQN,
		LUN: int(target.LUN)}
	n.Attempt.Written = false
	d := iscsi.New(iscsi.Options{OutcomePort: 1,
		Image: image.Options{AllowedPaths: []string{dir}, SpoolDir: filepath.Join(dir, "spool")}})
	if err := d.Validate(t.Context(), tk); err != nil {
		t.Fatal(err)
	}
	_, err := d.Execute(t.Context(), tk, ingot.Step{Interface: "deploy", Name: "write_image"})
	return err
}

// partitions reads the table of the target's disk and the content of the named partition.
func partitions(t *testing.T, target *iscsitest.Target, number int) (disk.Table, []byte) {
	t.Helper()
	all, err := os.ReadFile(target.Backing)
	if err != nil {
		t.Fatal(err)
	}
	table, err := disk.Parse(all[:disk.HeadSize], int64(len(all)), 512)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range table.Partitions {
		if p.Number == number {
			return table, all[p.Start:p.End()]
		}
	}
	t.Fatalf("no partition %d in %+v", number, table)
	return table, nil
}

func TestAWholeDiskImageGetsItsConfigDrive(t *testing.T) {
	t.Parallel()
	content := make([]byte, 4*mib)
	rand.Read(content[mib:])
	table := disk.Table{Label: disk.MBR, Size: 4 * mib, Sector: 512, ID: disk.GUID{1, 2, 3, 4},
		Partitions: []disk.Partition{{Number: 1, Start: mib, Size: 2 * mib, Type: disk.Linux}}}
	if _, err := table.Encode(content[:mib]); err != nil {
		t.Fatal(err)
	}
	target := iscsitest.Start(t, iscsitest.Options{Size: 96 * mib})
	tk := task("deploying", nil)
	err := written(t, target, content, ingot.Object{"configdrive": ingot.Object{
		"meta_data": ingot.Object{"hostname": "web1"}}}, tk)
	if err != nil {
		t.Fatal(err)
	}
	_, drive := partitions(t, target, 2)
	checkDrive(t, drive)
	info := tk.Node.DriverInternalInfo
	if info["root_uuid_or_disk_id"] != "0x04030201" || info["is_whole_disk_image"] != true {
		t.Errorf("internal info %v", info)
	}
}

func TestAWholeDiskImageThatCannotBootIsToldInTheJournal(t *testing.T) {
	t.Parallel()
	filesystem := make([]byte, 4*mib)
	copy(filesystem[0x438:], "\x53\xef") // ext
	for says, content := range map[string][]byte{
		"the image has no boot sector":  []byte("not an image"),
		"the image is a file system (e": filesystem,
	} {
		target := iscsitest.Start(t, iscsitest.Options{Size: 96 * mib})
		tk, notes := task("deploying", nil), []string{}
		tk.Note = func(e ingot.Entry) { notes = append(notes, e.Level+" "+e.Text) }
		if err := written(t, target, content, nil, tk); err != nil {
			t.Fatal(err)
		}
		if last := notes[len(notes)-1]; !strings.HasPrefix(last, ingot.LevelWarning+" "+says) {
			t.Errorf("want a warning %q, got %q", says, notes)
		}
	}
}

func checkDrive(t *testing.T, drive []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drive")
	if err := os.WriteFile(path, drive, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("blkid", "-p", path).CombinedOutput(); err != nil ||
		!strings.Contains(string(out), `LABEL="config-2"`) {
		t.Errorf("blkid: %v %s", err, out)
	}
	out, err := exec.Command("isoinfo", "-R", "-i", path, "-x",
		"/openstack/latest/meta_data.json").Output()
	if err != nil || !strings.Contains(string(out), `"hostname":"web1"`) {
		t.Errorf("isoinfo: %v %s", err, out)
	}
}

func TestAnEphemeralPartitionSurvivesARebuildAndItsRepetition(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "root")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", path,
		"4M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	root, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info := func(keep bool) ingot.Object {
		return ingot.Object{"kernel": "http://k", "ramdisk": "http://r", "root_gb": "0.0045",
			"ephemeral_gb": 0.0166, "preserve_ephemeral": keep,
			"configdrive": ingot.Object{"meta_data": ingot.Object{"hostname": "web1"}}}
	}
	target := iscsitest.Start(t, iscsitest.Options{Size: 96 * mib})
	tk := task("deploying", nil)
	tk.Node.Instance = &ingot.Instance{}
	if err := written(t, target, root, info(true), tk); err == nil ||
		!strings.Contains(err.Error(), "no ephemeral partition to preserve") {
		t.Fatalf("an empty disk: %v", err)
	}
	if all, _ := os.ReadFile(target.Backing); len(bytes.Trim(all, "\x00")) != 0 {
		t.Error("something was written before the refusal")
	}
	if err := written(t, target, root, info(false), tk); err != nil {
		t.Fatal(err)
	}
	table, drive := partitions(t, target, 2)
	checkDrive(t, drive)
	if table.Label != disk.GPT || tk.Node.Instance.RootUUID == "" ||
		tk.Node.Instance.RootUUID != tk.Node.DriverInternalInfo["root_uuid_or_disk_id"] {
		t.Errorf("%s table, root %q", table.Label, tk.Node.Instance.RootUUID)
	}
	mark := func() {
		f, err := os.OpenFile(target.Backing, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("precious"), 10*mib); err != nil {
			t.Fatal(err)
		}
	}
	kept := func() {
		t.Helper()
		if _, p := partitions(t, target, 1); !bytes.HasPrefix(p[9*mib:], []byte("precious")) {
			t.Error("the ephemeral partition was written to")
		}
	}
	mark()
	// An attempt that fails leaves nothing to boot, but what is kept can be found by the next.
	failed := bytes.Repeat([]byte{1}, 4*mib)
	if err := written(t, target, failed, info(true), tk); err == nil {
		t.Fatal("an image without a file system was taken for good")
	}
	if table, _ := partitions(t, target, 1); len(table.Partitions) != 1 {
		t.Errorf("though the image was refused, there are %+v", table.Partitions)
	}
	if err := written(t, target, root, info(true), tk); err != nil {
		t.Fatal(err)
	}
	kept()
	if err := written(t, target, root, info(true), tk); err != nil {
		t.Fatal(err)
	}
	kept()
}

func TestLocalBootOfPartitionImages(t *testing.T) {
	t.Parallel()
	check := func(info ingot.Object) error {
		tk := task("available", nil)
		tk.Node.InstanceInfo = ingot.Object{"image_source": "http://x/root", "root_gb": 1,
			"image_checksum": strings.Repeat("0", 64), "image_type": "partition"}
		for k, v := range info {
			tk.Node.InstanceInfo[k] = v
		}
		return iscsi.New(iscsi.Options{}).Validate(t.Context(), tk)
	}
	for capabilities, want := range map[string]string{
		"boot_option:local,boot_mode:bios":                  "",
		"boot_option:local,boot_mode:bios,disk_label:msdos": "",
		"boot_option:local,boot_mode:bios,disk_label:gpt":   "only from msdos",
		"boot_option:local,boot_mode:uefi":                  "EFI system partition",
		"boot_option:local":                                 "EFI system partition",
		"":                                                  "set kernel and ramdisk",
	} {
		err := check(ingot.Object{"capabilities": capabilities})
		if want == "" && err != nil || want != "" && (ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", capabilities, err, want)
		}
	}

	path := filepath.Join(t.TempDir(), "root")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", path,
		"4M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	root, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	target := iscsitest.Start(t, iscsitest.Options{Size: 16 * mib})
	tk := task("deploying", nil)
	info := ingot.Object{"image_type": "partition", "root_gb": "0.0045", "swap_mb": 1,
		"capabilities": "boot_option:local,boot_mode:bios"}
	for _, loader := range []bool{false, true, false} {
		root[510], root[511] = 0, 0
		if loader {
			root[510], root[511] = 0x55, 0xAA
		}
		if err := written(t, target, root, info, tk); err != nil {
			t.Fatal(err)
		}
		if tk.Node.Attempt.NeedsLoader == loader {
			t.Errorf("loader %v: attempt %+v", loader, *tk.Node.Attempt)
		}
		all, err := os.ReadFile(target.Backing)
		if err != nil {
			t.Fatal(err)
		}
		table, _ := partitions(t, target, 2)
		if !bytes.HasPrefix(all, disk.BootCode()) || table.Label != disk.MBR ||
			table.Partitions[0].Active || !table.Partitions[1].Active {
			t.Errorf("%+v", table)
		}
	}
}

func TestOnlyPlainWordsDecideAboutTheEphemeralPartition(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		word any
		ok   bool
	}{{true, true}, {"Yes", true}, {"on", true}, {nil, true}, {"no", true}, {"ture", false},
		{"preserve", false}, {2, false}} {
		tk := task("available", nil)
		tk.Node.InstanceInfo = ingot.Object{"image_source": "http://images/root",
			"image_checksum": strings.Repeat("0", 64), "kernel": "http://k", "ramdisk": "http://r",
			"root_gb": 1, "ephemeral_gb": 1, "preserve_ephemeral": c.word}
		err := iscsi.New(iscsi.Options{}).Validate(t.Context(), tk)
		if c.ok != (err == nil) || !c.ok && !strings.Contains(err.Error(), "preserve_ephemeral") {
			t.Errorf("%v: %v", c.word, err)
		}
		delete(tk.Node.InstanceInfo, "ephemeral_gb")
		yes := c.word == true || c.word == "Yes" || c.word == "on"
		err = iscsi.New(iscsi.Options{}).Validate(t.Context(), tk)
		if yes && err == nil {
			t.Errorf("%v is not taken for a yes", c.word)
		}
		// The same without what tells that the image is no whole disk.
		delete(tk.Node.InstanceInfo, "kernel")
		delete(tk.Node.InstanceInfo, "ramdisk")
		err = iscsi.New(iscsi.Options{}).Validate(t.Context(), tk)
		if refused := yes || !c.ok; refused != (err != nil) || yes && !strings.Contains(err.Error(), "image_type=partition") {
			t.Errorf("%v, whole disk: %v", c.word, err)
		}
	}
}
