// Package postgres runs a PostgreSQL server of Debian for a while: for tests, benchmarks and drills. It
// does not wait for the disk, and is gone with what it has stored when it is stopped.
package postgres

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// Server is a running server.
type Server struct {
	// URL is its database postgres, as its superuser, by a socket file.
	URL string
	dir string
	// programs is where those of PostgreSQL are.
	programs string
	args     []string
	cmd      *exec.Cmd
	running  bool
	ended    chan error // of cmd
}

// Start makes a new server; options are more of its settings, name=value. Stop it.
func Start(options ...string) (p *Server, err error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		return nil, errors.New("PostgreSQL is missing; install it: scripts/packages.sh")
	}
	p = &Server{programs: found[len(found)-1], ended: make(chan error, 1)}
	if p.dir, err = os.MkdirTemp("", "postgres"); err != nil {
		return nil, err
	}
	p.URL = "postgres:///postgres?user=postgres&host=" + url.QueryEscape(p.dir)
	if err := p.start(options); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *Server) start(options []string) error {
	data := filepath.Join(p.dir, "data")
	initialise, err := p.command("initdb", "--no-sync", "--auth=trust", "--username=postgres",
		"--encoding=UTF8", "--locale=C.UTF-8", data)
	if err != nil {
		return err
	}
	if out, err := initialise.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	p.args = []string{"-D", data, "-k", p.dir}
	for _, o := range append([]string{"listen_addresses=", "fsync=off", "max_connections=300"},
		options...) {
		p.args = append(p.args, "-c", o)
	}
	return p.serve()
}

// serve runs the server and waits until it lets one in.
func (p *Server) serve() (err error) {
	if p.cmd, err = p.command("postgres", p.args...); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd.Stderr = log
	// The server ends with the thread that starts it (Pdeathsig), not with the process: a thread of
	// its own, which stays, rather than one that some test takes into a namespace and ends.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.ended <- p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.running = true
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		ready, err := p.command("pg_isready", "-q", "-h", p.dir)
		if err != nil {
			return err
		}
		if ready.Run() == nil {
			return nil
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("PostgreSQL does not start:\n%s", text)
		}
	}
}

// command runs a program of PostgreSQL, which refuses to be run by root, as its user.
func (p *Server) command(name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(filepath.Join(p.programs, name), args...)
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() != 0 {
		return cmd, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return cmd, os.Chown(p.dir, uid, gid)
}

// Stop ends the server, at once, and removes what it has stored.
func (p *Server) Stop() {
	p.end(syscall.SIGQUIT)
	_ = os.RemoveAll(p.dir)
}

// Restart ends the server, and with it all connections, and starts it again with what it has stored.
func (p *Server) Restart() error {
	p.Down()
	return p.Up()
}

// Down ends the server and keeps what it has stored; Up starts it again.
func (p *Server) Down() { p.end(syscall.SIGINT) }

// Up starts a server that is down.
func (p *Server) Up() error { return p.serve() }

func (p *Server) end(s syscall.Signal) {
	if p.running {
		_ = p.cmd.Process.Signal(s)
		<-p.ended
		p.running = false
	}
}
