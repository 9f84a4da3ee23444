package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// target is tgtd with one disk that anybody may use.
type target struct {
	address string // host:port of the portal
	iqn     string
	backing string // path of the file behind the disk

	socket string // by which tgtd is controlled; dir/s, to which tgtd appends its number
	daemon *exec.Cmd
}

// targetLUN is the disk; tgt's LUN 0 is the controller.
const targetLUN = 1

// startTarget starts tgtd with a new disk of size bytes. dir is for the disk and for the control
// socket, whose address holds about 100 bytes.
func startTarget(ctx context.Context, dir string, size int64) (*target, error) {
	for _, tool := range []string{"tgtd", "tgtadm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w; install it: scripts/packages.sh (Debian package tgt)", err)
		}
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	t := &target{
		address: address, iqn: "iqn.2026-01.org.ingot.bench:disk",
		backing: filepath.Join(dir, "disk"), socket: filepath.Join(dir, "s"),
	}
	file, err := os.Create(t.backing)
	if err != nil {
		return nil, fmt.Errorf("make the target's disk: %w", err)
	}
	if err := errors.Join(file.Truncate(size), file.Close()); err != nil {
		return nil, fmt.Errorf("make the target's disk: %w", err)
	}
	t.daemon = exec.Command("tgtd", "-f", "-C", "1", "--iscsi", "portal="+address)
	t.daemon.Env = append(os.Environ(), "TGT_IPC_SOCKET="+t.socket)
	if err := t.daemon.Start(); err != nil {
		return nil, err
	}
	if err := t.configure(ctx); err != nil {
		t.stop()
		return nil, err
	}
	return t, nil
}

// configure waits until tgtd can be controlled and makes the target.
func (t *target) configure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for t.admin(ctx, "--mode", "target", "--op", "show") != nil {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("tgtd on %s does not answer: %w", t.address, ctx.Err())
		}
	}
	return errors.Join(
		t.admin(ctx, "--mode", "target", "--op", "new", "--tid", "1", "-T", t.iqn),
		t.admin(ctx, "--mode", "logicalunit", "--op", "new", "--tid", "1",
			"--lun", fmt.Sprint(targetLUN), "-b", t.backing),
		t.admin(ctx, "--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL"),
	)
}

func (t *target) admin(ctx context.Context, args ...string) error {
	args = append([]string{"-C", "1", "--lld", "iscsi"}, args...)
	cmd := exec.CommandContext(ctx, "tgtadm", args...)
	cmd.Env = append(os.Environ(), "TGT_IPC_SOCKET="+t.socket)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tgtadm: %w: %s", err, out)
	}
	return nil
}

// stop ends tgtd by SIGKILL: it ignores SIGTERM while it has a target.
func (t *target) stop() {
	t.daemon.Process.Kill()
	_ = t.daemon.Wait() // killed, so always an error
}
