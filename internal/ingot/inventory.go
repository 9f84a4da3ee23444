package ingot

// Inventory is what is in a machine, in the form in which Ironic's ramdisk tells it and its API shows it.
// What is not known is left out.
type Inventory struct {
	Interfaces []InventoryInterface `json:"interfaces"`
	CPU        InventoryCPU         `json:"cpu"`
	Memory     InventoryMemory      `json:"memory"`
	Disks      []InventoryDisk      `json:"disks"`
	Vendor     InventoryVendor      `json:"system_vendor"`
	Boot       InventoryBoot        `json:"boot"`
	BMCAddress string               `json:"bmc_address,omitempty"`
}

// InventoryInterface is a network card.
type InventoryInterface struct {
	Name       string `json:"name"`
	MAC        string `json:"mac_address"`
	HasCarrier *bool  `json:"has_carrier,omitempty"`
	SpeedMbps  int    `json:"speed_mbps,omitempty"`
}

// InventoryCPU is all processors together; Count is of threads.
type InventoryCPU struct {
	Model        string `json:"model_name,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	Count        int    `json:"count,omitempty"`
}

// InventoryMemory is in MiB.
type InventoryMemory struct {
	PhysicalMB int `json:"physical_mb,omitempty"`
}

// InventoryDisk is a disk; Size is in bytes.
type InventoryDisk struct {
	Name       string `json:"name"`
	Size       int64  `json:"size"`
	Model      string `json:"model,omitempty"`
	Serial     string `json:"serial,omitempty"`
	Rotational *bool  `json:"rotational,omitempty"`
}

// InventoryVendor is who made the machine.
type InventoryVendor struct {
	Product      string `json:"product_name,omitempty"`
	Serial       string `json:"serial_number,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
}

// InventoryBoot is how it boots: bios or uefi.
type InventoryBoot struct {
	Mode string `json:"current_boot_mode,omitempty"`
}

// When a node was inspected last, keys of DriverInternalInfo with times as of RFC 3339.
const (
	InspectionStarted  = "inspection_started_at"
	InspectionFinished = "inspection_finished_at"
)
