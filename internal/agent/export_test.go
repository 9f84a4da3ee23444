package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"ingot/internal/agent/device"
	"ingot/internal/bootentry"
	"ingot/internal/netlink"
	"ingot/internal/roothint"
)

// What the tests need of the inside.

var (
	ListDisks   = listDisks
	ReadModules = readModules
	LinkUp      = netlink.Up
	AddAddress  = addAddress
	AddDefault  = addDefaultRoute
	Fault       = fault
)

func FindDisk(ctx context.Context, dir string, hints roothint.Hints, patience,
	settle time.Duration) (Disk, string, error) {
	return findDisk(ctx, dir, wanted{hints, patience, settle})
}

// ConflictPause is how long a look-up waits after the node was found locked so many times before.
func ConflictPause(c *Caller, before int) time.Duration { return c.conflictPause(before) }

// Patience is that with sources of images.
type Patience struct{ patience }

func NewPatience(length time.Duration) *Patience { return &Patience{patience{length: length}} }

func (p *Patience) Failed(now time.Time, after int64) { p.failed(now, after) }
func (p *Patience) Over(now time.Time) bool           { return p.over(now) }

// Lend lends a disk by the kernel's target whose configfs is at root.
func Lend(root string) error {
	return target{root: root, iqn: "iqn.2008-10.org:x", portal: portal, disk: Disk{Name: "vda"}}.export()
}

// Settings are the writes that export a disk, as path=value relative to the group or backend.
func Settings(disk Disk, login Credentials) map[string]string {
	t := target{root: "/t", iqn: "iqn.2008-10.org:x", disk: disk, login: login}
	out := make(map[string]string)
	for _, s := range t.settings() {
		out[s.path] = s.value
	}
	return out
}

// Agent is a service whose machine has a file in the place of a disk.
type Agent struct {
	Params   Params
	APIs     []string
	Patience time.Duration
	// Sources is how long sources of images are asked. Default a minute.
	Sources time.Duration
	// Disk and Spool are paths; without Spool there is no room for one.
	Disk, Spool string

	// Volumes are the file systems of the disk, Unread those that are not read, Free is the memory that there is,
	// Refuse what comes of a kernel.
	Volumes []bootentry.Volume
	Unread  []string
	Free    int64
	Refuse  error

	mu sync.Mutex
	// loaded are the kernels that the kernel was given. Said are the lines on the console, Exports and Syncs what was done to the machine.
	said    []string
	exports []Target
	syncs   int
	loaded  []string
}

// Target is a disk that was lent.
type Target struct{ IQN, Portal, User, Secret string }

// Run runs the agent until a command ends it: "restart", "power off" or "kexec".
func (a *Agent) Run(ctx context.Context) (string, error) {
	disk := Disk{Name: "test", Bytes: 1 << 30}
	p := a.Params
	p.Protocol = IPA
	s := newService(p, net.IPv4(127, 0, 0, 1), &Caller{Node: p.Node, APIs: a.APIs, Pause: 10 * time.Millisecond,
		Say: func(text string) { a.note("%s", text) }}, func() choice { return choice{disk: disk} })
	s.caller.Clock, s.caller.Patience = nil, a.Patience
	s.cards = func() ([]string, error) { return []string{"52:54:00:77:00:09", "52:54:00:77:00:0a"}, nil }
	s.listen, s.quick = "127.0.0.1:0", 50*time.Millisecond
	s.patience, s.pause = cmp.Or(a.Sources, time.Minute), 10*time.Millisecond
	s.spawn, s.say = func(task func()) { go task() }, a.note
	s.machine = machine{
		disk:  s.machine.disk,
		disks: func() ([]Disk, error) { return []Disk{disk}, nil },
		open:  func(Disk) (*device.Disk, error) { return device.Open(a.Disk) },
		spool: func() (string, int64, func(), error) { return a.Spool, 64 << 20, func() {}, nil },
		sync:  func() error { a.mu.Lock(); defer a.mu.Unlock(); a.syncs++; return nil },
		logs: func() map[string]string {
			return map[string]string{"dmesg": "Command line: ipa-agent-token=" + p.Token, "agent.log": "x"}
		},
		volumes: func(disk string) (volumes, error) {
			var unread []bootentry.Volume
			for _, name := range a.Unread {
				unread = append(unread, bootentry.Volume{Name: name})
			}
			return volumes{a.Volumes, unread, func() { a.note("unmounted %s", disk) }}, nil
		},
		free: func() (int64, error) { return cmp.Or(a.Free, 1<<30), nil },
		load: func(kernel, initramfs *os.File, args string) error {
			text, err := io.ReadAll(kernel)
			if err == nil && initramfs != nil {
				if _, err = initramfs.Seek(0, io.SeekStart); err == nil {
					var more []byte
					more, err = io.ReadAll(initramfs)
					text = append(append(text, '+'), more...)
				}
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			a.loaded = append(a.loaded, string(text)+"|"+args)
			return errors.Join(err, a.Refuse)
		},
		export: func(t target) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.exports = append(a.exports, Target{t.iqn, t.portal, t.login.User, t.login.Secret})
			return nil
		},
		withdraw: func(target) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if len(a.exports) == 0 {
				return errors.New("nothing is lent")
			}
			a.exports = a.exports[1:]
			return nil
		},
	}
	end, err := s.run(ctx)
	return map[ending]string{restart: "restart", powerOff: "power off", kexec: "kexec"}[end], err
}

func (a *Agent) note(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said = append(a.said, fmt.Sprintf(format, args...))
}

// Said are the lines on the console.
func (a *Agent) Said() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.said...)
}

// Exports are the targets there are.
func (a *Agent) Exports() []Target {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Target(nil), a.exports...)
}

// Loaded are the kernels, as "kernel+initramfs|command line".
func (a *Agent) Loaded() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.loaded...)
}

// Syncs is how often the disk was flushed.
func (a *Agent) Syncs() int { a.mu.Lock(); defer a.mu.Unlock(); return a.syncs }

// ReadFloppy and WithFloppy are those of the agent.
func ReadFloppy(sys, dev string) (string, error) { return readFloppy(sys, dev) }

func WithFloppy(ctx context.Context, line string) (string, error) { return withFloppy(ctx, line) }

// MountReadOnly mounts a file system of a device at dir, as kexec does, and returns what undoes that.
func MountReadOnly(device, dir, kind, options string) (undo func() error, err error) {
	m, err := mountReadOnly(device, dir, kind, options)
	return m.undo, err
}

// ReadableAs is how a kind of file system is mounted.
func ReadableAs(kind string) (name, options string) {
	return readable[kind].kind, readable[kind].options
}
