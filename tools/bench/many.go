package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lab"
)

const (
	manyMachines = 8
	manyImage    = 512 * mebi
	manyRuns     = 3
)

// measureMany compares one deployment with several at once.
func measureMany(ctx context.Context, b *bench) (section, error) {
	s := section{
		Title: fmt.Sprintf("%d deployments at once, simulated machines", manyMachines),
		How: fmt.Sprintf(`Median of %d runs. Machines of software in a process of their own that drop what is written
beyond the first MiB; bin/ingot serve with its defaults; a raw image of %d MiB of random data from
a file that is in the page cache, every byte of it hashed for each machine. Rate: bytes of all
images over the time from the first step write_image to the end of the last, by the journal.
Memory: peak of VmRSS over what it was before the deployments began. Yardstick: one deployment.
`, manyRuns, manyImage/mebi),
	}
	if os.Geteuid() != 0 {
		return s, errors.New("machines need a network namespace: run as root")
	}
	l, err := lab.Start(ctx, lab.Options{
		Dir: filepath.Join(b.dir, "lab"), Binary: b.binary, Progress: b.progress,
		Fleet: lab.FleetOptions{Machines: manyMachines, DiskSize: manyImage + gibi, Keep: mebi},
	})
	if err != nil {
		return s, err
	}
	defer func() {
		if err := l.Close(); err != nil {
			fmt.Fprintln(b.progress, "remove the lab:", err)
		}
	}()
	info, err := randomImage(filepath.Dir(l.Files.Image.RawPath))
	if err != nil {
		return s, err
	}
	defer os.Remove(strings.TrimPrefix(info["image_source"], "file://"))
	if err := l.EnrollFleet(ctx, 0, manyMachines); err != nil {
		return s, err
	}
	one, err := manyTimes(ctx, b, l, 1, info)
	if err != nil {
		return s, err
	}
	all, err := manyTimes(ctx, b, l, manyMachines, info)
	if err != nil {
		return s, err
	}
	const beside = "one deployment"
	s.Figures = []figure{
		{What: "image bytes written, all together", Unit: "MiB/s", Value: all.rate,
			Yardstick: one.rate, Beside: beside, N: manyRuns},
		{What: "memory growth of the server for each deployment", Unit: "MiB",
			Value: all.memory / manyMachines, Yardstick: one.memory, Beside: beside, N: manyRuns},
		{What: "CPU of the server for each GiB", Unit: "s", Value: all.cpu, Yardstick: one.cpu,
			Beside: beside, N: manyRuns},
	}
	return s, nil
}

// randomImage writes an image that is not sparse and starts as a boot sector ends.
func randomImage(dir string) (info map[string]string, err error) {
	path := filepath.Join(dir, "random.raw")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	buf := make([]byte, mebi)
	for range manyImage / mebi {
		_, _ = rand.Read(buf)
		buf[510], buf[511] = 0x55, 0xaa
		if _, err := io.MultiWriter(f, sum).Write(buf); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return map[string]string{"image_source": "file://" + path, "image_os_hash_algo": "sha256",
		"image_os_hash_value": hex.EncodeToString(sum.Sum(nil)), "image_disk_format": "raw"}, f.Close()
}

// manyResult is MiB/s of all images, MiB of memory growth, and CPU seconds per GiB.
type manyResult struct{ rate, memory, cpu float64 }

// manyTimes deploys machines at once, several times, and takes medians.
func manyTimes(ctx context.Context, b *bench, l *lab.Lab, machines int, info map[string]string) (
	manyResult, error,
) {
	var rates, growths, cpus []float64
	for i := range manyRuns {
		fmt.Fprintf(b.progress, "  %d at once, run %d\n", machines, i+1)
		r, err := manyOnce(ctx, l, machines, info)
		if err != nil {
			return manyResult{}, err
		}
		rates, growths, cpus = append(rates, r.rate), append(growths, r.memory), append(cpus, r.cpu)
	}
	return manyResult{median(rates), median(growths), median(cpus)}, nil
}

func manyOnce(ctx context.Context, l *lab.Lab, machines int, info map[string]string) (
	r manyResult, err error,
) {
	// The peak starts again from what is resident now (proc_pid_clear_refs(5)).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", l.PID()), []byte("5"), 0); err != nil {
		return r, fmt.Errorf("reset the peak of memory: %w", err)
	}
	before, err := memory(l.PID(), "VmRSS")
	if err != nil {
		return r, err
	}
	cpu, err := cpuTime(l.PID())
	if err != nil {
		return r, err
	}
	since := time.Now()
	if err := l.DeployFleet(ctx, 0, machines, info); err != nil {
		return r, err
	}
	peak, err := memory(l.PID(), "VmHWM")
	if err != nil {
		return r, err
	}
	after, err := cpuTime(l.PID())
	if err != nil {
		return r, err
	}
	var begin, end time.Time
	for i := range machines {
		node, _ := l.Fleet.Node(i)
		entries, err := journalOf(ctx, l, node.Name)
		if err != nil {
			return r, err
		}
		first := slices.IndexFunc(entries, func(e ingot.Entry) bool {
			return e.Time.After(since) && strings.Contains(e.Text, "step write_image begins")
		})
		last := slices.IndexFunc(entries, func(e ingot.Entry) bool {
			return e.Time.After(since) && strings.Contains(e.Text, "step write_image done")
		})
		if first < 0 || last < 0 {
			return r, fmt.Errorf("the journal of %s does not tell of its image", node.Name)
		}
		if t := entries[first].Time; begin.IsZero() || t.Before(begin) {
			begin = t
		}
		if t := entries[last].Time; t.After(end) {
			end = t
		}
	}
	bytes := float64(machines) * manyImage
	r = manyResult{rate: bytes / mebi / end.Sub(begin).Seconds(), memory: float64(peak-before) / mebi,
		cpu: (after - cpu).Seconds() / (bytes / gibi)}
	return r, l.UndeployFleet(ctx, 0, machines)
}
