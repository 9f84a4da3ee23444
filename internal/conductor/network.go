package conductor

import (
	"context"
	"fmt"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
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
	return c.withNetwork(ctx, ident, "attach VIF "+v.ID, func(t *task, n driver.Network) error {
		return n.AttachVIF(ctx, t.dt, driver.VIF(v))
	})
}

// DetachVIF undoes it.
func (c *Conductor) DetachVIF(ctx context.Context, ident, vif string) error {
	return c.withNetwork(ctx, ident, "detach VIF "+vif, func(t *task, n driver.Network) error {
		return n.DetachVIF(ctx, t.dt, vif)
	})
}

// withNetwork does something with the network of a node, which is reserved meanwhile.
func (c *Conductor) withNetwork(ctx context.Context, ident, what string,
	do func(t *task, n driver.Network) error) error {
	t, err := c.reserve(ctx, ident)
	if err != nil {
		return err
	}
	defer t.release(ctx)
	if err := t.compose(); err != nil || t.driver().Network == nil {
		return err
	}
	if err := do(t, t.driver().Network); err != nil {
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
