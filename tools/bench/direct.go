package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"ingot/internal/cpio"
	"ingot/internal/ingot"
	"ingot/internal/lab"
	"ingot/internal/media"
	"ingot/internal/sim"
)

const (
	directSize    = 2 * gibi
	directStretch = 16 * mebi // of data and of zeros in turn
	directDisk    = 3 * gibi
	directPart    = gibi / 4  // of the image, by the slower yardstick
	directWindow  = 32 * mebi // of what it is compressed with
	directPort    = "8090"
)

// measureDirect measures how an agent writes its disk.
func measureDirect(ctx context.Context, b *bench) (s section, err error) {
	s = section{
		Title: "Deploy interface direct, in a machine under QEMU",
		How: fmt.Sprintf(`A raw image of %d GiB, each second stretch of %d MiB zeros, from net/http in the lab's network to the
disk of a machine (virtio, 1 GiB of memory, emulated). Ingot: step write_image of a deployment, from its begin to
its end in the node's journal, SHA-256 verified. Yardsticks: the same kernel and modules with busybox, from a
medium: curl -sSf URL | dd of=/dev/vda bs=1M conv=fsync, and the same with sha256sum reading along, of the first
%d MiB, by the machine's clock. One run each. Emulation makes digests dear: no machine has SHA instructions.
Memory: what the agent says on the console, its most above what it had before, for this image and for its first
%d MiB compressed by zstd with a window of %d MiB, the largest that agents unpack.
The ramdisk: its bytes, and how long after the start of the kernel its agent says that it knows its node. No size
of the ramdisks that Ironic publishes is written down in its documentation; one with ironic-python-agent 9.4.0 on
Debian's packages (doc/direct.md) had 123 MB and took 55 s in such a machine, once.
`, directSize/gibi, directStretch/mebi, directPart/mebi, directPart/mebi,
			directWindow/mebi),
	}
	if os.Geteuid() != 0 {
		return s, errors.New("machines need a network namespace: run as root")
	}
	spec := sim.MachineSpec{Name: "direct", Firmware: sim.BIOS, MemoryMB: 1024, DiskSize: directDisk,
		VirtualMedia: true, BMC: sim.Redfish}
	l, err := lab.Start(ctx, lab.Options{Dir: filepath.Join(b.dir, "lab"), Machines: []sim.MachineSpec{spec},
		Binary: b.binary, Progress: b.progress})
	if err != nil {
		return s, err
	}
	defer func() {
		if err := l.Close(); err != nil {
			fmt.Fprintln(b.progress, "remove the lab:", err)
		}
	}()
	d := direct{bench: b, lab: l, machine: l.Machine(spec.Name), dir: filepath.Join(b.temp, "direct")}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return s, err
	}
	stop, err := d.serve()
	if err != nil {
		return s, err
	}
	defer stop()
	took, memories, err := d.deploy(ctx)
	if err != nil {
		return s, err
	}
	fmt.Fprintf(b.progress, "  written in %s\n", took.Round(time.Second))
	knows, err := lookedUp(d.machine)
	if err != nil {
		return s, err
	}
	s.Figures = append(s.Figures,
		figure{What: "ramdisk of flavour cloud, as it is served", Unit: "MB", N: 1, Value: float64(l.Files.Ramdisk.Ramdisk.Bytes) / 1e6},
		figure{What: "start of the kernel to the end of the look-up", Unit: "s", N: 1, Value: knows.Seconds()},
		figure{What: "agent's memory above idle, raw image", Unit: "MiB", N: 1, Value: memories[0]},
		figure{What: "agent's memory above idle, zstd", Unit: "MiB", N: 1, Value: memories[1]})
	rate := func(size int64, took time.Duration) float64 { return float64(size) / mebi / took.Seconds() }
	for _, y := range []struct {
		name, command string
		size          int64
	}{
		{"curl | dd", `curl -sSf "$url" | dd of=/dev/vda bs=1M iflag=fullblock conv=fsync`, directSize},
		{"curl | tee | sha256sum", `mkfifo /f; dd if=/f of=/dev/vda bs=1M iflag=fullblock conv=fsync & ` +
			fmt.Sprintf(`curl -sSf -r 0-%d "$url" | tee /f | sha256sum; wait`, directPart-1), directPart},
	} {
		fmt.Fprintln(b.progress, "  "+y.name)
		other, err := d.byHand(ctx, y.command)
		if err != nil {
			return s, fmt.Errorf("%s: %w", y.name, err)
		}
		s.Figures = append(s.Figures, figure{What: "image on the disk", Unit: "MiB/s", N: 1, Beside: y.name,
			Value: rate(directSize, took), Yardstick: rate(y.size, other)})
	}
	return s, nil
}

// direct is a machine, and an image for it.
type direct struct {
	*bench
	lab     *lab.Lab
	machine *sim.Machine
	dir     string // what it has is served
	images  []directImage
}

// directImage is an image that is served.
type directImage struct{ name, digest string }

// info is instance_info of a node that gets an image.
func (d *direct) info(i directImage) ingot.Object {
	return ingot.Object{"image_source": d.url(i.name), "image_disk_format": "raw",
		"image_os_hash_algo": "sha256", "image_os_hash_value": i.digest}
}

// serve makes the images and serves them in the lab's network.
func (d *direct) serve() (stop func(), err error) {
	raw, zst := filepath.Join(d.dir, "image.raw"), filepath.Join(d.dir, "image.zst")
	if err := randomFile(raw, directSize, directStretch); err != nil {
		return nil, err
	}
	if err := packFirst(zst, raw); err != nil {
		return nil, err
	}
	for _, path := range []string{raw, zst} {
		digest, err := digestOf(path)
		if err != nil {
			return nil, err
		}
		d.images = append(d.images, directImage{filepath.Base(path), digest})
	}
	var listener net.Listener
	err = d.lab.Namespace.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(d.lab.Network.Addr().String(), directPort))
		return err
	})
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(d.dir))}
	go server.Serve(listener)
	return func() { server.Close() }, nil
}

// digestOf is the SHA-256 of a file.
func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// packFirst compresses the first part of a file.
func packFirst(path, of string) error {
	in, err := os.Open(of)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	w, err := zstd.NewWriter(out, zstd.WithWindowSize(directWindow))
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, in, directPart)
	return errors.Join(err, w.Close())
}

// url is where the machine finds a file.
func (d *direct) url(name string) string {
	return "http://" + net.JoinHostPort(d.lab.Network.Addr().String(), directPort) + "/" + name
}

// deploy deploys the machine with one image after the other. It returns how long the first took to be written,
// and what memory the agent took for each, in MiB above what it had.
func (d *direct) deploy(ctx context.Context) (took time.Duration, memories []float64, err error) {
	spec := d.machine.Spec()
	client := &http.Client{Transport: d.lab.Transport()}
	uuid, err := startDeploying(ctx, client, "http://"+lab.APIAddress, spec.MAC, ingot.Object{"name": spec.Name, "driver": "redfish",
		"boot_interface": "redfish-virtual-media", "deploy_interface": "direct", "automated_clean": false,
		"driver_info": ingot.Object{"redfish_address": d.machine.Redfish().URL(), "redfish_username": spec.User,
			"redfish_password": spec.Password},
		"properties":    ingot.Object{"capabilities": "boot_mode:bios"},
		"instance_info": d.info(d.images[0])})
	if err != nil {
		return 0, nil, err
	}
	node := func(method, path string, body, into any) error {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		return callBy(ctx, client, method, "http://"+lab.APIAddress+"/v1/nodes/"+uuid+path, "application/json",
			bytes.NewReader(text), into)
	}
	for i, image := range d.images {
		if i > 0 {
			err := node(http.MethodPatch, "", []ingot.Object{{"op": "replace", "path": "/instance_info",
				"value": d.info(image)}}, nil)
			if err == nil {
				err = node(http.MethodPut, "/states/provision", ingot.Object{"target": "rebuild"}, nil)
			}
			if err != nil {
				return 0, nil, err
			}
		}
		for state := ""; state != "active"; {
			time.Sleep(time.Second)
			var n struct {
				State string `json:"provision_state"`
				Error string `json:"last_error"`
			}
			err := node(http.MethodGet, "", nil, &n)
			if err == nil && strings.Contains(n.State, "failed") {
				err = fmt.Errorf("the node is %s: %s", n.State, n.Error)
			}
			if err != nil {
				return 0, nil, err
			}
			state = n.State
		}
		memory, err := written(d.machine)
		if err != nil {
			return 0, nil, err
		}
		memories = append(memories, memory)
	}
	entries, err := journalOf(ctx, d.lab, spec.Name)
	if err != nil {
		return 0, nil, err
	}
	var begun, ended time.Time
	for _, e := range entries {
		switch {
		case e.Source != "step":
		case begun.IsZero() && strings.HasPrefix(e.Text, "step write_image begins"):
			begun = e.Time
		case ended.IsZero() && strings.HasPrefix(e.Text, "step write_image done"):
			ended = e.Time
		}
	}
	if begun.IsZero() || !ended.After(begun) {
		return 0, nil, errors.New("the journal does not tell of step write_image")
	}
	// Or the conductor would switch off what is switched on beside it.
	err = node(http.MethodPut, "/maintenance", ingot.Object{}, nil)
	return ended.Sub(begun), memories, errors.Join(switchOff(ctx, d.lab, d.machine), err)
}

// What the agent says when it has written an image, and when it has looked up its node, in seconds since the kernel
// started.
var (
	wrote = regexp.MustCompile(`image written and verified: .* with (\d+) MiB of memory above the idle agent`)
	known = regexp.MustCompile(`ingot-agent: node \S+, ([0-9.]+) s after the kernel started`)
)

// said is what the agent has said on the machine's console, each time.
func said(m *sim.Machine, line *regexp.Regexp) ([]string, error) {
	text, err := os.ReadFile(m.Console().Path())
	if err != nil {
		return nil, err
	}
	var values []string
	for _, match := range line.FindAllSubmatch(text, -1) {
		values = append(values, string(match[1]))
	}
	if values == nil {
		return nil, fmt.Errorf("the agent does not say on the console: %s", line)
	}
	return values, nil
}

// written is what memory the machine's agent took for what it wrote last, in MiB.
func written(m *sim.Machine) (float64, error) {
	values, err := said(m, wrote)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(values[len(values)-1], 64)
}

// lookedUp is how long after the start of its kernel the machine's agent has first looked up its node.
func lookedUp(m *sim.Machine) (time.Duration, error) {
	values, err := said(m, known)
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(values[0] + "s")
}

// script is the whole life of a machine that writes the image by hand.
const script = `#!/bin/busybox sh
export PATH=/bin
busybox mkdir -p /proc /sys /dev
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read module; do insmod "$module" 2>/dev/null; done </etc/modules
while ! [ -b /dev/vda ] || ! [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
ip addr add %[1]s dev eth0
ip link set eth0 up
sleep 3
url=%[2]s
read start rest </proc/uptime
%[3]s
read end rest </proc/uptime
echo "BEGUN $start ENDED $end by hand"
sleep 1
poweroff -f
`

// byHand boots the machine with a script of ours from a medium, and returns how long the command took.
func (d *direct) byHand(ctx context.Context, command string) (time.Duration, error) {
	address := d.lab.Network.Addr().Next().String() + "/24"
	archive, err := packed(fmt.Sprintf(script, address, d.url("image.raw"), command))
	if err != nil {
		return 0, err
	}
	base, err := os.ReadFile(d.lab.Files.Ramdisk.Ramdisk.Path)
	if err != nil {
		return 0, err
	}
	kernel, err := os.ReadFile(d.lab.Files.Ramdisk.Kernel.Path)
	if err != nil {
		return 0, err
	}
	unpack, err := zstd.NewReader(nil)
	if err != nil {
		return 0, err
	}
	defer unpack.Close()
	ramdisk, err := unpack.DecodeAll(base, nil)
	if err != nil {
		return 0, err
	}
	ramdisk = append(ramdisk, make([]byte, -len(ramdisk)&3)...) // the kernel wants the next archive aligned
	ramdisk = append(ramdisk, archive...)
	loaders, err := media.ReadLoaders([]string{"/usr/lib/ISOLINUX", "/usr/lib/syslinux/modules/bios", "/usr/lib/shim",
		"/usr/lib/grub/x86_64-efi-signed"})
	if err != nil {
		return 0, err
	}
	image, err := loaders.ISO(media.Content{
		Kernel:  media.File{Content: bytes.NewReader(kernel), Size: int64(len(kernel))},
		Ramdisk: media.File{Content: bytes.NewReader(ramdisk), Size: int64(len(ramdisk))},
		Args:    []string{"console=ttyS0", "rdinit=/by-hand"}})
	if err != nil {
		return 0, err
	}
	f, err := os.Create(filepath.Join(d.dir, "by-hand.iso"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := io.Copy(f, io.NewSectionReader(image, 0, image.Size())); err != nil {
		return 0, err
	}
	m := d.machine
	m.PowerOff()
	if err := m.Console().Skip(); err != nil {
		return 0, err
	}
	if err := m.Insert(ctx, sim.CDROM, d.url("by-hand.iso")); err != nil {
		return 0, err
	}
	defer m.Eject(ctx, sim.CDROM)
	m.SetBootDevice(sim.BootOverride{Device: sim.CDROM})
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := m.PowerOn(ctx); err != nil {
		return 0, err
	}
	defer m.PowerOff()
	if err := m.Console().Wait(ctx, " by hand"); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(m.Console().Path())
	if err != nil {
		return 0, err
	}
	var start, end float64
	at := bytes.LastIndex(text, []byte("BEGUN "))
	if _, err := fmt.Sscanf(string(text[at:]), "BEGUN %f ENDED %f", &start, &end); err != nil || end <= start {
		return 0, fmt.Errorf("the machine says %q (%v)", text[at:], err)
	}
	return time.Duration((end - start) * float64(time.Second)), nil
}

// packed is an archive of the script and what it calls: busybox, and curl with its libraries.
func packed(script string) ([]byte, error) {
	files := map[string]string{"bin/busybox": "/bin/busybox", "bin/curl": "/usr/bin/curl"}
	out, err := exec.Command("ldd", "/usr/bin/curl").Output()
	if err != nil {
		return nil, fmt.Errorf("libraries of curl: %w", err)
	}
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			files[strings.TrimPrefix(word, "/")] = word
		}
	}
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	made := map[string]bool{}
	for name, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for i, r := range name {
			if dir := name[:i]; r == '/' && !made[dir] {
				made[dir] = true
				if err := w.Add(cpio.Dir(dir, 0o755)); err != nil {
					return nil, err
				}
			}
		}
		if err := w.Add(cpio.File(name, 0o755, data)); err != nil {
			return nil, err
		}
	}
	err = errors.Join(w.Add(cpio.File("by-hand", 0o755, []byte(script))), w.Close())
	return archive.Bytes(), err
}
