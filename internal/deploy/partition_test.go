package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/internal/deploy"
	"ingot/internal/disk"
	"ingot/internal/ingot"
	"ingot/internal/iscsi/iscsitest"
	"ingot/internal/testkit"
)

// fileSource is an image in a file.
type fileSource struct {
	*os.File
	size int64
	end  error
}

func (s *fileSource) Size() int64    { return s.size }
func (s *fileSource) Digest() string { return "sha256:00" }

func (s *fileSource) Next(_ context.Context, buf []byte) (int64, bool, error) {
	n, err := s.Read(buf)
	if n == 0 && err == io.EOF {
		return 0, false, s.end
	}
	return int64(n), false, nil
}

// rootImage is a root file system made by mke2fs, and its UUID.
func rootImage(t *testing.T, size string) (path, uuid string) {
	t.Helper()
	path, uuid = filepath.Join(t.TempDir(), "root.img"), "6f0d2a1c-58b3-4c5e-9c66-0c2b8f3f9a10"
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "marker"), []byte("root file system"), 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "mke2fs", "-q", "-t", "ext4", "-U", uuid, "-d", tree, path, size)
	return path, uuid
}

func open(t *testing.T, path string) *fileSource {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return &fileSource{f, info.Size(), io.EOF}
}

// cut copies a partition out of a disk.
func cut(t *testing.T, path string, p disk.Partition) string {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	name := filepath.Join(t.TempDir(), p.Name)
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, io.NewSectionReader(in, p.Start, p.Size)); err != nil {
		t.Fatal(err)
	}
	return name
}

var request = deploy.Request{Root: 24 * mib, Swap: 4 * mib, Ephemeral: 18 * mib,
	ConfigDrive: true, Seed: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123"}

const diskSize = 116*mib + 4096

func plan(t *testing.T, r deploy.Request, size int64, sector int) deploy.Plan {
	t.Helper()
	p, err := deploy.NewPlan(r, size, sector)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Programs of the world look at what is on a disk that a real target exports.
func TestS2_4_PartitionsArriveOnARealTarget(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	image, uuid := rootImage(t, "16M")
	drive := bytes.Repeat([]byte("drive"), 100_000)
	for name, c := range map[string]struct {
		label disk.Label
		block int
	}{"msdos": {disk.MBR, 512}, "gpt": {disk.GPT, 512}, "gpt 4096": {disk.GPT, 4096}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backing := filepath.Join(t.TempDir(), "disk")
			garbage := make([]byte, diskSize)
			rand.NewChaCha8([32]byte{9}).Read(garbage)
			if err := os.WriteFile(backing, garbage, 0o600); err != nil {
				t.Fatal(err)
			}
			r := request
			r.Label = c.label
			p := plan(t, r, diskSize, c.block)
			session := dial(t, iscsitest.Options{BlockSize: c.block, Backing: backing})
			result, err := deploy.WritePartitions(t.Context(), session, p, deploy.Contents{
				Image: open(t, image), ConfigDrive: drive, Now: time.Now()}, deploy.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if result.Filesystem.UUID != uuid {
				t.Errorf("root UUID %s, want %s", result.Filesystem.UUID, uuid)
			}
			if c.block == 512 {
				out := strings.ReplaceAll(testkit.Run(t, "sfdisk", "-d", backing), " ", "")
				for _, part := range p.Table.Partitions {
					want := fmt.Sprintf("%d:start=%d,size=%d,", part.Number, part.Start/512,
						part.Size/512)
					if !strings.Contains(out, want) {
						t.Errorf("sfdisk lacks %s:\n%s", want, out)
					}
				}
			}
			if name == "gpt" {
				if out := testkit.Run(t, "sgdisk", "--verify", backing); !strings.Contains(out,
					"No problems found") {
					t.Errorf("sgdisk: %s", out)
				}
			}
			checkParts(t, backing, p, drive)
		})
	}
}

// checkParts looks into the partitions.
func checkParts(t *testing.T, backing string, p deploy.Plan, drive []byte) {
	t.Helper()
	part := func(role deploy.Role) string {
		found, ok := p.Part(role)
		if !ok {
			t.Fatalf("no partition %s in %s", role, p)
		}
		return cut(t, backing, found)
	}
	root := part(deploy.Root)
	testkit.Run(t, "e2fsck", "-f", "-n", root)
	if out := testkit.Run(t, "debugfs", "-R", "cat /marker", root); !strings.Contains(out,
		"root file system") {
		t.Errorf("marker: %s", out)
	}
	ephemeral := part(deploy.Ephemeral)
	testkit.Run(t, "e2fsck", "-f", "-n", ephemeral)
	if out := testkit.Run(t, "blkid", "-p", ephemeral); !strings.Contains(out, `LABEL="ephemeral0"`) {
		t.Errorf("ephemeral: %s", out)
	}
	if out := testkit.Run(t, "blkid", "-p", part(deploy.Swap)); !strings.Contains(out, `TYPE="swap"`) {
		t.Errorf("swap: %s", out)
	}
	content, err := os.ReadFile(part(deploy.ConfigDrive))
	if err != nil || !bytes.HasPrefix(content, drive) ||
		len(bytes.Trim(content[len(drive):], "\x00")) != 0 {
		t.Errorf("config drive: %d bytes, %v", len(content), err)
	}
}

func TestNoTableBeforeEverythingIsWrittenAndRepetitionHeals(t *testing.T) {
	t.Parallel()
	image, _ := rootImage(t, "16M")
	r := request
	r.Label, r.ConfigDrive = disk.GPT, false
	const diskSize = 52 * mib
	p := plan(t, r, diskSize, 512)
	contents := func() deploy.Contents {
		return deploy.Contents{Image: open(t, image), ConfigDrive: []byte("drive"),
			Now: time.Unix(1_700_000_000, 0)}
	}
	whole := newMemDisk(diskSize, 512)
	if _, err := deploy.WritePartitions(t.Context(), whole, p, contents(),
		deploy.Options{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	d := newMemDisk(diskSize, 512)
	for op := 1; ; op += 4 {
		d.failAt, d.ops = op, 0
		_, err := deploy.WritePartitions(t.Context(), d, p, contents(), deploy.Options{Workers: 1})
		if err == nil {
			break
		}
		if !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		if op <= whole.ops-3 { // the last two are the table and its sync
			if _, err := disk.Parse(d.content[:mib], diskSize, 512); op > 3 &&
				!errors.Is(err, disk.ErrNoTable) {
				t.Errorf("operation %d of %d failed, and there is a table: %v", op, whole.ops, err)
			}
		}
	}
	if !bytes.Equal(d.content, whole.content) {
		t.Error("the repeated deployment wrote something else")
	}
}

func TestAnImageThatIsNotWhatWasPromisedLeavesNoTable(t *testing.T) {
	t.Parallel()
	image, _ := rootImage(t, "16M")
	r := request
	r.Label = disk.MBR
	source := open(t, image)
	source.end = errors.New("wrong checksum")
	d := newMemDisk(diskSize, 512)
	_, err := deploy.WritePartitions(t.Context(), d, plan(t, r, diskSize, 512),
		deploy.Contents{Image: source}, deploy.Options{})
	if err == nil || !strings.Contains(err.Error(), "wrong checksum") {
		t.Error(err)
	}
	if _, err := disk.Parse(d.content[:mib], diskSize, 512); !errors.Is(err, disk.ErrNoTable) {
		t.Errorf("table: %v", err)
	}
}

func TestAnImageLargerThanItsPartitionIsRefused(t *testing.T) {
	t.Parallel()
	image, _ := rootImage(t, "25M")
	r := request
	r.Label = disk.MBR
	p := plan(t, r, diskSize, 512)
	for _, unknown := range []bool{false, true} {
		source := open(t, image)
		if unknown {
			source.size = -1
		}
		d := newMemDisk(diskSize, 512)
		_, err := deploy.WritePartitions(t.Context(), d, p, deploy.Contents{Image: source},
			deploy.Options{})
		if err == nil || ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), "the root partition has only 25165824; raise root_gb") {
			t.Errorf("unknown %v: %v", unknown, err)
		}
		if !unknown && d.ops != 0 {
			t.Errorf("%d writes before the refusal", d.ops)
		}
		if _, err := disk.Parse(d.content[:mib], diskSize, 512); unknown &&
			!errors.Is(err, disk.ErrNoTable) {
			t.Errorf("table: %v", err)
		}
	}
}

func TestWhatDoesNotFitIsToldBeforehand(t *testing.T) {
	t.Parallel()
	r := request
	r.Label = disk.GPT
	p := plan(t, r, diskSize, 512)
	want := "gpt: 1 ephemeral0 18 MiB at 1 MiB, 2 swap1 4 MiB at 19 MiB, " +
		"3 config-2 64 MiB at 23 MiB, 4 root 24 MiB at 87 MiB"
	if p.String() != want {
		t.Errorf("plan %s", p)
	}
	if _, err := deploy.NewPlan(r, 111*mib, 512); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "take 111 MiB ("+want+"), but the disk has room for 110") {
		t.Errorf("disk too small: %v", err)
	}
	r.Label = disk.MBR
	if _, err := deploy.NewPlan(r, 111*mib, 512); err != nil {
		t.Errorf("an MBR needs no backup: %v", err)
	}
	r.Ephemeral = mib
	if _, err := deploy.NewPlan(r, diskSize, 512); err == nil {
		t.Error("an ephemeral partition of 1 MiB")
	}
	r.Ephemeral, r.Root, r.Swap = 0, 1<<62, 1<<62 // more than an int64 together
	if p, err := deploy.NewPlan(r, diskSize, 512); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "swap1 of 4398046511104 MiB") {
		t.Errorf("plan %s: %v", p, err)
	}
}

func TestAnEphemeralPartitionIsKeptIfItIsThere(t *testing.T) {
	t.Parallel()
	image, _ := rootImage(t, "16M")
	r := request
	r.Label = disk.GPT
	p := plan(t, r, diskSize, 512)
	d := newMemDisk(diskSize, 512)
	if err := p.CheckKept(d.content[:mib]); err == nil ||
		!strings.Contains(err.Error(), "there is no partition table") {
		t.Errorf("blank disk: %v", err)
	}
	write := func(keep bool) {
		t.Helper()
		_, err := deploy.WritePartitions(t.Context(), d, p, deploy.Contents{Image: open(t, image),
			KeepEphemeral: keep, ConfigDrive: []byte{1}}, deploy.Options{})
		if err != nil {
			t.Fatal(err)
		}
	}
	write(false)
	copy(d.content[10*mib:], "what the user kept")
	if err := p.CheckKept(d.content[:mib]); err != nil {
		t.Error(err)
	}
	write(true)
	if !bytes.HasPrefix(d.content[10*mib:], []byte("what the user kept")) {
		t.Error("the ephemeral partition was written to")
	}
	r.Ephemeral += mib
	if err := plan(t, r, diskSize, 512).CheckKept(d.content[:mib]); err == nil ||
		!strings.Contains(err.Error(), "has 18 MiB at 1 MiB") {
		t.Errorf("another size: %v", err)
	}
	r.Label, r.Ephemeral = disk.MBR, request.Ephemeral
	if err := plan(t, r, diskSize, 512).CheckKept(d.content[:mib]); err == nil {
		t.Error("another label was taken")
	}
	r.Ephemeral = 0
	if err := plan(t, r, diskSize, 512).CheckKept(d.content[:mib]); err == nil {
		t.Error("nothing to keep was kept")
	}
}

// An attempt that fails must leave the table by which the next one finds what is to be kept.
func TestAKeptEphemeralPartitionIsFoundAfterAFailure(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	image, _ := rootImage(t, "16M")
	for _, label := range []disk.Label{disk.MBR, disk.GPT} {
		r := request
		r.Label = label
		p := plan(t, r, diskSize, 512)
		d := newMemDisk(diskSize, 512)
		write := func(end error, keep bool) error {
			source := open(t, image)
			source.end = end
			_, err := deploy.WritePartitions(t.Context(), d, p, deploy.Contents{Image: source,
				KeepEphemeral: keep, ConfigDrive: []byte{1}}, deploy.Options{Workers: 1})
			return err
		}
		if err := write(io.EOF, false); err != nil {
			t.Fatal(err)
		}
		copy(d.content[10*mib:], "what the user kept")
		if err := write(errors.New("wrong checksum"), true); err == nil {
			t.Fatal("a wrong image was taken for good")
		}
		if table, err := disk.Parse(d.content[:mib], diskSize, 512); err != nil ||
			len(table.Partitions) != 1 {
			t.Errorf("%s: after a failure there are %+v (%v), want the ephemeral partition alone",
				label, table.Partitions, err)
		}
		for op := 1; ; op++ {
			d.failAt, d.ops = op, 0
			err := write(io.EOF, true)
			if kept := p.CheckKept(d.content[:mib]); kept != nil {
				t.Errorf("%s, operation %d: %v", label, op, kept)
			}
			if err == nil {
				break
			}
		}
		if !bytes.HasPrefix(d.content[10*mib:], []byte("what the user kept")) {
			t.Error("the ephemeral partition was written to")
		}
	}
}

func TestConfigDrivesAreAddedToWholeDiskImages(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	drive := bytes.Repeat([]byte("drive"), 1000)
	for _, label := range []disk.Label{disk.GPT, disk.MBR} {
		image := make([]byte, 20*mib)
		table := disk.Table{Label: label, Size: 20 * mib, Sector: 512, Partitions: []disk.Partition{
			{Number: 1, Start: mib, Size: 18 * mib, Type: disk.Linux, GUID: disk.GUID{1}}}}
		backup, err := table.Encode(image[:mib])
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range backup {
			copy(image[e.Off:], e.Data)
		}
		copy(image, "boot code")
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		opt := deploy.Options{ConfigDrive: drive, Seed: "node"}
		d := newMemDisk(128*mib+512, 512)
		for range 2 { // the second time over its own result
			if _, err := deploy.WriteImage(t.Context(), d, open(t, path), opt); err != nil {
				t.Fatal(err)
			}
			got, err := disk.Parse(d.content[:mib], d.Size(), 512)
			if err != nil || len(got.Partitions) != 2 {
				t.Fatalf("%+v, %v", got, err)
			}
			p := got.Partitions[1]
			if p.End() > d.Size() || p.End() < d.Size()-2*mib ||
				!bytes.HasPrefix(d.content[p.Start:], drive) ||
				!bytes.HasPrefix(d.content, []byte("boot code")) ||
				!bytes.Equal(d.content[mib:19*mib], image[mib:19*mib]) {
				t.Errorf("%s: %+v", label, p)
			}
		}
		if label == disk.GPT {
			out := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(out, d.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if out := testkit.Run(t, "sgdisk", "--verify", out); !strings.Contains(out, "No problems") {
				t.Errorf("sgdisk: %s", out)
			}
		}
		small := newMemDisk(80*mib, 512)
		for _, unknown := range []bool{false, true} {
			source := open(t, path)
			if unknown {
				source.size = -1
			}
			_, err := deploy.WriteImage(t.Context(), small, source, opt)
			if err == nil || !strings.Contains(err.Error(), "has no room for a config drive") {
				t.Errorf("small disk: %v", err)
			}
			if !unknown && small.ops > 0 {
				t.Error("written before the refusal")
			}
		}
	}
	d := newMemDisk(72*mib, 512)
	_, err := deploy.WriteImage(t.Context(), d, newSource(piece{length: 3 * mib}),
		deploy.Options{ConfigDrive: drive})
	if err == nil || !strings.Contains(err.Error(), "there is no partition table") {
		t.Errorf("image without a table: %v", err)
	}
	if !bytes.Equal(d.content[:mib], make([]byte, mib)) {
		t.Error("the head was written all the same")
	}
}
