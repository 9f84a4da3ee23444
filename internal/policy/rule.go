package policy

// Rule is the name of a rule. Those of Ironic are spelled as there; a rule that is not in the table
// lets nobody do anything.
type Rule string

// Rules that are asked for by name, and not because a route says so.
const (
	NodeGet          Rule = "baremetal:node:get"
	NodeList         Rule = "baremetal:node:list"
	NodeListAll      Rule = "baremetal:node:list_all"
	NodeCreate       Rule = "baremetal:node:create"
	NodeCreateOwn    Rule = "baremetal:node:create:self_owned_node"
	NodeDeleteOwn    Rule = "baremetal:node:delete:self_owned_node"
	NodeUpdate       Rule = "baremetal:node:update"
	NodeInstanceInfo Rule = "baremetal:node:update_instance_info"
	NodeInterfaces   Rule = "baremetal:node:update:driver_interfaces"
	NodeNoCleaning   Rule = "baremetal:node:disable_cleaning"
	NodeOwnerInUse   Rule = "baremetal:node:update_owner_provisioned"
	NodeCleanSteps   Rule = "baremetal:node:set_provision_state:clean_steps"
	NodeServiceSteps Rule = "baremetal:node:set_provision_state:service_steps"
	NodeLastError    Rule = "baremetal:node:get:last_error"
	NodeReservation  Rule = "baremetal:node:get:reservation"
	NodeInternalInfo Rule = "baremetal:node:get:driver_internal_info"
	NodeDriverInfo   Rule = "baremetal:node:get:driver_info"
	NodeVIFAttach    Rule = "baremetal:node:vif:attach"
	PortList         Rule = "baremetal:port:list"
	PortListAll      Rule = "baremetal:port:list_all"
	PortCreate       Rule = "baremetal:port:create"
	MetricsGet       Rule = "baremetal:metrics:get"
)

// grants is a set of roles at relations: five bits of roles for each relation, and some that are no
// such pair.
type grants uint32

// Roles. Multiplied by a relation they are grants.
const (
	admin grants = 1 << iota
	manager
	member
	reader
	service
)

// Relations.
const (
	system   grants = 1 << (5 * iota) // the token is for the whole system
	owns                              // its project owns the object
	leases                            // its project leases the object
	anywhere                          // whatever the object is, and whatever the token is for

	elevated  // a service of the project of services
	everybody = elevated << 1
	all       = everybody<<1 - 1
)

// roles are those that rules know. Keystone lets an admin be a manager, a manager a member and a member
// a reader, and names all of them in the token.
var roles = map[string]grants{"admin": admin, "manager": manager, "member": member, "reader": reader,
	"service": service}

// What rules have in common, with Ironic's names.
const (
	systemAdmin   = admin * system
	systemMember  = member*system | elevated
	systemReader  = (reader|service)*system | elevated
	systemService = service * system

	ownerAdmin = (admin | manager) * owns
	services   = systemService | service*owns

	systemOrProjectMember = systemMember | systemService | member*(owns|leases)
	systemOrProjectReader = systemReader | services | reader*(owns|leases)

	systemOrOwnerMemberAndLesseeAdmin = systemMember | services | member*owns | (admin|manager)*leases
	systemAdminOrOwnerAdmin           = systemAdmin | services | ownerAdmin
	systemMemberOrOwnerAdmin          = systemMember | services | ownerAdmin
	systemMemberOrOwnerMember         = systemMember | services | member*owns
	systemOrOwnerReader               = systemReader | services | reader*owns
	systemMemberOrOwnerLesseeAdmin    = systemMember | services | (admin|manager)*(owns|leases)

	allocationMember = systemMember | member*owns
	allocationReader = systemReader | reader*owns

	apiReader = (reader | service) * anywhere
)

// table has every rule: Ironic's, also of what is not built here yet but for runbooks, and those of ours,
// which stand at the end. The owner of an allocation takes the place of that of a node.
var table = map[Rule]grants{
	NodeCreate:       systemAdmin | systemService,
	NodeCreateOwn:    (admin | service) * anywhere,
	NodeList:         apiReader,
	NodeListAll:      systemReader,
	NodeGet:          systemOrProjectReader,
	NodeLastError:    systemOrOwnerReader,
	NodeReservation:  systemOrOwnerReader,
	NodeInternalInfo: systemOrOwnerReader,
	NodeDriverInfo:   systemOrOwnerReader,

	"baremetal:node:get:filter_threshold":   systemReader,
	"baremetal:node:update:driver_info":     systemMemberOrOwnerMember,
	"baremetal:node:update:properties":      systemMemberOrOwnerMember,
	"baremetal:node:update:chassis_uuid":    systemAdmin,
	"baremetal:node:update:instance_uuid":   systemMemberOrOwnerMember,
	"baremetal:node:update:lessee":          systemMemberOrOwnerMember,
	"baremetal:node:update:owner":           systemMember,
	NodeInterfaces:                          systemMemberOrOwnerAdmin,
	"baremetal:node:update:network_data":    systemMemberOrOwnerMember,
	"baremetal:node:update:conductor_group": systemMember,
	"baremetal:node:update:name":            systemMemberOrOwnerMember,
	"baremetal:node:update:retired":         systemMemberOrOwnerMember,
	"baremetal:node:update:shard":           systemAdmin,
	"baremetal:node:update:parent_node":     systemMember,
	NodeUpdate:                              systemOrProjectMember,
	"baremetal:node:update_extra":           systemOrProjectMember,
	NodeInstanceInfo:                        systemOrOwnerMemberAndLesseeAdmin,
	NodeOwnerInUse:                          systemAdmin,
	NodeNoCleaning:                          systemAdmin,

	"baremetal:node:delete":              systemAdmin,
	NodeDeleteOwn:                        admin * owns,
	"baremetal:node:validate":            systemOrOwnerMemberAndLesseeAdmin,
	"baremetal:node:set_maintenance":     systemOrOwnerMemberAndLesseeAdmin,
	"baremetal:node:clear_maintenance":   systemOrOwnerMemberAndLesseeAdmin,
	"baremetal:node:get_boot_device":     systemMemberOrOwnerAdmin,
	"baremetal:node:set_boot_device":     systemMemberOrOwnerAdmin,
	"baremetal:node:get_indicator_state": systemOrProjectReader,
	"baremetal:node:set_indicator_state": systemMemberOrOwnerMember,
	"baremetal:node:inject_nmi":          systemMemberOrOwnerAdmin,
	"baremetal:node:get_states":          systemOrProjectReader,
	"baremetal:node:set_power_state":     systemOrProjectMember,
	"baremetal:node:set_boot_mode":       systemOrProjectMember,
	"baremetal:node:set_secure_boot":     systemOrProjectMember,
	"baremetal:node:set_provision_state": systemOrOwnerMemberAndLesseeAdmin,
	NodeCleanSteps:                       systemOrOwnerMemberAndLesseeAdmin,
	NodeServiceSteps:                     systemOrOwnerMemberAndLesseeAdmin,
	"baremetal:node:set_raid_state":      systemMemberOrOwnerMember,
	"baremetal:node:get_console":         systemMemberOrOwnerMember,
	"baremetal:node:set_console_state":   systemMemberOrOwnerMember,
	"baremetal:node:vif:list":            systemOrProjectReader,
	NodeVIFAttach:                        systemOrOwnerMemberAndLesseeAdmin,
	"baremetal:node:vif:detach":          systemOrOwnerMemberAndLesseeAdmin,
	"baremetal:node:traits:list":         systemOrProjectReader,
	"baremetal:node:traits:set":          systemMemberOrOwnerAdmin,
	"baremetal:node:traits:delete":       systemMemberOrOwnerAdmin,
	"baremetal:node:bios:get":            systemOrProjectReader,
	"baremetal:node:firmware:get":        systemOrProjectReader,
	"baremetal:node:vmedia:attach":       systemOrProjectMember,
	"baremetal:node:vmedia:detach":       systemOrProjectMember,
	"baremetal:node:vmedia:get":          systemOrProjectReader,
	"baremetal:node:history:get":         systemOrOwnerReader,
	"baremetal:node:inventory:get":       systemOrOwnerReader,
	"baremetal:node:vendor_passthru":     systemAdmin,
	"baremetal:node:ipa_heartbeat":       everybody,

	"baremetal:port:get":    systemOrProjectReader,
	PortList:                apiReader,
	PortListAll:             systemReader,
	PortCreate:              systemAdminOrOwnerAdmin,
	"baremetal:port:delete": systemAdminOrOwnerAdmin,
	"baremetal:port:update": systemMemberOrOwnerAdmin,

	"baremetal:portgroup:get":      systemOrProjectReader,
	"baremetal:portgroup:list":     apiReader,
	"baremetal:portgroup:list_all": systemReader,
	"baremetal:portgroup:create":   systemAdminOrOwnerAdmin,
	"baremetal:portgroup:delete":   systemAdminOrOwnerAdmin,
	"baremetal:portgroup:update":   systemMemberOrOwnerAdmin,

	"baremetal:volume:get":                    systemOrProjectReader,
	"baremetal:volume:list":                   apiReader,
	"baremetal:volume:list_all":               systemReader,
	"baremetal:volume:create":                 systemMemberOrOwnerLesseeAdmin,
	"baremetal:volume:delete":                 systemMemberOrOwnerLesseeAdmin,
	"baremetal:volume:update":                 systemOrOwnerMemberAndLesseeAdmin,
	"baremetal:volume:view_target_properties": systemReader | admin*anywhere,

	"baremetal:allocation:get":               allocationReader,
	"baremetal:allocation:list":              apiReader,
	"baremetal:allocation:list_all":          systemReader,
	"baremetal:allocation:create":            systemMember | member*anywhere,
	"baremetal:allocation:create_restricted": systemMember,
	"baremetal:allocation:delete":            allocationMember,
	"baremetal:allocation:update":            allocationMember,

	// Tokens of projects are of no use here, so those of services are not either.
	"baremetal:driver:get":                              systemReader &^ elevated,
	"baremetal:driver:get_properties":                   systemReader &^ elevated,
	"baremetal:driver:get_raid_logical_disk_properties": systemReader &^ elevated,
	"baremetal:driver:vendor_passthru":                  systemAdmin,
	"baremetal:chassis:get":                             systemReader &^ elevated,
	"baremetal:chassis:create":                          systemAdmin,
	"baremetal:chassis:delete":                          systemAdmin,
	"baremetal:chassis:update":                          systemMember &^ elevated,

	"baremetal:driver:ipa_lookup":              everybody,
	"baremetal:driver:ipa_continue_inspection": everybody,
	"baremetal:conductor:get":                  systemReader,
	"baremetal:shards:get":                     systemReader,
	"baremetal:events:post":                    systemAdmin,
	"baremetal:deploy_template:get":            systemReader,
	"baremetal:deploy_template:create":         systemAdmin,
	"baremetal:deploy_template:delete":         systemAdmin,
	"baremetal:deploy_template:update":         systemAdmin,
	"baremetal:inspection_rule:get":            systemReader,
	"baremetal:inspection_rule:list_all":       systemReader,
	"baremetal:inspection_rule:create":         systemAdmin,
	"baremetal:inspection_rule:update":         systemAdmin,
	"baremetal:inspection_rule:delete":         systemAdmin,

	// Ours.
	"baremetal:node:journal:get": systemOrOwnerReader,
	"baremetal:conductor:drain":  systemAdmin,
	"baremetal:cluster:get":      systemReader,
	MetricsGet:                   systemReader,
}
