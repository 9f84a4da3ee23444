package redfish

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
)

// BIOS is the settings of a system's firmware (Bios schema).
type BIOS struct {
	Path string `json:"-"`
	// Attributes are as they are: texts, numbers, booleans, or nil.
	Attributes map[string]any `json:"Attributes"`
	// Registry names what describes them, "" if nothing does.
	Registry string `json:"AttributeRegistry"`
	Settings struct {
		Object link `json:"SettingsObject"`
	} `json:"@Redfish.Settings"`
	Actions struct {
		Reset target `json:"#Bios.ResetBios"`
	} `json:"Actions"`
	ETag string `json:"@odata.etag"`

	// flat settings lie in the resource itself, and factory is where those are with which the machine came: iLO 4.
	flat    bool
	factory string
}

// Attribute describes a setting (AttributeRegistry schema); what is not told is nil or "".
type Attribute struct {
	Name          string   `json:"AttributeName"`
	Type          string   `json:"Type"` // Enumeration, String, Integer, Boolean, Password
	Default       any      `json:"DefaultValue"`
	ReadOnly      *bool    `json:"ReadOnly"`
	ResetRequired *bool    `json:"ResetRequired"`
	Unique        *bool    `json:"IsSystemUniqueProperty"`
	LowerBound    *float64 `json:"LowerBound"`
	UpperBound    *float64 `json:"UpperBound"`
	MinLength     *float64 `json:"MinLength"`
	MaxLength     *float64 `json:"MaxLength"`
	Values        []struct {
		Name string `json:"ValueName"`
	} `json:"Value"`
}

// Allowed are the values of an enumeration.
func (a Attribute) Allowed() []string {
	var names []string
	for _, v := range a.Values {
		names = append(names, v.Name)
	}
	return names
}

// Whole is a bound or a length; nil if it is none that fits.
func Whole(f *float64) *int64 {
	if f == nil || math.IsNaN(*f) || math.Abs(*f) > 1<<53 {
		return nil
	}
	n := int64(*f)
	return &n
}

// BIOS reads the settings of a system; nil if it tells none.
func (c *Client) BIOS(ctx context.Context, s *System) (*BIOS, error) {
	path := cmp.Or(location(s.BIOSAt.ID), location(s.OEM.Hp.Links.BIOS.ID))
	a, b, err := optional[BIOS](ctx, c, path)
	if b == nil {
		return nil, err
	}
	if b.Path = path; b.Attributes == nil && location(s.BIOSAt.ID) == "" {
		b.decodeHPE(a.body)
	}
	if b.Attributes == nil {
		return nil, nil
	}
	for name, v := range b.Attributes {
		if !plain(v) {
			delete(b.Attributes, name)
		}
	}
	if tag := a.header.Get("ETag"); tag != "" {
		b.ETag = tag
	}
	return b, nil
}

// plain tells whether a value is one that a setting may have.
func plain(v any) bool {
	switch v.(type) {
	case nil, string, bool, float64:
		return true
	}
	return false
}

// SetAttributes has settings changed, from the system's next start on: in the resource that is for that, or in the
// settings themselves where there is none.
func (c *Client) SetAttributes(ctx context.Context, b *BIOS, values map[string]any) error {
	path, etag := location(b.Settings.Object.ID), ""
	if path == "" {
		path, etag = b.Path, b.ETag
	}
	body := map[string]any{"Attributes": values}
	if b.flat {
		body = values
	}
	if path != b.Path {
		times, tag, err := c.applyTimes(ctx, path)
		if err != nil {
			return err
		}
		if etag = tag; slices.Contains(times, "OnReset") && !b.flat {
			body["@Redfish.SettingsApplyTime"] = map[string]string{"ApplyTime": "OnReset"}
		}
	}
	return c.tagged(ctx, request{method: http.MethodPatch, path: path, body: body, etag: etag})
}

// applyTimes are when what is pending may count, and the tag of the resource.
func (c *Client) applyTimes(ctx context.Context, path string) (times []string, etag string, err error) {
	a, v, err := optional[struct {
		ETag string `json:"@odata.etag"`
		When struct {
			Times []string `json:"ApplyTime@Redfish.AllowableValues"`
		} `json:"@Redfish.SettingsApplyTime"`
	}](ctx, c, path)
	if v == nil {
		return nil, "", err // some take it and show nothing
	}
	if tag := a.header.Get("ETag"); tag != "" {
		v.ETag = tag
	}
	return v.When.Times, v.ETag, nil
}

// Resets tells whether the settings can be made those of the factory.
func (b *BIOS) Resets() bool { return b.factory != "" || location(b.Actions.Reset.Path) != "" }

// ResetBIOS makes them those, from the system's next start on.
func (c *Client) ResetBIOS(ctx context.Context, b *BIOS) error {
	if b.factory != "" {
		values, err := c.factorySettings(ctx, b.factory)
		if err != nil {
			return err
		}
		return c.SetAttributes(ctx, b, values)
	}
	return c.change(ctx, request{method: http.MethodPost, path: location(b.Actions.Reset.Path),
		body: struct{}{}})
}

// BIOSRegistry reads what describes the settings, by name; empty if the BMC has nothing that can be read.
func (c *Client) BIOSRegistry(ctx context.Context, b *BIOS) (map[string]Attribute, error) {
	if b.Registry == "" || location(c.root.Registries.ID) == "" {
		return nil, nil
	}
	a, err := c.get(ctx, location(c.root.Registries.ID))
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the registries: %w", err)
	}
	paths, _ := decodeMembers(a.body)
	// Most have the name in the path of its member: the others need not be read then.
	slices.SortStableFunc(paths, func(a, b2 string) int { return named(b2, b.Registry) - named(a, b.Registry) })
	for _, path := range paths[:min(len(paths), maxMembers)] {
		at, err := c.registryFile(ctx, path, b.Registry)
		if err != nil {
			return nil, err
		}
		if at == "" {
			continue
		}
		a, err := c.get(ctx, at)
		if missing(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", at, err)
		}
		return decodeRegistry(a.body), nil
	}
	return nil, nil
}

func named(path, registry string) int {
	if strings.Contains(path, registry) {
		return 1
	}
	return 0
}

// registryFile is where a registry is, "" if a member of the list is another one.
func (c *Client) registryFile(ctx context.Context, path, registry string) (string, error) {
	a, err := c.get(ctx, path)
	if missing(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return decodeRegistryFile(a.body, registry), nil
}

// decodeRegistryFile reads a MessageRegistryFile; English goes first.
func decodeRegistryFile(body []byte, registry string) (at string) {
	file, err := decode[struct {
		ID       string `json:"Id"`
		Registry string `json:"Registry"`
		Location []struct {
			Language string `json:"Language"`
			URI      string `json:"Uri"`
		} `json:"Location"`
	}](body)
	if err != nil || file.ID != registry && file.Registry != registry {
		return ""
	}
	for _, l := range file.Location {
		if path := location(l.URI); path != "" && (at == "" || strings.HasPrefix(l.Language, "en")) {
			at = path
		}
	}
	return at
}

func decodeRegistry(body []byte) map[string]Attribute {
	r, _ := decode[struct {
		Entries struct {
			// One that has a field of a wrong type is not to cost the others.
			Attributes []json.RawMessage `json:"Attributes"`
		} `json:"RegistryEntries"`
	}](body)
	all := map[string]Attribute{}
	for _, text := range r.Entries.Attributes {
		if a, err := decode[Attribute](text); err == nil && a.Name != "" {
			if !plain(a.Default) {
				a.Default = nil
			}
			all[a.Name] = a
		}
	}
	return all
}
