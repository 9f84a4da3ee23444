package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/deploy"
	"ingot/internal/glance"
	"ingot/internal/image"
	"ingot/internal/iscsi"
	"ingot/internal/keystone"
)

const (
	imageSize = 2 * gibi
	imageRuns = 3
	// memoryDir is a file system in memory: the disk of this host is no part of what is measured,
	// and on virtual hosts its speed varies tenfold.
	memoryDir = "/dev/shm"
)

// measureISCSI measures writing images to an iSCSI target.
func measureISCSI(ctx context.Context, b *bench) (section, error) {
	s := section{
		Title: "Image to iSCSI target (tgt on loopback, its disk in memory)",
		How: fmt.Sprintf(`Median of %d runs of each, taken in turns, after one run of ingot that fills the
target's file and is checked byte by byte. Images of 2 GiB: raw of random bytes, and raw and qcow2
of which every other 64 MiB are a hole. Both writers are user-space initiators; that of qemu-img is
libiscsi. Each run is a process of its own, from exec to exit: rate, user
and system time, peak of resident memory. Ingot also verifies the SHA-256 of the image, keeps
the head of the disk for last and flushes the target several times; qemu-img verifies nothing
and flushes once, at the end (-t writeback). Growth is ingot's peak less what its process had
before it opened the image.
`, imageRuns),
	}
	if err := roomInMemory(3 * imageSize); err != nil {
		return s, err
	}
	dir, err := os.MkdirTemp(memoryDir, "ingot-bench-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	t, err := startTarget(ctx, dir, imageSize)
	if err != nil {
		return s, err
	}
	defer t.stop()
	for _, prepare := range []func(context.Context, string) (sample, error){rawSample,
		halfSample, qcow2Sample} {
		fmt.Fprintln(b.progress, "  making an image")
		i, err := prepare(ctx, dir)
		if err != nil {
			return s, err
		}
		figures, err := b.compareWriters(ctx, t, i)
		if err != nil {
			return s, err
		}
		s.Figures = append(s.Figures, figures...)
		if err := errors.Join(os.Remove(i.path), os.RemoveAll(i.content)); err != nil {
			return s, err
		}
	}
	return s, nil
}

// roomInMemory asks for free memory, in bytes.
func roomInMemory(need uint64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(memoryDir, &fs); err != nil {
		return fmt.Errorf("look at %s: %w; mount a tmpfs there", memoryDir, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < need {
		return fmt.Errorf("%s has %d MiB free and needs %d", memoryDir, free/mebi, need/mebi)
	}
	return nil
}

// sample is an image to write.
type sample struct {
	name    string
	path    string
	format  image.Format
	digest  string // SHA-256 of the file, hex
	content string // file with what the disk has to hold
}

// rawSample makes an image of random bytes.
func rawSample(_ context.Context, dir string) (sample, error) {
	path := filepath.Join(dir, "random.raw")
	s := sample{name: "raw", path: path, format: image.Raw, content: path}
	return s.finish(randomFile(path, imageSize, imageSize))
}

// halfSample makes an image of which half are holes.
func halfSample(_ context.Context, dir string) (sample, error) {
	path := filepath.Join(dir, "half.raw")
	s := sample{name: "raw, half empty", path: path, format: image.Raw, content: path}
	return s.finish(randomFile(path, imageSize, 64*mebi))
}

// qcow2Sample makes an image of which half are holes.
func qcow2Sample(ctx context.Context, dir string) (sample, error) {
	s := sample{name: "qcow2", path: filepath.Join(dir, "half.qcow2"), format: image.QCOW2,
		content: filepath.Join(dir, "half.raw")}
	if err := randomFile(s.content, imageSize, 64*mebi); err != nil {
		return s, err
	}
	out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2",
		s.content, s.path).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("qemu-img: %w: %s; install it: scripts/packages.sh", err, out)
	}
	return s.finish(err)
}

// finish digests the image unless it could not be made.
func (s sample) finish(err error) (sample, error) {
	if err != nil {
		return s, fmt.Errorf("make image %s: %w", s.path, err)
	}
	file, err := os.Open(s.path)
	if err != nil {
		return s, err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return s, fmt.Errorf("digest of %s: %w", s.path, err)
	}
	s.digest = hex.EncodeToString(hash.Sum(nil))
	return s, nil
}

// randomFile makes a file of size bytes: random ones, leaving a hole after each stretch of the given
// length unless that is all.
func randomFile(path string, size, stretch int64) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	random := rand.NewChaCha8([32]byte{7})
	for off := int64(0); off < size; off += 2 * stretch {
		w := bufio.NewWriterSize(io.NewOffsetWriter(file, off), mebi)
		if _, err := io.CopyN(w, random, stretch); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return file.Truncate(size)
}

// compareWriters writes a sample by ingot and by qemu-img.
func (b *bench) compareWriters(ctx context.Context, t *target, i sample) ([]figure, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	job, err := json.Marshal(writeJob{
		Reference: image.Reference{Source: "file://" + i.path, Format: i.format,
			Digest: image.Digest{Algorithm: "sha256", Hex: i.digest}},
		Address: t.address, Target: t.iqn,
	})
	if err != nil {
		return nil, err
	}
	convert := func(flags ...string) []string {
		args := append([]string{"qemu-img", "convert", "-n", "-t", "writeback"}, flags...)
		return append(args, "-f", string(i.format), "-O", "raw", i.path,
			fmt.Sprintf("iscsi://%s/%s/%d", t.address, t.iqn, targetLUN))
	}
	writers := []struct {
		name string
		args []string
		runs []usage
	}{
		{name: "ingot", args: []string{self, writeCommand, string(job)}},
		{name: "qemu-img convert -n -W -m 16", args: convert("-W", "-m", "16")},
		{name: "qemu-img convert -n", args: convert()},
	}
	fmt.Fprintf(b.progress, "  writing %s\n", i.name)
	if _, err := run(exec.CommandContext(ctx, self, writers[0].args[1:]...)); err != nil {
		return nil, err
	}
	if err := same(t.backing, i.content, imageSize); err != nil {
		return nil, err
	}
	for range imageRuns {
		for w := range writers {
			u, err := run(exec.CommandContext(ctx, writers[w].args[0], writers[w].args[1:]...))
			if err != nil {
				return nil, err
			}
			writers[w].runs = append(writers[w].runs, u)
		}
	}
	ours := writers[0].runs
	var figures []figure
	for _, w := range writers[1:] {
		for _, q := range quantities {
			figures = append(figures, figure{
				What: i.name + ", " + q.name, Unit: q.unit, N: imageRuns, Beside: w.name,
				Value: q.median(ours), Yardstick: q.median(w.runs),
			})
		}
	}
	growth, err := medianGrowth(ours)
	return append(figures, figure{
		What: i.name + ", growth of memory", Value: growth, Unit: "MiB", N: imageRuns,
	}), err
}

// quantities are what is compared of a run.
var quantities = []quantity{
	{"rate", "MiB/s", func(u usage) float64 { return imageSize / mebi / u.wall.Seconds() }},
	{"processor time", "s", func(u usage) float64 { return u.cpu.Seconds() }},
	{"peak of memory", "MiB", func(u usage) float64 { return float64(u.peak) / mebi }},
}

type quantity struct {
	name, unit string
	of         func(usage) float64
}

func (q quantity) median(runs []usage) float64 {
	var values []float64
	for _, u := range runs {
		values = append(values, q.of(u))
	}
	return median(values)
}

// medianGrowth is how much memory our writer took beyond what it had at its start, in MiB.
func medianGrowth(runs []usage) (float64, error) {
	var values []float64
	for _, u := range runs {
		var before int64
		if err := json.Unmarshal(u.output, &before); err != nil {
			return 0, fmt.Errorf("read what %s printed: %w", writeCommand, err)
		}
		values = append(values, float64(u.peak-before)/mebi)
	}
	return median(values), nil
}

// same compares the beginnings of two files: a fast writer that writes the wrong bytes is not fast.
func same(got, want string, size int64) error {
	a, err := os.Open(got)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(want)
	if err != nil {
		return err
	}
	defer b.Close()
	one, other := make([]byte, mebi), make([]byte, mebi)
	for off := int64(0); off < size; off += mebi {
		if _, err := a.ReadAt(one, off); err != nil {
			return fmt.Errorf("read the target's disk: %w", err)
		}
		if _, err := b.ReadAt(other, off); err != nil {
			return fmt.Errorf("read what it should hold: %w", err)
		}
		if !bytes.Equal(one, other) {
			return fmt.Errorf("the target's disk is not the image in the MiB at %d", off)
		}
	}
	return nil
}

// writeCommand is the first argument that makes this program write an image and exit, so that
// the memory and the time of that are a process's own. It prints the bytes of memory that it had
// before.
const writeCommand = "write-image"

// writeJob is the second argument, as JSON.
type writeJob struct {
	Reference       image.Reference
	Glance          string // URL of the Glance that has it, if that is where it is
	Address, Target string
	File            string // to write to in place of the target, Size bytes
	Size            int64
}

func writeImage(ctx context.Context, text string, w io.Writer) (err error) {
	var job writeJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	before, err := memory(os.Getpid(), "VmRSS")
	if err != nil {
		return err
	}
	opt := image.Options{AllowedPaths: []string{memoryDir}}
	if job.Glance != "" {
		session, err := keystone.NewSession(keystone.Options{})
		if err != nil {
			return err
		}
		g, transport := glance.NewOpen(session, job.Glance), &http.Transport{}
		transport.RegisterProtocol(glance.Scheme, g)
		opt.Client, opt.Glance = &http.Client{Transport: transport}, g
	}
	src, err := image.Open(ctx, job.Reference, opt)
	if err != nil {
		return err
	}
	defer src.Close()
	if job.File != "" {
		disk, err := openDisk(job.File, job.Size)
		if err != nil {
			return err
		}
		defer disk.Close()
		if _, err := deploy.WriteImage(ctx, disk, src, deploy.Options{}); err != nil {
			return err
		}
		return json.NewEncoder(w).Encode(before)
	}
	disk, err := iscsi.Dial(ctx, iscsi.Config{
		Address: job.Address, Target: job.Target, LUN: targetLUN,
	})
	if err != nil {
		return err
	}
	defer func() {
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, disk.Close(short))
	}()
	if _, err := deploy.WriteImage(ctx, disk, src, deploy.Options{}); err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(before)
}
