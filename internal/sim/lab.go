package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// LabOptions describes a lab.
type LabOptions struct {
	Dir      string        // state directory, as in [Options]
	Prefix   netip.Prefix  // as in [Options]
	Machines []MachineSpec // at least the name of each
	BMCs     netip.Addr    // as in [Options]
	Log      *slog.Logger  // default: nothing is logged
}

// A Lab is a network with machines, all off, for a process that keeps them for others. Those find
// it by [LoadState] and end it by [Stop].
type Lab struct {
	*Network
}

// Up makes a lab. It lives until Down, or until this process ends.
func Up(ctx context.Context, opts LabOptions) (*Lab, error) {
	n, err := NewNetwork(ctx, Options{Dir: opts.Dir, Prefix: opts.Prefix, BMCs: opts.BMCs,
		Log: opts.Log})
	if err != nil {
		return nil, err
	}
	for _, spec := range opts.Machines {
		if _, err := n.AddMachine(ctx, spec); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return &Lab{Network: n}, nil
}

// Down ends the lab and removes everything of it.
func (l *Lab) Down() error { return l.Close() }

// Stop ends the lab that another process runs in dir, by SIGTERM, on which that process is to
// call Down, and waits until it has. A lab whose process died is cleaned up; where there is none
// nothing happens.
func Stop(ctx context.Context, dir string) error {
	s, err := LoadState(dir)
	if errors.Is(err, ErrNotRunning) {
		return CleanUp(dir)
	}
	if err != nil {
		return err
	}
	if s.PID == os.Getpid() {
		return fmt.Errorf("stop lab in %s: it is this process that runs it; use Down", dir)
	}
	if err := unix.Kill(s.PID, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop lab in %s: end process %d: %w", dir, s.PID, err)
	}
	tick := time.NewTicker(consolePoll)
	defer tick.Stop()
	for {
		err := CleanUp(dir)
		if !errors.Is(err, ErrInUse) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("stop lab in %s: process %d does not end: %w", dir, s.PID,
				ctx.Err())
		}
	}
}
