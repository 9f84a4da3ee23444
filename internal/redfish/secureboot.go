package redfish

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
)

// SecureBoot is whether the firmware starts signed programs only (SecureBoot schema).
type SecureBoot struct {
	Path string `json:"-"`
	// Enable is what was asked for; on some machines it counts from the next start on. nil: it is not told.
	Enable *bool `json:"SecureBootEnable"`
	// Mode is SetupMode while the machine has no keys, and so nothing to check signatures with.
	Mode    string `json:"SecureBootMode"`
	Actions struct {
		ResetKeys struct {
			Path    string   `json:"target"`
			Allowed []string `json:"ResetKeysType@Redfish.AllowableValues"`
		} `json:"#SecureBoot.ResetKeys"`
	} `json:"Actions"`
	ETag string `json:"@odata.etag"`
}

// setupMode is SecureBoot.Mode of a machine without keys.
const setupMode = "SetupMode"

// defaultKeys is the ResetKeysType that gives a machine the keys of its vendor.
const defaultKeys = "ResetAllKeysToDefault"

// Keyless tells whether the machine has no keys yet.
func (b *SecureBoot) Keyless() bool { return b.Mode == setupMode }

// SecureBoot reads a system's; nil if it has none.
func (c *Client) SecureBoot(ctx context.Context, s *System) (*SecureBoot, error) {
	path := cmp.Or(location(s.SecureBootAt.ID), location(s.OEM.Hpe.Links.SecureBoot.ID),
		location(s.OEM.Hp.Links.SecureBoot.ID))
	a, b, err := optional[SecureBoot](ctx, c, path)
	if b == nil {
		return nil, err
	}
	b.Path = path
	if tag := a.header.Get("ETag"); tag != "" {
		b.ETag = tag
	}
	if b.Enable == nil {
		return nil, nil // what does not tell whether it is on is of no use
	}
	return b, nil
}

// EnableSecureBoot switches it on or off.
func (c *Client) EnableSecureBoot(ctx context.Context, b *SecureBoot, on bool) error {
	return c.tagged(ctx, request{method: http.MethodPatch, path: b.Path, etag: b.ETag,
		body: map[string]bool{"SecureBootEnable": on}})
}

// TakesDefaultKeys tells whether the machine can be given its vendor's keys.
func (b *SecureBoot) TakesDefaultKeys() bool {
	keys := b.Actions.ResetKeys
	return location(keys.Path) != "" && (len(keys.Allowed) == 0 || slices.Contains(keys.Allowed, defaultKeys))
}

// ResetKeys gives the machine its vendor's keys, in place of those that it has.
func (c *Client) ResetKeys(ctx context.Context, b *SecureBoot) error {
	err := c.change(ctx, request{method: http.MethodPost, path: location(b.Actions.ResetKeys.Path),
		body: map[string]string{"ResetKeysType": defaultKeys}})
	if err == nil {
		b.ETag = "" // it is another resource now
	}
	return err
}

// Mode is how a system boots: UEFI, Legacy, or "" if it is not told.
func (c *Client) Mode(ctx context.Context, s *System) (string, error) {
	_, mode, err := c.hpeMode(ctx, s)
	return cmp.Or(s.Boot.Mode, mode), err
}

// SetMode changes the mode in which a system boots, and nothing else of its override. There are BMCs that want
// to be told all of it, and an iLO 4 has it among the settings of the firmware.
func (c *Client) SetMode(ctx context.Context, s *System, mode string) error {
	if known, err := c.setHPEMode(ctx, s, mode); known {
		return err
	}
	err := c.patch(ctx, s, map[string]Boot{"Boot": {Mode: mode}})
	var refused *StatusError
	if !errors.As(err, &refused) || !refused.Picky() || s.Boot.Target == "" {
		return err
	}
	if c.patch(ctx, s, map[string]Boot{"Boot": {Target: s.Boot.Target, Enabled: s.Boot.Enabled, Mode: mode}}) != nil {
		return err
	}
	return nil
}
