package drill

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ingot/internal/cli"
	"ingot/internal/lab"
	"ingot/internal/postgres"
	"ingot/internal/ramdisk"
	"ingot/internal/sim/guest"
)

// Sizes of what machines fetch and get written. Small, for thousands of machines share a processor
// with the servers; what is measured is who answers, not how fast bytes flow.
const (
	bootFileSize = 1 << 20
	diskSize     = 4 << 20
	imageSize    = 1 << 20
)

// cluster is what a drill runs on.
type cluster struct {
	*lab.Lab
	o        Options
	postgres *postgres.Server
	origin   *origin
	image    map[string]any // instance_info
	digest   string         // of a disk with the image
}

// start makes files, a database, servers and machines.
func start(ctx context.Context, o Options) (c *cluster, err error) {
	c = &cluster{o: o}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("place of the drill: %w", err)
	}
	files, err := c.makeFiles(filepath.Join(dir, "files"))
	if err != nil {
		return nil, err
	}
	if c.postgres, err = postgres.Start(); err != nil {
		return nil, err
	}
	c.Lab, err = lab.Start(ctx, lab.Options{
		Dir: dir, Binary: o.Binary, Files: files, Conductors: o.Conductors,
		Fleet:    lab.FleetOptions{Machines: o.Machines, DiskSize: diskSize, TFTP: o.TFTP},
		Database: c.postgres.URL, CheckInterval: 10 * time.Second,
	})
	if err == nil {
		err = c.watch(ctx)
	}
	if err == nil {
		err = c.serveOrigin(files)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// close removes all but the logs.
func (c *cluster) close() error {
	var errs []error
	if c.origin != nil {
		errs = append(errs, c.origin.server.Close())
	}
	if c.Lab != nil {
		errs = append(errs, c.Lab.Close())
	}
	c.postgres.Stop()
	return errors.Join(errs...)
}

// makeFiles writes what stands for kernel, ramdisk and image: simulated machines do not look inside.
func (c *cluster) makeFiles(dir string) (*lab.Files, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the files of the drill: %w", err)
	}
	random := rand.NewChaCha8([32]byte{})
	write := func(name string, size int) (path string, data []byte, err error) {
		path, data = filepath.Join(dir, name), make([]byte, size)
		_, _ = random.Read(data)
		if name == "image" {
			data[510], data[511] = 0x55, 0xaa // a boot sector
		}
		return path, data, os.WriteFile(path, data, 0o644)
	}
	kernel, _, err := write("kernel", bootFileSize)
	if err != nil {
		return nil, fmt.Errorf("make the kernel of the drill: %w", err)
	}
	initrd, _, err := write("ramdisk", bootFileSize)
	if err != nil {
		return nil, fmt.Errorf("make the ramdisk of the drill: %w", err)
	}
	image, data, err := write("image", imageSize)
	if err != nil {
		return nil, fmt.Errorf("make the image of the drill: %w", err)
	}
	sum := sha256.Sum256(data)
	c.image = map[string]any{"image_source": "file://" + image, "image_os_hash_algo": "sha256",
		"image_os_hash_value": hex.EncodeToString(sum[:]), "image_disk_format": "raw"}
	sum = sha256.Sum256(append(data, make([]byte, diskSize-imageSize)...))
	c.digest = hex.EncodeToString(sum[:])
	return &lab.Files{
		Ramdisk: ramdisk.Result{Kernel: ramdisk.File{Path: kernel}, Ramdisk: ramdisk.File{Path: initrd}},
		Image:   guest.Image{RawPath: image},
	}, nil
}

// origin is the web server that has kernel and ramdisk.
type origin struct {
	server *http.Server

	mu     sync.Mutex
	counts map[string]int // times a file was sent, by name; guarded by mu
}

// sent is how often each file was sent.
func (o *origin) sent() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[string]int, len(o.counts))
	for name, n := range o.counts {
		all[name] = n
	}
	return all
}

// serveOrigin serves the boot files, and counts.
func (c *cluster) serveOrigin(files *lab.Files) error {
	var l net.Listener
	err := c.Namespace.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(c.Addr().String(), "0"))
		return err
	})
	if err != nil {
		return fmt.Errorf("serve the boot files of the drill: %w", err)
	}
	dir := http.FileServer(http.Dir(filepath.Dir(files.Ramdisk.Kernel.Path)))
	o := &origin{counts: map[string]int{}}
	o.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counted := &counter{ResponseWriter: w}
		dir.ServeHTTP(counted, r)
		if counted.bytes > 0 {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.counts[filepath.Base(r.URL.Path)]++
		}
	})}
	go o.server.Serve(l) // until it is closed
	c.origin = o
	url := "http://" + l.Addr().String() + "/"
	c.Fleet.DriverInfo = map[string]any{
		"deploy_kernel":  url + filepath.Base(files.Ramdisk.Kernel.Path),
		"deploy_ramdisk": url + filepath.Base(files.Ramdisk.Ramdisk.Path),
	}
	return nil
}

// counter counts the bytes of a body.
type counter struct {
	http.ResponseWriter
	bytes int
}

// Write counts.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.bytes += n
	return n, err
}

// callTimeout is after how long a server that does not answer is given up: it may be stopped.
const callTimeout = 10 * time.Second

// ask calls the API, at one server after the other until one answers: what a balancer does for the
// clients of a site. try is told which call it is, from 0.
func (c *cluster) ask(ctx context.Context, fn func(ctx context.Context, try int, api *cli.Client) error) error {
	var last error
	for try := 0; ; try++ {
		s := c.Servers[try%len(c.Servers)]
		api, err := s.Client()
		if err != nil {
			return err
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err = fn(call, try, api)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w; the last answer was: %w", ctx.Err(), last)
		}
		last = err
		if try%len(c.Servers) == len(c.Servers)-1 {
			_ = wait(ctx, 500*time.Millisecond) // its end is found above
		}
	}
}
