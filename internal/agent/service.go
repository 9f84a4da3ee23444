package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/agent/command"
	"ingot/internal/agent/device"
)

// agentPort is where conductors look for agents.
const agentPort = "9999"

// service is the part of the agent's life that has a network, if a conductor commands it.
type service struct {
	params  Params
	address net.IP
	caller  *Caller
	machine machine
	// cards are the addresses of the machine's network cards, listen is where commands come in.
	cards  func() ([]string, error)
	listen string
	spawn  func(func())
	say    func(string, ...any)
	// quick is the interval of heartbeats that are news; 0: the default.
	quick time.Duration
	// patience is how long sources of an image are asked, pause the first pause between rounds.
	patience, pause time.Duration

	standing Standing
	ends     chan ending // of one place: what a command wants to become of the machine

	mu       sync.Mutex
	written  *written // guarded by mu: the last image
	loaded   string   // guarded by mu: what kexec.execute would start, for people; "" is nothing
	exported *target  // guarded by mu
}

// machine is what commands do to the machine. Tests have another one.
type machine struct {
	// disk waits for the disk to deploy to.
	disk func() choice
	// disks are all that could be written.
	disks func() ([]Disk, error)
	open  func(Disk) (*device.Disk, error)
	// spool is a directory for an image that has to be kept whole, and how many bytes may be in it.
	spool func() (dir string, bytes int64, undo func(), err error)
	// sync makes sure that what was written is on the disk of that choice.
	sync func() error
	logs func() map[string]string
	// volumes mounts the file systems of a disk, load has the kernel keep another one with its initramfs (nil is
	// none) and command line, free is how many bytes of memory there are.
	volumes func(disk string) (volumes, error)
	load    func(kernel, initramfs *os.File, args string) error
	free    func() (int64, error)
	// export and withdraw lend the disk.
	export   func(target) error
	withdraw func(target) error
}

func newService(p Params, address net.IP, caller *Caller, disk func() choice) *service {
	once := sync.OnceValue(disk)
	caller.Clock = setClock
	caller.Patience = p.LookupTimeout
	return &service{
		params: p, address: address, caller: caller, cards: cards, listen: ":" + agentPort, spawn: spawn,
		say: say, patience: sourcePatience, pause: 2 * time.Second, ends: make(chan ending, 1),
		machine: machine{
			disk:  once,
			disks: func() ([]Disk, error) { return listDisks(sysBlock) },
			open:  func(d Disk) (*device.Disk, error) { return device.Open("/dev/" + d.Name) },
			spool: memorySpool,
			sync: func() error {
				unix.Sync()
				if c := once(); c.err == nil {
					return flush("/dev/" + c.disk.Name)
				}
				return nil
			},
			logs: func() map[string]string {
				kernel, err := kernelLog()
				if err != nil {
					kernel = err.Error()
				}
				return map[string]string{"dmesg": kernel, "agent.log": said.String()}
			},
			volumes:  mountVolumes,
			load:     loadKernelFile,
			free:     freeMemory,
			export:   func(t target) error { return hush(t.export) },
			withdraw: target.withdraw,
		},
	}
}

// clockSlack is how wrong the machine's clock may be.
const clockSlack = time.Minute

// setClock sets the clock of the machine by that of a server if it is far off: certificates, its own and
// those of others, depend on it. A server that lies about this could lie about the image, too.
func setClock(now time.Time) {
	if d := time.Since(now); d < clockSlack && d > -clockSlack {
		return
	}
	ts := unix.NsecToTimespec(now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		say("set the clock: %v; going on", err)
	}
}

// run finds out who this machine is and does what conductors ask until one of them ends it.
func (s *service) run(ctx context.Context) (ending, error) {
	cards, err := s.cards()
	if err != nil {
		return powerOff, err
	}
	if s.standing, err = s.caller.Lookup(ctx, cards, s.params.Token); err != nil {
		return powerOff, fmt.Errorf("ask who this machine is: %w", err)
	}
	s.caller.Clock, s.caller.Node = nil, s.standing.Node
	certificate, text, err := command.NewCertificate(s.address, time.Now())
	if err != nil {
		return powerOff, err
	}
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		return powerOff, fmt.Errorf("listen for commands: %w", err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	runner := &command.Runner{Commands: s.commands(), Spawn: s.spawn}
	h := newHeart(s.caller, Heartbeat{
		Callback: "https://" + net.JoinHostPort(s.address.String(), port), Version: agentVersion,
		Token: s.standing.Token, Certificate: text,
	}, s.standing.Heartbeat, runner.Busy)
	if s.quick > 0 {
		h.quick = s.quick
	}
	runner.Ended = h.hurry
	server := &command.Server{Runner: runner, Token: s.standing.Token, Version: agentVersion,
		Heard: h.heard, Log: consoleLog(s.say)}
	s.say("node %s, %s after the kernel started; waiting for commands at %s", s.standing.Node, uptime(),
		h.beat.Callback)
	end, err := s.attend(ctx,
		func(ctx context.Context) error { return server.Serve(ctx, l, certificate) }, h.run)
	return end, errors.Join(err, s.letGo())
}

// attend runs tasks until a command wants an end, or one of them does not go on.
func (s *service) attend(ctx context.Context, tasks ...func(context.Context) error) (ending, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(tasks))
	for _, task := range tasks {
		s.spawn(func() { failed <- task(ctx) })
	}
	end, left := powerOff, len(tasks)
	var err error
	select {
	case end = <-s.ends:
	case err = <-failed:
		left--
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	cancel()
	for range left { // answers that are on their way get there
		err = errors.Join(err, <-failed)
	}
	return end, err
}

// letGo closes what is left of a disk that was lent.
func (s *service) letGo() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exported == nil {
		return nil
	}
	t := *s.exported
	s.exported = nil
	return s.machine.withdraw(t)
}

// consoleLog puts lines on the console.
type consoleLog func(string, ...any)

func (c consoleLog) Write(line []byte) (int, error) {
	c("%s", printable(string(line)))
	return len(line), nil
}

// spoolDir is where memorySpool mounts, spoolReserve what package image leaves free there.
const (
	spoolDir     = "/spool"
	spoolReserve = 128 << 20
)

// memorySpool is a file system in half of the free memory.
func memorySpool() (dir string, bytes int64, undo func(), err error) {
	free, err := freeMemory()
	if err != nil {
		return "", 0, nil, err
	}
	if err := os.MkdirAll(spoolDir, 0o700); err != nil {
		return "", 0, nil, fmt.Errorf("make spool: %w", err)
	}
	bytes = free / 2
	err = unix.Mount("tmpfs", spoolDir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes+spoolReserve))
	if err != nil {
		return "", 0, nil, fmt.Errorf("make spool: %w", err)
	}
	return spoolDir, bytes, func() {
		if err := unix.Unmount(spoolDir, unix.MNT_DETACH); err != nil {
			say("unmount spool: %v; going on", err)
		}
	}, nil
}
