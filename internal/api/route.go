package api

import (
	"net/http"
	"slices"

	"ingot/internal/policy"
)

const (
	rootPattern    = "/{$}"
	journalPattern = "/v1/nodes/{ident}/journal"
)

// route is one row of the API.
type route struct {
	method  string
	pattern string
	// minor is the x of the first microversion 1.x that has it.
	minor int
	// policy is the rule that guards it; "" is right for what is public and nothing else.
	policy policy.Rule
	// object: the rule is about the node that is asked for, or has alternatives: the handler checks it.
	object bool
	handle func(*call) (reply, error)
	// machine: machines may call it without credentials.
	machine bool
	// public: anybody may call it; it tells what this service is.
	public bool
	// args are the query arguments it takes.
	args []arg
	// anyArg: every query argument is taken, it belongs to a passthru method.
	anyArg bool
}

// arg is a query argument and the x of the first microversion 1.x that has it.
type arg struct {
	name  string
	minor int
}

// Argument lists that several routes share.
var (
	pageArgs    = []arg{{"marker", 1}, {"limit", 1}, {"sort_key", 1}, {"sort_dir", 1}}
	fieldsArg   = []arg{{"fields", 8}}
	nodeFilters = []arg{{"instance_uuid", 1}, {"associated", 1}, {"maintenance", 1},
		{"provision_state", 9}, {"driver", 16}, {"resource_class", 21}, {"fault", 42},
		{"conductor_group", 46}, {"conductor", conductorMinor}, {"owner", 50},
		{"description_contains", 51}, {"retired", 61}, {"lessee", 65}, {"project", 65}, {"shard", 82}, {"parent_node", 83}}
	portFilters = []arg{{"node", 1}, {"node_uuid", 1}, {"address", 1}}
	detailArg   = []arg{{"detail", 1}} // below 1.43 it is refused in words of its own
)

// routes is the API. A golden file keeps a copy, so a change is seen.
var routes = slices.Concat(resourceRoutes, noneRoutes(), passthruRoutes())

var resourceRoutes = []route{
	{method: http.MethodGet, pattern: rootPattern, handle: showRoot, public: true,
		machine: true}, // agents ask which versions there are
	{method: http.MethodGet, pattern: "/v1", handle: showV1, public: true},

	{method: http.MethodGet, pattern: "/v1/nodes", policy: "baremetal:node:list", object: true,
		handle: listNodes, args: slices.Concat(pageArgs, nodeFilters, fieldsArg, detailArg)},
	{method: http.MethodPost, pattern: "/v1/nodes", policy: "baremetal:node:create", object: true,
		handle: createNode},
	{method: http.MethodGet, pattern: "/v1/nodes/detail", policy: "baremetal:node:list", object: true,
		handle: listNodeDetails, args: slices.Concat(pageArgs, nodeFilters)},
	{method: http.MethodGet, pattern: "/v1/nodes/validate", policy: "baremetal:node:validate", object: true,
		handle: validateNode, args: []arg{{"node", 1}, {"node_uuid", 1}}},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}", policy: "baremetal:node:get", object: true,
		handle: showNode, args: fieldsArg},
	{method: http.MethodPatch, pattern: "/v1/nodes/{ident}", policy: "baremetal:node:update", object: true,
		handle: patchNode, args: []arg{{"reset_interfaces", 45}}},
	{method: http.MethodDelete, pattern: "/v1/nodes/{ident}", policy: "baremetal:node:delete", object: true,
		handle: deleteNode},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/validate",
		policy: "baremetal:node:validate", object: true, handle: validateNode},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/states",
		policy: "baremetal:node:get_states", object: true, handle: showStates},
	{method: http.MethodPut, pattern: "/v1/nodes/{ident}/states/provision",
		policy: "baremetal:node:set_provision_state", object: true, handle: setProvisionState},
	{method: http.MethodPut, pattern: "/v1/nodes/{ident}/states/power",
		policy: "baremetal:node:set_power_state", object: true, handle: setPowerState},
	{method: http.MethodPut, pattern: "/v1/nodes/{ident}/states/boot_mode", minor: firmwareMinor,
		policy: "baremetal:node:set_boot_mode", object: true, handle: setBootMode},
	{method: http.MethodPut, pattern: "/v1/nodes/{ident}/states/secure_boot", minor: firmwareMinor,
		policy: "baremetal:node:set_secure_boot", object: true, handle: setSecureBoot},
	{method: http.MethodPut, pattern: "/v1/nodes/{ident}/maintenance",
		policy: "baremetal:node:set_maintenance", object: true, handle: setMaintenance},
	{method: http.MethodDelete, pattern: "/v1/nodes/{ident}/maintenance",
		policy: "baremetal:node:clear_maintenance", object: true, handle: clearMaintenance},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/management/boot_device",
		policy: "baremetal:node:get_boot_device", object: true, handle: showBootDevice},
	{method: http.MethodPut, pattern: "/v1/nodes/{ident}/management/boot_device",
		policy: "baremetal:node:set_boot_device", object: true, handle: setBootDevice},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/management/boot_device/supported",
		policy: "baremetal:node:get_boot_device", object: true, handle: listBootDevices},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/ports", policy: "baremetal:port:list", object: true,
		handle: listPorts, args: slices.Concat(pageArgs, fieldsArg, detailArg, portFilters)},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/ports/detail",
		policy: "baremetal:port:list", object: true, handle: listPortDetails, args: pageArgs},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/history", minor: historyMinor,
		policy: "baremetal:node:history:get", object: true, handle: listHistory,
		args: slices.Concat(pageArgs, detailArg)},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/history/detail", minor: historyMinor,
		policy: "baremetal:node:history:get", object: true, handle: listHistoryDetails, args: pageArgs},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/history/{entry}", minor: historyMinor,
		policy: "baremetal:node:history:get", object: true, handle: showHistory},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/inventory", minor: inventoryMinor,
		policy: "baremetal:node:inventory:get", object: true, handle: showInventory},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/bios", minor: biosMinor,
		policy: "baremetal:node:bios:get", object: true, handle: listBIOS,
		args: []arg{{"detail", registryMinor}, {"fields", registryMinor}}},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/bios/{name}", minor: biosMinor,
		policy: "baremetal:node:bios:get", object: true, handle: showBIOS},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/vifs", minor: vifMinor,
		policy: "baremetal:node:vif:list", object: true, handle: listVIFs},
	{method: http.MethodPost, pattern: "/v1/nodes/{ident}/vifs", minor: vifMinor,
		policy: "baremetal:node:vif:attach", object: true, handle: attachVIF},
	{method: http.MethodDelete, pattern: "/v1/nodes/{ident}/vifs/{vif}", minor: vifMinor,
		policy: "baremetal:node:vif:detach", object: true, handle: detachVIF},
	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/traits", minor: traitMinor,
		policy: "baremetal:node:traits:list", object: true, handle: listTraits},
	{method: http.MethodPut, pattern: "/v1/nodes/{ident}/traits", minor: traitMinor,
		policy: "baremetal:node:traits:set", object: true, handle: setTraits},
	{method: http.MethodDelete, pattern: "/v1/nodes/{ident}/traits", minor: traitMinor,
		policy: "baremetal:node:traits:delete", object: true, handle: clearTraits},
	{method: http.MethodPut, pattern: "/v1/nodes/{ident}/traits/{trait}", minor: traitMinor,
		policy: "baremetal:node:traits:set", object: true, handle: addTrait},
	{method: http.MethodDelete, pattern: "/v1/nodes/{ident}/traits/{trait}", minor: traitMinor,
		policy: "baremetal:node:traits:delete", object: true, handle: removeTrait},
	{method: http.MethodGet, pattern: journalPattern, policy: "baremetal:node:journal:get", object: true,
		handle: showJournal, args: []arg{{"after", 1}, {"limit", 1}, {"wait", 1}}},

	{method: http.MethodGet, pattern: "/v1/nodes/{ident}/vendor_passthru/methods",
		policy: "baremetal:node:vendor_passthru", object: true, handle: listNodeMethods},
	{method: http.MethodGet, pattern: "/v1/drivers/{driver}/vendor_passthru/methods",
		policy: "baremetal:driver:vendor_passthru", handle: listDriverMethods},

	{method: http.MethodGet, pattern: "/v1/ports", policy: "baremetal:port:list", object: true,
		handle: listPorts, args: slices.Concat(pageArgs, fieldsArg, detailArg, portFilters)},
	{method: http.MethodPost, pattern: "/v1/ports", policy: "baremetal:port:create", object: true,
		handle: createPort},
	{method: http.MethodGet, pattern: "/v1/ports/detail", policy: "baremetal:port:list", object: true,
		handle: listPortDetails, args: slices.Concat(pageArgs, portFilters)},
	{method: http.MethodGet, pattern: "/v1/ports/{port}", policy: "baremetal:port:get", object: true,
		handle: showPort, args: fieldsArg},
	{method: http.MethodPatch, pattern: "/v1/ports/{port}", policy: "baremetal:port:update", object: true,
		handle: patchPort},
	{method: http.MethodDelete, pattern: "/v1/ports/{port}", policy: "baremetal:port:delete", object: true,
		handle: deletePort},

	{method: http.MethodGet, pattern: "/v1/lookup", minor: ramdiskMinor, handle: lookUp, public: true,
		machine: true, args: []arg{{"addresses", ramdiskMinor}, {"node_uuid", ramdiskMinor}}},
	{method: http.MethodPost, pattern: "/v1/heartbeat/{ident}", minor: ramdiskMinor,
		handle: takeHeartbeat, public: true, machine: true},

	{method: http.MethodPost, pattern: "/v1/events", minor: eventMinor,
		policy: "baremetal:events:post", handle: postEvents},

	{method: http.MethodGet, pattern: "/v1/drivers", policy: "baremetal:driver:get",
		handle: listDrivers, args: []arg{{"type", 30}, {"detail", 30}, {"fields", 77}}},
	{method: http.MethodGet, pattern: "/v1/drivers/properties",
		policy: "baremetal:driver:get_properties", handle: showDriverProperties,
		args: []arg{{"driver_name", 1}}},
	{method: http.MethodGet, pattern: "/v1/drivers/{driver}", policy: "baremetal:driver:get",
		handle: showDriver, args: []arg{{"fields", 77}}},
	{method: http.MethodGet, pattern: "/v1/drivers/{driver}/properties",
		policy: "baremetal:driver:get_properties", handle: showDriverProperties},

	{method: http.MethodGet, pattern: "/v1/conductors", minor: conductorMinor,
		policy: "baremetal:conductor:get", handle: listConductors,
		args: slices.Concat(pageArgs, fieldsArg, detailArg)},
	{method: http.MethodGet, pattern: "/v1/conductors/{hostname}", minor: conductorMinor,
		policy: "baremetal:conductor:get", handle: showConductor, args: fieldsArg},
	{method: http.MethodPut, pattern: "/v1/conductors/{hostname}/draining", minor: conductorMinor,
		policy: "baremetal:conductor:drain", handle: drainConductor},
	{method: http.MethodDelete, pattern: "/v1/conductors/{hostname}/draining",
		minor: conductorMinor, policy: "baremetal:conductor:drain", handle: undrainConductor},
	{method: http.MethodGet, pattern: "/v1/cluster", minor: conductorMinor,
		policy: "baremetal:cluster:get", handle: showCluster},
}

// noneRoutes are the lists of what there is none of, of all nodes and of one.
func noneRoutes() []route {
	var all []route
	for _, p := range []struct {
		path, name string
		minor      int
		kind       string // of the rules
	}{
		{"/portgroups", "portgroups", portgroupMinor, "portgroup"},
		{"/portgroups/detail", "portgroups", portgroupMinor, "portgroup"},
		{"/volume/targets", "targets", volumeMinor, "volume"},
		{"/volume/connectors", "connectors", volumeMinor, "volume"},
	} {
		list := policy.Rule("baremetal:" + p.kind + ":list")
		for _, of := range []string{"/v1", "/v1/nodes/{ident}"} {
			all = append(all, route{method: http.MethodGet, pattern: of + p.path, minor: p.minor,
				policy: list, object: true, handle: listNone(p.name, list+"_all", list),
				args: slices.Concat(pageArgs, fieldsArg, detailArg, portFilters)})
		}
	}
	return all
}

// passthruRoutes are the vendor passthru paths: the method's name is the end of the path or the
// query argument "method". Machines may ask a driver for a script, and tell a node's conductor
// that they are ready; nothing else.
func passthruRoutes() []route {
	var all []route
	for _, p := range []struct {
		pattern string
		policy  policy.Rule
		object  bool
		handle  func(*call) (reply, error)
		machine []string
	}{
		{"/v1/drivers/{driver}/vendor_passthru", "baremetal:driver:vendor_passthru", false, callDriver,
			[]string{http.MethodGet, http.MethodHead}},
		{"/v1/nodes/{ident}/vendor_passthru", "baremetal:node:vendor_passthru", true, callNode,
			[]string{http.MethodPost}},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost,
			http.MethodPut, http.MethodPatch, http.MethodDelete} {
			for _, end := range []string{"", "/{method}"} {
				all = append(all, route{method: method, pattern: p.pattern + end,
					policy: p.policy, object: p.object, handle: p.handle, anyArg: true,
					machine: slices.Contains(p.machine, method)})
			}
		}
	}
	return all
}
