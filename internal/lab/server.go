package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"text/template"
	"time"

	"ingot/internal/cli"
	"ingot/internal/sim"
)

// APIAddress is where the server's API listens inside the namespace. Loopback: machines cannot
// reach it and do not need to.
const APIAddress = "127.0.0.1:6385"

// bootPort is that of the server's scripts and boot files.
const bootPort = "8080"

// configuration of the server in a lab. Time-outs are those of machines under emulation.
var configuration = template.Must(template.New("").Parse(`# Written by ingot for its lab.
[store]
path = "{{.Dir}}/ingot.db"
url = "{{.Database}}"

[api]
listen = "{{.API}}"

[conductor]
host = "{{.Host}}"
enabled_hardware_types = [{{range .Hardware}}"{{.}}", {{end}}"fake-hardware"]
deploy_callback_timeout = "{{.CallbackTimeout}}"
boot_retry_timeout = "{{.BootRetry}}"
check_provision_state_interval = "{{.CheckInterval}}"
sync_power_state_interval = "10s"
graceful_shutdown_timeout = "5s"

[deploy]
kernel = "file://{{.Kernel}}"
ramdisk = "file://{{.Ramdisk}}"
default_boot_mode = "bios"

[image]
spool = "{{.Dir}}/spool"
file_url_allowed_paths = ["{{.Images}}"]

[boot]
interface = "{{.Interface}}"
address = "{{.Address}}"
service_address = "{{.Service}}"
http_listen = "{{.Address}}:{{.BootPort}}"
cache = "{{.Cache}}"
tftp_root = "{{.BootRoot}}"
http_root = "{{.BootRoot}}"

[boot.dhcp]
mode = "{{.DHCPMode}}"
range = "{{.Range}}"
`))

// Server is an `ingot serve` inside a lab's namespace, or on a host of its own.
type Server struct {
	// Host is the name of its conductor.
	Host string

	space    *sim.Namespace
	machine  *sim.Host  // that it runs on; nil where the machines are
	link     string     // towards the machines
	addr     netip.Addr // of that
	binary   string
	dir      string
	settings map[string]string // of its environment
	cmd      *exec.Cmd
	done     chan struct{}
	err      error // of the process; set before done is closed
}

// Client returns a client of its API.
func (s *Server) Client() (*cli.Client, error) {
	c, err := cli.Dial("http://"+APIAddress, cli.Credentials{})
	if err != nil {
		return nil, err
	}
	c.UseTransport(s.Transport())
	return c, nil
}

// Transport connects from where the server runs, as to its API.
func (s *Server) Transport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.space.Dial(ctx, network, address)
		},
		// A killed server leaves connections that would fail the next request.
		DisableKeepAlives: true,
	}
}

// Boot is the URL at which machines find scripts and boot files.
func (s *Server) Boot() string { return "http://" + net.JoinHostPort(s.addr.String(), bootPort) }

// Cache is the directory of its boot files.
func (s *Server) Cache() string { return filepath.Join(s.dir, "boot") }

// Log is the file with the server's output, of all its lives.
func (s *Server) Log() string { return filepath.Join(s.dir, "server.log") }

// empty makes the server's directory, without what an earlier server left. One that no server of
// ours has been in may be anybody's and stays.
func (s *Server) empty() error {
	old, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look into the server's directory: %w", err)
	}
	if _, err := os.Stat(s.config()); err != nil && len(old) > 0 {
		return fmt.Errorf("%s is not empty and not of a lab; choose another directory by --dir",
			s.dir)
	}
	// The configuration goes last: a directory that was half emptied when the process died is
	// still known as ours.
	for _, e := range old {
		if path := filepath.Join(s.dir, e.Name()); path != s.config() {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("empty the server's directory: %w", err)
			}
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("empty the server's directory: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make the server's directory: %w", err)
	}
	return nil
}

// configure writes the configuration file.
func (s *Server) configure(kernel, ramdisk, images string, o Options) error {
	addresses := machineRange
	if o.Fleet.Machines > 0 {
		addresses = fleetRange
	}
	database, err := url.Parse(o.Database)
	if err != nil {
		return fmt.Errorf("URL of the database: %w", err)
	}
	if o.Database != "" {
		// The database tells who of several has written something.
		q := database.Query()
		q.Set("application_name", s.Host)
		database.RawQuery = q.Encode()
	}
	hardware := []string{"ipmi"}
	for _, m := range o.Machines {
		if h := m.BMC.HardwareType(); !slices.Contains(hardware, h) {
			hardware = append(hardware, h)
		}
	}
	service := ""
	if o.ServiceAddress {
		a := s.addr.As4()
		a[3] = serviceHost
		service = netip.AddrFrom4(a).String()
	}
	var b bytes.Buffer
	err = configuration.Execute(&b, map[string]any{
		"Dir": s.dir, "API": APIAddress, "Kernel": kernel, "Ramdisk": ramdisk, "Images": images,
		"Interface": s.link, "Address": s.addr, "Host": s.Host, "Database": database,
		"Range": addresses, "CallbackTimeout": o.CallbackTimeout, "BootRetry": o.BootRetry,
		"CheckInterval": o.CheckInterval, "Hardware": hardware,
		"Service": service, "DHCPMode": o.DHCPMode, "BootPort": bootPort, "Cache": s.Cache(), "BootRoot": o.BootRoot,
	})
	if err != nil {
		return fmt.Errorf("write the server's configuration: %w", err)
	}
	return os.WriteFile(s.config(), b.Bytes(), 0o600)
}

func (s *Server) config() string { return filepath.Join(s.dir, "ingot.toml") }

// Start starts the server and returns when it can take work.
func (s *Server) Start(ctx context.Context) error {
	log, err := os.OpenFile(s.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close()
	// The server ends by Stop or Kill, not by the context: a cancelled test or demo still wants
	// an orderly end.
	cmd := s.space.Command(context.WithoutCancel(ctx), s.binary, "serve", "--config", s.config())
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, cmd.Environ()
	for name, value := range s.settings {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	// A group of its own: an interrupt typed at the terminal is for this process alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start ingot serve: %w", err)
	}
	s.cmd, s.done = cmd, make(chan struct{})
	go func() {
		s.err = cmd.Wait()
		close(s.done)
	}()
	return s.waitReady(ctx)
}

// waitReady polls the health endpoint until the server says that it is ready.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := &http.Client{Transport: s.Transport()}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet,
			"http://"+APIAddress+"/healthcheck", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.done:
			return fmt.Errorf("ingot serve ended before it was ready: %w\n%s", s.err, s.tail())
		case <-ctx.Done():
			return fmt.Errorf("ingot serve is not ready: %w\n%s", ctx.Err(), s.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tail is the end of the server's log, for error messages.
func (s *Server) tail() string {
	b, err := os.ReadFile(s.Log())
	if err != nil {
		return ""
	}
	const most = 2000
	return string(b[max(0, len(b)-most):])
}

// Kill ends the server as a power failure would (SIGKILL).
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Stop asks the server to end (SIGTERM) and waits; after ten seconds it is killed.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Pause stops the server where it is (SIGSTOP): its sockets accept, and nobody answers.
func (s *Server) Pause() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Continue ends a Pause.
func (s *Server) Continue() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// PID is the process of the running server; there is none after Stop or Kill.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// stopTime is how long a server may take to end: requests have ten seconds, steps graceful_shutdown_timeout.
const stopTime = 30 * time.Second

func (s *Server) end(sig syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop ingot serve: %w", err)
	}
	select {
	case <-s.done:
	case <-time.After(stopTime):
		s.cmd.Process.Kill()
		<-s.done
		s.cmd = nil
		return fmt.Errorf("ingot serve did not end within %s and was killed; see %s", stopTime, s.Log())
	}
	s.cmd = nil
	return nil
}
