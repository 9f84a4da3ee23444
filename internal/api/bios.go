package api

import (
	"slices"
	"time"

	"ingot/internal/ingot"
)

// The first microversions with BIOS settings, and with what their registry tells of them.
const (
	biosMinor     = 40
	registryMinor = 74
)

// setting is a BIOS setting of a node.
type setting struct {
	*ingot.BIOSSetting
	node string // UUID
}

// biosFields is the representation of a setting, in the order of the wire.
var biosFields = fields[setting]{
	moment("created_at", func(s *setting) *time.Time { return &s.CreatedAt }).list(),
	moment("updated_at", func(s *setting) *time.Time { return s.UpdatedAt }).list(),
	text("name", func(s *setting) *string { return &s.Name }).list(),
	computed("value", func(_ *call, s *setting) any {
		if s.Value == nil {
			return nil
		}
		return pythonText(s.Value) // Ironic keeps them as texts
	}).list(),
	registryField("attribute_type", func(s *setting) any { return nullable(s.Type) }),
	registryField("allowable_values", func(s *setting) any {
		if s.Allowed == nil {
			return nil
		}
		return s.Allowed
	}),
	registryField("lower_bound", func(s *setting) any { return s.LowerBound }),
	registryField("max_length", func(s *setting) any { return s.MaxLength }),
	registryField("min_length", func(s *setting) any { return s.MinLength }),
	registryField("read_only", func(s *setting) any { return s.ReadOnly }),
	registryField("reset_required", func(s *setting) any { return s.ResetRequired }),
	registryField("unique", func(s *setting) any { return s.Unique }),
	registryField("upper_bound", func(s *setting) any { return s.UpperBound }),
	computed("links", func(c *call, s *setting) any { return c.links("nodes", s.node, "bios", s.Name) }).list(),
}

func registryField(name string, get func(s *setting) any) field[setting] {
	return computed(name, func(_ *call, s *setting) any { return get(s) }).since(registryMinor)
}

func listBIOS(c *call) (reply, error) {
	want, err := biosFields.selected(c)
	if err != nil {
		return reply{}, err
	}
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	all, err := c.api.o.Store.BIOS(c.Context(), n.ID)
	if err != nil {
		return reply{}, err
	}
	shown := make([]object, len(all))
	for i := range all {
		shown[i] = biosFields.project(c, &setting{&all[i], n.UUID}, want)
	}
	return reply{body: object{{"bios", shown}}}, nil
}

// showBIOS shows one setting by its name, under its name.
func showBIOS(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	all, err := c.api.o.Store.BIOS(c.Context(), n.ID)
	if err != nil {
		return reply{}, err
	}
	name := c.PathValue("name")
	i := slices.IndexFunc(all, func(s ingot.BIOSSetting) bool { return s.Name == name })
	if i < 0 {
		return reply{}, ingot.Errorf(ingot.NotFound, "Node %s doesn't have a BIOS setting '%s'.", n.UUID, name)
	}
	return reply{body: object{{name, biosFields.project(c, &setting{&all[i], n.UUID}, full)}}}, nil
}
