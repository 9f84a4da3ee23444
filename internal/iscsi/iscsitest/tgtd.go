// Package iscsitest runs a real iSCSI target, tgt, for tests. It leaves the initiator to its
// callers and knows nothing of package iscsi. Needs no root: control socket, port and backing file
// are the test's own. Read first: Start.
package iscsitest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Options say what target to start; the zero value is a 64 MiB disk that anybody may use.
type Options struct {
	// Size of the backing file in bytes; 64 MiB. Ignored if Backing exists.
	Size int64
	// Backing is the file behind the disk; a new one in the test's directory when empty.
	Backing string
	// BlockSize is the logical block size in bytes; 512.
	BlockSize int
	// Username and Secret, if set, make the target ask for CHAP.
	Username, Secret string
	// TargetUsername and TargetSecret, if set, are how the target proves who it is.
	TargetUsername, TargetSecret string
	// Serial is the unit serial number of the disk; tgt's own when empty.
	Serial string
	// Thin makes the disk free blocks that are unmapped; they read as zeros.
	Thin bool
	// ReadOnly makes the disk refuse writes.
	ReadOnly bool
	// Parameters are iSCSI parameters of the target, such as InitialR2T: "No".
	Parameters map[string]string
}

// Target is a running tgtd with one target and one disk.
type Target struct {
	Addr    string // host:port of the portal
	IQN     string
	LUN     uint64 // of the disk
	Backing string // path of the file behind the disk
	// Username and Secret are the CHAP credentials, empty if none are asked for.
	Username, Secret string

	socket string // TGT_IPC_SOCKET, to which tgtd appends the control number
	daemon *exec.Cmd
	log    bytes.Buffer // of daemon, complete once exited is closed
	exited chan struct{}
	kill   sync.Once
}

const (
	defaultSize = 64 << 20
	iqn         = "iqn.2026-01.org.ingot.test:disk"
	install     = "install it: scripts/packages.sh (Debian package tgt)"
	// startTimeout bounds how long tgtd takes until its control socket answers.
	startTimeout = 20 * time.Second
	// startTries is how often to try another port when somebody took the one we found free.
	startTries = 5
)

// Start runs a target until the test ends. It fails the test if tgt is not installed or does not
// start.
func Start(t testing.TB, opt Options) *Target {
	t.Helper()
	for _, tool := range []string{"tgtd", "tgtadm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing; %s", tool, install)
		}
	}
	target := &Target{IQN: iqn, LUN: 1, Backing: backing(t, opt),
		Username: opt.Username, Secret: opt.Secret}
	// Not t.TempDir: its path holds the test's name, too long for a socket address.
	dir, err := os.MkdirTemp("", "tgt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	target.socket = filepath.Join(dir, "s")
	t.Cleanup(target.Kill)
	for try := 1; ; try++ {
		err := target.run()
		if err == nil {
			break
		}
		if try == startTries {
			t.Fatalf("start tgtd: %v", err)
		}
	}
	if err := target.configure(opt); err != nil {
		t.Fatal(err)
	}
	return target
}

// backing is the path of the file behind the disk, made if it does not exist.
func backing(t testing.TB, opt Options) string {
	t.Helper()
	path := opt.Backing
	if path == "" {
		path = filepath.Join(t.TempDir(), "disk.img")
	}
	if _, err := os.Stat(path); err == nil {
		return path
	}
	size := opt.Size
	if size == 0 {
		size = defaultSize
	}
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(file.Truncate(size), file.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// control is the number by which tgtd and tgtadm find each other. Each target has a socket
// directory of its own, so one number does for all.
const control = "1"

// run starts tgtd on a free port and waits until it can be controlled.
func (target *Target) run() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	target.Addr = listener.Addr().String()
	if err := listener.Close(); err != nil {
		return err
	}
	target.log.Reset()
	target.daemon = exec.Command("tgtd", "-f", "-C", control, "--iscsi", "portal="+target.Addr)
	target.daemon.Env = append(os.Environ(), "TGT_IPC_SOCKET="+target.socket)
	target.daemon.Stdout, target.daemon.Stderr = &target.log, &target.log
	if err := target.daemon.Start(); err != nil {
		return err
	}
	daemon, exited := target.daemon, make(chan struct{})
	target.exited = exited
	go func() {
		_ = daemon.Wait() // killed in the end, so always an error
		close(exited)
	}()
	return target.await()
}

// await asks tgtd to list its targets until it answers.
func (target *Target) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := target.admin("target", "show")
		if err == nil {
			return nil
		}
		select {
		case <-target.exited:
			return fmt.Errorf("tgtd on %s ended: %s", target.Addr, target.log.Bytes())
		case <-ctx.Done():
			return fmt.Errorf("tgtd on %s does not answer: %w", target.Addr, err)
		case <-tick.C:
		}
	}
}

// configure makes the target, its disk and its account.
func (target *Target) configure(opt Options) error {
	disk := []string{"--tid", "1", "--lun", "1", "-b", target.Backing}
	if opt.BlockSize != 0 {
		disk = append(disk, "--blocksize", strconv.Itoa(opt.BlockSize))
	}
	err := errors.Join(
		target.admin("target", "new", "--tid", "1", "-T", target.IQN),
		target.admin("logicalunit", "new", disk...),
	)
	update := func(param string) {
		err = errors.Join(err, target.admin("logicalunit", "update",
			"--tid", "1", "--lun", "1", "--params", param))
	}
	if opt.Thin {
		update("thin_provisioning=1")
	}
	if opt.ReadOnly {
		update("readonly=1")
	}
	if opt.Serial != "" {
		update("scsi_sn=" + opt.Serial)
	}
	for name, value := range opt.Parameters {
		err = errors.Join(err, target.admin("target", "update",
			"--tid", "1", "--name", name, "--value", value))
	}
	if opt.Username != "" {
		err = errors.Join(err,
			target.admin("account", "new", "--user", opt.Username, "--password", opt.Secret),
			target.admin("account", "bind", "--tid", "1", "--user", opt.Username))
	}
	if opt.TargetUsername != "" {
		err = errors.Join(err,
			target.admin("account", "new", "--user", opt.TargetUsername,
				"--password", opt.TargetSecret),
			target.admin("account", "bind", "--tid", "1", "--user", opt.TargetUsername,
				"--outgoing"))
	}
	return errors.Join(err, target.admin("target", "bind", "--tid", "1", "-I", "ALL"))
}

// admin runs one tgtadm operation.
func (target *Target) admin(mode, op string, args ...string) error {
	args = append([]string{"-C", control, "--lld", "iscsi", "--mode", mode, "--op", op}, args...)
	cmd := exec.Command("tgtadm", args...)
	cmd.Env = append(os.Environ(), "TGT_IPC_SOCKET="+target.socket)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tgtadm %s %s: %w: %s", mode, op, err, out)
	}
	return nil
}

// Sessions is how tgtd lists the target: its sessions, disks and accounts. For tests that check
// that nothing was left behind.
func (target *Target) Sessions(t testing.TB) string {
	t.Helper()
	cmd := exec.Command("tgtadm", "-C", control, "--lld", "iscsi", "--mode", "conn", "--op", "show",
		"--tid", "1")
	cmd.Env = append(os.Environ(), "TGT_IPC_SOCKET="+target.socket)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tgtadm: %v: %s", err, out)
	}
	return string(out)
}

// Kill ends tgtd at once, as a crash would: SIGKILL, since it ignores SIGTERM while a target is
// active. Start does it when the test ends.
func (target *Target) Kill() {
	if target.daemon == nil || target.daemon.Process == nil {
		return
	}
	target.kill.Do(func() { _ = target.daemon.Process.Kill() })
	<-target.exited
}
