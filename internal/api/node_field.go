package api

import (
	"regexp"
	"strings"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/netdata"
	"ingot/internal/policy"
)

type node = ingot.Node

const both = create | patch

// nodeFields is the representation of a node, in the order of the wire.
var nodeFields = fields[node]{
	text("uuid", func(n *node) *string { return &n.UUID }).as(uuidOrNull).may(create).list(),
	moment("created_at", func(n *node) *time.Time { return &n.CreatedAt }),
	moment("updated_at", func(n *node) *time.Time { return n.UpdatedAt }),
	optionalFlag("automated_clean", func(n *node) **bool { return &n.AutomatedClean }).
		since(47).may(both),
	nodeInterface("bios", 40),
	nodeInterface("boot", 31),
	text("boot_mode", func(n *node) *string { return &n.BootMode }).since(75),
	computed("clean_step", stepOf(lifecycle.Cleaning, lifecycle.CleanWait, lifecycle.CleanHold)).
		since(7),
	computed("conductor_group", func(_ *call, n *node) any { return n.ConductorGroup }).since(46).
		may(both).as(schema{types: []string{"string", "null"}, max: 255, convert: group}).
		stored(func(n *node, v any) { n.ConductorGroup, _ = v.(string) }),
	flag("console_enabled", func(n *node) *bool { return &n.ConsoleEnabled }),
	nodeInterface("console", 31),
	nodeInterface("deploy", 31),
	computed("deploy_step", stepOf(lifecycle.Deploying, lifecycle.WaitCallBack,
		lifecycle.DeployHold)).since(44),
	text("description", func(n *node) *string { return &n.Description }).since(51).may(both).
		limit(maxDescription),
	text("driver", func(n *node) *string { return &n.Driver }).
		as(schema{types: []string{"string"}}).may(both).must(),
	withheld(policy.NodeDriverInfo,
		ingot.Object{"content": "** Redacted - requires baremetal:node:get:driver_info permission. **"},
		freeForm("driver_info", func(n *node) *ingot.Object { return &n.DriverInfo }).may(both).
			shown(func(_ *call, n *node) any { return mask(n.DriverInfo) })),
	withheld(policy.NodeInternalInfo, ingot.Object{"content": "** Redacted - Requires " +
		"baremetal:node:get:driver_internal_info permission. **"},
		freeForm("driver_internal_info", func(n *node) *ingot.Object { return &n.DriverInternalInfo }).
			since(3).shown(func(_ *call, n *node) any { return mask(n.DriverInternalInfo) })),
	freeForm("extra", func(n *node) *ingot.Object { return &n.Extra }).may(both),
	computed("fault", func(_ *call, n *node) any { return nullable(n.Fault) }).since(42),
	nodeInterface("firmware", 86),
	computed("inspection_finished_at", inspected(ingot.InspectionFinished)).since(6),
	computed("inspection_started_at", inspected(ingot.InspectionStarted)).since(6),
	nodeInterface("inspect", 31),
	freeForm("instance_info", func(n *node) *ingot.Object { return &n.InstanceInfo }).may(both).
		shown(func(_ *call, n *node) any { return maskInstance(n.InstanceInfo) }),
	text("instance_name", func(n *node) *string { return &n.InstanceName }).since(104).may(both).
		limit(255),
	text("instance_uuid", func(n *node) *string { return &n.InstanceUUID }).as(uuidOrNull).
		may(both).list(),
	withheld(policy.NodeLastError,
		"** Value Redacted - Requires baremetal:node:get:last_error permission. **",
		text("last_error", func(n *node) *string { return &n.LastError })),
	text("lessee", func(n *node) *string { return &n.Lessee }).since(65).may(both).limit(255),
	flag("maintenance", func(n *node) *bool { return &n.Maintenance }).may(both).list(),
	text("maintenance_reason", func(n *node) *string { return &n.MaintenanceReason }),
	nodeInterface("management", 31),
	text("name", func(n *node) *string { return &n.Name }).since(5).may(both).limit(255).list(),
	freeForm("network_data", func(n *node) *ingot.Object { return &n.NetworkData }).since(66).
		as(schema{types: objectOrNull.types, convert: networkData}).may(both),
	nodeInterface("network", 20),
	text("owner", func(n *node) *string { return &n.Owner }).since(50).may(both).limit(255),
	text("parent_node", func(n *node) *string { return &n.ParentNode }).since(83).
		as(uuidOrNull).may(both),
	nodeInterface("power", 31),
	computed("power_state", func(_ *call, n *node) any { return nullable(n.PowerState) }).list(),
	freeForm("properties", func(n *node) *ingot.Object { return &n.Properties }).may(both),
	flag("protected", func(n *node) *bool { return &n.Protected }).since(48).may(patch),
	text("protected_reason", func(n *node) *string { return &n.ProtectedReason }).since(48).
		may(patch),
	computed("provision_state", provisionState).list(),
	moment("provision_updated_at", func(n *node) *time.Time { return n.ProvisionUpdatedAt }),
	computed("raid_config", emptyObject).since(12),
	nodeInterface("raid", 31),
	nodeInterface("rescue", 38),
	withheld(policy.NodeReservation,
		"** Redacted - requires baremetal:node:get:reservation permission. **",
		text("reservation", func(n *node) *string { return &n.Reservation })),
	text("resource_class", func(n *node) *string { return &n.ResourceClass }).since(21).
		may(both).limit(80),
	flag("retired", func(n *node) *bool { return &n.Retired }).since(61).may(both),
	text("retired_reason", func(n *node) *string { return &n.RetiredReason }).since(61).may(both),
	optionalFlag("secure_boot", func(n *node) **bool { return &n.SecureBoot }).since(75),
	computed("service_step", stepOf(lifecycle.Servicing, lifecycle.ServiceWait,
		lifecycle.ServiceHold)).since(87),
	text("shard", func(n *node) *string { return &n.Shard }).since(82).may(both).limit(255),
	nodeInterface("storage", 33),
	computed("target_power_state",
		func(_ *call, n *node) any { return nullable(n.TargetPowerState) }),
	text("target_provision_state", func(n *node) *string { return &n.TargetProvisionState }),
	computed("target_raid_config", emptyObject).since(12),
	computed("traits", func(_ *call, n *node) any { return n.Traits }).since(traitMinor),
	nodeInterface("vendor", 31),
	nodeLinks("links").list(),
	computed("conductor", func(c *call, n *node) any { return nullable(c.conductorOf(n)) }).
		since(49),
	computed("allocation_uuid", null).since(52),
	text("chassis_uuid", func(n *node) *string { return &n.ChassisUUID }).as(uuidOrNull).may(both),
	nodeLinks("ports"),
	nodeLinks("states").since(14),
	nodeLinks("portgroups").since(24),
	nodeLinks("volume").since(32),
}

// stateFields is the representation of nodes/{ident}/states: a choice of a node's fields in an
// order of its own.
var stateFields = nodeFields.only("console_enabled", "last_error", "power_state",
	"provision_state", "target_power_state", "target_provision_state", "provision_updated_at",
	"raid_config", "target_raid_config", "boot_mode", "secure_boot")

const maxDescription = 4096

// withheld is the field for those who may see a node and not all of it: whom the rule does not allow it
// is shown what stands in its place.
func withheld(rule policy.Rule, instead any, f field[node]) field[node] {
	show := f.show
	if show == nil {
		show = f.get
	}
	return f.shown(func(c *call, n *node) any {
		if !c.who.MayOn(rule, n.Owner, n.Lessee) {
			return instead
		}
		return show(c, n)
	})
}

func null(*call, *node) any { return nil }

func emptyObject(*call, *node) any { return ingot.Object{} }

// nodeInterface is the field <kind>_interface.
func nodeInterface(kind string, minor int) field[node] {
	return field[node]{name: kind + interfaceSuffix, minor: minor, access: both,
		accept: textOrNull,
		get:    func(_ *call, n *node) any { return nullable(n.Interfaces[kind]) },
		set: func(n *node, v any) {
			if n.Interfaces == nil {
				n.Interfaces = map[string]string{}
			}
			if s, _ := v.(string); s != "" {
				n.Interfaces[kind] = s
			} else {
				delete(n.Interfaces, kind) // the conductor fills in the default
			}
		}}
}

const interfaceSuffix = "_interface"

// nodeLinks is a pair of links: to the node itself for "links", else to the sub-resource.
func nodeLinks(name string) field[node] {
	return computed(name, func(c *call, n *node) any {
		if name == "links" {
			return c.links("nodes", n.UUID)
		}
		return c.links("nodes", n.UUID, name)
	})
}

// provisionState hides states from clients older than the states.
func provisionState(c *call, n *node) any {
	switch s := lifecycle.State(n.ProvisionState); {
	case s == lifecycle.Available && c.minor < 2:
		return nil
	case s == lifecycle.InspectWait && c.minor < 39:
		return string(lifecycle.Inspecting)
	}
	return nullable(n.ProvisionState)
}

// stepOf shows the step in progress while the node is in one of the states.
func stepOf(states ...lifecycle.State) func(*call, *node) any {
	return func(_ *call, n *node) any {
		s := n.CurrentStep()
		if s == nil || !contains(states, n.ProvisionState) {
			return ingot.Object{}
		}
		return object{{"interface", s.Interface}, {"step", s.Name}, {"priority", s.Priority},
			{"args", orEmpty(maskArgs(s.Args))}}
	}
}

func contains(states []lifecycle.State, s string) bool {
	for _, one := range states {
		if string(one) == s {
			return true
		}
	}
	return false
}

var groupForm = regexp.MustCompile(`^[a-z0-9\-_.]*$`)

// group converts the name of a conductor group: they are in lower case.
func group(name string, v any) (any, error) {
	s := strings.ToLower(pythonText(v))
	if !groupForm.MatchString(s) {
		return nil, invalid("Invalid %s: '%s' may only have letters, digits and the characters "+
			"-_.", name, s)
	}
	return s, nil
}

// networkData refuses what no ramdisk could use, as Ironic does by its schema.
func networkData(_ string, v any) (any, error) {
	o, _ := v.(ingot.Object)
	if err := netdata.Check(o); err != nil {
		return nil, invalid("Invalid network_data: %v", err)
	}
	return v, nil
}
