package redfish

import (
	"context"
	"strings"
)

// hpe is HPE's part of a virtual drive. Their iLO 4 had virtual media before Redfish did, with actions of
// its own, or none: the medium is then a property that is changed (HPE's "iLO RESTful API" for iLO 4 and 5,
// HpiLOVirtualMedia and HpeiLOVirtualMedia). iLO 5 has the actions of the schema besides.
type hpe struct {
	// BootOnReset has the machine boot the medium when it starts next.
	BootOnReset *bool             `json:"BootOnNextServerReset"`
	Actions     map[string]target `json:"Actions"`
}

// hpe is HPE's part, nil if there is none.
func (d *Drive) hpe() *hpe {
	if d.OEM.Hpe != nil {
		return d.OEM.Hpe
	}
	return d.OEM.Hp
}

// action is where one of HPE's actions is sent, "" if it is not offered. Their names have versions in some
// firmware: #HpiLOVirtualMedia.1.1.0.InsertVirtualMedia.
func (h *hpe) action(name string) string {
	for have, to := range h.Actions {
		if strings.Contains(have, "iLOVirtualMedia.") && strings.HasSuffix(have, "."+name) {
			return location(to.Path)
		}
	}
	return ""
}

// BootOnReset has a machine boot what is in a drive when it starts next, once. Only HPE's BMCs can, the
// others are not asked; known tells whether this one can. Ejecting takes it back.
func (c *Client) BootOnReset(ctx context.Context, d *Drive) (known bool, err error) {
	own := d.hpe()
	if own == nil || own.BootOnReset == nil || *own.BootOnReset {
		return own != nil && own.BootOnReset != nil, nil
	}
	name := "Hpe"
	if d.OEM.Hpe == nil {
		name = "Hp"
	}
	change := map[string]any{"Oem": map[string]any{name: map[string]any{"BootOnNextServerReset": true}}}
	return true, c.tagged(ctx, d.change(change))
}

// hpeSystem is HPE's part of a system. Their iLO 4 names there what the schema knows by now.
type hpeSystem struct {
	Hp  hpeLinks `json:"Hp"`
	Hpe hpeLinks `json:"Hpe"`
}

type hpeLinks struct {
	Links struct {
		SecureBoot link `json:"SecureBoot"`
	} `json:"Links"`
}
