package redfish

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
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
		BIOS       link `json:"BIOS"`
	} `json:"Links"`
}

// hpeBIOS is where the settings of an iLO 4's machine lead to (HPE's HpBios): by the links of the schema, or by those
// from before it.
type hpeBIOS struct {
	Links struct {
		Settings    olderLink `json:"Settings"`
		BaseConfigs olderLink `json:"BaseConfigs"`
	} `json:"Links"`
}

type olderLink struct {
	link
	Href string `json:"href"`
}

func (l olderLink) path() string { return cmp.Or(location(l.ID), location(l.Href)) }

// hpeOwn are those properties of HpBios with one value that are no settings.
var hpeOwn = []string{"AttributeRegistry", "Description", "Id", "Modified", "Name", "Type"}

// decodeHPE completes settings with what an iLO 4 tells: they lie in the resource itself.
func (b *BIOS) decodeHPE(body []byte) {
	all, _ := decode[map[string]any](body)
	own, _ := decode[hpeBIOS](body)
	b.Settings.Object.ID, b.factory = own.Links.Settings.path(), own.Links.BaseConfigs.path()
	if b.flat = b.Settings.Object.ID != ""; !b.flat {
		return
	}
	b.Registry = "" // has the form of its time, too, which is not read
	b.Attributes = map[string]any{}
	for name, v := range all {
		if !strings.Contains(name, "@") && !slices.Contains(hpeOwn, name) {
			b.Attributes[name] = v
		}
	}
}

// factorySettings reads those with which a machine of HPE's came; passwords stay what they are.
func (c *Client) factorySettings(ctx context.Context, path string) (map[string]any, error) {
	a, err := c.get(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	all, err := decode[struct {
		BaseConfigs []struct {
			Default map[string]any `json:"default"`
		} `json:"BaseConfigs"`
	}](a.body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	for _, base := range all.BaseConfigs {
		maps.DeleteFunc(base.Default, func(name string, v any) bool {
			return !plain(v) || strings.Contains(name, "Password")
		})
		if len(base.Default) > 0 {
			return base.Default, nil
		}
	}
	return nil, fmt.Errorf("read %s: there are no settings of the factory", path)
}

// hpeModes are the values of the setting by which HPE's machines boot, in the words of the schema.
var hpeModes = map[string]string{"Uefi": UEFI, "LegacyBios": Legacy}

// hpeMode is the setting by which a system boots that has no override with a mode; nil if that has none either.
func (c *Client) hpeMode(ctx context.Context, s *System) (b *BIOS, mode string, err error) {
	if s.Boot.KnowsMode() || location(s.OEM.Hp.Links.BIOS.ID) == "" {
		return nil, "", nil
	}
	if b, err = c.BIOS(ctx, s); err != nil || b == nil {
		return nil, "", err
	}
	now, _ := b.Attributes["BootMode"].(string)
	if mode = hpeModes[now]; mode == "" {
		return nil, "", nil
	}
	return b, mode, nil
}

// setHPEMode changes it; known tells whether there is such a setting. UEFI Optimized Boot goes with UEFI, as HPE has it.
func (c *Client) setHPEMode(ctx context.Context, s *System, mode string) (known bool, err error) {
	b, _, err := c.hpeMode(ctx, s)
	if err != nil || b == nil {
		return err != nil, err
	}
	values := map[string]any{}
	for theirs, ours := range hpeModes {
		if ours == mode {
			values["BootMode"] = theirs
		}
	}
	if _, there := b.Attributes["UefiOptimizedBoot"]; there && mode == UEFI {
		values["UefiOptimizedBoot"] = "Enabled"
	}
	return true, c.SetAttributes(ctx, b, values)
}
