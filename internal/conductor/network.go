package conductor

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

// VIFs lists what is attached to the node.
func (c *Conductor) VIFs(ctx context.Context, ident string) ([]string, error) {
	t, err := c.read(ctx, ident)
	if err != nil || t.driver().Network == nil {
		return []string{}, err
	}
	return t.driver().Network.VIFs(t.dt), nil
}

// AttachVIF finds a port of the node for a VIF. A node without networks of Neutron takes any and keeps
// none, as in Ironic.
func (c *Conductor) AttachVIF(ctx context.Context, ident string, v rpc.VIF) error {
	return c.withNetwork(ctx, ident, "attach VIF "+v.ID, func(ctx context.Context, t *task, n driver.Network) error {
		return n.AttachVIF(ctx, t.dt, driver.VIF(v))
	})
}

// DetachVIF undoes it.
func (c *Conductor) DetachVIF(ctx context.Context, ident, vif string) error {
	return c.withNetwork(ctx, ident, "detach VIF "+vif, func(ctx context.Context, t *task, n driver.Network) error {
		return n.DetachVIF(ctx, t.dt, vif)
	})
}

// vifTimeout bounds what is done at Neutron for a request; whoever sent it from another conductor has
// given up after two minutes.
const vifTimeout = 100 * time.Second

// withNetwork does something with the network of a node, which is reserved meanwhile. It is not broken off
// when who asks goes away: half of it would be done.
func (c *Conductor) withNetwork(ctx context.Context, ident, what string,
	do func(ctx context.Context, t *task, n driver.Network) error) error {
	t, err := c.reserve(ctx, ident)
	if err != nil {
		return err
	}
	defer t.release(ctx)
	if err := t.compose(); err != nil || t.driver().Network == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.work, vifTimeout)
	defer cancel()
	if err := do(ctx, t, t.driver().Network); err != nil {
		t.note(ingot.Entry{Source: "network", Level: ingot.LevelError,
			Text: fmt.Sprintf("%s: %v", what, err)})
		return err
	}
	t.note(ingot.Entry{Source: "network", Text: what + ": done"})
	return nil
}

// disconnect takes the machine off all networks that it was connected to, and its VIFs off it.
func (t *task) disconnect(ctx context.Context) error {
	n := t.driver().Network
	if n == nil {
		return nil
	}
	if err := n.UnconfigureTenant(ctx, t.dt); err != nil {
		return fmt.Errorf("disconnect from the networks of the VIFs: %w", err)
	}
	if err := n.RemoveProvisioning(ctx, t.dt); err != nil {
		return fmt.Errorf("disconnect from the provisioning network: %w", err)
	}
	for _, vif := range n.VIFs(t.dt) {
		if err := n.DetachVIF(ctx, t.dt, vif); err != nil {
			return fmt.Errorf("detach VIF %s: %w", vif, err)
		}
	}
	return nil
}

// repointEvery is how often it is looked whether DHCP names servers that live no more; a change among
// the conductors has it looked at once.
const repointEvery = time.Minute

// repoint has the DHCP of others name servers that live, so many nodes a second and no more.
func (c *Conductor) repoint(ctx context.Context) error {
	if len(c.o.Table.Network) == 0 {
		return nil
	}
	free := false
	return c.eachNode(ctx, store.NodeFilter{Reserved: &free, Netboots: true}, func(n *ingot.Node) {
		if repointer(c.o.Table, n) == nil || !c.repoints.wait(ctx) {
			return
		}
		c.change(ctx, n, func(t *task) {
			r := repointer(c.o.Table, t.node)
			if r == nil {
				return
			}
			before := maps.Clone(t.node.DriverInternalInfo)
			if err := r.Repoint(ctx, t.dt); err != nil {
				t.node.DriverInternalInfo = before // whoever changes a node saves it
				t.log.Warn("DHCP names a boot server that is gone, and could not be told of another one",
					"error", err)
				t.note(ingot.Entry{Source: "network", Level: ingot.LevelWarning, Text: fmt.Sprintf(
					"DHCP names a boot server that is gone, and could not be told of another one: %v", err)})
			}
		})
	})
}

// repointer is the boot interface of a node of which the DHCP of others names a server that is gone; nil
// if there is none.
func repointer(table *driver.Table, n *ingot.Node) driver.Repointer {
	d, err := table.Compose(n)
	if err != nil || d.Network == nil {
		return nil
	}
	if r, ok := d.Boot.(driver.Repointer); ok && r.Lost(n) {
		return r
	}
	return nil
}

// pace lets things happen one after the other, every so often.
type pace struct {
	every time.Duration

	mu   sync.Mutex
	next time.Time // guarded by mu
}

// wait waits for its turn, false if ctx ends before.
func (p *pace) wait(ctx context.Context) bool {
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	turn := time.NewTimer(p.next.Sub(now))
	p.next = p.next.Add(p.every)
	p.mu.Unlock()
	defer turn.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-turn.C:
		return true
	}
}
