package driver

import (
	"slices"
	"strings"

	"ingot/internal/ingot"
)

// Kinds lists the interface kinds of a node in the order in which Ironic shows them.
var Kinds = []string{
	"bios", "boot", "console", "deploy", "firmware", "inspect", "management", "network", "power",
	"raid", "rescue", "storage", "vendor",
}

// Hardware is a hardware type: for each interface kind the implementations it works with, best
// first. Kinds that are absent have only the fixed name in none.
type Hardware struct {
	Name      string
	Supported map[string][]string
}

// none names the implementation of each kind that this version does not build: the name Ironic
// uses for "not there".
var none = map[string]string{
	"bios": "no-bios", "console": "no-console", "firmware": "no-firmware",
	"inspect": "no-inspect", "network": "noop", "raid": "no-raid", "rescue": "no-rescue",
	"storage": "noop", "vendor": "no-vendor",
}

// Table is the explicit list of what this binary can drive. The server builds it once; it does
// not change afterwards.
type Table struct {
	Hardware   []Hardware
	Power      map[string]Power
	Management map[string]Management
	Boot       map[string]Boot
	Deploy     map[string]Deploy
	Inspect    map[string]Inspect
	BIOS       map[string]Setup
	// Network has those that are enabled, noop as nil; nil is noop alone.
	Network map[string]Network
}

// Driver is the composition chosen for one node.
type Driver struct {
	Power      Power
	Management Management
	Boot       Boot
	Deploy     Deploy
	Inspect    Inspect // nil is no-inspect
	BIOS       Setup   // nil is no-bios
	Network    Network // nil is noop: there is none that we could connect it to
}

// Interfaces lists the parts of the composition that exist, for abilities found by assertion.
func (d Driver) Interfaces() []any { return []any{d.Power, d.Management, d.Boot, d.Deploy} }

func (t *Table) hardware(name string) (Hardware, error) {
	i := slices.IndexFunc(t.Hardware, func(h Hardware) bool { return h.Name == name })
	if i < 0 {
		return Hardware{}, ingot.Errorf(ingot.Invalid, "No valid host was found. Reason: "+
			"No conductor service registered which supports driver %s for conductor group \"\".",
			name)
	}
	return t.Hardware[i], nil
}

// has tells whether an implementation is in the table, that is enabled.
func (t *Table) has(kind, name string) bool {
	switch kind {
	case "power":
		return t.Power[name] != nil
	case "management":
		return t.Management[name] != nil
	case "boot":
		return t.Boot[name] != nil
	case "deploy":
		return t.Deploy[name] != nil
	case "inspect":
		if t.Inspect[name] != nil {
			return true
		}
	case "bios":
		if t.BIOS[name] != nil {
			return true
		}
	case "network":
		if t.Network != nil {
			_, enabled := t.Network[name]
			return enabled
		}
	}
	return none[kind] == name
}

// enabled returns the implementations of a kind that the hardware type supports and the table
// has, best first.
func (t *Table) enabled(h Hardware, kind string) []string {
	supported := h.Supported[kind]
	if supported == nil {
		if n, ok := none[kind]; ok {
			supported = []string{n}
		}
	}
	var out []string
	for _, name := range supported {
		if t.has(kind, name) {
			out = append(out, name)
		}
	}
	return out
}

// Complete fills the interfaces a node does not name with the defaults of its hardware type and
// checks those it does (ironic/common/driver_factory.py: explicit, else first enabled of the
// type's list). It changes n.Interfaces only on success.
func (t *Table) Complete(n *ingot.Node) error {
	h, err := t.hardware(n.Driver)
	if err != nil {
		return err
	}
	chosen := make(map[string]string, len(Kinds))
	for _, kind := range Kinds {
		names := t.enabled(h, kind)
		want := n.Interfaces[kind]
		switch {
		case want == "" && len(names) == 0:
			return ingot.Errorf(ingot.Invalid, "No default interface found for hardware type "+
				"'%s' and interface type '%s'.", n.Driver, kind)
		case want == "":
			chosen[kind] = names[0]
		case slices.Contains(names, want):
			chosen[kind] = want
		default:
			return ingot.Errorf(ingot.Invalid, "Could not find the following interface in the "+
				"'ironic.hardware.interfaces.%s' entrypoint: %s. Valid interfaces are ['%s'].",
				kind, want, strings.Join(names, "', '"))
		}
	}
	n.Interfaces = chosen
	return nil
}

// Compose returns the implementations a node's interfaces name.
func (t *Table) Compose(n *ingot.Node) (Driver, error) {
	if _, err := t.hardware(n.Driver); err != nil {
		return Driver{}, err
	}
	d := Driver{
		Power:      t.Power[n.Interfaces["power"]],
		Management: t.Management[n.Interfaces["management"]],
		Boot:       t.Boot[n.Interfaces["boot"]],
		Deploy:     t.Deploy[n.Interfaces["deploy"]],
		Inspect:    t.Inspect[n.Interfaces["inspect"]],
		BIOS:       t.BIOS[n.Interfaces["bios"]],
		Network:    t.Network[n.Interfaces["network"]],
	}
	for kind, missing := range map[string]bool{
		"power": d.Power == nil, "management": d.Management == nil,
		"boot": d.Boot == nil, "deploy": d.Deploy == nil,
		"inspect": n.Interfaces["inspect"] != "" && !t.has("inspect", n.Interfaces["inspect"]),
		"bios":    n.Interfaces["bios"] != "" && !t.has("bios", n.Interfaces["bios"]),
		"network": !t.has("network", n.Interfaces["network"]),
	} {
		if missing {
			return Driver{}, ingot.Errorf(ingot.Invalid, "node %s: %s interface %q is not "+
				"enabled on this conductor; set another with "+
				"'baremetal node set --%s-interface NAME'",
				n.Label(), kind, n.Interfaces[kind], kind)
		}
	}
	return d, nil
}

// Describe returns what GET /v1/drivers shows of every hardware type.
func (t *Table) Describe() []ingot.Driver {
	out := make([]ingot.Driver, 0, len(t.Hardware))
	for _, h := range t.Hardware {
		d := ingot.Driver{
			Name: h.Name, Default: map[string]string{}, Enabled: map[string][]string{},
			Properties: map[string]string{},
		}
		for _, kind := range Kinds {
			names := t.enabled(h, kind)
			d.Enabled[kind] = names
			if len(names) > 0 {
				d.Default[kind] = names[0]
			}
			for _, name := range names {
				if p, ok := t.implementation(kind, name).(Properties); ok {
					for k, help := range p.Properties() {
						d.Properties[k] = help
					}
				}
			}
		}
		out = append(out, d)
	}
	return out
}

// Implementations returns every enabled implementation of a hardware type, for driver-level
// passthru.
func (t *Table) Implementations(driver string) ([]any, error) {
	h, err := t.hardware(driver)
	if err != nil {
		return nil, ingot.Errorf(ingot.NotFound, "The driver '%s' is unknown.", driver)
	}
	var out []any
	for _, kind := range Kinds {
		for _, name := range t.enabled(h, kind) {
			if impl := t.implementation(kind, name); impl != nil {
				out = append(out, impl)
			}
		}
	}
	return out, nil
}

func (t *Table) implementation(kind, name string) any {
	switch kind {
	case "power":
		return t.Power[name]
	case "management":
		return t.Management[name]
	case "boot":
		return t.Boot[name]
	case "deploy":
		return t.Deploy[name]
	case "inspect":
		return t.Inspect[name]
	case "bios":
		return t.BIOS[name]
	case "network":
		return t.Network[name]
	}
	return nil
}
