package conductor_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/testkit"
)

// copies is a deploy interface of two steps; the second is a costly one.
type copies struct {
	fake.Deploy
	gate chan struct{} // each copy takes one token; closed: as many as they like

	mu      sync.Mutex
	running int
	most    int
	order   []string // names of nodes, as their copies began
}

func (d *copies) Steps(*ingot.Node) []ingot.Step {
	return []ingot.Step{{Interface: "deploy", Name: "deploy"},
		{Interface: "deploy", Name: "write_image"}}
}

func (d *copies) Copies(s ingot.Step) bool { return s.Name == "write_image" }

func (d *copies) Execute(ctx context.Context, t *driver.Task, s ingot.Step) (driver.Outcome,
	error) {
	if s.Name == "deploy" {
		return d.Deploy.Execute(ctx, t, s)
	}
	d.count(1, t.Node.Name)
	defer d.count(-1, "")
	select {
	case <-d.gate:
		return driver.Done, nil
	case <-ctx.Done():
		return driver.Done, ctx.Err()
	}
}

func (d *copies) count(by int, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running += by
	d.most = max(d.most, d.running)
	if name != "" {
		d.order = append(d.order, name)
	}
}

func (d *copies) began() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.order)
}

// crowd is a world whose nodes are deployed by copies.
type crowd struct {
	*world
	d *copies
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	x := &crowd{world: newWorld(t), d: &copies{gate: make(chan struct{})}}
	x.o.Table.Deploy[fake.Name] = x.d
	return x
}

// waits waits until the node waits in the line.
func (x *crowd) waits(name string) {
	x.t.Helper()
	x.until(name, "wait in the line", func(n *ingot.Node) bool {
		return n.Reservation == "" && strings.Contains(x.journal(name), "waiting for a free place")
	})
}

// begun waits until so many copies have begun.
func (x *crowd) begun(count int) []string {
	x.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if order := x.d.began(); len(order) >= count {
			return order
		}
		time.Sleep(time.Millisecond)
	}
	x.t.Fatalf("%d copies have not begun: %v", count, x.d.began())
	return nil
}

// lineUp starts a conductor that copies one image at once and deploys the nodes there: the first is
// inside, the others wait in their order.
func (x *crowd) lineUp(names ...string) *conductor.Conductor {
	x.t.Helper()
	x.o.Copies = 1
	c, _ := x.start()
	for i, name := range names {
		x.enroll(c, name, "available")
		x.provision(c, name, "deploy")
		if i == 0 {
			x.begun(1)
		} else {
			x.waits(name)
		}
	}
	return c
}

func TestManyDeploymentsAtOnceAllSucceed(t *testing.T) {
	t.Parallel()
	x := newCrowd(t)
	close(x.d.gate)
	x.o.Workers, x.o.Copies = 7, 3
	c, _ := x.start()
	const count = 40
	var all sync.WaitGroup
	for i := range count {
		x.enroll(c, fmt.Sprint("n", i), "available")
	}
	for i := range count {
		all.Go(func() {
			err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: fmt.Sprint("n", i),
				Event: "deploy"})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range count {
		if n := x.state(fmt.Sprint("n", i), "active"); n.LastError != "" {
			t.Errorf("%s: %s", n.Name, n.LastError)
		}
	}
	if x.d.most > 3 || len(x.d.began()) != count {
		t.Errorf("%d copies, %d at once", len(x.d.began()), x.d.most)
	}
}

func TestTheLineIsInTheOrderOfAgeAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	x := newCrowd(t)
	x.o.Copies, x.o.GracePeriod = 1, 10*time.Millisecond
	c, stop := x.start()
	names := []string{"n9", "n3", "n5", "n1"} // neither by name nor by row
	for _, name := range []string{"n1", "n3", "n5", "n9"} {
		x.enroll(c, name, "available")
	}
	for i, name := range names {
		x.provision(c, name, "deploy")
		if i == 0 {
			x.begun(1)
			continue
		}
		x.waits(name)
		want := fmt.Sprintf("waiting for a free place: %d before it (1 images are", i-1)
		if !strings.Contains(x.journal(name), want) {
			t.Errorf("%s: no %q in\n%s", name, want, x.journal(name))
		}
	}
	x.d.gate <- struct{}{}
	x.state("n9", "active")
	x.begun(2)
	stop() // in the middle of the second copy, with two in the line
	x.start()
	close(x.d.gate)
	for _, name := range names {
		x.state(name, "active")
	}
	// n3 was interrupted: it is the oldest, so its copy is repeated first.
	if got, want := x.d.began(), []string{"n9", "n3", "n3", "n5", "n1"}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

func TestABigProjectDoesNotKeepOutASmallOne(t *testing.T) {
	t.Parallel()
	x := newCrowd(t)
	x.o.Copies = 2
	c, _ := x.start()
	for i, owner := range []string{"big", "big", "big", "big", "small"} {
		n := x.enroll(c, fmt.Sprint("n", i), "available")
		n.Owner = owner
		if _, err := c.UpdateNode(t.Context(), n, rpc.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		x.provision(c, n.Name, "deploy")
		if i < 2 {
			x.begun(i + 1)
		} else {
			x.waits(n.Name)
		}
	}
	x.d.gate <- struct{}{}
	if got := x.begun(3); got[2] != "n4" {
		t.Errorf("order %v; n4 of another project should be third", got)
	}
	close(x.d.gate)
	for i := range 5 {
		x.state(fmt.Sprint("n", i), "active")
	}
}

func TestADeletedNodeLeavesTheLine(t *testing.T) {
	t.Parallel()
	x := newCrowd(t)
	c := x.lineUp("n0", "n1", "n2")
	n := x.node("n1")
	n.Maintenance = true
	if err := x.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	close(x.d.gate)
	x.state("n2", "active")
	if got := x.d.began(); !slices.Equal(got, []string{"n0", "n2"}) {
		t.Errorf("order %v", got)
	}
}

func TestALineSurvivesAKilledConductorAtEveryWrite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	for at, killed := int64(1), true; killed; at++ {
		x := newCrowd(t)
		close(x.d.gate)
		x.o.Copies, x.o.Workers = 1, 2
		c, stop, died := x.mortal(at)
		names := []string{"n0", "n1", "n2"}
		var refused []string
		for _, name := range names {
			x.enroll(c, name, "available")
			err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: name, Event: "deploy"})
			if err != nil && !conductor.Crashed(c) {
				t.Fatal(err)
			}
			if err != nil {
				refused = append(refused, name)
			}
		}
		killed = x.killedOrDone(died, names)
		stop()
		c, stop = x.start()
		for _, name := range refused {
			x.provision(c, name, "deploy")
		}
		for _, name := range names {
			x.state(name, "active")
		}
		stop()
	}
}

// killedOrDone waits for the death of a conductor, or for all nodes to be active.
func (x *crowd) killedOrDone(died <-chan struct{}, names []string) bool {
	deadline := time.After(patience)
	for {
		left := slices.IndexFunc(names, func(name string) bool {
			n := x.node(name)
			return n.ProvisionState != "active" || n.Reservation != ""
		})
		if left < 0 {
			return false
		}
		select {
		case <-died:
			return true
		case <-deadline:
			x.t.Fatalf("neither killed nor deployed: %s", x.node(names[left]).ProvisionState)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
