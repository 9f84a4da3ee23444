package driver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

// BMCOptions is how BMCs are used; the zero value works.
type BMCOptions struct {
	// Timeout bounds how long a BMC may be silent, retransmissions included; 0 is 10 s. One that is
	// silent for as long is reported.
	Timeout time.Duration
	// PollInterval is how often the power state is read while it changes, after a quicker start;
	// 0 is one second.
	PollInterval time.Duration
	// Alone waits until no other conductor talks to the BMC of a node at an address, until done is called; nil:
	// there is no other. It lets those pass at once whose BMC is no other node's: who works on those is
	// decided by their reservation.
	Alone func(ctx context.Context, n *ingot.Node, address string) (done func(), err error)
	// DefaultBootMode is that of nodes which do not say: uefi or bios; "" is uefi. It decides
	// in which mode the BMC is asked to boot.
	DefaultBootMode string
}

// BMCs is what the interfaces of one kind of BMC share: how long one is tried, and whose turn it is.
type BMCs struct {
	BMCOptions
	turns *turns
	brief time.Duration // see Brief; 0 is not
}

// turns are whose turn it is at which BMC.
type turns struct {
	mu    sync.Mutex
	turns map[string]chan struct{} // by address; holds a token while the BMC is busy
}

// NewBMCs fills in the defaults of the options.
func NewBMCs(o BMCOptions) *BMCs {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.PollInterval <= 0 {
		o.PollInterval = time.Second
	}
	return &BMCs{BMCOptions: o, turns: &turns{turns: map[string]chan struct{}{}}}
}

// For is the same BMCs with another Timeout, for one that is known to be slow.
func (b *BMCs) For(timeout time.Duration) *BMCs {
	other := *b
	if other.Timeout = timeout; b.brief > 0 {
		other.Timeout = min(timeout, b.brief/4)
	}
	return &other
}

// Brief is the same BMCs, for what can be left for another time: a turn takes no longer than limit, in which one silent
// answer leaves time for others, and what fails is not tried again.
func (b *BMCs) Brief(limit time.Duration) *BMCs {
	other := *b
	other.brief = limit
	return other.For(b.Timeout)
}

// Patience is for how many times BMCOptions.Timeout an operation goes on with a BMC that is not there:
// one that restarts forgets its sessions, and answers nobody for a while; and it may be our network
// that is out. A minute by default, as long as Ironic tries (command_retry_timeout).
const Patience = 6

// Attempt is how one session with a BMC ended.
type Attempt struct {
	Entered bool // the login succeeded
	Gone    bool // the BMC did not answer, or nothing listens there
	Err     error
}

// Ask has try talk to a BMC when nobody else does, again if the BMC is lost on the way. One that
// does not even let us in gets one try; in the steps of a deployment, which would fail with all that
// was done, it gets as long as one that was lost. try calls answered when the BMC has let it in.
func (b *BMCs) Ask(ctx context.Context, t *Task, address string,
	try func(ctx context.Context, answered func()) Attempt) error {
	done, err := b.turn(ctx, t.Node, address)
	if err != nil {
		return err
	}
	defer done()
	if b.brief > 0 {
		ctx, cancel := context.WithTimeout(ctx, b.brief)
		defer cancel()
		return try(ctx, func() {}).Err
	}
	again, allowed := inSteps(t.Node), b.Timeout
	if again {
		allowed *= Patience
	}
	answered := b.awaited(t, address, allowed)
	defer answered()
	begun := time.Now()
	for {
		a := try(ctx, answered)
		if again = again || a.Entered; again && a.Gone &&
			time.Since(begun) < Patience*b.Timeout && Wait(ctx, b.PollInterval) {
			t.Log.Warn("BMC gone; trying again", "bmc", address, "error", a.Err)
			continue
		}
		return a.Err
	}
}

// turn waits until nobody else talks to the BMC of a node, here or elsewhere.
func (b *BMCs) turn(ctx context.Context, n *ingot.Node, address string) (done func(), err error) {
	here, err := b.turns.take(ctx, address)
	if err != nil || b.Alone == nil {
		return here, err
	}
	everywhere, err := b.Alone(ctx, n, address)
	if err != nil {
		here()
		return nil, err
	}
	return func() {
		everywhere() // first: who waits here asks the others next
		here()
	}, nil
}

// take waits until nobody else in this process talks to the BMC.
func (b *turns) take(ctx context.Context, address string) (done func(), err error) {
	b.mu.Lock()
	token := b.turns[address]
	if token == nil {
		token = make(chan struct{}, 1)
		b.turns[address] = token
	}
	b.mu.Unlock()
	select {
	case token <- struct{}{}:
		return func() { <-token }, nil
	case <-ctx.Done():
		return nil, ingot.Errorf(ingot.Unavailable,
			"BMC %s is busy with another operation: %w", address, ctx.Err())
	}
}

// inSteps tells whether the node is on its way to another state by steps on its machine. One whose
// BMC is tried for the first time is not: somebody waits for the word that its address is wrong.
func inSteps(n *ingot.Node) bool {
	state := lifecycle.State(n.ProvisionState)
	return lifecycle.KindOf(state) == lifecycle.Transient && state != lifecycle.Verifying
}

// awaited tells the journal that a BMC is silent, if somebody waits for the node, and how long it
// has; the caller says when it is not awaited any more.
func (b *BMCs) awaited(t *Task, address string, allowed time.Duration) (answered func()) {
	if t.Node.TargetProvisionState == "" && t.Node.TargetPowerState == "" {
		return func() {} // the power state is read now and then
	}
	told := make(chan struct{})
	timer := time.AfterFunc(b.Timeout/4, func() {
		defer close(told)
		t.Note(ingot.Entry{Source: "bmc", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"BMC %s does not answer yet; it has %s", address, allowed)})
	})
	return sync.OnceFunc(func() {
		if !timer.Stop() {
			<-told // who is called back may not be anywhere else
		}
	})
}

// Switch is how one machine is switched by its BMC.
type Switch struct {
	BMC   string // its address
	State func(ctx context.Context) (ingot.PowerState, error)
	// Send sends the command that leads to a state (PowerOn, PowerOff, SoftPowerOff), and tells which
	// it was; "" if the machine is there already.
	Send func(ctx context.Context, to ingot.PowerState) (command string, err error)
}

// SetPower brings a machine to the target and waits until the BMC says that it is there. A reboot is
// off, then on: BMCs differ in what a power cycle does to a machine that is off and in whether a boot
// device is honoured after a reset, and off can be seen to have happened.
func (b *BMCs) SetPower(ctx context.Context, t *Task, target ingot.PowerState, s Switch) error {
	switch target {
	case ingot.PowerOn, ingot.PowerOff, ingot.SoftPowerOff:
		return b.reach(ctx, t, target, s)
	case ingot.Rebooting, ingot.SoftReboot:
		off := ingot.PowerOff
		if target == ingot.SoftReboot {
			off = ingot.SoftPowerOff
		}
		if err := b.reach(ctx, t, off, s); err != nil {
			return err
		}
		return b.reach(ctx, t, ingot.PowerOn, s)
	}
	return ingot.Errorf(ingot.Invalid, "power target %q is not supported by power interface %s",
		target, t.Node.Interfaces["power"])
}

// reach sends the command unless the machine is in the state already, and waits for the state. A
// BMC that fails to answer while it switches the machine is asked again until time is up.
func (b *BMCs) reach(ctx context.Context, t *Task, to ingot.PowerState, s Switch) error {
	command, err := s.Send(ctx, to)
	if command == "" || err != nil {
		return err
	}
	t.Note(ingot.Entry{Source: "bmc", Text: "told the BMC: " + command})
	want := PowerResult(to)
	var last error
	// A virtual machine is there at once, a server may take ten seconds: ask soon, then seldom.
	for pause := b.PollInterval / 16; ; pause = min(2*pause, b.PollInterval) {
		if !Wait(ctx, pause) {
			return notReached(s.BMC, want, last)
		}
		state, err := s.State(ctx)
		if state == want {
			return nil
		}
		if !Spent(ctx) {
			last = err
		}
	}
}

func notReached(bmc string, want ingot.PowerState, last error) error {
	text := "it took the command, but the machine did not change its state"
	if last != nil {
		text = fmt.Sprintf("then it stopped answering: %v", last)
	}
	return ingot.Errorf(ingot.Unavailable, "BMC %s was told to reach %q in time: %s", bmc, want, text)
}

// Wait waits, false if the time of ctx is over before.
func Wait(ctx context.Context, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

// Spent tells whether the time of ctx is over. A deadline is handed to the socket, whose time-out may
// come a moment before that of the context.
func Spent(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && time.Until(deadline) < 20*time.Millisecond
}
