package iscsi_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/iscsi"
	"ingot/internal/iscsi/iscsitest"
)

const benchSize = 1 << 30

// BenchmarkWrite1GiB writes 1 GiB of random data from a file to a target on loopback, and lets
// qemu-img write the same file to the same target as a yardstick. Both leave the data in the
// target's cache; what flushing it takes is reported apart as sync-s. Run it with
//
//	go test -run '^$' -bench Write1GiB -benchtime 3x ./internal/iscsi
func BenchmarkWrite1GiB(b *testing.B) {
	source := filepath.Join(b.TempDir(), "source.raw")
	if err := randomFile(source, benchSize); err != nil {
		b.Fatal(err)
	}
	target := iscsitest.Start(b, iscsitest.Options{Size: benchSize})
	convert(b, target, source) // the first write of a file is slower for whoever does it
	for _, writers := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("ingot/writers=%d", writers), func(b *testing.B) {
			s := dial(b, config(target))
			var syncs time.Duration
			for b.Loop() {
				if err := copyFile(s, source, writers); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				start := time.Now()
				if err := s.Sync(b.Context()); err != nil {
					b.Fatal(err)
				}
				syncs += time.Since(start)
				b.StartTimer()
			}
			rate(b)
			b.ReportMetric(syncs.Seconds()/float64(b.N), "sync-s")
		})
	}
	for _, yardstick := range []struct {
		name  string
		flags []string
	}{
		{"in-order", nil},
		{"out-of-order-16", []string{"-W", "-m", "16"}},
	} {
		b.Run("qemu-img/"+yardstick.name, func(b *testing.B) {
			for b.Loop() {
				convert(b, target, source, yardstick.flags...)
			}
			rate(b)
		})
	}
}

// rate reports how fast b.N times benchSize was.
func rate(b *testing.B) {
	b.ReportMetric(float64(b.N)*benchSize/(1<<20)/b.Elapsed().Seconds(), "MiB/s")
}

// convert writes source to the target by qemu-img.
func convert(b *testing.B, target *iscsitest.Target, source string, flags ...string) {
	b.Helper()
	url := fmt.Sprintf("iscsi://%s/%s/%d", target.Addr, target.IQN, target.LUN)
	args := append([]string{"convert", "-n", "-f", "raw", "-O", "raw"}, flags...)
	out, err := exec.Command("qemu-img", append(args, source, url)...).CombinedOutput()
	if err != nil {
		b.Fatalf("qemu-img: %v: %s; install it: scripts/packages.sh "+
			"(Debian packages qemu-utils, qemu-block-extra)", err, out)
	}
}

// copyFile writes a file to the disk from the given number of goroutines, 1 MiB at a time.
func copyFile(s *iscsi.Session, path string, writers int) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	buffers := make(chan []byte, writers)
	for range writers {
		buffers <- make([]byte, 1<<20)
	}
	var group errgroup.Group
	group.SetLimit(writers)
	for off := int64(0); off < benchSize; off += 1 << 20 {
		group.Go(func() error {
			buf := <-buffers
			defer func() { buffers <- buf }()
			if _, err := file.ReadAt(buf, off); err != nil {
				return err
			}
			_, err := s.WriteAt(buf, off)
			return err
		})
	}
	return group.Wait()
}

// randomFile writes n bytes that do not compress.
func randomFile(path string, n int64) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	w := bufio.NewWriterSize(file, 1<<20)
	if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{7}), n); err != nil {
		return err
	}
	return w.Flush()
}
