package api

import (
	"maps"
	"slices"

	"ingot/internal/ingot"
)

// hardwareType is a driver as the API shows it: what all living conductors say about it.
type hardwareType struct {
	name       string
	hosts      []string
	defaults   map[string]string
	enabled    map[string][]string
	properties map[string]string
}

// driverFields is the representation of a driver, in the order of the wire. The members for
// interfaces follow, one pair a kind.
var driverFields = append(fields[hardwareType]{
	text("name", func(d *hardwareType) *string { return &d.name }).list(),
	computed("hosts", func(_ *call, d *hardwareType) any { return d.hosts }).list(),
	computed("links", func(c *call, d *hardwareType) any {
		return c.links("drivers", d.name)
	}).list(),
	computed("properties", func(c *call, d *hardwareType) any {
		return c.links("drivers", d.name, "properties")
	}).since(14).list(),
	computed("type", func(*call, *hardwareType) any { return dynamicType }).since(30).list(),
}, driverInterfaces()...)

// dynamicType is the type of every driver: the other one, classic, is history.
const dynamicType = "dynamic"

// driverInterfaces are the pairs default_<kind>_interface and enabled_<kind>_interfaces.
func driverInterfaces() fields[hardwareType] {
	var all fields[hardwareType]
	for _, k := range []struct {
		kind  string
		minor int
	}{{"bios", 40}, {"boot", 30}, {"console", 30}, {"deploy", 30}, {"firmware", 86},
		{"inspect", 30}, {"management", 30}, {"network", 30}, {"power", 30}, {"raid", 30},
		{"rescue", 38}, {"storage", 33}, {"vendor", 30}} {
		all = append(all,
			computed("default_"+k.kind+"_interface", func(_ *call, d *hardwareType) any {
				return nullable(d.defaults[k.kind])
			}).since(k.minor),
			computed("enabled_"+k.kind+"_interfaces", func(_ *call, d *hardwareType) any {
				return append([]string{}, d.enabled[k.kind]...)
			}).since(k.minor))
	}
	return all
}

// hardwareTypes joins what the living conductors say, ordered by name.
func (c *call) hardwareTypes() ([]*hardwareType, error) {
	alive, err := c.aliveConductors()
	if err != nil {
		return nil, err
	}
	byName := map[string]*hardwareType{}
	for _, h := range alive {
		for _, d := range h.Drivers {
			t := byName[d.Name]
			if t == nil {
				t = &hardwareType{name: d.Name, defaults: map[string]string{},
					enabled: map[string][]string{}, properties: map[string]string{}}
				byName[d.Name] = t
			}
			t.join(h.Hostname, d)
		}
	}
	var all []*hardwareType
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[name])
	}
	return all, nil
}

func (t *hardwareType) join(host string, d ingot.Driver) {
	t.hosts = append(t.hosts, host)
	maps.Copy(t.defaults, d.Default)
	maps.Copy(t.properties, d.Properties)
	for kind, names := range d.Enabled {
		for _, name := range names {
			if !slices.Contains(t.enabled[kind], name) {
				t.enabled[kind] = append(t.enabled[kind], name)
			}
		}
	}
}

func (c *call) hardwareType(name string) (*hardwareType, error) {
	all, err := c.hardwareTypes()
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if t.name == name {
			return t, nil
		}
	}
	return nil, ingot.Errorf(ingot.NotFound, "Could not find the following driver(s) or hardware "+
		"type(s): %s.", name)
}

func listDrivers(c *call) (reply, error) {
	kind := c.query.Get("type")
	if c.query.Has("type") && kind != dynamicType && kind != "classic" {
		return reply{}, invalid(`"type" filter must be one of "classic" or "dynamic", if specified.`)
	}
	want, err := driverSelection(c)
	if err != nil {
		return reply{}, err
	}
	list, err := c.hardwareTypes()
	if err != nil {
		return reply{}, err
	}
	shown := []object{}
	for _, t := range list {
		if kind != "classic" {
			shown = append(shown, driverFields.project(c, t, want))
		}
	}
	return reply{body: object{{"drivers", shown}}}, nil
}

// driverSelection reads detail and fields; drivers had their detail before other lists.
func driverSelection(c *call) (selection, error) {
	detail, err := c.queryBool("detail")
	switch {
	case err != nil:
		return nil, err
	case c.query.Has("fields"):
		return driverFields.named(c)
	case detail != nil && *detail:
		return full, nil
	}
	want := selection{}
	for _, f := range driverFields {
		if f.listed {
			want[f.name] = true
		}
	}
	return want, nil
}

func showDriver(c *call) (reply, error) {
	want, err := driverFields.named(c)
	if err != nil {
		return reply{}, err
	}
	t, err := c.hardwareType(c.PathValue("driver"))
	if err != nil {
		return reply{}, err
	}
	return reply{body: driverFields.project(c, t, want)}, nil
}

func showDriverProperties(c *call) (reply, error) {
	t, err := c.hardwareType(or(c.PathValue("driver"), c.query.Get("driver_name")))
	if err != nil {
		return reply{}, err
	}
	return reply{body: t.properties}, nil
}
