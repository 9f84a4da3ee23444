package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	httpClients = 32
	httpRuns    = 5
	httpTime    = 3 * time.Second // of one run
	httpKernel  = 14 * mebi
	httpRamdisk = 2200 * kibi
)

// httpSide is one server and what it did.
type httpSide struct {
	server *service
	// ask is the i-th request of a client, its first line and what is special in its header.
	ask   func(client, i int) string
	rates []float64 // MB/s
	costs []float64 // seconds of processor time for a GB
}

// measureHTTP measures how kernels and ramdisks go out.
func measureHTTP(ctx context.Context, b *bench) (s section, err error) {
	s = section{
		Title: "HTTP: boot files",
		How: fmt.Sprintf(`%d clients on loopback, each with one kept connection, fetch a kernel of 14 MiB and a ramdisk of
2.2 MiB in turns for %s; the files are in the page cache and the clients drop what they read.
ingot: the boot socket of bin/ingot serve, which sends 8 files to one address at a time; the others
wait. Processor time: user and system of the server's processes.
Median of %d runs, the servers in turns. Yardstick: nginx, sendfile and tcp_nopush on, no log, one
worker for each processor.
`, httpClients, httpTime, httpRuns),
	}
	var sides [2]*httpSide
	for i, start := range []func(context.Context, string) (*httpSide, error){
		b.httpIngot, b.httpNginx,
	} {
		dir := filepath.Join(b.temp, fmt.Sprintf("http-%d", i))
		if sides[i], err = start(ctx, dir); err != nil {
			return s, err
		}
		defer func() { err = errors.Join(err, sides[i].server.stop()) }()
	}
	for round := range httpRuns + 1 {
		for _, side := range sides {
			if err := side.measure(ctx, round > 0); err != nil { // the first warms up
				return s, err
			}
		}
	}
	for _, f := range []struct {
		what, unit string
		of         func(*httpSide) []float64
	}{
		{"rate", "MB/s", func(s *httpSide) []float64 { return s.rates }},
		{"processor time", "s/GB", func(s *httpSide) []float64 { return s.costs }},
	} {
		s.Figures = append(s.Figures, figure{What: f.what, Value: median(f.of(sides[0])),
			Unit: f.unit, Yardstick: median(f.of(sides[1])), Beside: "nginx", N: httpRuns})
	}
	return s, nil
}

// bootFiles makes a kernel and a ramdisk, named by digest, in a directory that anybody may read.
func bootFiles(dir string) (digests []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make boot files: %w", err)
	}
	for _, size := range []int{httpKernel, httpRamdisk} {
		content := make([]byte, size)
		rand.Read(content)
		sum := sha256.Sum256(content)
		digest := hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(dir, digest), content, 0o644); err != nil {
			return nil, fmt.Errorf("make boot files: %w", err)
		}
		digests = append(digests, digest)
	}
	return digests, nil
}

// httpIngot starts ingot with two boot files.
func (b *bench) httpIngot(ctx context.Context, dir string) (*httpSide, error) {
	digests, err := bootFiles(filepath.Join(dir, "boot"))
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s, err := b.startIngot(ctx, dir, "INGOT_BOOT_HTTP_LISTEN="+address)
	if err != nil {
		return nil, err
	}
	s.url = "http://" + address
	return &httpSide{server: s, ask: func(_, i int) string {
		return get("/files/" + digests[i%len(digests)] + "/file")
	}}, nil
}

// get is a request without anything special.
func get(path string) string { return "GET " + path + " HTTP/1.1\r\n" }

const nginxConfig = `
daemon off;
pid %[1]s/pid;
error_log stderr;
user root;
worker_processes auto;
events { worker_connections 1024; }
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 1000000000;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server { listen %[2]s; root %[1]s/boot; }
}
`

// httpNginx starts nginx with two files.
func (b *bench) httpNginx(ctx context.Context, dir string) (*httpSide, error) {
	digests, err := bootFiles(filepath.Join(dir, "boot"))
	if err != nil {
		return nil, err
	}
	server, err := b.startNginx(ctx, dir, "/"+digests[1])
	return &httpSide{server: server, ask: func(_, i int) string { return get("/" + digests[i%len(digests)]) }}, err
}

// startNginx starts nginx, which serves dir/boot and has a file at a path.
func (b *bench) startNginx(ctx context.Context, dir, path string) (*service, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, address), 0o644); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	// Debian has it in /usr/sbin, which is not in everybody's path.
	server, err := startService(ctx, exec.Command("/usr/sbin/nginx", "-c", config), "http://"+address, path,
		filepath.Join(b.temp, "nginx.log"))
	if err != nil {
		return nil, fmt.Errorf("%w (install it with scripts/packages.sh)", err)
	}
	return server, nil
}

// measure runs the clients once.
func (s *httpSide) measure(ctx context.Context, keep bool) error {
	before, err := familyCPU(s.server.pid)
	if err != nil {
		return err
	}
	start := time.Now()
	var sent atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for client := range httpClients {
		group.Go(func() error {
			// Each with an address of its own, as machines and BMCs have: places are for addresses.
			own := &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+client))}
			return download(ctx, own, strings.TrimPrefix(s.server.url, "http://"),
				func(i int) string { return s.ask(client, i) }, start.Add(httpTime), &sent)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	wall := time.Since(start)
	after, err := familyCPU(s.server.pid)
	if err != nil || !keep {
		return err
	}
	s.rates = append(s.rates, float64(sent.Load())/1e6/wall.Seconds())
	s.costs = append(s.costs, (after-before).Seconds()/(float64(sent.Load())/1e9))
	return nil
}

// download sends requests over one connection and counts the bytes of their answers. It is no
// http.Client: that would take more of the processors than the servers that are measured.
func download(ctx context.Context, own net.Addr, address string, ask func(i int) string, end time.Time,
	sent *atomic.Int64) error {
	conn, err := (&net.Dialer{LocalAddr: own}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answers := bufio.NewReader(conn)
	buffer := make([]byte, 256*kibi)
	for i := 0; time.Now().Before(end); i++ {
		if _, err := fmt.Fprintf(conn, "%sHost: bench\r\n\r\n", ask(i)); err != nil {
			return err
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
			return fmt.Errorf("%s: %s", ask(i), resp.Status)
		}
		// Past what was read ahead, the connection itself.
		head := min(int64(answers.Buffered()), resp.ContentLength)
		if _, err := io.CopyN(io.Discard, answers, head); err != nil {
			return err
		}
		for left := resp.ContentLength - head; left > 0; {
			n, err := conn.Read(buffer[:min(left, int64(len(buffer)))])
			if err != nil {
				return err
			}
			left -= int64(n)
		}
		sent.Add(resp.ContentLength)
	}
	return nil
}

// familyCPU is the processor time of a process and of its children that run: nginx has workers.
func familyCPU(pid int) (time.Duration, error) {
	total, err := cpuTime(pid)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, fmt.Errorf("children of process %d: %w", pid, err)
	}
	for _, field := range strings.Fields(string(text)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("children of process %d: %w", pid, err)
		}
		one, err := cpuTime(child)
		if err != nil {
			return 0, err
		}
		total += one
	}
	return total, nil
}
