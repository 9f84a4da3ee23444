package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/media"
	"ingot/internal/sim/redfish"
)

const (
	mediumKernel  = 14 * mebi
	mediumRamdisk = 386 * mebi
	mediumRange   = 64 * kibi
	mediumRuns    = 3
)

// measureMedium measures the ISO that a BMC inserts: how soon it is there, and how fast it is read.
func measureMedium(ctx context.Context, b *bench) (s section, err error) {
	s = section{
		Title: "Virtual media",
		How: fmt.Sprintf(`A boot ISO with a kernel of %d MiB and a ramdisk of %d MiB. Published: bin/ingot serve has just
inserted its URL into a simulated BMC; from the first request for %d KiB until they are there, and how the
server's memory has grown when all of it was read once by such ranges, in order. Yardstick: xorriso makes the
same ISO of the same files, in the page cache. Disk: what was written for it.
Read: %d clients on loopback, each with one kept connection, read ranges of %d KiB in order, each from another
place on, for %s; the files are in the page cache. Yardstick: nginx (sendfile on) with the ISO as a file.
Median of %d runs, in turns.
`, mediumKernel/mebi, mediumRamdisk/mebi, mediumRange/kibi, httpClients, mediumRange/kibi, httpTime, mediumRuns),
	}
	if err := roomInMemory(3 * (mediumKernel + mediumRamdisk)); err != nil {
		return s, err
	}
	dir, err := os.MkdirTemp(memoryDir, "ingot-bench-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	m := medium{bench: b, dir: dir}
	bmc, err := m.start(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, m.server.stop(), bmc.Stop()) }()
	if s.Figures, err = m.publish(ctx); err != nil {
		return s, err
	}
	read, err := m.read(ctx)
	s.Figures = append(s.Figures, read...)
	return s, err
}

// medium is a server whose node's machine has one inserted.
type medium struct {
	*bench
	dir    string
	server *service
	url    *url.URL // of the ISO
	size   int64
}

// start starts the server, and has a node deployed until its medium is inserted.
func (m *medium) start(ctx context.Context) (bmc *redfish.Service, err error) {
	kernel, ramdisk := filepath.Join(m.dir, "vmlinuz"), filepath.Join(m.dir, "initrd")
	if err := errors.Join(randomFile(kernel, mediumKernel, mediumKernel),
		randomFile(ramdisk, mediumRamdisk, mediumRamdisk)); err != nil {
		return nil, err
	}
	bmc = redfish.New(&redfish.Board{}, redfish.Options{Name: "bench", User: "admin", Password: "secret",
		UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c1a0"})
	if err := bmc.Start(); err != nil {
		return nil, err
	}
	boot, err := freeAddress()
	if err != nil {
		return nil, errors.Join(err, bmc.Stop())
	}
	m.server, err = m.startIngot(ctx, filepath.Join(m.dir, "server"), "INGOT_BOOT_HTTP_LISTEN="+boot,
		"INGOT_DEPLOY_KERNEL=file://"+kernel, "INGOT_DEPLOY_RAMDISK=file://"+ramdisk,
		"INGOT_IMAGE_FILE_URL_ALLOWED_PATHS="+m.dir)
	if err != nil {
		return nil, errors.Join(err, bmc.Stop())
	}
	_, err = startDeploying(ctx, http.DefaultClient, m.server.url, mac(1), ingot.Object{"driver": "redfish",
		"boot_interface": "redfish-virtual-media", "deploy_interface": "iscsi", "automated_clean": false,
		"driver_info": ingot.Object{"redfish_address": bmc.URL(), "redfish_username": "admin",
			"redfish_password": "secret"},
		"instance_info": noImage(kernel)})
	if err == nil {
		m.url, err = url.Parse(bmc.Inserted(redfish.VirtualCD))
	}
	if err != nil {
		return nil, errors.Join(err, m.server.stop(), bmc.Stop())
	}
	return bmc, nil
}

// publish measures how soon the ISO can be read, and reads all of it to a file.
func (m *medium) publish(ctx context.Context) ([]figure, error) {
	before, err := memory(m.server.pid, "RssAnon")
	if err != nil {
		return nil, err
	}
	stored, err := storedFiles(filepath.Join(m.dir, "server"))
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if _, err := m.part(ctx, 0); err != nil {
		return nil, err
	}
	ready := time.Since(start)
	iso, err := os.Create(filepath.Join(m.dir, "boot.iso"))
	if err != nil {
		return nil, err
	}
	defer iso.Close()
	peak := before
	for off := int64(0); off == 0 || off < m.size; off += mediumRange {
		data, err := m.part(ctx, off)
		if err != nil {
			return nil, err
		}
		if _, err := iso.Write(data); err != nil {
			return nil, err
		}
		if now, err := memory(m.server.pid, "RssAnon"); err == nil && off%(16*mebi) == 0 {
			peak = max(peak, now)
		}
	}
	after, err := storedFiles(filepath.Join(m.dir, "server"))
	if err != nil {
		return nil, err
	}
	tree := filepath.Join(m.dir, "tree")
	if _, err := run(exec.CommandContext(ctx, "xorriso", "-osirrox", "on", "-indev", "stdio:"+iso.Name(), "-extract", "/",
		tree)); err != nil {
		return nil, err
	}
	made := filepath.Join(m.dir, "made.iso")
	defer os.Remove(made)
	var took, memories []float64
	for range mediumRuns {
		u, err := run(exec.CommandContext(ctx, "xorriso", "-as", "mkisofs", "-quiet", "-o", "stdio:"+made, "-R", "-J",
			"-V", media.Label, "-b", "isolinux/isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4",
			"-boot-info-table", "-eltorito-alt-boot", "-e", "boot/grub/efiboot.img", "-no-emul-boot", tree))
		if err != nil {
			return nil, err
		}
		took = append(took, float64(u.wall.Microseconds())/1000)
		memories = append(memories, float64(u.peak)/mebi)
	}
	info, err := os.Stat(made)
	if err != nil {
		return nil, err
	}
	return []figure{
		{What: "published after", Unit: "ms", Value: float64(ready.Microseconds()) / 1000, Yardstick: median(took),
			Beside: "xorriso", N: 1},
		{What: "memory", Unit: "MiB", Value: float64(peak-before) / mebi, Yardstick: median(memories), Beside: "xorriso", N: 1},
		{What: "disk", Unit: "MiB", Value: (after - stored) / mebi, Yardstick: float64(info.Size()) / mebi, Beside: "xorriso", N: 1},
	}, nil
}

// part reads a range.
func (m *medium) part(ctx context.Context, off int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+mediumRange-1))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return nil, fmt.Errorf("%s: %s", m.url, resp.Status)
	}
	var from, to int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &m.size); err != nil {
		return nil, fmt.Errorf("%s: Content-Range: %w", m.url, err)
	}
	return io.ReadAll(resp.Body)
}

// read measures many BMCs that read at a time.
func (m *medium) read(ctx context.Context) ([]figure, error) {
	dir := filepath.Join(m.dir, "nginx")
	if err := os.MkdirAll(filepath.Join(dir, "boot"), 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(filepath.Join(m.dir, "boot.iso"), filepath.Join(dir, "boot", "boot.iso")); err != nil {
		return nil, err
	}
	nginx, err := m.startNginx(ctx, dir, "/boot.iso")
	if err != nil {
		return nil, err
	}
	defer nginx.stop()
	ranges := m.size / mediumRange
	ask := func(path string) func(client, i int) string {
		return func(client, i int) string {
			off := (int64(client)*ranges/httpClients + int64(i)) % ranges * mediumRange
			return fmt.Sprintf("%sRange: bytes=%d-%d\r\n", get(path), off, off+mediumRange-1)
		}
	}
	sides := []*httpSide{
		{server: &service{url: m.url.Scheme + "://" + m.url.Host, pid: m.server.pid}, ask: ask(m.url.Path)},
		{server: nginx, ask: ask("/boot.iso")},
	}
	for round := range mediumRuns + 1 {
		for _, side := range sides {
			if err := side.measure(ctx, round > 0); err != nil { // the first warms up
				return nil, err
			}
		}
	}
	return []figure{
		{What: "read", Unit: "MB/s", Value: median(sides[0].rates), Yardstick: median(sides[1].rates),
			Beside: "nginx", N: mediumRuns},
		{What: "read, processor time", Unit: "s/GB", Value: median(sides[0].costs), Yardstick: median(sides[1].costs),
			Beside: "nginx", N: mediumRuns},
	}, nil
}
