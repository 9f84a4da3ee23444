package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ingot/internal/lab"
	"ingot/internal/sim/fleet"
)

// smallImage writes a raw image of a disk of 16 MiB: a boot sector, random data, and zeros. It
// returns instance_info and the digest of the whole disk.
func smallImage(t *testing.T, dir string) (info map[string]string, disk string) {
	t.Helper()
	b := make([]byte, 16<<20)
	_, _ = rand.Read(b[:1<<20])
	_, _ = rand.Read(b[8<<20 : 8<<20+1<<18])
	b[510], b[511] = 0x55, 0xaa
	path := filepath.Join(dir, "small.raw")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	sum := sha256.Sum256(b)
	disk = hex.EncodeToString(sum[:])
	return map[string]string{"image_source": "file://" + path, "image_os_hash_algo": "sha256",
		"image_os_hash_value": disk, "image_disk_format": "raw"}, disk
}

// TestFiveHundredMachinesDeployAtOnce lets simulated machines do what real ones do, all at the
// same time: BMC, DHCP, script, kernel, ramdisk, iSCSI, restart. Every byte of every disk counts.
func TestFiveHundredMachinesDeployAtOnce(t *testing.T) {
	const machines = 500
	requirements(t)
	path, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Start(t.Context(), lab.Options{
		Dir: buildDir(t, "e2e"), Cache: buildDir(t, "cache"), Binary: path, Progress: testWriter{t},
		Fleet: lab.FleetOptions{Machines: machines},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, "server", l.Log())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	info, digest := smallImage(t, filepath.Dir(l.Files.Image.RawPath))
	begin := time.Now()
	if err := l.EnrollFleet(ctx, 0, machines); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d machines enrolled in %.1f s", machines, time.Since(begin).Seconds())
	begin = time.Now()
	if err := l.DeployFleet(ctx, 0, machines, info); err != nil {
		for name, e := range l.Fleet.Stages() {
			if e.Stage == fleet.Stuck {
				t.Logf("%s is stuck: %s", name, e.Text)
			}
		}
		t.Fatal(err)
	}
	if err := l.Fleet.Wait(ctx, fleet.Disk, machines); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d machines deployed in %.1f s", machines, time.Since(begin).Seconds())
	for name, e := range l.Fleet.Stages() {
		if e.SHA256 != digest {
			t.Errorf("the disk of %s has the digest %s, want %s", name, e.SHA256, digest)
		}
	}
}
