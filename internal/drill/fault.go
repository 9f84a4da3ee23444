package drill

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ingot/internal/lab"
)

// kind is what is done to a server, or to what all of them need.
type kind string

// The kinds. All but kill end by themselves after a while.
const (
	kill      kind = "killed"             // SIGKILL; in random faults started again after a while
	pause     kind = "stopped"            // SIGSTOP, then SIGCONT
	partition kind = "cut off"            // the cable is pulled
	restart   kind = "restarted"          // SIGTERM, then started
	lossy     kind = "on a bad cable"     // some of its packets are lost
	corrupt   kind = "corrupted"          // a byte of a boot file that it holds is changed
	full      kind = "without boot files" // they are gone, and the disk is full
	reconnect kind = "reconnected"        // all connections to the database are ended
	database  kind = "database restarted"
)

// lost is how many of 100 packets are lost on a bad cable, in each direction.
const lost = 5

// fault is one entry of a schedule.
type fault struct {
	Kind   kind
	Server int // index
	// Arrived is the part of the machines, 0 to 1, that have to run their image before it begins.
	Arrived float64
	// Hold is how long it lasts; 0 is to the end.
	Hold time.Duration
}

// plan is what will be done, in the order in which it is done: a pure function of the options.
func plan(o Options) []fault {
	if o.Random > 0 {
		return randomPlan(o)
	}
	var all []fault
	for _, wanted := range []struct {
		kind  kind
		count int
		hold  time.Duration
	}{{kill, o.Kill, 0}, {pause, o.Pause, o.Hold}, {partition, o.Partition, o.Hold}} {
		for range wanted.count {
			all = append(all, fault{Kind: wanted.kind, Hold: wanted.hold})
		}
	}
	// Each server is disturbed once at the most; the first one is asked for the deployments and its
	// turn comes last.
	for i := range all {
		all[i].Server = o.Conductors - 1 - i
		all[i].Arrived = float64(i+1) / float64(len(all)+2)
	}
	return all
}

// randomPlan draws faults, of which each ends before the next begins on the same server, and leaves
// one server alone for the whole storm.
func randomPlan(o Options) []fault {
	random := rand.New(rand.NewPCG(o.Seed, 0))
	kinds := []kind{kill, kill, kill, pause, pause, pause, partition, partition, restart, lossy,
		corrupt, full, reconnect, database}
	spared := random.IntN(o.Conductors)
	all := make([]fault, o.Random)
	for i := range all {
		server := (spared + 1 + random.IntN(o.Conductors-1)) % o.Conductors
		all[i] = fault{Kind: kinds[random.IntN(len(kinds))], Server: server,
			Arrived: (float64(i) + random.Float64()) / float64(o.Random+1),
			Hold:    time.Second + time.Duration(random.Int64N(int64(o.Hold)))}
	}
	return all
}

// disturbedStorm is a storm while the schedule is carried out.
func (c *cluster) disturbedStorm(ctx context.Context, schedule []fault) (*Storm, error) {
	var told []event
	s, err := c.storm(ctx, func(ctx context.Context, begin time.Time) (err error) {
		told, err = c.disturb(ctx, begin, schedule)
		return err
	})
	if s == nil {
		return nil, err
	}
	for _, e := range told {
		s.Faults = append(s.Faults, e.text)
		s.LastFault = max(s.LastFault, e.at)
	}
	return s, err
}

// event is what was done, in which second.
type event struct {
	text string
	at   float64
}

// disturb carries out the schedule, and tells what was done.
func (c *cluster) disturb(ctx context.Context, begin time.Time, schedule []fault) (all []event,
	err error) {
	var g errgroup.Group
	busy := make([]chan struct{}, len(c.Servers))
	for i := range busy {
		busy[i] = make(chan struct{}, 1)
	}
	told := make(chan event, 2*len(schedule))
	for _, f := range schedule {
		for float64(c.arrived(begin)) < f.Arrived*float64(c.machines) {
			if err := wait(ctx, 20*time.Millisecond); err != nil {
				break
			}
		}
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			select {
			case busy[f.Server] <- struct{}{}:
				defer func() { <-busy[f.Server] }()
			case <-ctx.Done():
				return nil
			}
			return c.apply(ctx, f, func(text string) {
				at := time.Since(begin).Seconds()
				text = fmt.Sprintf("%5.1f s  %s", at, text)
				c.say("  %s", text)
				told <- event{text, at}
			})
		})
	}
	err = g.Wait()
	close(told)
	for e := range told {
		all = append(all, e)
	}
	return all, err
}

// apply does it, and ends it; done is told what was done and when.
func (c *cluster) apply(ctx context.Context, f fault, done func(text string)) error {
	s := c.Servers[f.Server]
	switch f.Kind {
	case kill:
		return c.whileDown(ctx, s, f, s.Kill, done)
	case restart:
		return c.whileDown(ctx, s, f, s.Stop, done)
	case pause:
		return c.hold(ctx, s, f, done, s.Pause, s.Continue)
	case partition:
		// What was begun is also ended when the drill is over.
		return c.hold(ctx, s, f, done, func() error { return s.Unplug(ctx) },
			func() error { return s.Plug(context.WithoutCancel(ctx)) })
	case lossy:
		return c.hold(ctx, s, f, done, func() error { return s.Lose(ctx, lost) },
			func() error { return s.Lose(context.WithoutCancel(ctx), 0) })
	case full:
		return c.hold(ctx, s, f, done, func() error {
			return inMounts(s.PID(), func() error {
				return unix.Mount("tmpfs", s.Cache(), "tmpfs", 0, "size=4k")
			})
		}, func() error {
			return inMounts(s.PID(), func() error {
				return unix.Unmount(s.Cache(), unix.MNT_DETACH)
			})
		})
	case corrupt:
		return c.corrupt(s, done)
	case reconnect:
		c.CutDatabase()
		done("all connections to the database ended")
	case database:
		if err := c.postgres.Restart(); err != nil {
			return fmt.Errorf("restart the database: %w", err)
		}
		done("the database was restarted")
	}
	return nil
}

// inMounts calls f on a thread that sees the files that a process sees: what it mounts is there for
// that process alone, and is gone with it.
func inMounts(pid int, f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ended <- func() error {
			mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
			if err != nil {
				return err
			}
			defer mounts.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("leave the directory of the other threads: %w", err)
			}
			if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter the mounts of process %d: %w", pid, err)
			}
			return f()
		}()
	}()
	return <-ended
}

// whileDown ends a server and starts it again if the fault is not to the end.
func (c *cluster) whileDown(ctx context.Context, s *lab.Server, f fault, end func() error,
	done func(string)) error {
	if err := end(); err != nil {
		return err
	}
	done(fmt.Sprintf("%s %s", s.Host, f.Kind))
	if f.Hold == 0 {
		return nil
	}
	if err := wait(ctx, f.Hold); err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	done(s.Host + " started again")
	return nil
}

// hold does something to a server for a while.
func (c *cluster) hold(ctx context.Context, s *lab.Server, f fault, done func(string),
	begin, end func() error) error {
	if err := begin(); err != nil {
		return err
	}
	done(fmt.Sprintf("%s %s", s.Host, f.Kind))
	waited := wait(ctx, f.Hold)
	if err := end(); err != nil {
		return err
	}
	if waited == nil {
		done(fmt.Sprintf("%s is back after %.0f s", s.Host, f.Hold.Seconds()))
	}
	return waited
}

// corrupt changes a byte of each boot file that a server holds.
func (c *cluster) corrupt(s *lab.Server, done func(string)) error {
	files, err := filepath.Glob(filepath.Join(s.Cache(), "*"))
	if err != nil {
		return err
	}
	changed := 0
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Size() < 4096 {
			continue
		}
		if err := flip(path, info.Size()/2); err != nil {
			return err
		}
		changed++
	}
	done(fmt.Sprintf("%d boot files of %s corrupted", changed, s.Host))
	return nil
}

// flip inverts the bits of one byte of a file.
func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("corrupt a boot file: %w", err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return fmt.Errorf("corrupt a boot file: %w", err)
	}
	b[0] = ^b[0]
	if _, err := f.WriteAt(b[:], at); err != nil {
		return fmt.Errorf("corrupt a boot file: %w", err)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
