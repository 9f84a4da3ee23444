package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tftpRounds  = 3
	tftpClients = 64
	tftpFile    = "ipxe.efi" // a name that ingot serves
	tftpTime    = 2 * time.Second
	tftpDelay   = time.Millisecond
)

// tftpServer is one of the servers that are compared.
type tftpServer struct {
	name    string
	family  *family
	address netip.AddrPort
	network string // path of its network namespace; empty: ours
	stop    func() error
	rate    []float64 // MB/s, of each round
	cost    []float64 // seconds of processor time for each GB
}

// measureTFTP measures how fast boot programs are served, and what of the processor that takes.
func measureTFTP(ctx context.Context, b *bench) (s section, err error) {
	s = section{
		Title: "TFTP: boot programs for many machines, windows for one",
		How: fmt.Sprintf(`Median of %d rounds of %s for each server, in turn, on loopback.
%d clients of one process fetch 1 MiB in blocks of %d bytes over and over, one block at a time
(lockstep), each file from a new port; the clients are the same for all and drop the content
unread. CPU: user and system time of the server for each GB that arrived, with its children. Those
are looked at every %s, so of each (tftpd-hpa has one for each file) a little is missing.
ingot is bin/ingot serve, in both modes of boot.tftp_single_port.
Windows: one client; yardstick: the same without a window. Delay: %s in each direction, by a
relay in user space.
`, tftpRounds, tftpTime, tftpClients, tftpBlock, familyTick,
			tftpDelay),
	}
	dir := filepath.Join(b.temp, "tftp")
	data := make([]byte, 1<<20)
	rand.Read(data)
	err = errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, tftpFile), data, 0o644))
	if err != nil {
		return s, fmt.Errorf("make the file to serve: %w", err)
	}
	servers, err := b.startTFTP(ctx, dir, int64(len(data)))
	defer func() {
		for _, v := range servers {
			err = errors.Join(err, v.stop())
		}
	}()
	if err != nil {
		return s, err
	}
	for range tftpRounds {
		for _, v := range servers {
			if err := v.measure(ctx, v.load(int64(len(data)))); err != nil {
				return s, err
			}
		}
	}
	for _, ours := range servers[:2] {
		for _, other := range servers[2:] {
			s.Figures = append(s.Figures,
				figure{What: ours.name + ", rate", Value: median(ours.rate), Unit: "MB/s",
					Yardstick: median(other.rate), Beside: other.name, N: tftpRounds},
				figure{What: ours.name + ", CPU", Value: median(ours.cost), Unit: "s/GB",
					Yardstick: median(other.cost), Beside: other.name, N: tftpRounds})
		}
	}
	for _, delay := range []time.Duration{0, tftpDelay} {
		figures, err := measureWindows(ctx, servers[0], int64(len(data)), delay)
		if err != nil {
			return s, err
		}
		s.Figures = append(s.Figures, figures...)
	}
	return s, nil
}

// load is the clients of a server.
func (v *tftpServer) load(size int64) tftpLoad {
	return tftpLoad{server: v.address, network: v.network, file: tftpFile, size: size,
		clients: tftpClients, window: 1}
}

// measure adds a round.
func (v *tftpServer) measure(ctx context.Context, load tftpLoad) error {
	before, err := v.family.time()
	if err != nil {
		return err
	}
	sampling, stop := context.WithCancel(ctx)
	sampled := make(chan struct{})
	go func() {
		defer close(sampled)
		v.family.sample(sampling)
	}()
	r, took, err := load.run(ctx, tftpTime)
	stop()
	<-sampled
	if err != nil {
		return fmt.Errorf("%s: %w", v.name, err)
	}
	after, err := v.family.time()
	if err != nil {
		return err
	}
	if r.files == 0 {
		return fmt.Errorf("%s: no file arrived within %s", v.name, took)
	}
	v.rate = append(v.rate, float64(r.bytes)/1e6/took.Seconds())
	v.cost = append(v.cost, (after-before).Seconds()/(float64(r.bytes)/1e9))
	return nil
}

// measureWindows measures one client with windows of several sizes.
func measureWindows(ctx context.Context, v *tftpServer, size int64, delay time.Duration) (
	[]figure, error) {
	text := ""
	if delay > 0 {
		text = fmt.Sprintf(", %s delay", delay)
	}
	var figures []figure
	var lockstep float64
	for _, window := range []int{1, 4, 16, 64} {
		var rates []float64
		for range tftpRounds {
			rate, err := windowRate(ctx, v.address, window, size, delay)
			if err != nil {
				return nil, fmt.Errorf("window %d%s: %w", window, text, err)
			}
			rates = append(rates, rate)
		}
		f := figure{What: fmt.Sprintf("one client, window %d%s", window, text),
			Value: median(rates), Unit: "MB/s", N: tftpRounds}
		if window == 1 {
			lockstep = f.Value
		} else {
			f.Yardstick, f.Beside = lockstep, "window 1"
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// windowRate is the rate of one client, in MB/s.
func windowRate(ctx context.Context, server netip.AddrPort, window int, size int64,
	delay time.Duration) (rate float64, err error) {
	if delay > 0 {
		relay, err := startRelay(server, delay)
		if err != nil {
			return 0, err
		}
		defer relay.stop()
		server = relay.address
	}
	load := tftpLoad{server: server, file: tftpFile, size: size, clients: 1, window: window}
	r, took, err := load.run(ctx, tftpTime/4)
	if err != nil {
		return 0, err
	}
	return float64(r.bytes) / 1e6 / took.Seconds(), nil
}

// startTFTP starts the servers, ours first, and waits until each serves the file in dir.
func (b *bench) startTFTP(ctx context.Context, dir string, size int64) ([]*tftpServer, error) {
	var servers []*tftpServer
	for _, start := range []func() (*tftpServer, error){
		func() (*tftpServer, error) { return b.startOurTFTP(ctx, "ingot", dir, "false") },
		func() (*tftpServer, error) { return b.startOurTFTP(ctx, "ingot, single port", dir, "true") },
		func() (*tftpServer, error) { return startDnsmasq(dir) },
		func() (*tftpServer, error) { return startTftpdHPA(dir) },
	} {
		v, err := start()
		if err != nil {
			return servers, err
		}
		servers = append(servers, v)
		if err := v.ready(ctx, size); err != nil {
			return servers, err
		}
	}
	return servers, nil
}

// ready waits until a server serves.
func (v *tftpServer) ready(ctx context.Context, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	load := v.load(size)
	load.clients = 1
	for {
		r, _, err := load.run(ctx, 100*time.Millisecond)
		switch {
		case err == nil && r.files > 0:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s does not serve: %w", v.name, errors.Join(ctx.Err(), err))
		case err != nil:
			// Nobody listens yet.
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (b *bench) startOurTFTP(ctx context.Context, name, dir, single string) (*tftpServer, error) {
	address, err := freeUDPAddress()
	if err != nil {
		return nil, err
	}
	server, err := b.startIngot(ctx, filepath.Join(b.temp, "tftp-"+single),
		"INGOT_BOOT_TFTP_LISTEN="+address.String(), "INGOT_BOOT_TFTP_FILES="+dir,
		"INGOT_BOOT_TFTP_SINGLE_PORT="+single)
	if err != nil {
		return nil, err
	}
	return &tftpServer{name: name, family: newFamily(server.pid), address: address, stop: server.stop}, nil
}

// startDnsmasq starts dnsmasq in a network namespace of its own: it knows no port but 69.
func startDnsmasq(dir string) (*tftpServer, error) {
	script := `ip link set lo up && exec dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 \
		--user=root --pid-file= --log-facility=/dev/null --quiet-tftp --enable-tftp \
		--tftp-max=200 --tftp-root="$1"`
	cmd := exec.Command("sh", "-c", script, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	v, err := startForeignTFTP("dnsmasq", cmd)
	if err != nil {
		return nil, err
	}
	v.address = netip.MustParseAddrPort("127.0.0.1:69")
	v.network = fmt.Sprintf("/proc/%d/ns/net", v.family.pid)
	return v, nil
}

// startTftpdHPA starts the server of the package tftpd-hpa.
func startTftpdHPA(dir string) (*tftpServer, error) {
	address, err := freeUDPAddress()
	if err != nil {
		return nil, err
	}
	v, err := startForeignTFTP("tftpd-hpa", exec.Command("/usr/sbin/in.tftpd", "--foreground",
		"--user", "root", "--address", address.String(), "--secure", dir))
	if err != nil {
		return nil, err
	}
	v.address = address
	return v, nil
}

// startForeignTFTP starts a server that ends by SIGTERM.
func startForeignTFTP(name string, cmd *exec.Cmd) (*tftpServer, error) {
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w; install it: scripts/packages.sh", err)
	}
	stop := func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // an error, for the signal ended it
		return err
	}
	return &tftpServer{name: name, family: newFamily(cmd.Process.Pid), stop: stop}, nil
}

// freeUDPAddress is an address on the loopback with a port that nobody uses.
func freeUDPAddress() (netip.AddrPort, error) {
	l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.LocalAddr().String()), nil
}

// relay passes packets of one client on to a server and back, each later by a delay. The kernels
// that ingot is tested on have no sch_netem.
type relay struct {
	address netip.AddrPort
	front   *net.UDPConn
	back    *net.UDPConn
	wait    sync.WaitGroup
}

// delayed is a packet on its way.
type delayed struct {
	due  time.Time
	data []byte
	to   netip.AddrPort
}

func startRelay(server netip.AddrPort, delay time.Duration) (*relay, error) {
	r := &relay{}
	var err error
	loopback := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	if r.front, err = net.ListenUDP("udp4", loopback); err != nil {
		return nil, fmt.Errorf("open relay: %w", err)
	}
	if r.back, err = net.ListenUDP("udp4", loopback); err != nil {
		r.front.Close()
		return nil, fmt.Errorf("open relay: %w", err)
	}
	r.address = netip.MustParseAddrPort(r.front.LocalAddr().String())
	var mu sync.Mutex // guards the next two
	var client netip.AddrPort
	transfer := server
	r.pass(r.front, r.back, delay, func(from netip.AddrPort, p []byte) netip.AddrPort {
		mu.Lock()
		defer mu.Unlock()
		if client = from; len(p) > 1 && p[1] == 1 {
			transfer = server
		}
		return transfer
	})
	r.pass(r.back, r.front, delay, func(from netip.AddrPort, p []byte) netip.AddrPort {
		mu.Lock()
		defer mu.Unlock()
		transfer = from
		return client
	})
	return r, nil
}

// pass relays in one direction.
func (r *relay) pass(in, out *net.UDPConn, delay time.Duration,
	route func(netip.AddrPort, []byte) netip.AddrPort) {
	in.SetReadBuffer(4 << 20)
	way := make(chan delayed, 10_000)
	r.wait.Go(func() {
		defer close(way)
		buf := make([]byte, 2048)
		for {
			n, from, err := in.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				way <- delayed{time.Now().Add(delay), bytes.Clone(buf[:n]), route(from, buf[:n])}
			}
		}
	})
	r.wait.Go(func() {
		// The timers of Go are not exact to less than a millisecond; those of the kernel are.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for p := range way {
			if d := time.Until(p.due); d > 0 {
				t := unix.NsecToTimespec(d.Nanoseconds())
				unix.Nanosleep(&t, nil)
			}
			// What cannot be sent is lost.
			out.WriteToUDPAddrPort(p.data, p.to)
		}
	})
}

func (r *relay) stop() {
	r.front.Close()
	r.back.Close()
	r.wait.Wait()
}
