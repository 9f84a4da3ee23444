// Package agent is the program that runs, alone, in the deploy ramdisk. It lends the machine's disk
// to the conductor over iSCSI and gets out of the way; or, with agent_protocol=ipa on the kernel
// command line, it takes commands as ironic-python-agent does, and writes the image itself.
//
// It is process 1 and has no others: no shell, no udev, no modprobe. It loads the drivers and gets
// an address by DHCP or from its command line. Whatever goes wrong ends in a line on the console, in
// a call to the server if there is a network, and in power off: never in a machine that hangs.
//
// Who lends has the kernel's own iSCSI target export the disk under one-time CHAP credentials, posts
// where and how to the server (pass_deploy_info), waits on TCP port 10000 for the outcome, closes the
// target, flushes, posts pass_deploy_status and is power cycled: see lending.
//
// Who is commanded asks the server which node it is and what token both know, listens on port 9999
// with a certificate of its own, and sends heartbeats that say so: see service. Memory is bounded
// whatever the image: it is streamed to the disk.
//
// Everything about boot configuration is the conductor's. The ramdisk that holds the agent is built
// by package ramdisk. Read first: lending.run and service.run.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/roothint"
)

// Where the ramdisk and the kernel keep things.
const (
	modulesFile = "/etc/modules" // load order, one path a line, written by package ramdisk
	sysBlock    = "/sys/block"
	sysNet      = "/sys/class/net"
	targetRoot  = "/sys/kernel/config/target"
	outcomePort = ":10000"
)

// How long the agent waits for what should not take long.
const (
	diskPatience  = 30 * time.Second
	diskSettle    = 300 * time.Millisecond
	netPatience   = 2 * time.Minute
	powerDelay    = 30 * time.Second  // after an error, so that people can read it
	failedDelay   = 10 * time.Second  // after a failed deploy
	cyclePatience = 120 * time.Second // for the conductor to power cycle the machine
	kexecDelay    = time.Second       // for the answer: what a card has not sent yet it forgets then
)

// Init is the whole life of the deploy ramdisk. It must be process 1 and does not return: it
// powers the machine off, restarts it, or starts the kernel that was loaded.
func Init() {
	power := powerOff
	defer func() {
		unix.Sync()
		err := unix.Reboot(int(power))
		say("the kernel does not end: %v; restarting", err) // without a kernel to go on with, say
		unix.Reboot(int(restart))
	}()
	defer lastWords()
	prepareProcess()
	end, err := life(context.Background())
	switch {
	case end == kexec:
		if err != nil { // the conductor believes that it is under way
			say("%v; going on", err)
		}
		time.Sleep(kexecDelay)
	case err != nil:
		say("error: %v", err)
		say("powering off in %s", powerDelay)
		time.Sleep(powerDelay)
		return
	}
	power = end
}

// ending is what becomes of the machine, an argument of reboot(2).
type ending int

const (
	restart  ending = unix.LINUX_REBOOT_CMD_RESTART
	powerOff ending = unix.LINUX_REBOOT_CMD_POWER_OFF
	kexec    ending = unix.LINUX_REBOOT_CMD_KEXEC
)

// lastWords, deferred, turns a panic into power off with a reason: the end of process 1 would
// be the kernel's panic, which tells nobody why.
func lastWords() {
	r := recover()
	if r == nil {
		return
	}
	say("internal error: %v\n%s", r, debug.Stack())
	say("powering off in %s; please report this", powerDelay)
	time.Sleep(powerDelay)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// spawn starts a task that runs until the machine is restarted.
func spawn(task func()) {
	go func() {
		defer lastWords()
		task()
	}()
}

// say prints one line on the console, and keeps it for who asks for logs.
func say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	said.add(uptime() + " " + line)
	fmt.Fprintf(os.Stdout, "ingot-agent: %s\n", line)
}

// life is everything from mounting /proc to the end of the deploy.
func life(ctx context.Context) (ending, error) {
	if err := mountAll(); err != nil {
		return powerOff, err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return powerOff, fmt.Errorf("read kernel command line: %w", err)
	}
	text, err := withFloppy(ctx, string(line))
	if err != nil {
		return powerOff, err
	}
	params, err := ParseParams(text)
	if err != nil {
		return powerOff, err
	}
	say("deploying node %s", cmp.Or(params.Node, "that the server will name"))
	if err := hush(func() error { return loadModules(modulesFile) }); err != nil {
		say("%v; going on without", err)
	}
	if err := mountConfigfs(); err != nil {
		say("%v; going on without", err)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	disk := startFindDisk(ctx, params.Hints) // while the network comes up
	address, err := joinNetwork(ctx, params.BootMAC, params.Static)
	if err != nil {
		return powerOff, err
	}
	caller := &Caller{Node: params.Node, APIs: params.APIs, Insecure: params.Insecure,
		Say: func(text string) { say("%s", text) }}
	if params.Protocol == IPA {
		return newService(params, address, caller, disk).run(ctx)
	}
	d := lending{params: params, address: address, disk: disk, caller: caller}
	return restart, d.run(ctx)
}

// choice is a disk and what there is to say about it.
type choice struct {
	disk   Disk
	remark string
	err    error
}

// startFindDisk begins to look for the disk; the function it returns waits for the answer.
func startFindDisk(ctx context.Context, hints roothint.Hints) func() choice {
	found := make(chan choice, 1)
	spawn(func() {
		var c choice
		c.disk, c.remark, c.err = findDisk(ctx, sysBlock, wanted{hints, diskPatience, diskSettle})
		found <- c
	})
	return func() choice { return <-found }
}

// A lending is the part of the agent's life that has a network, if nobody commands it.
type lending struct {
	params  Params
	address net.IP
	disk    func() choice // waits for it
	caller  *Caller
}

// run exports the disk, reports it and does what the outcome asks for.
func (d lending) run(ctx context.Context) error {
	listener, err := Listen(outcomePort)
	if err != nil {
		return d.report(ctx, err)
	}
	spawn(func() { listener.Serve(ctx) })
	t, err := d.export()
	if err != nil {
		return d.report(ctx, err)
	}
	info := DeployInfo{
		Address: d.address.String(), Port: "3260", IQN: d.params.IQN, LUN: "1",
		Key: d.params.Key, CHAPUsername: t.login.User, CHAPPassword: t.login.Secret,
		Disk: t.about,
	}
	err = d.caller.Post(ctx, "pass_deploy_info", info)
	switch {
	case errors.Is(err, ErrUnclear):
		say("%v: waiting for the conductor", err)
	case err != nil:
		return errors.Join(err, t.withdraw())
	default:
		say("reported to %s, %s after the kernel started; waiting for the image",
			strings.Join(d.params.APIs, ", "), uptime())
	}
	return d.finish(ctx, t, <-listener.Outcome())
}

// export chooses the disk and makes it a target.
func (d lending) export() (target, error) {
	c := d.disk()
	if c.err != nil {
		return target{}, c.err
	}
	t := target{root: targetRoot, iqn: d.params.IQN, portal: portal, disk: c.disk,
		about: c.disk.String(), serial: newSerial()}
	if c.remark != "" {
		t.about += ": " + c.remark
		say("%s", t.about)
	}
	if !d.params.OpenTarget {
		t.login = NewCredentials()
	}
	if err := hush(t.export); err != nil {
		return target{}, fmt.Errorf("export %s: %w. The kernel of the deploy ramdisk must "+
			"bring its iSCSI target: build both by `ingot ramdisk build`", t.disk, err)
	}
	say("disk %s exported as %s on %s:3260", t.disk, t.iqn, d.address)
	return t, nil
}

// report tells people and then the server why there is no disk to write.
func (d lending) report(ctx context.Context, cause error) error {
	say("error: %v", cause)
	err := d.caller.Post(ctx, "pass_deploy_info", DeployInfo{
		Address: d.address.String(), Port: "3260", IQN: d.params.IQN, LUN: "1",
		Key: d.params.Key, Error: cause.Error(),
	})
	if err != nil {
		return fmt.Errorf("tell the server: %w", err)
	}
	return errors.New("not deployed; the server knows why")
}

// finish closes the target and, if the image is there, flushes the disk, says so and waits to
// be power cycled.
func (d lending) finish(ctx context.Context, t target, o Outcome) error {
	if err := t.withdraw(); err != nil {
		say("%v; going on", err)
	}
	if !o.Done {
		say("the conductor gave up: %s", o.Reason)
		say("powering off in %s", failedDelay)
		time.Sleep(failedDelay)
		unix.Sync()
		return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	say("image written; closing the disk")
	if err := flush("/dev/" + t.disk.Name); err != nil {
		return errors.Join(err, d.caller.Post(ctx, "pass_deploy_status",
			DeployStatus{Key: d.params.Key, Status: "Failed", Error: err.Error()}))
	}
	err := d.caller.Post(ctx, "pass_deploy_status",
		DeployStatus{Key: d.params.Key, Status: "Completed"})
	if err != nil {
		return err
	}
	say("completed; waiting to be restarted")
	time.Sleep(cyclePatience)
	say("nobody restarted this machine for %s; restarting", cyclePatience)
	return nil
}
