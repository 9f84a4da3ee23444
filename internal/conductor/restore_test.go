package conductor_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
)

// restoring is a boot interface whose machines read media from servers.
type restoring struct {
	driver.Boot
	mu       sync.Mutex // guards what follows
	bereft   bool
	fails    bool
	restored int
}

func (r *restoring) Bereft(n *ingot.Node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bereft && (n.ProvisionState == "wait call-back" || n.ProvisionState == "active")
}

func (r *restoring) Restore(_ context.Context, t *driver.Task) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restored++
	if r.fails {
		return errors.New("the BMC is away")
	}
	t.Node.DriverInternalInfo, r.bereft = ingot.Object{"restored": true}, false
	return nil
}

func (r *restoring) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// A machine that waits for its media gets them from another server, until it has; one that has begun to boot
// from them is started again instead.
func TestS3_5_MediaAreTakenOverWhileAMachineIsWaitedFor(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	boot := &restoring{Boot: x.o.Table.Boot["ipxe"]}
	x.o.Table.Boot["ipxe"] = boot
	x.o.Incarnation = "me"
	x.mute(1)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.state("n1", "wait call-back")
	n := x.node("n1")
	says := func(text string) func() bool {
		return func() bool {
			c.Wake()
			return strings.Contains(x.journal("n1"), text)
		}
	}
	boot.set(func() { boot.bereft, boot.fails = true, true })
	testkit.Eventually(t, "it fails", says("could not be taken over: the BMC is away"))
	boot.set(func() { boot.fails = false })
	testkit.Eventually(t, "it is done", says("took over what the machine boots"))
	x.until("n1", "it is on record", func(n *ingot.Node) bool {
		return n.Reservation == "" && n.DriverInternalInfo["restored"] == true
	})
	read := func(age time.Duration) {
		e := ingot.Entry{Node: n.UUID, Attempt: n.Attempt.ID, Source: "bmc", Level: "info", Text: "is read",
			Data: ingot.Object{ingot.DataServer: "gone"}, Time: x.store.Now().Add(-age)}
		if err := x.store.AppendJournal(t.Context(), []ingot.Entry{e}); err != nil {
			t.Fatal(err)
		}
	}
	for _, age := range []time.Duration{30 * time.Second, 2 * time.Minute} {
		again := age > time.Minute
		read(age)
		if why, err := conductor.Stranded(t.Context(), c, n); err != nil || (why != "") != again {
			t.Errorf("read %s ago: started again because %q, %v", age, why, err)
		}
	}
	conductor.Bereave(c, x.store.Now().Add(-30*time.Second)) // of a medium that was read to its end before
	if why, err := conductor.Stranded(t.Context(), c, n); err != nil || why != "" {
		t.Errorf("30 s after the death of the server: started again because %q, %v", why, err)
	}
	read(-time.Second) // after its start
	before := 0
	boot.set(func() { boot.bereft, before = true, boot.restored })
	if err := conductor.RestoreMedia(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	boot.set(func() {
		if boot.restored != before {
			t.Error("another medium is inserted while the machine boots from the first")
		}
	})
}

// A machine that boots from a server at each start is told of another one, also after years.
func TestWhatMachinesInUseBootIsTakenOver(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	boot := &restoring{Boot: x.o.Table.Boot["ipxe"], bereft: true, fails: true}
	x.o.Table.Boot["ipxe"] = boot
	n := x.node("n1")
	n.ProvisionState, n.BootIntent, n.PowerState = "active", ingot.BootInstance, ingot.PowerOn
	if err := x.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	c, _ := x.start()
	if err := conductor.RestoreMedia(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	boot.set(func() {
		if boot.restored != 0 {
			t.Error("a machine that runs lost its medium to a server that may be restarted")
		}
	})
	x.change("n1", func(n *ingot.Node) { n.PowerState = ingot.PowerOff })
	tried := func(times int) func() bool {
		return func() (done bool) {
			c.Wake()
			boot.set(func() { done = boot.restored >= times })
			return done
		}
	}
	testkit.Eventually(t, "it is tried again", tried(2))
	boot.set(func() { boot.fails = false })
	x.until("n1", "it is on record", func(n *ingot.Node) bool {
		c.Wake()
		return n.Reservation == "" && n.DriverInternalInfo["restored"] == true
	})
	told := x.journal("n1")
	if n := strings.Count(told, "could not be taken over: the BMC is away"); n != 1 {
		t.Errorf("the journal tells %d times of the failure:\n%s", n, told)
	}
	if !strings.Contains(told, "took over what the machine boots") {
		t.Errorf("the journal does not tell of it:\n%s", told)
	}
}
