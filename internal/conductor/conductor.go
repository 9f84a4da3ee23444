// Package conductor owns nodes: it takes their reservation, runs verbs and power actions as
// persisted steps, answers what the API asks of hardware, and keeps rows and machines in
// agreement. It knows hardware only through the interfaces of package driver, and does not
// know who calls it: rpc.Conductor is its face.
//
// Three rules hold everywhere. A step is decided, persisted, then run, so a conductor that is
// killed at any point continues where it was. The reservation is held while something runs and
// never while a machine is waited for. Reconcilers take no input: what they find in the store
// after a restart is what they find every day.
//
// Read operation.go first (what a verb amounts to), then task.go (how a step is run).
package conductor

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/journal"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

// Journal takes what happened; *journal.Journal is one.
type Journal interface{ Add(e ingot.Entry) }

// Options is what a conductor works with. Store, Journal, Table, Host and Log are needed; the
// zero value of all others works.
type Options struct {
	Store   *store.Store
	Journal Journal
	Table   *driver.Table
	// Host is the name under which reservations are taken; no two conductors share it.
	Host string
	// Incarnation tells this process from all others; default: a new one.
	Incarnation string
	// Group is the conductor group, "" the default one.
	Group string
	// Address, Services and Version are what others are told of this conductor, see
	// ingot.Conductor.
	Address  string
	Services map[string]string
	Version  string
	// TakeName takes the name of another process that is alive, which ends; this one begins when that
	// one's lease is over. Else this one is refused.
	TakeName bool
	// Changed is told of the conductors there are, at first and whenever they change. nil: nobody.
	Changed func([]*ingot.Conductor)
	// BootTree is asked at each heartbeat for the digest of the boot files, see ingot.Conductor.
	// nil: there are none.
	BootTree func() string
	// Switched is told of a node, by UUID, when another boot intent of it is on record. It must not
	// block. nil: nobody.
	Switched func(uuid string)
	// Powered is told of a machine with an instance, both by UUID, when another power state of it is on
	// record, except while an operation of several steps goes on, which switches it now and then. It
	// must not block. nil: nobody.
	Powered func(node, instance string, s ingot.PowerState)
	Log     *slog.Logger

	// Workers bounds the operations that go on at once; 0 is 300. More are accepted and wait for
	// a worker, oldest first; power actions are refused as Unavailable.
	Workers int
	// Copies bounds the images that are written at once; 0 is 16. Machines beyond it wait with
	// their ramdisk running, see line.
	Copies int
	// CallbackTimeout is how long a ramdisk may take to call back; 0 is for ever.
	CallbackTimeout time.Duration
	// BootRetryTimeout is how long a ramdisk may take to call before its machine is booted again,
	// at first: each boot has twice the time of the one before. 0 is for ever.
	BootRetryTimeout time.Duration
	// CheckInterval is how often deadlines and abandoned work are looked for; 0 is 10 s.
	CheckInterval time.Duration
	// HeartbeatInterval is how often the conductor says that it lives; 0 is 10 s.
	HeartbeatInterval time.Duration
	// PowerSyncInterval is how often power states are compared with the rows; 0 is never.
	PowerSyncInterval time.Duration
	// ForcePower makes the machine follow the row when they differ; else the row follows.
	ForcePower bool
	// Sensors are which sensors are read, and how often.
	Sensors SensorOptions
	// PowerRecoveryInterval is how often machines with a power fault are tried again; 0 is 5
	// minutes.
	PowerRecoveryInterval time.Duration
	// RepointPause is between two nodes for which the DHCP of others is told of another server; 0 is 50 ms.
	RepointPause time.Duration
	// PowerTimeout is how long a machine may take to change its power state; 0 is one minute.
	PowerTimeout time.Duration
	// FirmwareTimeout is how long a change of boot mode or Secure Boot may take to count, once the machine
	// was started for it; 0 is 15 minutes, less does not wait. BIOS settings are waited for always.
	FirmwareTimeout time.Duration
	// GracePeriod is how long running steps may go on after Run was told to end; 0 is for none.
	GracePeriod time.Duration
	// KeepPowerOnFailure leaves a machine running whose deployment failed, for someone who
	// wants to look at it.
	KeepPowerOnFailure bool
	// AutomatedClean is the default of nodes that do not say; this version refuses to clean.
	AutomatedClean bool
	// LocalAgents says that agents of ramdisks may be on this host, as those of simulated machines are.
	LocalAgents bool
}

// Conductor is one conductor.
type Conductor struct {
	o     Options
	pool  *pool
	lease *lease
	line  *line // to the steps that copy an image
	ready chan struct{}
	// incarnation tells this process from another one of the same name.
	incarnation string
	// members are the conductors there are, as of the last heartbeat.
	members atomic.Pointer[membership]
	// seen are the same with the times of their heartbeats; used by the heart only.
	seen []*ingot.Conductor
	// bereaved is when a conductor was last found to be alive no more, microseconds since 1970; 0 is
	// never.
	bereaved atomic.Int64
	// leaving tells that this conductor is about to stop and wants no nodes; left wakes the heart to
	// say so at once.
	leaving atomic.Bool
	left    chan struct{}
	// drain is what was told of being drained; used by the heart only.
	drain drain
	// began is when this conductor began to hear machines; set before it is ready.
	began time.Time

	reconcilers []*reconciler
	// resumer takes up what waits for a worker, usher who waits in line.
	resumer, usher *reconciler
	// backlog tells that some node waits for a worker.
	backlog atomic.Bool

	repoints pace

	// told are the refusals of heartbeats that journals were told of.
	told  journal.Hourly
	asked *asked

	sensed sensed

	passthrus sync.Map // hardware type (string) to []driverPassthru

	// power counts failures to read a power state, by node.
	powerMu  sync.Mutex
	powerBad map[string]int

	// activeMu guards what follows. active holds the nodes that a task of this process works on,
	// suspects those that have no task though they are reserved; both by UUID.
	activeMu sync.Mutex
	active   map[string]bool
	suspects map[string]suspect
	// running holds what breaks off the operation on a node that an operator may interrupt, by
	// UUID; claimed counts the requests that wait for its end. Nobody else takes such a node up.
	running map[string]context.CancelCauseFunc
	claimed map[string]int
	// deferred holds the nodes that were given back because all workers were busy, by UUID.
	deferred map[string]bool

	// page is how many nodes are read at once; a test reads fewer.
	page int

	// crash, when a test sets it, is asked before each write; an error ends the task as if the
	// process had died there.
	crash func() error
}

var (
	_ rpc.Conductor = (*Conductor)(nil)
	_ driver.Finder = (*Conductor)(nil)
)

// New returns a conductor. It answers questions at once and accepts work while Run runs.
func New(o Options) *Conductor {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if o.Workers <= 0 {
		o.Workers = 300
	}
	if o.Copies <= 0 {
		o.Copies = 16
	}
	def(&o.CheckInterval, 10*time.Second)
	def(&o.RepointPause, 50*time.Millisecond)
	def(&o.HeartbeatInterval, 10*time.Second)
	def(&o.PowerRecoveryInterval, 5*time.Minute)
	def(&o.PowerTimeout, driver.DefaultPowerTimeout)
	o.Log = o.Log.With("conductor", o.Host)
	c := &Conductor{
		o: o, incarnation: cmp.Or(o.Incarnation, ingot.NewUUID()), pool: newPool(o.Workers),
		line: newLine(o.Copies), asked: newAsked(maxAsked), ready: make(chan struct{}), left: make(chan struct{}), page: syncPage,
		powerBad: map[string]int{}, active: map[string]bool{}, deferred: map[string]bool{},
		running: map[string]context.CancelCauseFunc{}, claimed: map[string]int{},
		repoints: pace{every: o.RepointPause},
	}
	length := time.Duration(0)
	if o.Store.Shared() {
		length = o.Store.ConductorLease()
	}
	c.lease = newLease(c.pool.work, length, o.Log, c.look)
	c.resumer = newReconciler("abandoned work", o.CheckInterval, c.resumeAbandoned)
	c.usher = newReconciler("line", o.CheckInterval, c.letIn)
	c.reconcilers = []*reconciler{
		c.resumer, c.usher,
		newReconciler("heartbeats", o.CheckInterval, c.followLeft),
		newReconciler("deadlines", o.CheckInterval, c.checkDeadlines),
		newReconciler("boot retry", o.CheckInterval, c.retryBoots),
		newReconciler("stranded boots", o.CheckInterval, c.retryStranded),
		newReconciler("journals", o.CheckInterval, c.recordPending),
		newReconciler("DHCP", repointEvery, c.repoint),
		newReconciler("virtual media", repointEvery, c.restoreMedia),
		newReconciler("switch off", o.PowerTimeout, c.switchOff),
		newReconciler("power recovery", o.PowerRecoveryInterval, c.recoverPower),
	}
	if o.PowerSyncInterval > 0 {
		c.reconcilers = append(c.reconcilers,
			newReconciler("power sync", o.PowerSyncInterval, c.syncPower))
	}
	if o.Sensors.Interval > 0 {
		c.reconcilers = append(c.reconcilers, newReconciler("sensors", o.Sensors.Interval, c.readSensors))
	}
	for _, r := range c.reconcilers {
		r.once = c.leased(r.once)
	}
	return c
}

// Ready is closed when the conductor accepts work.
func (c *Conductor) Ready() <-chan struct{} { return c.ready }

// Run works until ctx ends: it says that it lives, frees what a previous life under the same name
// has left reserved, and starts the reconcilers, which take up unfinished work.
// When ctx ends, its nodes are handed to other conductors, and running steps have GracePeriod to
// reach their end; what is not done then is abandoned and continues with the next life. Run returns when nothing runs any more. It ends by
// itself with Conflict when somebody else has taken the name.
func (c *Conductor) Run(ctx context.Context) error {
	if err := c.join(ctx); err != nil {
		return err
	}
	if err := c.free(ctx, c.o.Host); err != nil {
		return err
	}
	c.began = c.o.Store.Now()
	c.pool.open()
	close(c.ready)

	// It lives as long as its tasks do.
	living, die := context.WithCancel(context.WithoutCancel(ctx))
	defer die()
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	beaten := make(chan error, 1)
	go func() {
		err := c.beat(living)
		if err != nil {
			c.lease.stop()
		}
		quit()
		beaten <- err
	}()
	var wg sync.WaitGroup
	for _, r := range c.reconcilers {
		wg.Go(func() { r.run(ctx, c.o.Log) })
	}
	<-ctx.Done()
	c.leaving.Store(true)
	close(c.left)
	wg.Wait()
	if left := c.pool.close(c.o.GracePeriod); left > 0 {
		c.o.Log.Warn("abandoned running steps; they are repeated at the next start",
			"tasks", left)
	}
	die()
	c.lease.stop()
	if err := <-beaten; err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return c.o.Store.Leave(ctx, c.o.Host, c.incarnation)
}

// leased lets a reconciler work while the lease lasts. When it has ended, the lease tells.
func (c *Conductor) leased(once func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if c.lease.check() != nil {
			return nil
		}
		ctx, done := c.lease.bind(ctx)
		defer done()
		err := once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
}

// look has every reconciler look now.
func (c *Conductor) look() {
	for _, r := range c.reconcilers {
		r.wake()
	}
}

// free frees the nodes that a conductor which is no more has left reserved: one of another
// host, or the previous life of this one. Operations continue by themselves (resumeAbandoned);
// of a power action nobody knows how far it came.
func (c *Conductor) free(ctx context.Context, host string) error {
	left, err := c.o.Store.Nodes(ctx, store.NodeFilter{ReservedBy: host}, store.Page{})
	if err != nil || len(left) == 0 {
		return err
	}
	for _, n := range left {
		// Before the reservation ends, so that whoever is killed here is followed by one that
		// finds it again.
		if err := c.forgetPower(ctx, n); err != nil {
			return err
		}
		// As it was read: if it lives again, what it has reserved since stays its own.
		if err := c.o.Store.Release(ctx, n); err != nil {
			return err
		}
		c.followUp(n.UUID)
	}
	c.o.Log.Info("released nodes of a conductor that is no more", "of", host,
		"nodes", len(left))
	return nil
}

// forgetPower records that a power action nobody carries out any more was interrupted.
func (c *Conductor) forgetPower(ctx context.Context, n *ingot.Node) error {
	if n.TargetPowerState == "" || shallBeOff(n) {
		return nil
	}
	t, err := c.newTask(ctx, n)
	if err != nil {
		return err
	}
	t.interruptPower()
	err = t.save(ctx)
	if k := ingot.KindOf(err); k == ingot.Stale || k == ingot.NotFound {
		return nil
	}
	return err
}

// reconciler compares what is with what shall be, again and again. It takes no input.
type reconciler struct {
	name  string
	every time.Duration
	once  func(ctx context.Context) error
	kick  chan struct{}
}

func newReconciler(name string, every time.Duration,
	once func(context.Context) error) *reconciler {
	return &reconciler{name, every, once, make(chan struct{}, 1)}
}

func (r *reconciler) wake() {
	select {
	case r.kick <- struct{}{}:
	default: // one is pending
	}
}

func (r *reconciler) run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	for {
		if err := r.once(ctx); err != nil && ctx.Err() == nil {
			log.Error("reconciler failed; it will try again", "reconciler", r.name,
				"after", r.every, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.kick:
		}
	}
}
