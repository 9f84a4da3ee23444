package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ingot/internal/directio"
	"ingot/internal/image"
	"ingot/internal/ingot"
)

// cloud is a running OpenStack.
type cloud struct {
	Keystone, Glance, Swift, Account, Key, Password, Error string
	Projects                                               map[string]string

	stop func() error
}

// startCloud starts one, with arguments of test/openstack/cloud.py.
func startCloud(ctx context.Context, args ...string) (*cloud, error) {
	cmd := exec.CommandContext(ctx, "test/openstack/cloud.py", args...)
	input, err := cmd.StdinPipe() // it ends when its input does
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start OpenStack: %w", err)
	}
	c := &cloud{stop: func() error {
		if err := input.Close(); err != nil {
			return err
		}
		return cmd.Wait()
	}}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, c)
	}
	if err == nil && c.Error != "" {
		err = errors.New(c.Error)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start OpenStack: %w", err), c.stop())
	}
	return c, nil
}

// image makes an image of Glance of a file, and returns its id.
func (c *cloud) image(ctx context.Context, format, path string) (string, error) {
	var made struct{ ID string }
	about := fmt.Sprintf(`{"name": %q, "disk_format": %q, "container_format": "bare"}`, filepath.Base(path), format)
	err := call(ctx, http.MethodPost, c.Glance+"/v2/images", "application/json", strings.NewReader(about), &made)
	if err != nil {
		return "", err
	}
	data, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer data.Close()
	return made.ID, call(ctx, http.MethodPut, c.Glance+"/v2/images/"+made.ID+"/file", "application/octet-stream",
		data, nil)
}

// call sends a request, and decodes the answer unless into is nil.
func call(ctx context.Context, method, url, kind string, body io.Reader, into any) error {
	return callBy(ctx, http.DefaultClient, method, url, kind, body, into)
}

// callBy does so by a client of another network.
func callBy(ctx context.Context, client *http.Client, method, url, kind string, body io.Reader, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
	req.Close = true
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %s: %.300s", method, url, resp.Status, text)
	}
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(text, into)
}

const glanceSize = gibi / 2

// measureGlance measures how fast an image of Glance gets to a disk.
func measureGlance(ctx context.Context, b *bench) (s section, err error) {
	s = section{
		Title: "Image of Glance to a disk",
		How: fmt.Sprintf(`Median of %d runs of each, taken in turns, after one run of ingot that is checked byte
by byte: a raw image of %d MiB of random bytes from Debian's Glance on loopback, which has it in a file in the
page cache, to a file on this host's disk and to one in memory. Each run is a process of its own, from exec to
exit. Ingot asks Glance for the digest, SHA-512, and verifies it on one core, which bounds it; curl verifies
nothing, unless sha512sum reads along. All flush the disk (by sync).
`, imageRuns, glanceSize/mebi),
	}
	if err := roomInMemory(3 * glanceSize); err != nil {
		return s, err
	}
	memory, err := os.MkdirTemp(memoryDir, "ingot-bench-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(memory)
	c, err := startCloud(ctx, "--services", "glance")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	content := filepath.Join(memory, "random.raw")
	if err := randomFile(content, glanceSize, glanceSize); err != nil {
		return s, err
	}
	id, err := c.image(ctx, "raw", content)
	if err != nil {
		return s, err
	}
	for _, to := range []struct{ name, dir string }{{"disk", b.temp}, {"memory", memory}} {
		figures, err := glanceTo(ctx, c, id, content, filepath.Join(to.dir, "disk"))
		if err != nil {
			return s, err
		}
		for _, f := range figures {
			f.What = "to " + to.name + ", " + f.What
			s.Figures = append(s.Figures, f)
		}
	}
	return s, nil
}

// glanceTo measures ingot and curl, writing to a file.
func glanceTo(ctx context.Context, c *cloud, id, content, disk string) (figures []figure, err error) {
	job, err := json.Marshal(writeJob{
		Reference: image.Reference{Source: "glance://" + id, Format: image.Raw}, Glance: c.Glance, File: disk,
		Size: glanceSize,
	})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ours := []string{self, writeCommand, string(job)}
	url := c.Glance + "/v2/images/" + id + "/file"
	others := []struct {
		name string
		args []string
		runs []usage
	}{
		{name: "curl, sync", args: []string{"sh", "-c", `curl -sSf -o "$0" "$1" && sync "$0"`, disk, url}},
		{name: "curl, sha512sum, sync", args: []string{"sh", "-c",
			`curl -sSf "$1" | tee "$0" | sha512sum && sync "$0"`, disk, url}},
	}
	if _, err := run(exec.CommandContext(ctx, ours[0], ours[1:]...)); err != nil {
		return nil, err
	}
	if err := same(disk, content, glanceSize); err != nil {
		return nil, err
	}
	var with []usage
	measure := func(args []string, runs *[]usage) error {
		u, err := run(exec.CommandContext(ctx, args[0], args[1:]...))
		*runs = append(*runs, u)
		return err
	}
	for range imageRuns {
		if err := measure(ours, &with); err != nil {
			return nil, err
		}
		for i := range others {
			if err := measure(others[i].args, &others[i].runs); err != nil {
				return nil, err
			}
		}
	}
	for _, o := range others {
		for _, q := range []quantity{
			{"rate", "MiB/s", func(u usage) float64 { return glanceSize / mebi / u.wall.Seconds() }}, quantities[1],
		} {
			figures = append(figures, figure{What: q.name, Unit: q.unit, N: imageRuns, Value: q.median(with),
				Yardstick: q.median(o.runs), Beside: o.name})
		}
	}
	return figures, nil
}

// fileDisk is a disk in a file.
type fileDisk struct {
	*directio.File
	size int64
}

func openDisk(path string, size int64) (fileDisk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fileDisk{}, err
	}
	return fileDisk{directio.New(f), size}, f.Truncate(size)
}

func (d fileDisk) Size() int64 { return d.size }

func (d fileDisk) BlockSize() int { return 512 }

func (d fileDisk) WriteZeroes(_ context.Context, off, n int64) error {
	return unix.Fallocate(int(d.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (d fileDisk) Sync(context.Context) error { return d.File.Sync() }

const (
	boots     = 100
	bootBytes = 8 * mebi // kernel and ramdisk together
)

// measureSwift measures what conductors have on their disks of what machines boot from Glance.
func measureSwift(ctx context.Context, b *bench) (s section, err error) {
	s = section{
		Title: "Boot files on a conductor's disk",
		How: fmt.Sprintf(`%d nodes, whose deploy kernel and ramdisk (%d MiB together) are images of Glance in
Swift, Debian's on loopback, are deployed; each of their machines asks for its script and fetches what that
names. Bytes in the conductor's directory but its database, when all have booted. Yardstick: the same with
files that conductors hold, which is the default.
`, boots, bootBytes/mebi),
	}
	c, err := startCloud(ctx, "--services", "swift,glance")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	var ids [2]string
	for i, format := range []string{"aki", "ari"} {
		path := filepath.Join(b.temp, format)
		size := int64(bootBytes) * int64(1+2*i) / 4 // not the same content
		if err := randomFile(path, size, size); err != nil {
			return s, err
		}
		if ids[i], err = c.image(ctx, format, path); err != nil {
			return s, err
		}
	}
	var held [2]float64
	for i, swift := range []string{"true", "false"} {
		fmt.Fprintf(b.progress, "  use_swift %s\n", swift)
		if held[i], err = b.bootFrom(ctx, c, ids, swift); err != nil {
			return s, err
		}
	}
	s.Figures = []figure{{What: "with [ipxe] use_swift", Value: held[0] / mebi, Unit: "MiB",
		Yardstick: held[1] / mebi, Beside: "without", N: boots}}
	return s, nil
}

// bootFrom boots machines once each, and returns how many bytes of files the server has then.
func (b *bench) bootFrom(ctx context.Context, c *cloud, ids [2]string, swift string) (held float64, err error) {
	dir, err := os.MkdirTemp(b.temp, "swift")
	if err != nil {
		return 0, err
	}
	server, err := b.startIngot(ctx, dir, "INGOT_IPXE_USE_SWIFT="+swift, "INGOT_GLANCE_AUTH_TYPE=none",
		"INGOT_GLANCE_ENDPOINT_OVERRIDE="+c.Glance, "INGOT_GLANCE_SWIFT_ENDPOINT_URL="+c.Swift,
		"INGOT_GLANCE_SWIFT_ACCOUNT="+filepath.Base(c.Account), "INGOT_GLANCE_SWIFT_TEMP_URL_KEY="+c.Key,
		"INGOT_DEPLOY_KERNEL="+ids[0], "INGOT_DEPLOY_RAMDISK="+ids[1],
		// Nobody writes what they would be deployed with.
		"INGOT_IMAGE_FILE_URL_ALLOWED_PATHS="+b.temp, "INGOT_CONDUCTOR_BOOT_RETRY_TIMEOUT=0s")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	for i := range boots {
		if err := bootOne(ctx, server.url, i+1, filepath.Join(b.temp, "aki")); err != nil {
			return 0, err
		}
	}
	return storedFiles(dir)
}

// storedFiles are the bytes of the files in a server's directory, but those of its database.
func storedFiles(dir string) (held float64, err error) {
	err = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && !strings.HasPrefix(info.Name(), "ingot.db") {
			held += float64(info.Size())
		}
		return err
	})
	return held, err
}

// bootOne deploys a node, as far as its machine's fetching of the ramdisk.
func bootOne(ctx context.Context, server string, i int, image string) error {
	_, err := startDeploying(ctx, http.DefaultClient, server, mac(i), ingot.Object{"name": fmt.Sprintf("machine-%d", i),
		"driver": "fake-hardware", "boot_interface": "ipxe", "deploy_interface": "iscsi", "automated_clean": false,
		"instance_info": noImage(image)})
	if err != nil {
		return err
	}
	return load(ctx, server+"/v1/drivers/fake-hardware/vendor_passthru/ipxe_config?port_address="+mac(i))
}

// noImage is an instance_info with an image that nobody gets to write.
func noImage(path string) ingot.Object {
	return ingot.Object{"image_source": "file://" + path, "image_disk_format": "raw", "image_os_hash_algo": "sha256",
		"image_os_hash_value": strings.Repeat("0", 64)}
}

// startDeploying creates a node with a port and has it deployed, until it waits for its machine. It returns
// its UUID.
func startDeploying(ctx context.Context, client *http.Client, server, mac string, create ingot.Object) (string, error) {
	api := func(method, path string, body, into any) error {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		return callBy(ctx, client, method, server+path, "application/json", bytes.NewReader(text), into)
	}
	var node struct {
		UUID  string
		State string `json:"provision_state"`
		Error string `json:"last_error"`
	}
	if err := api(http.MethodPost, "/v1/nodes", create, &node); err != nil {
		return "", err
	}
	path := "/v1/nodes/" + node.UUID
	until := func(state string) error {
		for node.State != state {
			if err := api(http.MethodGet, path, nil, &node); err != nil {
				return err
			}
			if strings.Contains(node.State, "failed") {
				return fmt.Errorf("node %s is %s: %s", node.UUID, node.State, node.Error)
			}
		}
		return nil
	}
	err := api(http.MethodPost, "/v1/ports", ingot.Object{"node_uuid": node.UUID, "address": mac}, nil)
	if err != nil {
		return "", err
	}
	for _, verb := range []struct{ target, state string }{
		{"manage", "manageable"}, {"provide", "available"}, {"active", "wait call-back"},
	} {
		err := api(http.MethodPut, path+"/states/provision", ingot.Object{"target": verb.target}, nil)
		if err == nil {
			err = until(verb.state)
		}
		if err != nil {
			return "", err
		}
	}
	return node.UUID, nil
}

// load fetches a script and the kernel and ramdisk that it names first.
func load(ctx context.Context, url string) error {
	script, err := fetch(ctx, http.DefaultClient, url)
	if err != nil {
		return err
	}
	got := 0
	for line := range strings.Lines(script) {
		if !strings.HasPrefix(line, "kernel ") && !strings.HasPrefix(line, "initrd ") {
			continue
		}
		for word := range strings.FieldsSeq(line) {
			if strings.HasPrefix(word, "http") {
				file, err := fetch(ctx, http.DefaultClient, word)
				if err != nil {
					return err
				}
				got += len(file)
			}
		}
	}
	if got != bootBytes {
		return fmt.Errorf("a machine has loaded %d bytes, not %d, by:\n%s", got, bootBytes, script)
	}
	return nil
}
