package drill

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"ingot/internal/lab"
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

// content is what stands for kernel, ramdisk and image: simulated machines do not look inside. It is
// the same in every drill, so that caches keep one of each.
type content struct{ kernel, ramdisk, raw []byte }

func makeContent() content {
	c := content{make([]byte, bootFileSize), make([]byte, bootFileSize), make([]byte, imageSize)}
	random := rand.NewChaCha8([32]byte{})
	for _, data := range [][]byte{c.kernel, c.ramdisk, c.raw} {
		_, _ = random.Read(data)
	}
	c.raw[510], c.raw[511] = 0x55, 0xaa // a boot sector
	return c
}

// image is instance_info of the image at a URL.
func (c content) image(url string) map[string]any {
	sum := sha256.Sum256(c.raw)
	return map[string]any{"image_source": url, "image_os_hash_algo": "sha256",
		"image_os_hash_value": hex.EncodeToString(sum[:]), "image_disk_format": "raw"}
}

// disk is the digest of a disk with the image.
func (c content) disk() string {
	sum := sha256.Sum256(append(bytes.Clone(c.raw), make([]byte, diskSize-imageSize)...))
	return hex.EncodeToString(sum[:])
}

// write makes files of all, for a lab.
func (c content) write(dir string) (*lab.Files, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the files of the drill: %w", err)
	}
	paths := map[string]string{}
	for name, data := range c.files() {
		paths[name] = filepath.Join(dir, name)
		if err := os.WriteFile(paths[name], data, 0o644); err != nil {
			return nil, fmt.Errorf("make the files of the drill: %w", err)
		}
	}
	return &lab.Files{
		Ramdisk: ramdisk.Result{Kernel: ramdisk.File{Path: paths["kernel"]},
			Ramdisk: ramdisk.File{Path: paths["ramdisk"]}},
		Image: guest.Image{RawPath: paths["image"]},
	}, nil
}

// files is all by name.
func (c content) files() map[string][]byte {
	return map[string][]byte{"kernel": c.kernel, "ramdisk": c.ramdisk, "image": c.raw}
}

// origin is the web server that has the files of a drill.
type origin struct {
	server *http.Server
	url    string // ends with a slash

	mu     sync.Mutex
	counts map[string]int // times a file was sent, by name; guarded by mu
}

// serve serves the files at an address, at any port, and counts.
func serve(addr netip.Addr, c content) (*origin, error) {
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return nil, fmt.Errorf("serve the files of the drill: %w", err)
	}
	files, since := c.files(), time.Now() // who has a file asks whether it has changed
	o := &origin{url: "http://" + l.Addr().String() + "/", counts: map[string]int{}}
	o.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Base(r.URL.Path)
		data, ok := files[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		counted := &counter{ResponseWriter: w}
		http.ServeContent(counted, r, name, since, bytes.NewReader(data))
		if counted.bytes > 0 {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.counts[name]++
		}
	})}
	go o.server.Serve(l) // until it is closed
	return o, nil
}

// bootFiles is driver_info of a node that boots them.
func (o *origin) bootFiles() map[string]any {
	return map[string]any{"deploy_kernel": o.url + "kernel", "deploy_ramdisk": o.url + "ramdisk"}
}

// sent is how often each file was sent.
func (o *origin) sent() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.counts)
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
