package direct

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/ipa"
)

// A machine may go on into what was written by kexec, without a start of its firmware. Our agent finds out what the
// boot loader would start, and loads it, before everything that comes before a restart is done; then it is told to
// start it. Whatever is in the way of that, and a conductor that does not know for certain how far it came, ends in
// the restart by the firmware that there is otherwise.

// Commands of our agent for that.
const (
	loadCommand    = "kexec.load"
	executeCommand = "kexec.execute"
	// kexecWord is in the versions of agents that know them.
	kexecWord = "ingot.kexec"
	// kexecKey is in driver_info, in place of what the site says.
	kexecKey = "deploy_kexec"
)

const (
	defaultLeaving = 30 * time.Second
	// executeWithin is how long an agent has to flush the disk and to say that it starts another kernel.
	executeWithin = 20 * time.Second
	// It is gone when so many looks in a row find nobody, each of which takes leavingAsk at most. Between them is a part
	// of Leaving, a second by default.
	leavingLooks = 5
	leavingAsk   = 2 * time.Second
	leavingParts = 30
)

// allowsKexec tells whether the operator allows it.
func (d *Deploy) allowsKexec(n *ingot.Node) (bool, error) {
	text := strings.TrimSpace(driver.Text(n.DriverInfo, kexecKey))
	if text == "" {
		return d.o.Kexec, nil
	}
	allowed, ok := driver.Truth(text)
	if !ok {
		return false, ingot.Errorf(ingot.Invalid, "driver_info/%s of node %s is %.40q; it must be true or false", kexecKey,
			n.UUID, text)
	}
	return allowed, nil
}

// Properties are the keys of driver_info.
func (d *Deploy) Properties() map[string]string {
	return map[string]string{kexecKey: "Whether the machine may go on into what was written by kexec, without a start of " +
		"its firmware (true or false; deploy interface direct, an extension). Default: [deploy] kexec. Optional."}
}

// needsFirmware tells why a machine has to be started by its firmware; "" if it may go on without. networked says
// that its network interface is another one than noop.
func needsFirmware(n *ingot.Node, networked bool) string {
	asked := driver.AskedBootMode(n)
	switch {
	case networked:
		return "its networks change while it is off (network interface " + n.Interfaces["network"] + ")"
	case driver.BootsFromNetwork(n):
		return "the instance boots from the network"
	case driver.AsksSecureBoot(n):
		return "Secure Boot is switched on for the instance"
	case asked != "" && n.BootMode != "" && asked != n.BootMode:
		return "boot mode " + asked + " is asked for, and the machine is in " + n.BootMode
	case n.Attempt == nil || n.Attempt.Agent == nil || !strings.Contains(n.Attempt.Agent.Version, kexecWord):
		return "the agent of its ramdisk does not know kexec; the ramdisk of 'ingot ramdisk build' does"
	}
	return ""
}

// loadKernel has the agent load what the machine would boot, if that is allowed and can be. An agent that has loaded
// it loads it anew.
func (d *Deploy) loadKernel(ctx context.Context, t *driver.Task) error {
	// Of an attempt before: what it has loaded is thrown away, or is not to count.
	if t.Node.Attempt != nil {
		t.Node.Attempt.Kexec = ""
	}
	allowed, err := d.allowsKexec(t.Node)
	if err != nil || !allowed {
		return err
	}
	why, level := needsFirmware(t.Node, t.Driver.Network != nil), ingot.LevelInfo
	if why == "" {
		command, err := d.load(ctx, t)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			t.Node.Attempt.Kexec = ingot.KexecLoaded
			t.Note(ingot.Entry{Source: "agent", Text: "loaded for kexec: " + textOf(command.Result)})
			return nil
		}
		why, level = err.Error(), ingot.LevelWarning
	}
	t.Note(ingot.Entry{Source: "agent", Level: level, Text: "the machine is restarted by its firmware, not by kexec: " + why})
	return nil
}

func (d *Deploy) load(ctx context.Context, t *driver.Task) (ipa.Command, error) {
	agent, err := d.agent(t.Node)
	if err == nil {
		err = t.Allowed()
	}
	if err != nil {
		return ipa.Command{}, err
	}
	return agent.Run(ctx, loadCommand, ingot.Object{})
}

// mayGoOn tells whether what the agent has loaded is to be started still.
func (d *Deploy) mayGoOn(t *driver.Task) bool {
	allowed, err := d.allowsKexec(t.Node)
	return err == nil && allowed && t.Node.Attempt.Kexec == ingot.KexecLoaded &&
		needsFirmware(t.Node, t.Driver.Network != nil) == ""
}

// goOn has the agent start what it has loaded, and tells whether the machine is under way: the agent has said that it
// will, and is gone.
func (d *Deploy) goOn(ctx context.Context, t *driver.Task) (bool, error) {
	agent, err := d.agent(t.Node)
	if err != nil {
		return false, err
	}
	if err := t.Allowed(); err != nil {
		return false, err
	}
	told, cancel := context.WithTimeout(ctx, executeWithin)
	defer cancel()
	command, err := agent.Run(told, executeCommand, ingot.Object{})
	how := "whether or not it went on by kexec"
	if err != nil && command.Status != "" { // the agent itself says that it did not
		how = "since it did not go on by kexec"
	}
	if err == nil {
		t.Note(ingot.Entry{Source: "agent", Text: "the agent starts what it has loaded; waiting until it is gone for " +
			"certain, for some 15 seconds"})
		err = d.gone(ctx, agent)
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil {
		t.Note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"the machine is restarted by its firmware, %s: %v", how, err)})
		return false, nil
	}
	t.Note(ingot.Entry{Source: "agent", Text: "the machine goes on by kexec, without a start of its firmware"})
	return true, nil
}

// gone waits until the agent is not there any more, by default for 5 s if that is told and for 15 s if nobody answers:
// one look may fail on the way. That proves neither that the other kernel runs nor that the machine does. An agent that
// has said that it starts one ends in any case: if the kernel does not start it, by a restart, and the firmware boots
// the instance.
func (d *Deploy) gone(ctx context.Context, agent *ipa.Client) error {
	ctx, cancel := context.WithTimeout(ctx, d.o.Leaving)
	defer cancel()
	for looks := 0; looks < leavingLooks; {
		ask, cancel := context.WithTimeout(ctx, leavingAsk)
		_, err := agent.Commands(ask)
		cancel()
		if looks++; !unreachable(err) {
			looks = 0
		}
		if !driver.Wait(ctx, d.o.Leaving/leavingParts) {
			return ingot.Errorf(ingot.Unavailable, "the agent is not gone for certain %s after it said that it starts "+
				"another kernel", d.o.Leaving)
		}
	}
	return nil
}

// unreachable tells whether nobody was there to answer. An agent that answers badly is there.
func unreachable(err error) bool {
	var network *net.OpError
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded)
}
